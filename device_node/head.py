"""Everything before the first frame: the cut, the head from the edge, the session."""

from __future__ import annotations

from pathlib import Path

import msgspec

from device_node.options import DeviceOptions
from splitbed import codec
from splitbed.codec import PlannedCodec
from splitbed.engine import Engine
from splitbed.errors import ModelMismatch, ProtocolViolation, TaskError, UsageError
from splitbed.progress import Progress
from splitbed.session import (
    LOCAL,
    REMOTE,
    SPLIT,
    CutAnswer,
    CutQuestion,
    ReplyMode,
    SessionSpec,
    TensorCodec,
)
from splitbed.task import PICTURE_CUT, RESULT_CUT, TaskSpec, task_from_json
from splitbed.transport import FetchReport, Transport, fetch_part


class Head(msgspec.Struct, frozen=True):
    """What the device runs, ready to run."""

    answer: CutAnswer
    task: TaskSpec
    codecs: tuple[TensorCodec, ...]
    """Of the boundary, in its order; the engine does what they leave to the graph."""
    codec: str
    """As a person would write them."""
    engine: Engine | None
    """None where nothing runs before the cut."""
    fetched: FetchReport | None


def prepare_head(
    transport: Transport, options: DeviceOptions, planned: PlannedCodec | None
) -> Head:
    """Ask for the cut, plan its codecs, fetch its head unless the cache has it, and load it."""
    question = CutQuestion(options.model, options.cut)
    answer = transport.describe_cut(question)
    if options.model_digest and options.model_digest != answer.model_digest:
        raise ModelMismatch(
            f"the edge at {options.edge} has another model named '{options.model}' "
            f"({answer.model_digest[:12]}, wanted {options.model_digest[:12]}): copy yours into "
            "its model folder, or give it another name"
        )
    if not answer.task_json:
        raise TaskError(
            f"nothing at the edge says how pictures become the input of '{options.model}': write "
            f"{options.model}.toml beside the model there"
        )
    task = task_from_json(answer.task_json)
    if planned is None:
        text, codecs = options.codec, codec.plan(options.codec, answer.cut.boundary, None)
    else:
        text = planned.codec
        codecs = planned.codecs_at(answer.model_digest, answer.cut, _file(options))
    quantisers = codec.quantisers(codecs, answer.cut.boundary)
    if quantisers:
        answer = _quantising(transport, msgspec.structs.replace(question, quantisers=quantisers))
    if answer.first is None:
        return Head(answer, task, codecs, text, None, None)
    progress = Progress("fetching the head (bytes)", answer.first.file_bytes)
    fetched = fetch_part(
        transport, answer.first, options.cache, lambda done, _: progress.update(done)
    )
    progress.close()
    what = f"the head of '{options.model}' at {options.cut}"
    engine = Engine(fetched.path, provider="cpu", threads=options.threads, what=what)
    engine.warm_up()
    return Head(answer, task, codecs, text, engine, fetched)


def find_planned(options: DeviceOptions) -> PlannedCodec | None:
    """The file that --codec names, None for a codec that is complete as it is written.

    UsageError for one that would have to be fitted to pictures here.
    """
    if options.codec.startswith(codec.FILE_MARK):
        return codec.read_planned(Path(_file(options)))
    if codec.find_target(options.codec) is None and not codec.needs_calibration(options.codec):
        return None
    raise UsageError(
        f"the codec {options.codec} is fitted to pictures where the model is, not on a device: run "
        f"{codec.plan_command(options.codec, options.cut)} there, copy codec.json over and give "
        f"it with --codec {codec.FILE_MARK}codec.json"
    )


def _file(options: DeviceOptions) -> str:
    return options.codec.removeprefix(codec.FILE_MARK)


def _quantising(transport: Transport, question: CutQuestion) -> CutAnswer:
    """The cut with parts that hold the question's quantisers."""
    answer = transport.describe_cut(question)
    if any(
        part is None or part.quantisers != question.quantisers
        for part in (answer.first, answer.second)
    ):
        raise ProtocolViolation(
            "the edge answered with parts that do not quantise, it may be an older one: bring it "
            "up to date, or leave out where=graph"
        )
    return answer


def session_spec(head: Head, options: DeviceOptions, run_id: str) -> SessionSpec:
    """What the device asks the edge to agree on."""
    answer = head.answer
    remote = answer.cut.name == PICTURE_CUT or answer.first is None
    local = answer.cut.name == RESULT_CUT or answer.second is None
    return SessionSpec(
        run_id=run_id,
        model=options.model,
        model_digest=answer.model_digest,
        placement=REMOTE if remote else LOCAL if local else SPLIT,
        cut=answer.cut,
        codecs=head.codecs,
        reply=reply_mode(options.reply, head.task),
        task_json=answer.task_json,
        window=options.window,
        provider=options.provider,
    )


def reply_mode(wanted: str, task: TaskSpec) -> ReplyMode:
    """`auto` is the task's result where that is small, else the full outputs."""
    if wanted == "auto":
        return "full" if task.output == "raw" else "result"
    return "full" if wanted == "full" else "result"
