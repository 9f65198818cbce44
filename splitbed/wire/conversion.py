"""Messages to and from splitbed's types; whatever a peer sends is checked here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar, get_args

import msgspec
from google.protobuf.message import DecodeError, Message
from msgspec import UNSET

from splitbed.errors import (
    ProtocolViolation,
    SplitbedError,
    TransportError,
    from_kind,
)
from splitbed.session import (
    ClockExchange,
    CutAnswer,
    CutQuestion,
    ModelFile,
    Placement,
    ProviderChoice,
    SessionAgreed,
    SessionSpec,
    StageSpec,
    Step,
    TensorCodec,
)
from splitbed.wire import split_pb2 as pb
from splitbed.wire.partition import (
    DIGEST,
    MOST_BYTES,
    PARTS,
    cut_message,
    cut_of,
    name_of,
    pair_message,
    pair_of,
    partition_message,
    partition_of,
    quantiser_message,
    quantisers_of,
    range_message,
    ranges_of,
    shape_messages,
    shapes_of,
    tensor_message,
    tensors_of,
)

M = TypeVar("M", bound=Message)
T = TypeVar("T")

_NODES: Final[dict[str, Any]] = {"device": pb.DEVICE, "edge": pb.EDGE}
_REPLIES: Final[dict[str, Any]] = {"full": pb.FULL, "result": pb.RESULT}
_MOST_NODE_BYTES: Final = 1 << 16
_FACT: Final[Any] = str | int | float | bool | None
_FACTS: Final[Any] = dict[str, _FACT | dict[str, _FACT]]
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
        model=question.model,
        cut=question.cut,
        input_shapes=shape_messages(question.input_shapes),
        quantisers=map(quantiser_message, question.quantisers),
        pair=question.pair,
    )


def question_of(message: pb.CutQuestion) -> CutQuestion:
    """From the wire."""
    return CutQuestion(
        message.model,
        message.cut,
        shapes_of(message.input_shapes),
        quantisers_of(message.quantisers),
        message.pair,
    )


def answer_message(answer: CutAnswer) -> pb.CutAnswer:
    """To the wire."""
    return pb.CutAnswer(
        first=None if answer.first is None else partition_message(answer.first),
        second=None if answer.second is None else partition_message(answer.second),
        cut=cut_message(answer.cut),
        model_digest=answer.model_digest,
        inputs=map(tensor_message, answer.inputs),
        outputs=map(tensor_message, answer.outputs),
        task_json=answer.task_json,
        source=None if answer.source is None else _file(answer.source),
        ranges=map(range_message, answer.ranges),
    )


def answer_of(message: pb.CutAnswer) -> CutAnswer:
    """From the wire."""
    return _checked(
        lambda: CutAnswer(
            first=partition_of(message.first) if message.HasField("first") else None,
            second=partition_of(message.second) if message.HasField("second") else None,
            cut=cut_of(message.cut),
            model_digest=message.model_digest,
            inputs=tensors_of(message.inputs),
            outputs=tensors_of(message.outputs),
            task_json=message.task_json,
            source=_file_of(message.source) if message.HasField("source") else None,
            ranges=ranges_of(message.ranges),
        )
    )


def spec_message(spec: SessionSpec) -> pb.SessionSpec:
    """To the wire."""
    return pb.SessionSpec(
        run_id=spec.run_id,
        model=spec.model,
        model_digest=spec.model_digest,
        placement=[
            pb.Step(node=_NODES[step.node], part=PARTS[step.part]) for step in spec.placement.steps
        ],
        cut=cut_message(spec.cut),
        codecs=[
            pb.TensorCodec(
                tensor=codec.tensor,
                stages=[
                    pb.Stage(
                        id=s.id,
                        config_json=msgspec.json.encode(s.config).decode(),
                        package=s.origin,
                    )
                    for s in codec.stages
                ],
            )
            for codec in spec.codecs
        ],
        reply=_REPLIES[spec.reply],
        task_json=spec.task_json,
        window=spec.window,
        provider=spec.provider,
        input_shapes=shape_messages(spec.input_shapes),
        pair=pair_message(spec.pair),
    )


def spec_of(message: pb.SessionSpec) -> SessionSpec:
    """From the wire, with every constraint of SessionSpec checked.

    A provider that this version does not know may be one of a newer peer.
    """
    if message.provider and message.provider not in get_args(ProviderChoice):
        raise ProtocolViolation(
            f"this edge knows no provider '{clean(message.provider)[:40]}', only "
            f"{', '.join(get_args(ProviderChoice))}: choose one of those, or bring the edge up to "
            "date"
        )

    def convert() -> SessionSpec:
        spec = SessionSpec(
            run_id=message.run_id,
            model=message.model,
            model_digest=message.model_digest,
            placement=Placement(
                tuple(
                    Step(name_of(_NODES, step.node), name_of(PARTS, step.part))
                    for step in message.placement
                )
            ),
            cut=cut_of(message.cut),
            codecs=tuple(
                TensorCodec(
                    codec.tensor,
                    tuple(
                        StageSpec(
                            s.id,
                            msgspec.json.decode(s.config_json, type=dict[str, Any]),
                            s.package or UNSET,
                        )
                        for s in codec.stages
                    ),
                )
                for codec in message.codecs
            ),
            reply=name_of(_REPLIES, message.reply),
            task_json=message.task_json,
            window=message.window,
            provider=message.provider,  # type: ignore[arg-type]
            input_shapes=shapes_of(message.input_shapes),
            pair=pair_of(message.pair) if message.HasField("pair") else None,
        )
        return msgspec.convert(msgspec.to_builtins(spec), SessionSpec)

    return _checked(convert)


def agreed_message(agreed: SessionAgreed) -> pb.SessionAgreed:
    """To the wire."""
    return pb.SessionAgreed(
        session_id=agreed.session_id,
        provider=agreed.provider,
        outputs=map(tensor_message, agreed.outputs),
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
            outputs=tensors_of(message.outputs),
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


def _node_of(text: str) -> Any:
    if len(text) > _MOST_NODE_BYTES:
        raise ProtocolViolation(f"the edge says {len(text)} characters about itself: too many")
    return msgspec.json.decode(text, type=_FACTS) if text else {}


def _file(file: ModelFile) -> pb.ModelFile:
    return pb.ModelFile(
        name=clean(file.name), file_bytes=file.file_bytes, md5=file.md5, sha256=file.sha256
    )


def _file_of(message: pb.ModelFile) -> ModelFile:
    if not (_MD5.fullmatch(message.md5) and DIGEST.fullmatch(message.sha256)):
        raise ProtocolViolation("a model file's digests are no MD5 and SHA-256 in hexadecimal")
    if not 0 <= message.file_bytes <= MOST_BYTES:
        raise ProtocolViolation(f"a model file of {message.file_bytes} bytes is impossible")
    return ModelFile(message.name, message.file_bytes, message.md5, message.sha256)
