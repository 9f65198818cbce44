"""Everything before the first frame: the cut, the head from the edge, the session."""

from __future__ import annotations

from pathlib import Path

import msgspec

from device_node.options import DeviceOptions
from splitbed import codec, engine_probe
from splitbed.codec import PlannedCodec
from splitbed.engine import Engine
from splitbed.errors import ModelMismatch, ProtocolViolation, TaskError, UsageError
from splitbed.pair import PairId
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
    wanted = None if planned is None else planned.pair
    name = codec.learned(options.codec) if planned is None else wanted.name if wanted else ""
    question = CutQuestion(options.model, options.cut, pair=name)
    answer = transport.describe_cut(question)
    if options.model_digest and options.model_digest != answer.model_digest:
        raise ModelMismatch(
            f"the edge at {options.edge} has another model named '{options.model}' "
            f"({answer.model_digest[:12]}, wanted {options.model_digest[:12]}): copy yours into "
            "its model folder, or give it another name"
        )
    _check_pair(options, wanted, question, answer)
    if not answer.task_json:
        raise TaskError(
            f"nothing at the edge says how pictures become the input of '{options.model}': write "
            f"{options.model}.toml beside the model there"
        )
    task = task_from_json(answer.task_json)
    if planned is not None:
        text = planned.codec
        codecs = planned.codecs_at(answer.model_digest, answer.cut, answer.pair, _file(options))
    elif _fits(options.codec, answer):
        text = options.codec
        codecs = codec.plan(text, answer.cut.boundary, None, answer.ranges)
    else:
        raise _unfitted(options)
    quantisers = codec.quantisers(codecs, answer.cut.boundary)
    if quantisers:
        question = msgspec.structs.replace(question, quantisers=quantisers)
        answer = _quantising(transport, question, answer.pair)
    if answer.first is None:
        return Head(answer, task, codecs, text, None, None)
    progress = Progress("fetching the head (bytes)", answer.first.file_bytes)
    fetched = fetch_part(
        transport, answer.first, options.cache, lambda done, _: progress.update(done)
    )
    progress.close()
    engine_probe.ensure_usable(options.cache)
    what = f"the head of '{options.model}' at {options.cut}"
    engine = Engine(fetched.path, provider="cpu", threads=options.threads, what=what)
    # The part may leave the batch open; its description never does.
    engine.warm_up({spec.name: spec.shape for spec in answer.first.inputs})
    return Head(answer, task, codecs, text, engine, fetched)


def _check_pair(
    options: DeviceOptions, wanted: PairId | None, question: CutQuestion, answer: CutAnswer
) -> None:
    """Refuse parts without the learned codec that was asked for, or with another one."""
    pairs = {None if part is None else part.pair for part in (answer.first, answer.second)}
    pair = answer.pair
    if len(pairs - {pair}) or (pair.name if pair is not None else "") != question.pair:
        raise ProtocolViolation(
            "the edge answered with parts without this learned codec, it may be an older one: "
            "bring it up to date, or leave out learned"
        )
    if pair is None:
        return
    for digest in (options.pair_digest, "" if wanted is None else wanted.digest):
        if digest not in ("", pair.digest):
            raise ModelMismatch(
                f"the edge at {options.edge} has another learned codec named '{pair.name}' "
                f"({pair.digest[:12]}, wanted {digest[:12]}): copy yours into its model folder, or "
                "give it another name"
            )


def find_planned(options: DeviceOptions) -> PlannedCodec | None:
    """The file that --codec names, None for a codec that is complete as it is written.

    UsageError for one that would have to be fitted to pictures here. Whether a learned codec is
    complete is told by the ranges of its code, which the edge knows.
    """
    if options.codec.startswith(codec.FILE_MARK):
        return codec.read_planned(Path(_file(options)))
    if codec.find_target(options.codec) is None:
        known = bool(codec.learned(options.codec))
        if not codec.needs_calibration(options.codec, known=known):
            return None
    raise _unfitted(options)


def _fits(text: str, answer: CutAnswer) -> bool:
    """Whether a codec is complete with the ranges that are known of what crosses."""
    floats = {spec.name for spec in answer.cut.boundary if spec.is_float}
    known = floats <= {found.tensor for found in answer.ranges}
    return not codec.needs_calibration(text, known=known)


def _unfitted(options: DeviceOptions) -> UsageError:
    return UsageError(
        f"the codec {options.codec} is fitted to pictures where the model is, not on a device: run "
        f"{codec.plan_command(options.codec, options.cut)} there, copy codec.json over and give "
        f"it with --codec {codec.FILE_MARK}codec.json"
    )


def _file(options: DeviceOptions) -> str:
    return options.codec.removeprefix(codec.FILE_MARK)


def _quantising(transport: Transport, question: CutQuestion, pair: PairId | None) -> CutAnswer:
    """The cut with parts that hold the question's quantisers, and the same pair as before."""
    answer = transport.describe_cut(question)
    if any(
        part is None or part.quantisers != question.quantisers or part.pair != pair
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
        codecs=codec.as_sent(head.codecs),
        reply=reply_mode(options.reply, head.task),
        task_json=answer.task_json,
        window=options.window,
        provider=options.provider,
        pair=answer.pair,
    )


def reply_mode(wanted: str, task: TaskSpec) -> ReplyMode:
    """`auto` is the task's result where that is a class, else the full outputs.

    Boxes and key points come as tensors unless `result` is asked for, so that they can be compared
    with the uncut model's element by element.
    """
    if wanted == "auto":
        return "result" if task.output == "argmax" else "full"
    return "full" if wanted == "full" else "result"
