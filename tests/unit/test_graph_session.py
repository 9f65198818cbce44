"""Sessions whose parts quantise themselves: the same bytes and answers, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from device_node.__main__ import Device
from device_node.head import prepare_head
from device_node.options import DeviceOptions
from edge_node import partitions
from splitbed import codec
from splitbed.engine import Engine
from splitbed.errors import (
    CodecError,
    ModelUnknown,
    ProtocolViolation,
    RunIncomplete,
    SplitbedError,
    UsageError,
)
from splitbed.quantiser import MOST_CHANNELS, Quantiser
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from splitbed.runnable import carry
from splitbed.session import Buffer, CutAnswer, CutQuestion, SessionSpec
from splitbed.tensor import Array
from splitbed.transport import InProcessTransport, Transport, fetch_part
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

PLAIN = "quantize:bits=4,low=-1,high=2+zstd:3"
GRAPH = "quantize:bits=4,low=-1,high=2,where=graph+zstd:3"
GESTURE = Path(__file__).resolve().parents[2] / "models" / "gesture" / "gesture.onnx"
ONE = Quantiser("sum", (-1.0,), (0.2,), 15)


def coded(transport: Transport, spec: SessionSpec, feed: Mapping[str, Array]) -> tuple[Buffer, ...]:
    """The payloads of one input, by the head that belongs to the session's codecs."""
    quantisers = codec.quantisers(spec.codecs, spec.cut.boundary)
    answer = transport.describe_cut(CutQuestion(spec.model, spec.cut.name, (), quantisers))
    assert answer.first is not None
    head = Engine(fetched(transport, answer.first), provider="cpu", threads=1)
    built = [codec.build(c, s) for c, s in zip(spec.codecs, spec.cut.boundary, strict=True)]
    made = carry(head, feed, [name for c in built for name in c.taken])
    return tuple(c.encode_from(made) for c in built)


@pytest.mark.parametrize("cut", ["left", "right", "sum", "flat"])
def test_the_same_bytes_and_replies(transport: Transport, cut: str) -> None:
    answer = transport.describe_cut(CutQuestion("tiny", cut))
    found: list[list[tuple[tuple[bytes, ...], bytes]]] = []
    for text in (PLAIN, GRAPH):
        spec = spec_for(answer, coded=text)
        session = transport.open(spec)
        replies = []
        for number in range(5):
            sent = coded(transport, spec, {"x": picture(number)})
            reply = session.submit(number, sent).result(30)
            assert reply.error is None
            scores = tensor_of(reply.payloads[0], session.agreed.outputs[0])
            replies.append((tuple(map(bytes, sent)), scores.tobytes()))
        session.close()
        found.append(replies)
    assert found[0] == found[1]


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_embedded_model_in_every_width_and_packing(bits: int) -> None:
    with edge_over(GESTURE) as edge:
        transport = InProcessTransport(edge.service)
        answer = transport.describe_cut(CutQuestion("gesture", "layer2"))
        (given,) = answer.inputs
        drawn = np.random.default_rng(bits).normal(size=given.shape)
        feed = {given.name: drawn.astype(np.float32)}
        for packing, tail in (("bits", ""), ("bytes", ""), ("bits", "+zstd:3"), ("bytes", "+zstd")):
            found = []
            for where in ("", ",where=graph"):
                text = f"quantize:bits={bits},low=0,high=3,packing={packing}{where}{tail}"
                spec = spec_for(answer, coded=text, model="gesture")
                session = transport.open(spec)
                sent = coded(transport, spec, feed)
                reply = session.submit(1, sent).result(30)
                assert reply.error is None
                found.append([*map(bytes, sent), *map(bytes, reply.payloads)])
                session.close()
            assert found[0] == found[1]


# The device.


def options_for(folder: Path, **changes: Any) -> DeviceOptions:
    return device_options(folder, **{"run_id": "", "warmup": 0, "frames": 8} | changes)


def run(
    transport: Transport, pictures: list[Path], options: DeviceOptions
) -> list[tuple[str, int, int, Any]]:
    """What two runs must have in common."""
    device = Device(options)
    assert device.run(transport, pictures, threading.Event()) == 0
    rows = read_rows(RunFolder(options.out / device.run_id).frames("device"), FrameRecord)
    return [(row.status, row.raw_bytes, row.payload_bytes, row.result) for row in rows]


@pytest.mark.parametrize("cut", ["left", "right", "sum"])
def test_a_device_that_quantises_in_the_graph(
    transport: Transport, pictures: list[Path], tmp_path: Path, cut: str
) -> None:
    plain = run(transport, pictures, options_for(tmp_path, cut=cut, codec=PLAIN))
    graph = run(transport, pictures, options_for(tmp_path, cut=cut, codec=GRAPH))
    assert [row[0] for row in plain] == ["ok"] * 8
    assert plain == graph
    assert len(list((tmp_path / "cache").glob("*.onnx"))) == 2


def test_a_cache_tells_heads_apart(transport: Transport, tmp_path: Path) -> None:
    found = set()
    for text in (PLAIN, GRAPH, GRAPH.replace("bits=4", "bits=5"), GRAPH):
        head = prepare_head(transport, options_for(tmp_path, cut="sum", codec=text), None)
        fetched_now = head.fetched
        assert fetched_now is not None
        assert head.answer.first is not None
        assert head.answer.first.quantisers == codec.quantisers(
            head.codecs, head.answer.cut.boundary
        )
        found.add(fetched_now.path)
    assert fetched_now is not None
    assert fetched_now.fetched_bytes == 0  # it was there, and was not fetched again
    assert len(found) == 3


def test_a_picture_with_not_a_number_fails_alone(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitbed.task import Preprocessor

    tensor, calls = Preprocessor.tensor, []

    def sometimes(self: Preprocessor, drawn: Any) -> Any:
        made = tensor(self, drawn).copy()
        calls.append(made)
        if len(calls) == 3:
            made[0, 1, 2, 3] = np.nan
        return made

    monkeypatch.setattr(Preprocessor, "tensor", sometimes)
    found: list[list[tuple[str, int, Any]]] = []
    for text in (PLAIN, GRAPH):
        calls.clear()
        options = options_for(tmp_path, codec=text, run_id=f"run-{len(found)}")
        with pytest.raises(RunIncomplete, match="a tensor with NaN cannot be quantised"):
            Device(options).run(InProcessTransport(edge.service), pictures, threading.Event())
        rows = read_rows(RunFolder(options.out / options.run_id).frames("device"), FrameRecord)
        found.append([(row.status, row.payload_bytes, row.result) for row in rows])
    assert found[0] == found[1]
    assert [status for status, *_ in found[0]].count("failed:codec") == 1


class Older(InProcessTransport):
    """To an edge that does not know of quantisers, and ignores the field."""

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        return super().describe_cut(msgspec.structs.replace(question, quantisers=()))


def test_an_older_edge_is_refused(edge: Edge, tmp_path: Path) -> None:
    with pytest.raises(ProtocolViolation, match=r"parts that do not quantise.*where=graph"):
        prepare_head(Older(edge.service), options_for(tmp_path, codec=GRAPH), None)


@pytest.mark.parametrize(("cut", "missing"), [("@input", "head"), ("@output", "tail")])
def test_an_anchor_has_no_part_that_could(
    transport: Transport, tmp_path: Path, cut: str, missing: str
) -> None:
    with pytest.raises(UsageError, match=f"there is no {missing} that could quantise"):
        prepare_head(transport, options_for(tmp_path, cut=cut, codec=GRAPH), None)
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", cut)), coded=GRAPH)
    with pytest.raises(UsageError, match=f"there is no {missing} that could quantise"):
        transport.open(spec)


# What a hostile peer asks for.


@pytest.mark.parametrize(
    "quantisers",
    [
        (msgspec.structs.replace(ONE, tensor="x"),),
        (msgspec.structs.replace(ONE, tensor=""),),
        (ONE, ONE),
        (msgspec.structs.replace(ONE, low=(0.0,) * 4, step=(1.0,) * 4),),
        (msgspec.structs.replace(ONE, low=(0.0,) * MOST_CHANNELS, step=(1.0,) * MOST_CHANNELS),),
    ],
)
def test_descriptions_that_do_not_fit(
    edge: Edge, transport: Transport, quantisers: tuple[Quantiser, ...]
) -> None:
    kept = len(edge.partitions._quantising.turns), edge.partitions.sizes()
    with pytest.raises(UsageError):
        transport.describe_cut(CutQuestion("tiny", "sum", (), quantisers))
    assert (len(edge.partitions._quantising.turns), edge.partitions.sizes()) == kept


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"low": [0.0], "step": [1.0]},
        {"low": [0.0], "step": [1.0], "highest": 2**32 - 1},
        {"low": [0.0], "step": [float("nan")], "highest": 3},
        {"low": [float("-inf")], "step": [1.0], "highest": 3},
        {"low": [0.0, 0.0], "step": [1.0], "highest": 3},
        {"low": [0.0], "step": [-1.0], "highest": 3},
        {"low": [0.0] * 20_000, "step": [1.0] * 20_000, "highest": 3},
    ],
)
def test_messages_that_describe_nothing(fields: dict[str, Any]) -> None:
    hostile = pb.Quantiser(tensor="sum", **fields)
    for take in (
        lambda: conversion.question_of(pb.CutQuestion(quantisers=[hostile])),
        lambda: conversion.answer_of(
            pb.CutAnswer(first=pb.Partition(sha256="0" * 64, part=pb.FIRST, quantisers=[hostile]))
        ),
    ):
        with pytest.raises(UsageError, match="a quantiser of 'sum'"):
            take()


def test_more_levels_than_any_cut_has() -> None:
    many = [pb.Quantiser(low=[0.0] * 9000, step=[1.0] * 9000, highest=3)] * 4
    with pytest.raises(ProtocolViolation, match="more quantisers than any cut has channels"):
        conversion.question_of(pb.CutQuestion(quantisers=many))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"where": "gpu"}, SplitbedError),
        ({"where": 1}, SplitbedError),
        ({"low": -1e30, "high": 1e39}, SplitbedError),
        ({"low": 1e6, "high": 1e6 + 1}, CodecError),
        ({"low": -1e-46}, CodecError),
    ],
)
def test_specifications_that_no_graph_can_follow(
    transport: Transport, change: dict[str, Any], error: type[SplitbedError]
) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), coded=GRAPH)
    spec.codecs[0].stages[0].config.update(change)
    with pytest.raises(error):
        transport.open(spec)


def test_an_edge_keeps_a_bounded_number_of_such_cuts(tmp_path: Path) -> None:
    with edge_over(model_folder(tmp_path / "models"), parts=4, engines=2) as edge:
        most = partitions._QUANTISING_KEPT
        first: CutAnswer | None = None
        plain = edge.answer("sum")
        for number in range(2 * most + 1):
            described = msgspec.structs.replace(ONE, low=(-1.0 - number,))
            answer = edge.service.describe_cut(CutQuestion("tiny", "sum", (), (described,)))
            first = first or answer
        kept = edge.partitions._quantising
        assert len(kept.answers) == len(kept.turns) == most
        assert len(kept.origins) == 2 * most
        assert edge.partitions.sizes() == (0, 4)
        assert edge.answer("sum") is plain
        assert answer.first is not None
        assert b"".join(edge.partitions.chunks(answer.first.sha256, 0))
        assert first is not None
        assert first.second is not None
        with pytest.raises(ModelUnknown):
            list(edge.partitions.chunks(first.second.sha256, 0))


def test_a_quantising_part_that_fell_out_is_made_again(tmp_path: Path) -> None:
    with edge_over(model_folder(tmp_path / "models"), parts=2) as edge:
        question = CutQuestion("tiny", "sum", (), (ONE,))
        part = edge.service.describe_cut(question).first
        assert part is not None
        transport = InProcessTransport(edge.service)
        content = fetched(transport, part)
        edge.answer("left")
        assert part.sha256 not in edge.partitions._parts
        report = fetch_part(transport, part, tmp_path / "cache")
        assert report.path.read_bytes() == content
