"""Everything before the first frame: the cut, the head from the edge, the session."""

from __future__ import annotations

import msgspec

from device_node.options import DeviceOptions
from splitbed import codec
from splitbed.codec import Calibration
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
    engine: Engine | None
    """None where nothing runs before the cut."""
    fetched: FetchReport | None


def prepare_head(transport: Transport, options: DeviceOptions) -> Head:
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
    codecs = codec.plan(options.codec, answer.cut.boundary, _calibration(options, answer))
    quantisers = codec.quantisers(codecs, answer.cut.boundary)
    if quantisers:
        answer = _quantising(transport, msgspec.structs.replace(question, quantisers=quantisers))
    if answer.first is None:
        return Head(answer, task, codecs, None, None)
    progress = Progress("fetching the head (bytes)", answer.first.file_bytes)
    fetched = fetch_part(
        transport, answer.first, options.cache, lambda done, _: progress.update(done)
    )
    progress.close()
    what = f"the head of '{options.model}' at {options.cut}"
    engine = Engine(fetched.path, provider="cpu", threads=options.threads, what=what)
    engine.warm_up()
    return Head(answer, task, codecs, engine, fetched)


def _calibration(options: DeviceOptions, answer: CutAnswer) -> Calibration | None:
    if options.calibration is None:
        return None
    calibration = codec.read_calibration(options.calibration)
    if calibration.model_digest != answer.model_digest or calibration.cut != answer.cut.name:
        raise UsageError(
            f"the calibration {options.calibration} was made for another model or cut "
            f"({calibration.cut}): make one with `splitbed calibrate`"
        )
    return calibration


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
    """`auto` is the task's result where that is a class, else the full outputs.

    Boxes and key points come as tensors unless `result` is asked for, so that they can be compared
    with the uncut model's element by element.
    """
    if wanted == "auto":
        return "result" if task.output == "argmax" else "full"
    return "full" if wanted == "full" else "result"
