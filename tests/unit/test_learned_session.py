"""Sessions with a learned codec: what crosses, who agrees on what, and hostile questions."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from device_node.__main__ import Device
from device_node.head import find_planned, prepare_head
from device_node.options import DeviceOptions
from edge_node import partitions
from edge_node.store import ModelStore
from experiments.codec_planning import CodecPlan, plan_codec
from experiments.learned import coded_cut
from experiments.pictures import PictureSet
from experiments.preparation import calibrate, prepare_cut, prepare_model
from splitbed import codec
from splitbed.codec import PlannedCodec, read_planned
from splitbed.engine import Engine
from splitbed.errors import (
    CutUnknown,
    ModelMismatch,
    ModelUnknown,
    ProtocolViolation,
    UsageError,
)
from splitbed.pair import CodeRange, PairId
from splitbed.quantiser import Quantiser
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from splitbed.runnable import carry
from splitbed.session import CutAnswer, CutQuestion, SessionSpec
from splitbed.tensor import Partition
from splitbed.transport import InProcessTransport, Transport
from splitbed.wire import conversion
from splitbed.wire import split_pb2 as pb
from tests.unit.edges import (
    Edge,
    device_options,
    edge_over,
    fetched,
    model_folder,
    picture,
    spec_for,
    tensor_of,
)
from tests.unit.pairs import untrained_pair
from tests.unit.test_conversion import ANSWER, PARTITION, SPEC
from tests.unit.test_learned import HOSTILE

CODED = "learned:pair+quantize:4+zstd:3"
IN_GRAPH = "learned:pair+quantize:4,where=graph+zstd:3"


def folder_with_pairs(folder: Path) -> Path:
    """`tiny.onnx`, and pairs for two of its cuts beside it."""
    models = model_folder(folder)
    untrained_pair(models / "pair", models / "tiny.onnx", "sum", 2)
    untrained_pair(models / "two", models / "tiny.onnx", "right", 1, opset=18)
    return models


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with edge_over(folder_with_pairs(tmp_path_factory.mktemp("edge") / "models")) as made:
        yield made


def asked(transport: Transport, cut: str, pair: str, **changes: Any) -> CutAnswer:
    return transport.describe_cut(CutQuestion("tiny", cut, pair=pair, **changes))


def session_for(answer: CutAnswer, text: str) -> SessionSpec:
    codecs = codec.plan(text, answer.cut.boundary, None, answer.ranges)
    return spec_for(answer, codecs=codecs, pair=answer.pair)


@pytest.mark.parametrize(("cut", "pair"), [("sum", "pair"), ("right", "two")])
@pytest.mark.parametrize("rest", ["raw", "quantize:8+zstd:3"])
def test_the_code_crosses(transport: Transport, cut: str, pair: str, rest: str) -> None:
    """One ONNX Runtime session on each side, and the answers of parts and networks one by one."""
    answer = asked(transport, cut, pair)
    plain = transport.describe_cut(CutQuestion("tiny", cut))
    assert answer.first is not None
    assert answer.second is not None
    assert plain.first is not None
    assert answer.first.cut == plain.cut != answer.cut
    assert answer.ranges == tuple(CodeRange(spec.name, 0, 1) for spec in answer.cut.boundary)
    spec = session_for(answer, f"learned:{pair}+{rest}")
    session = transport.open(spec)
    head = Engine(fetched(transport, answer.first), provider="cpu", threads=1)
    tail = Engine(fetched(transport, answer.second), provider="cpu", threads=1)
    working = [codec.build(w, s) for w, s in zip(spec.codecs, spec.cut.boundary, strict=True)]
    for number in range(4):
        code = carry(head, {"x": picture(number)}, [s.name for s in spec.cut.boundary])
        sent = tuple(one.encode(code[one.spec.name]) for one in working)
        decoded = {o.spec.name: o.decode(p) for o, p in zip(working, sent, strict=True)}
        reply = session.submit(number, sent).result(30)
        assert reply.error is None
        scores = tensor_of(reply.payloads[0], session.agreed.outputs[0])
        wanted: Any = carry(tail, decoded, ["scores"])["scores"]
        np.testing.assert_allclose(np.asarray(scores), wanted, rtol=1e-5)
    session.close()


def test_everything_survives_the_wire() -> None:
    pair = PairId("a/b", "1" * 64, "2" * 64)
    question = CutQuestion("m", "c", pair="a/b")
    assert conversion.question_of(conversion.question_message(question)) == question
    answer = msgspec.structs.replace(
        ANSWER,
        first=msgspec.structs.replace(PARTITION, pair=pair),
        ranges=(CodeRange("code", -0.1, 1.7),),
    )
    assert conversion.answer_of(conversion.answer_message(answer)) == answer
    spec = msgspec.structs.replace(SPEC, pair=pair)
    assert conversion.spec_of(conversion.spec_message(spec)) == spec


@pytest.mark.parametrize(
    "message",
    [
        pb.LearnedPair(name="..", encoder_sha256="0" * 64, decoder_sha256="0" * 64),
        pb.LearnedPair(name="a", encoder_sha256="0" * 63, decoder_sha256="0" * 64),
        pb.LearnedPair(name="a", encoder_sha256="0" * 64, decoder_sha256="../" + "0" * 61),
        pb.LearnedPair(),
    ],
)
def test_messages_that_name_no_pair(message: pb.LearnedPair) -> None:
    for take in (
        lambda: conversion.spec_of(pb.SessionSpec(pair=message)),
        lambda: conversion.answer_of(
            pb.CutAnswer(first=pb.Partition(sha256="0" * 64, part=pb.FIRST, pair=message))
        ),
    ):
        with pytest.raises((ProtocolViolation, UsageError)):
            take()


@pytest.mark.parametrize(("low", "high"), [(0, 0), (1, 0), (float("nan"), 1), (0, float("inf"))])
def test_messages_with_a_range_that_is_none(low: float, high: float) -> None:
    message = pb.CutAnswer(ranges=[pb.CodeRange(tensor="code", low=low, high=high)])
    with pytest.raises(UsageError, match="low < high"):
        conversion.answer_of(message)
    many = pb.CutAnswer(ranges=[pb.CodeRange(tensor="code", low=0, high=1)] * 2000)
    with pytest.raises(ProtocolViolation, match="more ranges than any cut has tensors"):
        conversion.answer_of(many)


# Hostile questions.


@pytest.mark.parametrize("name", [name for name in HOSTILE if name])
def test_names_that_lead_out(edge: Edge, transport: Transport, name: str) -> None:
    kept = len(edge.partitions._quantising.turns), edge.partitions.sizes()
    with pytest.raises(UsageError, match="cannot be the name of a learned codec"):
        asked(transport, "sum", name)
    assert (len(edge.partitions._quantising.turns), edge.partitions.sizes()) == kept


@pytest.mark.parametrize("name", ["nothing", "tiny", "tiny.onnx", "pair/encoder", "pair/pair"])
def test_names_of_nothing(edge: Edge, transport: Transport, name: str) -> None:
    kept = len(edge.partitions._quantising.turns), edge.partitions.sizes()
    with pytest.raises(ModelUnknown, match=f"no learned codec '{name}' for 'tiny'"):
        asked(transport, "sum", name)
    assert (len(edge.partitions._quantising.turns), edge.partitions.sizes()) == kept


def test_halves_are_no_models(transport: Transport) -> None:
    for name in ("pair/encoder", "encoder", "pair", "two/decoder"):
        with pytest.raises(ModelUnknown):
            transport.describe_cut(CutQuestion(name, "@input"))


def test_other_cuts_are_refused(transport: Transport) -> None:
    with pytest.raises(CutUnknown, match="stands at the cut 'sum', not at 'right'"):
        asked(transport, "right", "pair")
    for cut in ("@input", "@output", "@picture", "@result"):
        with pytest.raises(UsageError, match="that learned:pair could stand in"):
            asked(transport, cut, "pair")


def test_sessions_that_do_not_fit_the_pair(transport: Transport) -> None:
    answer = asked(transport, "sum", "pair")
    spec = session_for(answer, CODED)
    assert spec.pair is not None
    plain = transport.describe_cut(CutQuestion("tiny", "sum"))
    for change, error in (
        ({"pair": msgspec.structs.replace(spec.pair, encoder_sha256="0" * 64)}, ModelMismatch),
        ({"pair": msgspec.structs.replace(spec.pair, name="two")}, CutUnknown),
        ({"pair": None}, ProtocolViolation),
        ({"cut": plain.cut}, ProtocolViolation),
    ):
        with pytest.raises(error):
            transport.open(msgspec.structs.replace(spec, **change))
    with pytest.raises(ProtocolViolation):
        transport.open(spec_for(plain, pair=spec.pair))


# How an edge finds a pair.


def test_a_pair_is_found_beside_its_model_first(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("a", "b"):
        model_folder(models / name)
    store = ModelStore(models)
    stored = store.get("a/tiny", ())
    untrained_pair(models / "b" / "pair", models / "a" / "tiny.onnx", "sum", 2, seed=1)
    (alone,) = {store.pair(name, stored).id.encoder_sha256 for name in ("pair", "b/pair")}
    untrained_pair(models / "far" / "pair", models / "a" / "tiny.onnx", "sum", 2, seed=2)
    with pytest.raises(ModelUnknown, match=r"several learned codecs 'pair', none .*b/pair, far/pa"):
        store.pair("pair", stored)
    assert store.pair("b/pair", stored).id.encoder_sha256 == alone
    untrained_pair(models / "a" / "pair", models / "a" / "tiny.onnx", "sum", 2, seed=3)
    assert store.pair("pair", stored).id.encoder_sha256 != alone


def test_an_edge_over_one_file_looks_beside_it(tmp_path: Path) -> None:
    models = folder_with_pairs(tmp_path / "models")
    store = ModelStore(models / "tiny.onnx")
    assert store.pair("pair", store.get("tiny", ())).id.name == "pair"
    untrained_pair(tmp_path / "outside", models / "tiny.onnx", "sum", 2)
    with pytest.raises(ModelUnknown):
        store.pair("outside", store.get("tiny", ()))


def test_a_pair_that_was_replaced_is_another_one(tmp_path: Path) -> None:
    models = folder_with_pairs(tmp_path / "models")
    with edge_over(models) as edge:
        transport = InProcessTransport(edge.service)
        before = asked(transport, "sum", "pair")
        assert asked(transport, "sum", "pair") is before
        untrained_pair(models / "pair", models / "tiny.onnx", "sum", 2, seed=9)
        with pytest.raises(ModelMismatch, match="another learned codec named 'pair'"):
            transport.open(session_for(before, CODED))
        after = asked(transport, "sum", "pair")
        assert after.pair != before.pair
        transport.open(session_for(after, CODED)).close()
        # A range that is corrected counts at once, although the networks stay as they are.
        text = (models / "pair" / "bottleneck.toml").read_text(encoding="utf-8")
        (models / "pair" / "bottleneck.toml").write_text(
            text.replace("high = 1.0", "high = 2.0"), encoding="utf-8"
        )
        assert asked(transport, "sum", "pair").ranges == (CodeRange("code", 0.0, 2.0),)
        shutil.rmtree(models / "pair")
        with pytest.raises(ModelUnknown):
            asked(transport, "sum", "pair")


def test_an_edge_holds_a_bounded_share_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that fell out are made again, to the same bytes."""
    models = folder_with_pairs(tmp_path / "models")
    with edge_over(models) as edge:
        transport = InProcessTransport(edge.service)
        answer = asked(transport, "sum", "pair")
        assert answer.first is not None
        content = fetched(transport, answer.first)
        held = sum(part.held_bytes for part in edge.partitions._parts.values())
        assert held == sum(f.stat().st_size for f in (models / "pair").glob("*.onnx"))
        monkeypatch.setattr(partitions, "_HELD_BYTES", 3 * held)
        for number in range(9):
            quantiser = Quantiser("code", (0.0,), (0.1 + number,), 15)
            asked(transport, "sum", "pair", quantisers=(quantiser,))
            parts = edge.partitions._parts.values()
            assert sum(part.held_bytes for part in parts) <= 3 * held
        assert answer.first.sha256 not in edge.partitions._parts
        assert fetched(transport, answer.first) == content


# The device.


def options_for(folder: Path, **changes: Any) -> DeviceOptions:
    asked = {"cut": "sum", "codec": CODED, "run_id": "", "warmup": 0, "frames": 8}
    return device_options(folder, **asked | changes)


def run(
    transport: Transport, pictures: list[Path], options: DeviceOptions
) -> list[tuple[str, int, int, Any]]:
    """What two runs must have in common."""
    device = Device(options)
    assert device.run(transport, pictures, threading.Event()) == 0
    rows = read_rows(RunFolder(options.out / device.run_id).frames("device"), FrameRecord)
    return [(row.status, row.raw_bytes, row.payload_bytes, row.result) for row in rows]


def test_a_device_needs_no_calibration_where_the_range_is_known(
    transport: Transport, pictures: list[Path], tmp_path: Path
) -> None:
    plain = run(transport, pictures, options_for(tmp_path))
    graph = run(transport, pictures, options_for(tmp_path, codec=IN_GRAPH))
    assert [row[:2] for row in plain] == [("ok", 4 * 192)] * 8  # of the boundary, not the code
    assert max(row[2] for row in plain) <= 64 + 20  # 128 elements of 4 bits
    assert plain == graph
    assert len(list((tmp_path / "cache").glob("*.onnx"))) == 2
    with pytest.raises(UsageError, match="learned"):
        find_planned(options_for(tmp_path, codec="learned:..+raw"))


def planned_at(edge: Edge, pictures: list[Path], text: str) -> PlannedCodec:
    model = prepare_model(edge.models / "tiny.onnx")
    found = PictureSet(tuple(pictures), {})
    return plan_codec(model, prepare_cut(model, "sum"), text, lambda: found, threads=1).planned


def kept(path: Path, planned: PlannedCodec) -> str:
    path.write_bytes(msgspec.json.encode(planned))
    return f"@{path}"


@pytest.mark.parametrize("text", ["learned:pair+uniform:0.5+ans", IN_GRAPH])
def test_a_planned_file_holds_what_a_device_needs(
    edge: Edge,
    transport: Transport,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    """The pair's name and identity with the codecs of its code, so that nothing else is said."""
    planned = planned_at(edge, pictures, text)
    assert planned.pair == asked(transport, "sum", "pair").pair
    file = kept(tmp_path / "codec.json", planned)

    def fitted(*_: object) -> None:
        raise AssertionError("a device planned a codec")

    monkeypatch.setattr(codec, "plan", fitted)
    rows = run(transport, pictures, options_for(tmp_path, codec=file))
    assert [row[:2] for row in rows] == [("ok", 4 * 192)] * 8


def test_a_planned_file_is_of_one_pair(
    edge: Edge, transport: Transport, pictures: list[Path], tmp_path: Path
) -> None:
    planned = planned_at(edge, pictures, "learned:pair+uniform:0.5+ans")
    assert planned.pair is not None
    other = msgspec.structs.replace(planned.pair, decoder_sha256="0" * 64)
    stranger = msgspec.structs.replace(planned, pair=other)
    options = options_for(tmp_path, codec=kept(tmp_path / "other.json", stranger))
    with pytest.raises(ModelMismatch, match="another learned codec named 'pair'"):
        prepare_head(transport, options, find_planned(options))
    answer = asked(transport, "sum", "pair")
    with pytest.raises(UsageError, match="planned for another learned codec"):
        stranger.codecs_at(answer.model_digest, answer.cut, answer.pair, "other.json")
    for changes in ({"pair": None}, {"codec": "uniform:0.5+ans"}, {"codec": "learned:two+raw"}):
        plain = msgspec.to_builtins(planned) | changes
        with pytest.raises(UsageError, match="learned codec is not the one that its text"):
            msgspec.convert(plain, PlannedCodec)
        (tmp_path / "odd.json").write_bytes(msgspec.json.encode(plain))
        with pytest.raises(UsageError, match="is no planned codec"):
            read_planned(tmp_path / "odd.json")


def test_a_calibration_is_of_one_pair(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    model = prepare_model(edge.models / "tiny.onnx")
    plain = prepare_cut(model, "sum")
    files: dict[str, Path] = {}
    for text in ("raw", CODED):
        cut = coded_cut(model, plain, text)
        files[text] = tmp_path / f"{len(files)}.json"
        files[text].write_bytes(msgspec.json.encode(calibrate(model, cut, pictures, 1)))

    def plan(text: str, calibration: Path) -> CodecPlan:
        return plan_codec(
            model, plain, text, lambda: PictureSet((), {}), calibration=calibration, threads=1
        )

    text = "learned:pair+uniform:0.5+ans"
    assert plan(text, files[CODED]).planned.pair is not None
    with pytest.raises(UsageError, match="made without a learned codec"):
        plan(text, files["raw"])
    with pytest.raises(UsageError, match="made with another learned codec"):
        plan("uniform:0.5+ans", files[CODED])


@pytest.mark.parametrize("rest", ["quantize:4,clip=p99", "uniform:0.5", "quantize:4+ans"])
def test_a_code_that_is_to_be_fitted_is_refused_on_a_device(
    transport: Transport, tmp_path: Path, rest: str
) -> None:
    options = options_for(tmp_path, codec=f"learned:pair+{rest}")
    with pytest.raises(UsageError, match="fitted to pictures where the model is") as refused:
        prepare_head(transport, options, find_planned(options))
    assert f"--codec learned:pair+{rest}`" in str(refused.value)


def test_a_code_of_unknown_range_is_refused_on_a_device(edge: Edge, tmp_path: Path) -> None:
    """Only the edge's answer tells."""
    options = options_for(tmp_path)
    assert find_planned(options) is None
    with pytest.raises(UsageError, match="fitted to pictures where the model is"):
        prepare_head(Ranging(edge.service), options, None)


def test_a_device_that_wants_another_pair(transport: Transport, tmp_path: Path) -> None:
    pair = asked(transport, "sum", "pair").pair
    assert pair is not None
    head = prepare_head(transport, options_for(tmp_path, pair_digest=pair.digest), None)
    assert head.answer.pair == pair
    with pytest.raises(ModelMismatch, match="another learned codec named 'pair'"):
        prepare_head(transport, options_for(tmp_path, pair_digest="0" * 64), None)


class Older(InProcessTransport):
    """To an edge that does not know of pairs, and ignores the field."""

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        return super().describe_cut(msgspec.structs.replace(question, pair=""))


class Ranging(InProcessTransport):
    """To an edge whose pair does not say in which range its code is."""

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        return msgspec.structs.replace(super().describe_cut(question), ranges=())


class Mixing(InProcessTransport):
    """To an edge whose two parts have different pairs."""

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        answer = super().describe_cut(question)
        second: Partition | None = answer.second
        assert second is not None
        assert second.pair is not None
        other = msgspec.structs.replace(second.pair, decoder_sha256="0" * 64)
        return msgspec.structs.replace(answer, second=msgspec.structs.replace(second, pair=other))


@pytest.mark.parametrize("kind", [Older, Mixing])
def test_an_edge_without_the_pair_is_refused(
    edge: Edge, kind: type[InProcessTransport], tmp_path: Path
) -> None:
    with pytest.raises(ProtocolViolation, match="without this learned codec"):
        prepare_head(kind(edge.service), options_for(tmp_path), None)
