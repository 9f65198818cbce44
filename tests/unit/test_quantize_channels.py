"""Ranges by channel and symmetric ranges: what they are and keep, and the same in the graph."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitbed import codec
from splitbed.codec import Calibration
from splitbed.codec.clipping import channel_ranges, clip_range
from splitbed.codec.layout import planes
from splitbed.codec.quantize import Quantize
from splitbed.codec.trial import round_trip
from splitbed.errors import CodecError, CodecUnknown
from splitbed.graph import quantising
from splitbed.runnable import carry
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import Array, DType, TensorSpec
from tests.models import open_part
from tests.unit.calibrations import calibration_of
from tests.unit.test_quantising import cut, negated, same_both_ways

RULES: Final = ["mse", "minmax", "p99.9", "p90"]
SHAPES: Final = [(1, 6, 5, 7), (2, 5, 3, 3), (3, 4, 5, 2, 2), (7, 6), (1, 9, 6), (5,), ()]


def uneven(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> Array:
    """Channels of very different widths and means, one of them all zero, one rectified."""
    rng = np.random.default_rng(seed)
    found = np.asarray(rng.normal(0, 1, shape))
    field: Any = planes(found)
    for at, channel in enumerate(field):
        channel *= 3.0 ** (at % 5 - 2)
        channel += at % 3
        if at == 1:
            channel[:] = 0
        if at == 2:
            np.maximum(channel, 0, out=channel)
    if len(shape) > 3:
        return np.ascontiguousarray(
            np.moveaxis(field.reshape(shape[1], shape[0], *shape[2:]), 0, 1)
        ).astype(dtype)
    return np.ascontiguousarray(field.reshape(len(field), -1).T).reshape(shape).astype(dtype)


def planned(text: str, array: Array, *more: Array) -> tuple[TensorCodec, TensorSpec]:
    spec = msgspec.convert(
        {"name": "y", "dtype": array.dtype.name, "shape": array.shape}, TensorSpec
    )
    return codec.plan(text, [spec], calibration_of(spec, array, *more))[0], spec


def stage_of(coded: TensorCodec) -> Quantize:
    return msgspec.convert(coded.stages[0].config, Quantize)


@pytest.mark.parametrize("symmetric", ["no", "yes"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_rule(shape: tuple[int, ...], rule: str, symmetric: str) -> None:
    for bits in (2, 4, 8):
        text = f"quantize:{bits},per=channel,clip={rule},symmetric={symmetric}"
        array = uneven(shape)
        coded, spec = planned(text, array)
        round_trip(codec.build(coded, spec), array)
        assert len(coded.stages[0].config["low"]) == planes(array).shape[0]


def by_hand(array: Array, stage: Quantize) -> Any:
    """Each channel by a stage of one range."""
    assert isinstance(stage.low, tuple)
    assert isinstance(stage.high, tuple)
    found = []
    for low, high, channel in zip(stage.low, stage.high, planes(array), strict=True):
        spec = TensorSpec("c", "float32", channel.shape)
        one = Quantize(stage.bits, low, high, "bytes")
        found.append(one.decode(one.encode(np.ascontiguousarray(channel)), spec))
    return np.stack(found)


@pytest.mark.parametrize("shape", [(1, 6, 5, 7), (2, 5, 3, 3), (7, 6), (1, 9, 6)])
def test_channels_are_what_as_many_tensors_are(shape: tuple[int, ...]) -> None:
    array = uneven(shape)
    coded, spec = planned("quantize:5,per=channel", array)
    working = codec.build(coded, spec)
    decoded = working.decode(working.encode(array))
    assert planes(decoded).tobytes() == by_hand(array, stage_of(coded)).tobytes()


def test_a_channel_is_quantised_within_its_own_range() -> None:
    array = uneven((1, 10, 12, 12))
    errors = {}
    for text in ("quantize:4", "quantize:4,per=channel"):
        coded, spec = planned(text, array)
        working = codec.build(coded, spec)
        error: Any = working.decode(working.encode(array)).astype(float) - array
        errors[text] = np.square(planes(error)).mean(axis=(1, 2))
    alone, together = errors["quantize:4,per=channel"], errors["quantize:4"]
    assert (alone <= together * 1.05 + 1e-12).all()
    assert alone.sum() < together.sum() / 2


@pytest.mark.parametrize("rule", RULES)
def test_zero_stays_exact_after_a_relu(rule: str) -> None:
    array = np.maximum(uneven((1, 8, 9, 9)), 0)
    for text in (f"quantize:3,per=channel,clip={rule}", f"quantize:3,clip={rule}"):
        coded, spec = planned(text, array)
        decoded = codec.build(coded, spec)
        back = decoded.decode(decoded.encode(array))
        assert (back[array == 0] == 0).all()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 8),
    st.floats(1e-9, 1e9),
    st.sampled_from(["float16", "float32", "float64"]),
)
def test_zero_is_exact_in_every_symmetric_range(bits: int, most: float, dtype: DType) -> None:
    spec = TensorSpec("y", dtype, (2,))
    try:
        (coded,) = codec.plan(
            f"quantize:{bits},low=-{most!r},high={most!r},symmetric=yes", [spec], None
        )
    except CodecError:
        assert most > 6e4  # float16 ends there
        return
    working = codec.build(coded, spec)
    stage = stage_of(coded)
    assert stage.alphabet == 2**bits - 1
    assert stage.zero == stage.highest // 2
    decoded: Any = working.decode(working.encode(np.zeros(2, dtype)))
    assert decoded.tobytes() == bytes(decoded.nbytes)  # +0.0
    ends: Any = working.decode(working.encode(np.array([-np.inf, np.inf], dtype)))
    assert ends[0] == -ends[1]
    assert ends[1] == pytest.approx(most, rel=1e-3 if dtype == "float16" else 1e-6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([(1, 3, 4, 4), (2, 4, 3, 3), (5, 6), (1, 4, 6)]),
    st.integers(0, 2**32 - 1),
    st.integers(2, 8),
    st.sampled_from(RULES),
    st.booleans(),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e3),
    st.sampled_from(["float32", "float64"]),
)
def test_any_channels_come_back_within_the_bound(
    shape: tuple[int, ...],
    seed: int,
    bits: int,
    rule: str,
    symmetric: bool,
    shift: float,
    scale: float,
    dtype: str,
) -> None:
    made: list[Any] = [uneven(shape, seed + at, dtype) for at in (0, 1)]
    frames = [(frame * scale + shift).astype(dtype) for frame in made]
    text = f"quantize:{bits},per=channel,clip={rule},symmetric={'yes' if symmetric else 'no'}"
    coded, spec = planned(text, *frames)
    for array in (*frames, np.roll(frames[0], 1, axis=-1)):
        round_trip(codec.build(coded, spec), array)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_least_error_is_less_than_other_rules_have(bits: int) -> None:
    frames = [uneven((1, 9, 20, 20), seed) for seed in range(3)]
    for symmetric in (False, True):
        errors = {}
        for rule in RULES:
            lows, highs = channel_ranges(frames, bits, rule, symmetric=symmetric)
            stage = Quantize(
                bits, lows, highs, "bytes", symmetric=True if symmetric else msgspec.UNSET
            )
            spec = TensorSpec("y", "float32", frames[0].shape)
            back = [stage.decode(stage.encode(frame), spec) for frame in frames]
            squares = [np.square(a - b.astype(float)) for a, b in zip(back, frames, strict=True)]
            errors[rule] = planes(np.mean(squares, axis=0)).mean(axis=(1, 2))
        for rule in RULES:
            assert (errors["mse"] <= errors[rule] * 1.05 + 1e-12).all(), rule


def test_percentiles_and_ends_of_channels() -> None:
    ramp = np.linspace(0, 1, 1001)
    frame = np.stack([ramp, 4 * ramp - 2, np.zeros(1001), np.full(1001, 3.0)])[None, :, None, :]
    lows, highs = channel_ranges([frame], 8, "p90")
    np.testing.assert_allclose(lows, [0, -1.8, 0, 3], atol=0.01)
    np.testing.assert_allclose(highs[:2], [0.9, 1.8], atol=0.01)
    assert highs[2] == 3  # dead: the whole tensor's
    assert 3 < highs[3] < 3.01  # constant
    lows, highs = channel_ranges([frame], 8, "minmax")
    np.testing.assert_allclose((lows[1], highs[1]), (-2, 2), atol=1e-4)
    lows, highs = channel_ranges([frame], 8, "p90", symmetric=True)
    assert lows == tuple(-high for high in highs)
    np.testing.assert_allclose(highs[:2], [0.9, 1.8], atol=0.01)
    assert highs[2] == highs[3] == 3
    assert channel_ranges([np.zeros((1, 2, 3, 3))], 4, "mse") == ((0.0, 0.0), (1.0, 1.0))


def test_symmetric_ranges_of_a_tensor() -> None:
    array = np.random.default_rng(1).normal(0.5, 1, 4000).astype(np.float32)
    coded, _ = planned("quantize:8,symmetric=yes,clip=minmax", array)
    stage = stage_of(coded)
    assert isinstance(stage.low, float)
    assert stage.high == -stage.low == np.abs(array).max()
    statistics = calibration_of(TensorSpec("y", "float32", (4000,)), array)
    assert statistics is not None
    low, high = clip_range(statistics.tensors["y"], 3, "mse", symmetric=True)
    assert 0 < high < np.abs(array).max()
    assert low == -high
    assert codec.written(coded) == "quantize:8,symmetric=yes"


def test_what_is_agreed_is_small_and_bounded() -> None:
    array = np.maximum(uneven((1, 64, 14, 14)), 0)
    coded, _ = planned("quantize:4,per=channel+zstd:3", array)
    assert codec.written(coded) == "quantize:4,per=channel+zstd:3"
    assert len(msgspec.json.encode(coded)) < 64 * 20 + 200
    many = np.random.default_rng(0).normal(0, 1, (1, 5000, 2, 2)).astype(np.float32)
    coded, _ = planned("quantize:4,per=channel", many)  # more channels than are kept apart
    assert len(coded.stages[0].config["low"]) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantize:4,per=place", "per is tensor or channel"),
        ("quantize:4,symmetric=true", "symmetric is yes or no"),
        ("quantize:4,per=channel,low=0,high=1", "from the calibration alone"),
        ("quantize:4,low=0,high=1,symmetric=yes", "symmetric from -high to high"),
        ("quantize:4,per=channel,clip=max", "clip is mse"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(CodecUnknown, match=words):
        codec.parse(text)


def test_frames_are_needed() -> None:
    array = uneven((1, 3, 4, 4))
    spec = TensorSpec("y", "float32", array.shape)
    whole = calibration_of(spec, array)
    assert whole is not None
    bare = Calibration("d", "c", (), whole.tensors)
    with pytest.raises(CodecError, match="needs calibration frames of tensor 'y'"):
        codec.plan("quantize:4,per=channel", [spec], bare)
    codec.plan("quantize:4,symmetric=yes", [spec], bare)
    with pytest.raises(CodecError, match="splitbed calibrate"):
        codec.plan("quantize:4,per=channel", [spec], None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": [0.0, 0.0]}, "a low and a high"),
        ({"low": 0.0}, "a low and a high"),
        ({"low": [0.0] * 3, "high": [1.0, 1.0, -1.0]}, "low < high"),
        ({"low": [0.0] * 3, "high": [1.0, 1.0, 1e-40]}, "single precision"),
        ({"low": [], "high": []}, "length"),
        ({"low": [0.0] * 5000, "high": [1.0] * 5000}, "length"),
        ({"symmetric": True}, "symmetric from -high"),
        ({"low": [0.0] * 4, "high": [1.0] * 4}, "ranges of 4 channels, not of the 3"),
        ({"low": [0.0, 0.0, None]}, "float"),
    ],
)
def test_hostile_configurations(change: dict[str, Any], words: str) -> None:
    spec = TensorSpec("y", "float32", (1, 3, 2, 2))
    config = {"bits": 4, "low": [0.0] * 3, "high": [1.0] * 3} | change
    with pytest.raises((CodecUnknown, CodecError), match=words):
        codec.build(TensorCodec("y", (StageSpec("quantize", config),)), spec)


# In the graph.


@pytest.mark.parametrize("symmetric", ["no", "yes"])
@pytest.mark.parametrize("packing", ["bits", "bytes"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(1, 6, 5, 7), (2, 5, 3, 3), (3, 4, 5, 2, 2), (7, 6)])
def test_the_graph_makes_the_same_bytes(
    shape: tuple[int, ...], dtype: str, packing: str, symmetric: str, tmp_path: Path
) -> None:
    cleaned = negated(tmp_path, shape, dtype)
    parts = cut(cleaned)
    for bits in (2, 3, 8):
        text = f"quantize:{bits},per=channel,symmetric={symmetric},packing={packing},where=graph"
        flipped: Any = uneven(shape, 1, dtype)
        coded, _ = planned(text, -flipped)
        assert codec.written(coded).endswith(",where=graph")
        same_both_ways(cleaned, parts, (coded,))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans(), st.sampled_from(RULES),
    st.sampled_from([(1, 5, 3, 3), (4, 7)]),
)  # fmt: skip
def test_the_graph_is_numpy_for_any_ranges(
    seed: int, bits: int, symmetric: bool, rule: str, shape: tuple[int, ...]
) -> None:
    """Symbols and values, ties and outliers among them, to the bit."""
    kind = "yes" if symmetric else "no"
    frames = uneven(shape, seed), uneven(shape, seed + 1)
    coded, spec = planned(
        f"quantize:{bits},per=channel,clip={rule},symmetric={kind},where=graph", *frames
    )
    stage = stage_of(coded)
    quantiser = stage.quantiser(spec)
    assert quantiser is not None
    rng = np.random.default_rng(seed)
    ends = [1, -1] + [1] * (len(shape) - 2)
    low, step = np.reshape(quantiser.low, ends), np.reshape(quantiser.step, ends)
    array = (low + (rng.integers(-2, 2 * stage.alphabet, shape) / 2) * step).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        cleaned = negated(Path(folder), shape)
        parts = quantising(cut(cleaned), [quantiser])
        assert parts.first is not None
        assert parts.second is not None
        made = carry(open_part(parts.first.content), {"x": -array}, [spec.symbols.name])
        symbols = made[spec.symbols.name]
        assert symbols.tobytes() == stage.symbols(array).tobytes()
        got = carry(open_part(parts.second.content), {spec.symbols.name: symbols}, ["z"])["z"]
        values: Any = stage.values(symbols.astype(np.uint8), spec)
        assert got.tobytes() == (-values).tobytes()


def test_channels_at_the_end_of_three_axes_stay_with_numpy() -> None:
    """The graph has them second: of a square tensor it would take the wrong ones."""
    array = uneven((1, 6, 6))
    planned("quantize:4,per=channel", array)
    with pytest.raises(CodecError, match=r"a graph cannot quantise 'y'.*leave out where=graph"):
        planned("quantize:4,per=channel,where=graph", array)


def test_a_byte_that_is_no_symbol_is_the_last_one_on_both_ways() -> None:
    array = uneven((1, 3, 2, 2))
    for packing, hostile in (("bytes", bytes([0, 2, 3, 255] * 3)), ("bits", b"\xff\x1b\xe4")):
        decoded = []
        for where in ("numpy", "graph"):
            text = f"quantize:2,per=channel,symmetric=yes,packing={packing},where={where}"
            coded, spec = planned(text, array)
            got = codec.build(coded, spec).decode(hostile)
            stage = stage_of(coded)
            decoded.append(got if where == "numpy" else stage.values(got.astype(np.uint8), spec))
        assert decoded[0].tobytes() == decoded[1].tobytes()
