"""Quantising as operators of head and tail: the symbols and the values of numpy, to the bit."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto

from splitbed import codec
from splitbed.codec.calibration import Calibration, FrameCollector
from splitbed.codec.damage import damaged
from splitbed.codec.quantize import Quantize
from splitbed.codec.statistics import StatisticsCollector
from splitbed.errors import CodecError, CodecUnknown, CutUnknown, PayloadInvalid, UsageError
from splitbed.graph import CanonicalModel, Parts, cut_points, extract, find_cut, quantising
from splitbed.quantiser import MOST_CHANNELS, Quantiser
from splitbed.runnable import carry
from splitbed.session import TensorCodec
from splitbed.tensor import Array, TensorSpec, canonical_json
from tests.models import canonical, info, model, node, open_part, random_feed, weights
from tests.unit.edges import tiny_model
from tests.unit.test_graph_random import graphs

WIDTHS: Final = range(2, 9)
OPSETS: Final = [7, 8, 9, 10, 11, 12, 13, 17, 21]
RANGE: Final = "low=-1,high=2"


def negated(
    folder: Path, shape: Sequence[int], dtype: str = "float32", opset: int = 17
) -> CanonicalModel:
    """x -> y = -x -> z = -y: whatever is fed crosses at y with its sign changed and no more."""
    nodes = [node("Neg", ["x"], ["y"]), node("Neg", ["y"], ["z"])]
    ends = info("x", shape, dtype), info("z", shape, dtype)
    return canonical(model(nodes, ends[:1], ends[1:], opset=opset), folder)


def cut(cleaned: CanonicalModel, name: str = "y") -> Parts:
    return extract(cleaned, find_cut(cleaned, cut_points(cleaned), name))


def stages(quantiser: Quantiser) -> list[Quantize]:
    """The numpy stage of each channel."""
    return [
        Quantize(quantiser.highest.bit_length(), low, low + quantiser.highest * step, "bytes")
        for low, step in zip(quantiser.low, quantiser.step, strict=True)
    ]


def of(spec: TensorSpec, chosen: Sequence[Quantize]) -> Quantiser:
    """One description of a stage for each channel, or for all of them."""
    found = [stage.quantiser(TensorSpec(spec.name, spec.dtype, (1,))) for stage in chosen]
    described = [quantiser for quantiser in found if quantiser is not None]
    assert len(described) == len(chosen)
    return Quantiser(
        spec.name,
        tuple(q.low[0] for q in described),
        tuple(q.step[0] for q in described),
        described[0].highest,
    )


def by_numpy(array: Any, chosen: Sequence[Quantize]) -> tuple[NDArray[np.uint8], Any]:
    """Symbols and values, each channel by a stage of its own."""
    if len(chosen) == 1:
        spec = msgspec.convert(
            {"name": "y", "dtype": array.dtype.name, "shape": array.shape}, TensorSpec
        )
        payload = bytes(chosen[0].encode(array))
        return np.frombuffer(payload, np.uint8), chosen[0].decode(payload, spec)
    channels = [
        by_numpy(np.ascontiguousarray(array[:, at]), [stage]) for at, stage in enumerate(chosen)
    ]
    symbols = [s.reshape(array[:, 0].shape) for s, _ in channels]
    return np.stack(symbols, 1).reshape(-1), np.stack([value for _, value in channels], 1)


def check(folder: Path, array: Any, chosen: Sequence[Quantize], opset: int = 17) -> None:
    """A tensor through head and tail, against numpy."""
    cleaned = negated(folder, array.shape, array.dtype.name, opset)
    parts = cut(cleaned)
    (spec,) = parts.cut.boundary
    parts = quantising(parts, [of(spec, chosen)])
    assert parts.first is not None
    assert parts.second is not None
    with np.errstate(over="ignore"):
        wanted, values = by_numpy(array, chosen)
    made = carry(open_part(parts.first.content), {"x": np.asarray(-array)}, [spec.symbols.name])
    symbols = made[spec.symbols.name]
    assert spec.symbols.matches(symbols)
    assert symbols.tobytes() == wanted.tobytes()
    got = carry(open_part(parts.second.content), {spec.symbols.name: symbols}, ["z"])["z"]
    assert got.dtype == values.dtype
    assert got.shape == array.shape
    assert got.tobytes() == (-values).tobytes()


def ranges(count: int, seed: int, bits: int) -> list[Quantize]:
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.normal(0, 3, (count, 2)), axis=1)
    return [Quantize(bits, float(low), float(high) + 0.1, "bytes") for low, high in ends]


def hard(chosen: Sequence[Quantize], channels: int, dtype: str) -> Any:
    """Ties, their neighbours, levels, ends and outliers, for every channel: N x C x L."""
    rows = []
    for stage in chosen:
        places = np.arange(-1, 2 * (1 << stage.bits) + 1) / 2
        at = (stage.low + places * stage.step).astype(dtype)
        near = [at, np.nextafter(at, np.array(np.inf, dtype)), np.nextafter(at, -at - 1)]
        far = np.array([np.inf, -np.inf, 6e4, -6e4, 0.0, -0.0, 1e-7], dtype)
        rows.append(np.concatenate([*near, far]))
    rows = rows * channels if len(rows) == 1 else rows
    return np.stack([np.stack(rows)] * 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_ties_levels_and_outliers(bits: int, dtype: str, tmp_path: Path) -> None:
    for chosen in (
        [Quantize(bits, 0.0, 6.0, "bytes")],
        ranges(1, bits, bits),
        ranges(3, bits, bits),
    ):
        check(tmp_path, hard(chosen, 3, dtype), chosen)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_operator_set(opset: int, tmp_path: Path) -> None:
    for chosen in (ranges(1, opset, 5), ranges(3, opset, 5)):
        check(tmp_path, hard(chosen, 3, "float32"), chosen, opset)
        check(tmp_path, hard(chosen, 3, "float16"), chosen, opset)


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (1, 9), (2, 3, 4), (1, 2, 3, 4), (2, 1, 3, 1, 5)]
)
def test_every_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    check(tmp_path, array, ranges(1, 1, 4))
    if len(shape) > 1:
        check(tmp_path, array, ranges(shape[1], 2, 4))


ARRAYS = st.sampled_from([np.float32, np.float16]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), elements={"allow_nan": False}
    )
)


@settings(max_examples=80, deadline=None)
@given(
    ARRAYS,
    st.integers(2, 8),
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(2**-20, 1e4)), min_size=5, max_size=5),
    st.booleans(),
)
def test_any_tensor_and_any_range(
    array: Any, bits: int, ends: list[tuple[float, float]], per_channel: bool
) -> None:
    count = array.shape[1] if per_channel and array.ndim > 1 else 1
    for low, width in ends[:count]:
        assume(max(abs(low), abs(low + width)) <= 9e3 * width)
        assume(low == 0 or abs(low) >= 1e-25)
    chosen = [Quantize(bits, low, low + width, "bytes") for low, width in ends[:count]]
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), array, chosen)


# What an optimising runtime would like to do with the arithmetic.


def convolution(rank: int, dtype: str) -> onnx.ModelProto:
    rng = np.random.default_rng(rank)
    kernel = rng.normal(size=(6, 3, *[3] * rank)).astype(dtype)
    bias = rng.normal(size=6).astype(dtype)
    nodes = [
        node("Conv", ["x", "w", "b"], ["y"], pads=[1] * (2 * rank)),
        node("Relu", ["y"], ["z"]),
    ]
    # So many elements that some lie where the last bit decides.
    shape = [1, 3, *{1: [1 << 18], 2: [512, 512]}[rank]]
    ends = info("x", shape, dtype), info("z", None, dtype)
    return model(nodes, ends[:1], ends[1:], weights(w=kernel, b=bias))


def product(dtype: str) -> onnx.ModelProto:
    matrix = np.random.default_rng(1).normal(size=(20, 20_000)).astype(dtype)
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Relu", ["y"], ["z"])]
    ends = info("x", [20], dtype), info("z", None, dtype)
    return model(nodes, ends[:1], ends[1:], weights(w=matrix))


def same_both_ways(
    cleaned: CanonicalModel, parts: Parts, codecs: tuple[TensorCodec, ...], seed: int = 0
) -> None:
    """Payloads and outputs, quantised in the graph and by numpy."""
    quantisers = codec.quantisers(codecs, parts.cut.boundary)
    assert quantisers
    feed, outputs = random_feed(cleaned, seed), [spec.name for spec in cleaned.outputs]
    found: list[tuple[list[bytes], list[tuple[str, bytes]]]] = []
    for way, some in (
        (quantising(parts, quantisers), codecs),
        (parts, codec.by_numpy(codecs)),
    ):
        built = [codec.build(c, s) for c, s in zip(some, parts.cut.boundary, strict=True)]
        assert way.first is not None
        assert way.second is not None
        made = carry(open_part(way.first.content), feed, [n for c in built for n in c.taken])
        payloads = [bytes(c.encode_from(made)) for c in built]
        decoded = {c.spec.name: c.decode(p) for c, p in zip(built, payloads, strict=True)}
        answer = carry(open_part(way.second.content), decoded, outputs)
        found.append((payloads, [(name, value.tobytes()) for name, value in answer.items()]))
    assert found[0] == found[1]


@pytest.mark.parametrize("ends", ["low=0,high=3", "low=-1,high=2"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arithmetic_is_not_worked_into_weights(dtype: str, ends: str, tmp_path: Path) -> None:
    """ONNX Runtime folds factors into a convolution, and leaves float16's rounding out."""
    for proto in (convolution(1, dtype), convolution(2, dtype), product(dtype)):
        cleaned = canonical(proto, tmp_path)
        parts = cut(cleaned)
        for bits in (2, 8):
            text = f"quantize:bits={bits},{ends},where=graph"
            same_both_ways(cleaned, parts, codec.plan(text, parts.cut.boundary, None))


def test_channels_are_not_worked_into_weights_either(tmp_path: Path) -> None:
    cleaned = canonical(convolution(1, "float32"), tmp_path)
    parts = cut(cleaned)
    (spec,) = parts.cut.boundary
    chosen = [Quantize(8, 0.0, high, "bytes") for high in (1.0, 2.0, 3.0, 0.3, 0.7, 1.1)]
    spliced = quantising(parts, [of(spec, chosen)])
    assert parts.first is not None
    assert spliced.first is not None
    feed = random_feed(cleaned)
    plain = carry(open_part(parts.first.content), feed, ["y"])["y"]
    made = carry(open_part(spliced.first.content), feed, [spec.symbols.name])
    assert made[spec.symbols.name].tobytes() == by_numpy(plain, chosen)[0].tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    graphs(),
    st.integers(0, 2**32 - 1),
    st.integers(2, 8),
    st.sampled_from(["", ",packing=bits", ",packing=bytes"]),
    st.sampled_from(["", "+zstd"]),
)
def test_every_cut_of_any_graph(
    proto: onnx.ModelProto, seed: int, bits: int, packing: str, tail: str
) -> None:
    """Whatever crosses: inputs handed through the head and results through the tail too."""
    with tempfile.TemporaryDirectory() as folder:
        cleaned = canonical(proto, Path(folder))
        for point in cut_points(cleaned):
            if point.cut is None or not any(spec.is_float for spec in point.cut.boundary):
                continue
            parts = extract(cleaned, point)
            if parts.first is None or parts.second is None:
                continue
            text = f"quantize:bits={bits},{RANGE},where=graph{packing}{tail}"
            same_both_ways(cleaned, parts, codec.plan(text, point.cut.boundary, None), seed)
            event("compared")


@pytest.mark.parametrize("name", ["left", "right", "sum"])
def test_what_is_handed_through_is_quantised_too(name: str, tmp_path: Path) -> None:
    """At `left` the head's own input crosses."""
    cleaned = canonical(tiny_model(), tmp_path)
    parts = cut(cleaned, name)
    codecs = codec.plan(f"quantize:bits=3,{RANGE},where=graph", parts.cut.boundary, None)
    same_both_ways(cleaned, parts, codecs)
    spliced = quantising(parts, codec.quantisers(codecs, parts.cut.boundary))
    assert spliced.first is not None
    crossing = {spec.name for spec in spliced.first.partition.outputs}
    assert crossing == {
        end.name for spec in parts.cut.boundary for end in (spec.symbols, spec.symbol_sum)
    }


def test_an_open_batch_stays_open(tmp_path: Path) -> None:
    nodes = [node("Neg", ["x"], ["y"]), node("Neg", ["y"], ["z"])]
    ends = info("x", ["n", 3, 4]), info("z", ["n", 3, 4])
    cleaned = canonical(model(nodes, ends[:1], ends[1:]), tmp_path)
    assert cleaned.batch_free
    for count in (1, 3):
        chosen = ranges(count, 1, 6)
        parts = cut(cleaned)
        (spec,) = parts.cut.boundary
        spliced = quantising(parts, [of(spec, chosen)])
        assert spliced.first is not None
        assert spliced.second is not None
        array = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
        wanted, values = by_numpy(array, chosen)
        made = carry(
            open_part(spliced.first.content), {"x": np.asarray(-array)}, [spec.symbols.name]
        )
        assert made[spec.symbols.name].tobytes() == wanted.tobytes()
        got = carry(open_part(spliced.second.content), made, ["z"])["z"]
        assert got.tobytes() == (-values).tobytes()


def test_an_open_batch_of_two_tensors(tmp_path: Path) -> None:
    nodes = [
        node("Neg", ["x"], ["left"]),
        node("Concat", ["x", "x"], ["right"], axis=1),
        node("Concat", ["left", "right"], ["z"], axis=1),
    ]
    ends = info("x", ["n", 3]), info("z", ["n", 9])
    cleaned = canonical(model(nodes, ends[:1], ends[1:]), tmp_path)
    assert cleaned.batch_free
    parts = cut(cleaned, "right")
    codecs = codec.plan(f"quantize:bits=8,{RANGE},where=graph", parts.cut.boundary, None)
    spliced = quantising(parts, codec.quantisers(codecs, parts.cut.boundary))
    assert spliced.first is not None
    assert spliced.second is not None
    feed = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}
    names = [spec.symbols.name for spec in parts.cut.boundary]
    made = carry(open_part(spliced.first.content), feed, names)
    assert [made[name].shape for name in names] == [(12,), (24,)]
    got = carry(open_part(spliced.second.content), made, ["z"])["z"]
    inside = np.clip(np.concatenate([-feed["x"], feed["x"], feed["x"]], 1), -1, 2)
    np.testing.assert_allclose(got.astype(float), inside, atol=3 / 255 / 2 + 1e-6)


# What has no symbol.


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("at", [0, 13, 499])
def test_not_a_number_is_refused_in_the_same_words(at: int, dtype: str, tmp_path: Path) -> None:
    array = np.ones((1, 2, 250), dtype)
    array.reshape(-1)[at] = np.nan
    cleaned = negated(tmp_path, array.shape, dtype)
    parts = cut(cleaned)
    (spec,) = parts.cut.boundary
    codecs = codec.plan(f"quantize:bits=8,{RANGE},where=graph", [spec], None)
    (working,) = (codec.build(c, spec) for c in codecs)
    with pytest.raises(CodecError) as plain:
        codec.build(codec.by_numpy(codecs)[0], spec).encode(array)
    for quantiser in (*codec.quantisers(codecs, [spec]), of(spec, ranges(2, 1, 8))):
        spliced = quantising(parts, [quantiser])
        assert spliced.first is not None
        head = open_part(spliced.first.content)
        with pytest.raises(CodecError) as caught:
            working.encode_from(carry(head, {"x": np.asarray(-array)}, working.taken))
        assert str(caught.value) == str(plain.value)
        array[:] = np.inf
        assert (
            len(working.encode_from(carry(head, {"x": np.asarray(-array)}, working.taken))) == 500
        )
        array.reshape(-1)[at] = np.nan


# Identity.


def test_the_quantisers_are_part_of_the_identity(tmp_path: Path) -> None:
    cleaned = negated(tmp_path, (1, 2, 3))
    parts = cut(cleaned)
    one = Quantiser("y", (0.1,), (0.01,), 255)
    some = [
        one,
        msgspec.structs.replace(one, low=(0.2,)),
        msgspec.structs.replace(one, step=(0.02,)),
        msgspec.structs.replace(one, highest=127),
        msgspec.structs.replace(one, low=(0.1, 0.1), step=(0.01, 0.01)),
        msgspec.structs.replace(one, low=(float(np.nextafter(0.1, 1)),)),  # one in single precision
    ]
    for part in ("first", "second"):
        plain = getattr(parts, part).partition
        found = [getattr(quantising(parts, [q]), part).partition for q in some]
        assert [p.quantisers for p in found] == [(q,) for q in some]
        assert plain.quantisers == ()
        assert len({p.sha256 for p in (plain, *found)}) == len(some) + 1
        assert len({canonical_json(p) for p in (plain, *found)}) == len(some) + 1
        again = getattr(quantising(parts, [one]), part)
        assert again == getattr(quantising(parts, [one]), part)
        assert again.partition == found[0]
    assert quantising(parts, []) == parts


# Refusals.


@pytest.mark.parametrize(
    "change",
    [
        {"low": ()},
        {"low": (0.0, 1.0)},
        {"low": (float("nan"),)},
        {"low": (float("inf"),)},
        {"low": (-1e39,)},
        {"step": (0.0,)},
        {"step": (-1.0,)},
        {"step": (float("nan"),)},
        {"step": (float("inf"),)},
        {"step": (1e-31,)},
        {"step": (1e37,)},
        {"highest": 0},
        {"highest": 256},
        {"low": (0.0,) * (MOST_CHANNELS + 1), "step": (1.0,) * (MOST_CHANNELS + 1)},
    ],
)
def test_what_is_no_quantiser(change: dict[str, Any]) -> None:
    good = Quantiser("y", (0.0,), (1.0,), 15)
    with pytest.raises(UsageError, match="a quantiser of 'y'"):
        msgspec.structs.replace(good, **change)


def refusal(parts: Parts, *quantisers: Quantiser) -> str:
    with pytest.raises(UsageError) as caught:
        quantising(parts, quantisers)
    return str(caught.value)


def test_what_does_not_fit_the_boundary(tmp_path: Path) -> None:
    one = Quantiser("y", (0.0,), (1.0,), 15)
    three = Quantiser("y", (0.0,) * 3, (1.0,) * 3, 15)
    parts = cut(negated(tmp_path, (1, 2, 3)))
    assert "'z' does not cross at 'y'" in refusal(parts, msgspec.structs.replace(one, tensor="z"))
    assert "two quantisers" in refusal(parts, one, one)
    assert "'y' has 2 channels and its quantiser 3" in refusal(parts, three)
    for shape in ((3,), ()):
        assert "'y' has 0 channels" in refusal(cut(negated(tmp_path, shape)), three)
    for dtype in ("float64", "int32"):
        parts = cut(negated(tmp_path, (1, 2), dtype))
        assert f"float32 and float16, and 'y' is {dtype}" in refusal(parts, one)
    wide = msgspec.structs.replace(one, step=(1e4,))
    assert "does not fit float16" in refusal(cut(negated(tmp_path, (1, 2), "float16")), wide)
    near = msgspec.structs.replace(one, low=(-1e-46,))
    assert "so near to zero" in refusal(cut(negated(tmp_path, (1, 2))), near)
    assert "holds nothing" in refusal(cut(negated(tmp_path, (1, 0, 2))), one)


def test_a_part_that_is_not_there_cannot_quantise(tmp_path: Path) -> None:
    cleaned = negated(tmp_path, (1, 2))
    for at, tensor, missing in (("@input", "x", "head"), ("@output", "z", "tail")):
        sentence = refusal(cut(cleaned, at), Quantiser(tensor, (0.0,), (1.0,), 3))
        assert f"there is no {missing} that could quantise: leave out where=graph" in sentence


def test_operators_that_are_too_old(tmp_path: Path) -> None:
    parts = cut(negated(tmp_path, (1, 2), opset=6))
    sentence = refusal(parts, Quantiser("y", (0.0,), (1.0,), 3))
    assert "operators of set 6, and quantising in the graph takes 7 or later" in sentence


@pytest.mark.parametrize("taken", ["y@symbols", "y@Clip", "y@low.constant", "y@mine"])
def test_a_name_that_is_taken(taken: str, tmp_path: Path) -> None:
    nodes = [
        node("Neg", ["x"], [taken]),
        node("Neg", [taken], ["y"]),
        node("Neg", ["y"], ["z"]),
    ]
    ends = info("x", [2]), info("z", [2])
    parts = cut(canonical(model(nodes, ends[:1], ends[1:]), tmp_path))
    with pytest.raises(CutUnknown, match=f"has a value '{taken}': leave out where=graph"):
        quantising(parts, [Quantiser("y", (0.0,), (1.0,), 3)])


# As it is written.


def test_where_is_written_and_stands_in_the_specification() -> None:
    spec = TensorSpec("y", "float32", (1, 2))
    (coded,) = codec.plan(f"quantize:4,{RANGE},where=graph+zstd:3", [spec], None)
    assert codec.written(coded) == "quantize:4,where=graph+zstd:3"
    assert coded.stages[0].config["where"] == "graph"
    (plain,) = codec.by_numpy([coded])
    assert plain == codec.plan(f"quantize:4,{RANGE}+zstd:3", [spec], None)[0]
    assert "where" not in plain.stages[0].config
    assert codec.quantisers([coded], [spec]) == (Quantiser("y", (-1.0,), (0.2,), 15),)
    assert codec.quantisers([plain], [spec]) == ()
    assert not codec.build(coded, spec).lossless
    with pytest.raises(CodecUnknown, match="where"):
        codec.parse("quantize:4,where=here")


@pytest.mark.parametrize(
    ("spec", "ends"),
    [
        (TensorSpec("y", "float64", (2,)), RANGE),
        (TensorSpec("y", "float32", (2,)), "low=1000000,high=1000001"),
        (TensorSpec("y", "float32", (2, 0)), RANGE),
        (TensorSpec("y", "float32", (2,)), "low=-1e-46,high=1"),
    ],
)
def test_what_numpy_does_in_double_precision_no_graph_does(spec: TensorSpec, ends: str) -> None:
    codec.plan(f"quantize:4,{ends}", [spec], None)
    with pytest.raises(CodecError, match=r"a graph cannot quantise 'y'.*leave out where=graph"):
        codec.plan(f"quantize:4,{ends},where=graph", [spec], None)


def test_the_rest_of_a_boundary_goes_as_ever() -> None:
    boundary = [TensorSpec("i", "int64", (2,)), TensorSpec("y", "float32", (2,))]
    codecs = codec.plan(f"quantize:4,{RANGE},where=graph+zstd", boundary, None)
    assert [c.stages[0].id for c in codecs] == ["raw", "quantize"]
    assert [q.tensor for q in codec.quantisers(codecs, boundary)] == ["y"]
    values: dict[str, Array] = {
        "i": np.array([3, 4]),
        "y@symbols": np.array([1, 15], np.uint8),
        "y@sum": np.array(16, np.float32),
    }
    for written, spec in zip(codecs, boundary, strict=True):
        working = codec.build(written, spec)
        decoded = working.decode(working.encode_from(values))
        np.testing.assert_array_equal(decoded, values[working.spec.name])


@pytest.mark.parametrize("shape", [(1, 6, 9, 9), (1, 40)])
def test_an_entropy_coder_follows_as_ever(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Its contexts are those of the tensor's shape, though symbols come flat."""
    cleaned = negated(tmp_path, shape)
    parts = cut(cleaned)
    (spec,) = parts.cut.boundary
    statistics, frames = StatisticsCollector(spec), FrameCollector(spec)
    for seed in range(3):
        seen = -random_feed(cleaned, seed)["x"].astype(np.float32)
        statistics.add(seen)
        frames.add(seen)
    kept = frames.frames()
    assert kept is not None
    calibration = Calibration("d", "y", (), {"y": statistics.statistics()}, frames={"y": kept})
    codecs = codec.plan("quantize:5,where=graph+ans", [spec], calibration)
    assert [stage.id for stage in codecs[0].stages] == ["quantize", "ans"]
    same_both_ways(cleaned, parts, codecs)


def test_a_hostile_byte_is_still_a_symbol() -> None:
    spec = TensorSpec("y", "float32", (4,))
    (coded,) = codec.plan(f"quantize:3,{RANGE},where=graph,packing=bytes", [spec], None)
    assert codec.build(coded, spec).decode(bytes([0, 7, 8, 255])).tolist() == [0, 7, 7, 7]


@pytest.mark.parametrize("text", ["bits=3", "bits=5,packing=bytes", "bits=6,packing=bits"])
@pytest.mark.parametrize("tail", ["", "+zstd"])
def test_damaged_payloads_are_refused_or_symbols(text: str, tail: str) -> None:
    spec = TensorSpec("y", "float32", (3, 5, 7))
    (coded,) = codec.plan(f"quantize:{text},{RANGE},where=graph{tail}", [spec], None)
    working, rng, dice = codec.build(coded, spec), np.random.default_rng(1), random.Random(1)
    assert working.quantiser is not None
    highest = working.quantiser.highest
    payload = bytes(working.encode(rng.integers(0, highest + 1, 105).astype(np.uint8)))
    decoded = 0
    for _ in range(500):
        try:
            symbols = working.decode(damaged(payload, dice))
        except PayloadInvalid:
            continue
        assert spec.symbols.matches(symbols)
        assert int(np.max(symbols.astype(int))) <= highest
        decoded += 1
    assert decoded


def test_nodes_are_of_the_plain_operators(tmp_path: Path) -> None:
    """What any provider of ONNX Runtime has; nothing of a runtime's own."""
    parts = quantising(cut(negated(tmp_path, (1, 2))), [Quantiser("y", (0.0,), (1.0,), 3)])
    for part in (parts.first, parts.second):
        assert part is not None
        proto = onnx.load_from_string(part.content)
        onnx.checker.check_model(proto, full_check=True)
        assert {item.domain for item in proto.graph.node} == {""}
        ends = [*proto.graph.input, *proto.graph.output]
        kinds = {value.name: value.type.tensor_type.elem_type for value in ends}
        assert kinds["y@symbols"] == TensorProto.UINT8
