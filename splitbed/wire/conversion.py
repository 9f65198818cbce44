"""Messages to and from splitbed's types; whatever a peer sends is checked here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, get_args

import msgspec
from google.protobuf.message import DecodeError, Message

from splitbed.errors import ProtocolViolation, SplitbedError, TransportError, from_kind
from splitbed.session import (
    ClockExchange,
    CutAnswer,
    CutQuestion,
    ModelFile,
    Placement,
    SessionAgreed,
    SessionSpec,
    StageSpec,
    Step,
    TensorCodec,
)
from splitbed.tensor import Cut, DType, ModelId, Partition, TensorSpec
from splitbed.wire import split_pb2 as pb

M = TypeVar("M", bound=Message)
T = TypeVar("T")

_DTYPES: Final[dict[str, Any]] = {name: pb.DType.Value(name.upper()) for name in get_args(DType)}
_PARTS: Final[dict[str, Any]] = {"first": pb.FIRST, "second": pb.SECOND, "whole": pb.WHOLE}
_NODES: Final[dict[str, Any]] = {"device": pb.DEVICE, "edge": pb.EDGE}
_REPLIES: Final[dict[str, Any]] = {"full": pb.FULL, "result": pb.RESULT}
_MOST_DIMS: Final = 32
_MOST_BYTES: Final = 1 << 40
_MOST_NODE_BYTES: Final = 1 << 16
_FACT: Final[Any] = str | int | float | bool | None
_FACTS: Final[Any] = dict[str, _FACT | dict[str, _FACT]]
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_MD5: Final = re.compile("[0-9a-f]{32}")


def parse(kind: type[M], data: bytes) -> M:
    """A message from bytes; ProtocolViolation where it is none."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolViolation(f"a {kind.DESCRIPTOR.name} message cannot be read") from error
    return message


def question_message(question: CutQuestion) -> pb.CutQuestion:
    """To the wire."""
    return pb.CutQuestion(
        model=question.model, cut=question.cut, input_shapes=_shapes(question.input_shapes)
    )


def question_of(message: pb.CutQuestion) -> CutQuestion:
    """From the wire."""
    return CutQuestion(message.model, message.cut, _shapes_of(message.input_shapes))


def answer_message(answer: CutAnswer) -> pb.CutAnswer:
    """To the wire."""
    return pb.CutAnswer(
        first=None if answer.first is None else _partition(answer.first),
        second=None if answer.second is None else _partition(answer.second),
        cut=_cut(answer.cut),
        model_digest=answer.model_digest,
        inputs=map(_tensor, answer.inputs),
        outputs=map(_tensor, answer.outputs),
        task_json=answer.task_json,
        source=None if answer.source is None else _file(answer.source),
    )


def answer_of(message: pb.CutAnswer) -> CutAnswer:
    """From the wire."""
    return _checked(
        lambda: CutAnswer(
            first=_partition_of(message.first) if message.HasField("first") else None,
            second=_partition_of(message.second) if message.HasField("second") else None,
            cut=_cut_of(message.cut),
            model_digest=message.model_digest,
            inputs=_tensors_of(message.inputs),
            outputs=_tensors_of(message.outputs),
            task_json=message.task_json,
            source=_file_of(message.source) if message.HasField("source") else None,
        )
    )


def spec_message(spec: SessionSpec) -> pb.SessionSpec:
    """To the wire."""
    return pb.SessionSpec(
        run_id=spec.run_id,
        model=spec.model,
        model_digest=spec.model_digest,
        placement=[
            pb.Step(node=_NODES[step.node], part=_PARTS[step.part]) for step in spec.placement.steps
        ],
        cut=_cut(spec.cut),
        codecs=[
            pb.TensorCodec(
                tensor=codec.tensor,
                stages=[
                    pb.Stage(id=s.id, config_json=msgspec.json.encode(s.config).decode())
                    for s in codec.stages
                ],
            )
            for codec in spec.codecs
        ],
        reply=_REPLIES[spec.reply],
        task_json=spec.task_json,
        window=spec.window,
        provider=spec.provider,
        input_shapes=_shapes(spec.input_shapes),
    )


def spec_of(message: pb.SessionSpec) -> SessionSpec:
    """From the wire, with every constraint of SessionSpec checked."""

    def convert() -> SessionSpec:
        spec = SessionSpec(
            run_id=message.run_id,
            model=message.model,
            model_digest=message.model_digest,
            placement=Placement(
                tuple(
                    Step(_name(_NODES, step.node), _name(_PARTS, step.part))
                    for step in message.placement
                )
            ),
            cut=_cut_of(message.cut),
            codecs=tuple(
                TensorCodec(
                    codec.tensor,
                    tuple(
                        StageSpec(s.id, msgspec.json.decode(s.config_json, type=dict[str, Any]))
                        for s in codec.stages
                    ),
                )
                for codec in message.codecs
            ),
            reply=_name(_REPLIES, message.reply),
            task_json=message.task_json,
            window=message.window,
            provider=message.provider,  # type: ignore[arg-type]
            input_shapes=_shapes_of(message.input_shapes),
        )
        return msgspec.convert(msgspec.to_builtins(spec), SessionSpec)

    return _checked(convert)


def agreed_message(agreed: SessionAgreed) -> pb.SessionAgreed:
    """To the wire."""
    return pb.SessionAgreed(
        session_id=agreed.session_id,
        provider=agreed.provider,
        outputs=map(_tensor, agreed.outputs),
        init_ns=agreed.init_ns,
        first_inference_ns=agreed.first_inference_ns,
        node_json=msgspec.json.encode(agreed.node).decode() if agreed.node else "",
    )


def agreed_of(message: pb.SessionAgreed) -> SessionAgreed:
    """From the wire."""
    return _checked(
        lambda: SessionAgreed(
            session_id=message.session_id,
            provider=message.provider,
            outputs=_tensors_of(message.outputs),
            init_ns=message.init_ns,
            first_inference_ns=message.first_inference_ns,
            node=_node_of(message.node_json),
        )
    )


def failure_message(error: SplitbedError) -> pb.Failure:
    """To the wire."""
    return pb.Failure(kind=error.kind, sentence=clean(str(error)))


def failure_of(data: bytes) -> SplitbedError:
    """From the wire; a TransportError where the bytes are no failure."""
    try:
        message = parse(pb.Failure, data)
    except ProtocolViolation:
        return TransportError("the peer refused without saying why")
    return from_kind(message.kind, message.sentence)


def exchange_of(sent_ns: int, reply: pb.ProbeReply, received_ns: int) -> ClockExchange:
    """The four time stamps of one exchange."""
    return ClockExchange(sent_ns, reply.received_ns, reply.sent_ns, received_ns)


def clean(text: str) -> str:
    """Text that UTF-8 can carry; a file name's undecodable bytes become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _checked(convert: Callable[[], T]) -> T:
    try:
        return convert()
    except RecursionError as error:
        raise ProtocolViolation("a message is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise ProtocolViolation(f"a message does not hold what it should: {error}") from error


def _name(table: Mapping[str, int], number: int) -> Any:
    for name, value in table.items():
        if value == number:
            return name
    raise ProtocolViolation(f"a message holds {number}, which is none of {', '.join(table)}")


def _tensor(spec: TensorSpec) -> pb.TensorSpec:
    return pb.TensorSpec(name=spec.name, dtype=_DTYPES[spec.dtype], shape=spec.shape)


def _tensor_of(message: pb.TensorSpec) -> TensorSpec:
    shape = _shape_of(message.name, message.shape)
    return TensorSpec(message.name, _name(_DTYPES, message.dtype), shape)


def _shape_of(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that numpy can make, even where a dimension of 0 leaves nothing to hold."""
    fits = len(shape) <= _MOST_DIMS and all(size >= 0 for size in shape)
    if not fits or math.prod(max(1, size) for size in shape) >= _MOST_BYTES:
        raise ProtocolViolation(f"tensor '{name[:80]}' has an impossible shape")
    return tuple(shape)


def _tensors_of(messages: Iterable[pb.TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(map(_tensor_of, messages))


def _shapes(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> list[pb.InputShape]:
    return [pb.InputShape(name=name, shape=shape) for name, shape in shapes]


def _shapes_of(messages: Iterable[pb.InputShape]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((m.name, _shape_of(m.name, m.shape)) for m in messages)


def _cut(cut: Cut) -> pb.Cut:
    return pb.Cut(name=cut.name, boundary=map(_tensor, cut.boundary))


def _cut_of(message: pb.Cut) -> Cut:
    return Cut(message.name, _tensors_of(message.boundary))


def _node_of(text: str) -> Any:
    if len(text) > _MOST_NODE_BYTES:
        raise ProtocolViolation(f"the edge says {len(text)} characters about itself: too many")
    return msgspec.json.decode(text, type=_FACTS) if text else {}


def _file(file: ModelFile) -> pb.ModelFile:
    return pb.ModelFile(
        name=clean(file.name), file_bytes=file.file_bytes, md5=file.md5, sha256=file.sha256
    )


def _file_of(message: pb.ModelFile) -> ModelFile:
    if not (_MD5.fullmatch(message.md5) and _DIGEST.fullmatch(message.sha256)):
        raise ProtocolViolation("a model file's digests are no MD5 and SHA-256 in hexadecimal")
    if not 0 <= message.file_bytes <= _MOST_BYTES:
        raise ProtocolViolation(f"a model file of {message.file_bytes} bytes is impossible")
    return ModelFile(message.name, message.file_bytes, message.md5, message.sha256)


def _partition(partition: Partition) -> pb.Partition:
    return pb.Partition(
        model=pb.ModelId(
            source_sha256=partition.model.source_sha256,
            canonicaliser=partition.model.canonicaliser,
            input_shapes=_shapes(partition.model.input_shapes),
        ),
        cut=_cut(partition.cut),
        part=_PARTS[partition.part],
        sha256=partition.sha256,
        file_bytes=partition.file_bytes,
        inputs=map(_tensor, partition.inputs),
        outputs=map(_tensor, partition.outputs),
    )


def _partition_of(message: pb.Partition) -> Partition:
    # The digest names a file in the device's cache, so nothing else may pass for one.
    if not _DIGEST.fullmatch(message.sha256):
        raise ProtocolViolation("a part's digest is no SHA-256 in hexadecimal")
    if not 0 <= message.file_bytes <= _MOST_BYTES:
        raise ProtocolViolation(f"a part of {message.file_bytes} bytes is impossible")
    return Partition(
        model=ModelId(
            message.model.source_sha256,
            message.model.canonicaliser,
            _shapes_of(message.model.input_shapes),
        ),
        cut=_cut_of(message.cut),
        part=_name(_PARTS, message.part),
        sha256=message.sha256,
        file_bytes=message.file_bytes,
        inputs=_tensors_of(message.inputs),
        outputs=_tensors_of(message.outputs),
    )
