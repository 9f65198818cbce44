"""Messages to splitbed's types and back; what a hostile peer sends ends in ProtocolViolation."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed import errors
from splitbed.errors import ProtocolViolation, TransportError
from splitbed.quantiser import Quantiser
from splitbed.session import (
    LOCAL,
    PLACEMENTS,
    SPLIT,
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
from splitbed.tensor import Cut, DType, ModelId, Part, Partition, TensorSpec
from splitbed.wire import conversion
from splitbed.wire import split_pb2 as pb

TEXT = st.text(max_size=20)
NUMBERS = st.integers(0, 2**63 - 1)
FILE_SIZES = st.integers(0, 2**40)
SHAPES = st.lists(st.integers(0, 255), max_size=5).map(tuple)
INPUT_SHAPES = st.lists(st.tuples(TEXT, SHAPES), max_size=3).map(tuple)
TENSORS = st.builds(TensorSpec, TEXT, st.sampled_from(get_args(DType)), SHAPES)
BOUNDARIES = st.lists(TENSORS, max_size=3).map(tuple)
CUTS = st.builds(Cut, TEXT, BOUNDARIES)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
MODELS = st.builds(ModelId, DIGESTS, st.integers(0, 2**32 - 1), INPUT_SHAPES)
PARTS = st.sampled_from(["first", "second", "whole"])
LEVELS = st.lists(st.tuples(st.floats(-1e30, 1e30), st.floats(1e-30, 1e36)), min_size=1, max_size=4)
QUANTISERS = st.lists(
    st.builds(
        lambda tensor, levels, highest: Quantiser(
            tensor, tuple(low for low, _ in levels), tuple(step for _, step in levels), highest
        ),
        TEXT,
        LEVELS,
        st.integers(1, 255),
    ),
    max_size=3,
).map(tuple)
PARTITIONS = st.builds(
    Partition, MODELS, CUTS, PARTS, DIGESTS, FILE_SIZES, BOUNDARIES, BOUNDARIES, QUANTISERS
)
FILES = st.builds(
    ModelFile, TEXT, FILE_SIZES, st.binary(min_size=16, max_size=16).map(bytes.hex), DIGESTS
)
ANSWERS = st.builds(
    CutAnswer,
    st.none() | PARTITIONS,
    st.none() | PARTITIONS,
    CUTS,
    TEXT,
    BOUNDARIES,
    BOUNDARIES,
    TEXT,
    st.none() | FILES,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
STAGES = st.builds(
    StageSpec,
    TEXT,
    st.dictionaries(TEXT, JSON, max_size=3),
    st.just(msgspec.UNSET) | TEXT.filter(bool),
)
CODECS = st.builds(TensorCodec, TEXT, st.lists(STAGES, max_size=3).map(tuple))
SPECS = st.builds(
    SessionSpec,
    run_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    model=TEXT,
    model_digest=TEXT,
    placement=st.sampled_from(list(PLACEMENTS.values())),
    cut=CUTS,
    codecs=st.lists(CODECS, max_size=3).map(tuple),
    reply=st.sampled_from(["full", "result"]),
    task_json=TEXT,
    window=st.integers(1, 256),
    provider=st.sampled_from(get_args(ProviderChoice)),
    input_shapes=INPUT_SHAPES,
)
FACT = st.none() | st.booleans() | st.integers(0, 2**60) | TEXT
FACTS = st.dictionaries(TEXT, FACT | st.dictionaries(TEXT, FACT, max_size=3), max_size=3)
AGREED = st.builds(
    SessionAgreed, st.integers(0, 2**64 - 1), TEXT, BOUNDARIES, NUMBERS, NUMBERS, FACTS
)
property_test = settings(max_examples=60, deadline=None)

TENSOR = TensorSpec("x", "float32", (1, 3, 8, 8))
CUT = Cut("layer1", (TENSOR,))
PARTITION = Partition(
    ModelId("0a" * 32, 1, (("x", (1, 3)),)), CUT, "first", "1f" * 32, 9, (TENSOR,), (TENSOR,)
)
SPEC = SessionSpec(
    run_id="run-1",
    model="gesture",
    model_digest="d",
    placement=SPLIT,
    cut=CUT,
    codecs=(TensorCodec("x", (StageSpec("zstd", {"level": 3}),)),),
    reply="result",
    task_json="{}",
)
ANSWER = CutAnswer(PARTITION, None, CUT, "d", (TENSOR,), (TENSOR,), "{}")
AGREEMENT = SessionAgreed(5, "CPUExecutionProvider", (TENSOR,), 1, 2)
QUESTION = CutQuestion("gesture", "layer1", (("x", (1, 3)),))


def over_the_wire(message: Any) -> Any:
    """The same message after it was bytes."""
    return conversion.parse(type(message), message.SerializeToString())


@property_test
@given(st.builds(CutQuestion, TEXT, TEXT, INPUT_SHAPES, QUANTISERS))
def test_questions_come_back(question: CutQuestion) -> None:
    message = over_the_wire(conversion.question_message(question))
    assert conversion.question_of(message) == question


@property_test
@given(ANSWERS)
def test_answers_come_back(answer: CutAnswer) -> None:
    assert conversion.answer_of(over_the_wire(conversion.answer_message(answer))) == answer


@property_test
@given(SPECS)
def test_session_specs_come_back(spec: SessionSpec) -> None:
    assert conversion.spec_of(over_the_wire(conversion.spec_message(spec))) == spec


@property_test
@given(AGREED)
def test_agreements_come_back(agreed: SessionAgreed) -> None:
    assert conversion.agreed_of(over_the_wire(conversion.agreed_message(agreed))) == agreed


@pytest.mark.parametrize("dtype", get_args(DType))
def test_every_element_type_has_its_own_number(dtype: DType) -> None:
    agreed = SessionAgreed(1, "", (TensorSpec("t", dtype, ()),), 0, 0)
    message = conversion.agreed_message(agreed)
    assert pb.DType.Name(message.outputs[0].dtype) == dtype.upper()
    assert conversion.agreed_of(message) == agreed


@pytest.mark.parametrize("part", get_args(Part))
def test_every_part_has_its_own_number(part: Part) -> None:
    step = Placement((Step("edge", part),))
    (sent,) = conversion.spec_message(msgspec.structs.replace(SPEC, placement=step)).placement
    assert (pb.Node.Name(sent.node), pb.Part.Name(sent.part)) == ("EDGE", part.upper())


def test_nodes_and_reply_modes_have_their_own_numbers() -> None:
    message = conversion.spec_message(SPEC)
    assert [pb.Node.Name(step.node) for step in message.placement] == ["DEVICE", "EDGE"]
    assert [pb.Part.Name(step.part) for step in message.placement] == ["FIRST", "SECOND"]
    assert pb.ReplyMode.Name(message.reply) == "RESULT"


def test_nothing_to_run_is_not_an_empty_partition() -> None:
    message = over_the_wire(conversion.answer_message(ANSWER))
    assert message.HasField("first")
    assert not message.HasField("second")


def test_failures_come_back() -> None:
    for error in (errors.CutUnknown("no cut 'x'"), errors.Overloaded("")):
        back = conversion.failure_of(conversion.failure_message(error).SerializeToString())
        assert type(back) is type(error)
        assert str(back) == str(error)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff", b"\x0a\x01\xff", b"\x12\x05ab"])
def test_bytes_that_are_no_failure_are_a_failure_all_the_same(data: bytes) -> None:
    error = conversion.failure_of(data)
    assert type(error) is TransportError
    assert "without saying why" in str(error)


def test_a_clock_exchange_keeps_its_order() -> None:
    exchange = conversion.exchange_of(1, pb.ProbeReply(received_ns=2, sent_ns=3), 4)
    assert msgspec.structs.astuple(exchange) == (1, 2, 3, 4)


# What a peer may not send.

KINDS: Final[list[tuple[Any, Callable[[Any], object]]]] = [
    (conversion.question_message(QUESTION), conversion.question_of),
    (conversion.answer_message(ANSWER), conversion.answer_of),
    (conversion.spec_message(SPEC), conversion.spec_of),
    (conversion.agreed_message(AGREEMENT), conversion.agreed_of),
]


@pytest.mark.parametrize("kind", [pb.SessionSpec, pb.CutAnswer, pb.SessionAgreed, pb.PartRequest])
def test_bytes_that_are_no_message(kind: Any) -> None:
    for data in (b"\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\x0b", b"\x00", b"\x0a\x02\xff"):
        with pytest.raises(ProtocolViolation, match=f"a {kind.__name__} message cannot be read"):
            conversion.parse(kind, data)


def hostile_spec(change: Callable[[pb.SessionSpec], object]) -> SessionSpec:
    message = conversion.spec_message(SPEC)
    change(message)
    return conversion.spec_of(over_the_wire(message))


def put(path: str, value: object) -> Callable[[Any], None]:
    """Sets a field of a message: `codecs.0.stages.0.config_json`."""

    def change(message: Any) -> None:
        *way, last = path.split(".")
        for name in way:
            message = message[int(name)] if name.isdecimal() else getattr(message, name)
        if isinstance(value, list):
            del getattr(message, last)[:]
            getattr(message, last).extend(value)
        else:
            setattr(message, last, value)

    return change


CONFIG: Final = "codecs.0.stages.0.config_json"
HOSTILE_SPECS: Final[dict[str, tuple[str, object]]] = {
    "no run id": ("run_id", ""),
    "run id is a path": ("run_id", "../../x"),
    "run id is hidden": ("run_id", ".x"),
    "run id with a slash": ("run_id", "a/b"),
    "run id with a zero": ("run_id", "a\x00"),
    "run id in two lines": ("run_id", "a\nb"),
    "long run id": ("run_id", "a" * 129),
    "no window": ("window", 0),
    "wide window": ("window", 257),
    "widest window": ("window", 2**32 - 1),
    "no provider": ("provider", ""),
    "no reply mode": ("reply", 0),
    "unknown reply mode": ("reply", 77),
    "negative reply mode": ("reply", -1),
    "unknown node": ("placement.0.node", 9),
    "no part": ("placement.1.part", 0),
    "no element type": ("cut.boundary.0.dtype", 0),
    "unknown element type": ("cut.boundary.0.dtype", 13),
    "negative element type": ("cut.boundary.0.dtype", -(2**31)),
    "negative size": ("cut.boundary.0.shape", [1, -1]),
    "most negative size": ("cut.boundary.0.shape", [-(2**63)]),
    "impossible size": ("cut.boundary.0.shape", [2**40]),
    "too many dimensions": ("cut.boundary.0.shape", [1] * 33),
    "configuration is empty": (CONFIG, ""),
    "configuration is no JSON": (CONFIG, "{"),
    "configuration is a list": (CONFIG, "[]"),
    "configuration is null": (CONFIG, "null"),
    "configuration with NaN": (CONFIG, '{"low": NaN}'),
    "configuration with infinity": (CONFIG, '{"low": 1e999}'),
    "configuration with 5000 digits": (CONFIG, '{"low": ' + "9" * 5000 + "}"),
}


@pytest.mark.parametrize(("path", "value"), HOSTILE_SPECS.values(), ids=HOSTILE_SPECS.keys())
def test_a_session_spec_that_no_device_sends(path: str, value: object) -> None:
    with pytest.raises(ProtocolViolation, match=r"a message|has an impossible shape") as caught:
        hostile_spec(put(path, value))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("first.part", 0),
        ("first.cut.boundary.0.dtype", 99),
        ("first.outputs.0.shape", [-1]),
        ("inputs.0.shape", [2**62, 2**62]),
        ("outputs.0.dtype", 0),
        ("cut.boundary.0.shape", [1] * 100),
    ],
)
def test_a_cut_answer_that_no_edge_sends(path: str, value: object) -> None:
    message = conversion.answer_message(ANSWER)
    put(path, value)(message)
    with pytest.raises(ProtocolViolation):
        conversion.answer_of(over_the_wire(message))


def test_an_agreement_that_no_edge_sends() -> None:
    message = conversion.agreed_message(AGREEMENT)
    put("outputs.0.shape", [-5])(message)
    with pytest.raises(ProtocolViolation, match="tensor 'x' has an impossible shape"):
        conversion.agreed_of(message)


def test_a_long_name_is_not_repeated_in_full() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        hostile_spec(lambda m: (put("cut.boundary.0.name", "n" * 10**6)(m),
                                put("cut.boundary.0.shape", [-1])(m)))  # fmt: skip
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    ["x", "[]", "1", '{"a":[1]}', '{"a":{"b":{}}}', '{"a":' * 5000, '{"a":"' + "x" * 70_000 + '"}'],
)
def test_what_an_edge_says_of_itself_is_bounded(text: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        conversion.agreed_of(pb.SessionAgreed(node_json=text))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "change", [{"md5": "../x"}, {"sha256": "F" * 64}, {"sha256": ""}, {"file_bytes": -1}]
)
def test_a_model_file_that_cannot_be(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"name": "m", "file_bytes": 1, "md5": "0" * 32, "sha256": "0" * 64}
    message = conversion.answer_message(ANSWER)
    message.source.CopyFrom(pb.ModelFile(**(fields | change)))
    with pytest.raises(ProtocolViolation, match="model file"):
        conversion.answer_of(message)


def test_a_model_file_may_have_any_name() -> None:
    file = ModelFile("m\udcff.onnx", 1, "0" * 32, "0" * 64)
    answer = msgspec.structs.replace(ANSWER, source=file)
    back = conversion.answer_of(over_the_wire(conversion.answer_message(answer)))
    assert back.source == msgspec.structs.replace(file, name="m?.onnx")


def test_an_empty_message_of_every_kind() -> None:
    assert conversion.question_of(pb.CutQuestion()) == CutQuestion("", "")
    assert conversion.agreed_of(pb.SessionAgreed()) == SessionAgreed(0, "", (), 0, 0)
    assert conversion.answer_of(pb.CutAnswer()).first is None
    with pytest.raises(ProtocolViolation):
        conversion.spec_of(pb.SessionSpec())
    with pytest.raises(ProtocolViolation):
        conversion.answer_of(pb.CutAnswer(first=pb.Partition()))


def test_a_placement_that_nobody_runs_is_carried() -> None:
    # Which placements a node runs is the node's to say (splitbed.session.placement_name).
    spec = msgspec.structs.replace(SPEC, placement=LOCAL)
    assert hostile_spec(put("placement", [pb.Step(node=pb.DEVICE, part=pb.WHOLE)])) == spec


@pytest.mark.parametrize(("message", "convert"), KINDS, ids=lambda v: type(v).__name__)
def test_mutated_messages(message: Any, convert: Callable[[Any], object]) -> None:
    rng = random.Random(11)
    good = message.SerializeToString()
    outcomes = [0, 0]
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            else:
                data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        try:
            convert(conversion.parse(type(message), bytes(data)))
            outcomes[0] += 1
        except ProtocolViolation:
            outcomes[1] += 1
    assert min(outcomes) > 100


def test_deeply_nested_configuration() -> None:
    with pytest.raises(ProtocolViolation):
        hostile_spec(put(CONFIG, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"))


def test_a_run_id_with_a_line_end() -> None:
    with pytest.raises(ProtocolViolation):
        hostile_spec(put("run_id", "run-1\n"))


@pytest.mark.parametrize("shape", [[-1], [2**62], [1] * 33])
def test_impossible_input_shapes(shape: list[int]) -> None:
    question = pb.CutQuestion(input_shapes=[pb.InputShape(name="x", shape=shape)])
    with pytest.raises(ProtocolViolation):
        conversion.question_of(question)


def test_a_partition_of_negative_size() -> None:
    message = conversion.answer_message(ANSWER)
    put("first.file_bytes", -1)(message)
    with pytest.raises(ProtocolViolation):
        conversion.answer_of(message)


@pytest.mark.parametrize(
    "digest", ["", "../../x", "/x/y", "a" * 63, "a" * 64 + "\n", "a" * 63 + "/"]
)
def test_a_partition_whose_digest_is_none(digest: str) -> None:
    message = conversion.answer_message(ANSWER)
    put("first.sha256", digest)(message)
    with pytest.raises(ProtocolViolation):
        conversion.answer_of(message)


def test_a_failure_whose_sentence_is_no_text() -> None:
    message = conversion.failure_message(errors.ModelError("cannot read caf\udce9.onnx"))
    assert message.sentence.startswith("cannot read caf")


@pytest.mark.parametrize("provider", get_args(ProviderChoice))
def test_every_provider_crosses(provider: ProviderChoice) -> None:
    spec = msgspec.structs.replace(SPEC, provider=provider)
    assert conversion.spec_of(over_the_wire(conversion.spec_message(spec))).provider == provider


def test_a_provider_of_a_later_version_is_refused_with_a_way_out() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        hostile_spec(put("provider", "photonic" * 1000))
    sentence = str(caught.value)
    assert sentence.startswith("this edge knows no provider 'photonicphotonic")
    assert "auto, cpu, cuda, tensorrt" in sentence
    assert len(sentence) < 300
