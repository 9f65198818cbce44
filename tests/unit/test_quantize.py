"""Quantisation: packing, the range, the table, and the statistics from which the range comes."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from splitbed.codec import Calibration, Codec, TensorStatistics, build, plan, read_calibration
from splitbed.codec.clipping import clip_range
from splitbed.codec.packing import pack, unpack
from splitbed.codec.quantize import Quantize
from splitbed.codec.statistics import BINS, StatisticsCollector
from splitbed.errors import CodecError, CodecUnknown, UsageError
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import TensorSpec

WIDTHS: Final = range(2, 9)
RULES: Final = ["mse", "minmax", "p99.9", "p90"]

Floats = NDArray[np.float64]


def spec_of(*shape: int, dtype: str = "float32") -> TensorSpec:
    return msgspec.convert({"name": "x", "dtype": dtype, "shape": shape}, TensorSpec)


def statistics_of(*arrays: Floats) -> TensorStatistics:
    collector = StatisticsCollector(spec_of(1, dtype="float64"))
    for array in arrays:
        collector.add(array)
    return collector.statistics()


def calibration(statistics: TensorStatistics) -> Calibration:
    return Calibration("digest", "cut", ("a.png",), {"x": statistics})


def stage_of(text: str, statistics: TensorStatistics | None = None) -> Quantize:
    """The quantize stage as it stands in a planned specification."""
    boundary = [spec_of(4)]
    (codec,) = plan(text, boundary, None if statistics is None else calibration(statistics))
    return msgspec.convert(codec.stages[0].config, Quantize)


def normal(size: int = 5000, *, mean: float = 0.3, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(mean, 1.5, size)


def relu(size: int = 5000) -> Floats:
    return np.maximum(normal(size), 0)


# Packing.


def slowly_packed(symbols: list[int], bits: int) -> bytes:
    """Bit by bit, as the docstring says: first symbol in the highest bits, filled with zeros."""
    text = "".join(format(symbol, f"0{bits}b") for symbol in symbols)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


@pytest.mark.parametrize("bits", WIDTHS)
def test_packing_of_every_length(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for count in [*range(36), 1000]:
        symbols = rng.integers(0, 1 << bits, count).astype(np.uint8)
        packed = bytes(pack(symbols, bits))
        assert packed == slowly_packed(symbols.tolist(), bits)
        back = unpack(np.frombuffer(packed, np.uint8), bits, count)
        assert back.tolist() == symbols.tolist()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(WIDTHS), st.data())
def test_packing_of_any_symbols(bits: int, data: st.DataObject) -> None:
    symbols = data.draw(
        hnp.arrays(np.uint8, st.integers(0, 60), elements=st.integers(0, 2**bits - 1))
    )
    before = symbols.copy()
    packed = bytes(pack(symbols, bits))
    assert packed == slowly_packed(symbols.tolist(), bits)
    assert (symbols == before).all()


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_packing_that_is_left_open(bits: int) -> None:
    text = f"quantize:bits={bits},low=0,high=1"
    assert stage_of(text).packing == "bits"
    whole = 8 % bits == 0
    assert stage_of(text + "+zstd").packing == ("bits" if whole else "bytes")
    assert stage_of(text + ",packing=bits+zstd").packing == "bits"
    assert stage_of(text + ",packing=bytes").packing == "bytes"


@pytest.mark.parametrize("bits", WIDTHS)
def test_payloads_are_as_long_as_the_packing_says(bits: int) -> None:
    for count, packing in itertools.product((0, 1, 7, 8, 9), ("bits", "bytes")):
        spec = spec_of(count)
        codec = build(
            plan(f"quantize:bits={bits},low=0,high=1,packing={packing}", [spec], None)[0], spec
        )
        size = len(codec.encode(np.zeros(count, np.float32)))
        assert size == codec.max_bytes
        assert size == (count if packing == "bytes" else -(-count * bits // 8))


# Symbols and values.


def codec_for(stage: dict[str, object], spec: TensorSpec) -> Codec:
    return build(TensorCodec("x", (StageSpec("quantize", dict(stage)),)), spec)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.25, 3.5), (-0.1, -0.05), (0.0, 1e-3)])
@pytest.mark.parametrize("bits", WIDTHS)
def test_every_value_becomes_the_nearest_level(bits: int, low: float, high: float) -> None:
    levels = (1 << bits) - 1
    step = (high - low) / levels
    # Three values a level: on it, and a quarter of a step to both sides.
    wanted = np.repeat(np.arange(levels + 1), 3)
    values = low + (wanted + np.tile([-0.25, 0.0, 0.25], levels + 1)) * step
    codec = codec_for(
        {"bits": bits, "low": low, "high": high, "packing": "bytes"}, spec_of(values.size)
    )
    assert bytes(codec.encode(values.astype(np.float32))) == wanted.astype(np.uint8).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_table_is_exact_arithmetic_rounded_once_or_twice(bits: int, dtype: str) -> None:
    low, high, levels = -0.3, 1.7, (1 << bits) - 1
    spec = spec_of(levels + 1, dtype=dtype)
    codec = codec_for({"bits": bits, "low": low, "high": high, "packing": "bytes"}, spec)
    decoded = codec.decode(bytes(range(levels + 1))).astype(np.float64)
    for symbol, value in enumerate(decoded.tolist()):
        exact = Fraction(low) + symbol * (Fraction(high) - Fraction(low)) / levels
        slack = np.finfo(np.dtype(dtype)).eps * max(abs(float(exact)), 2.0**-14) + 1e-15
        assert abs(value - float(exact)) <= slack
    assert decoded[0] == np.asarray(low, dtype)


def test_a_byte_that_is_no_symbol_is_the_last_one() -> None:
    codec = codec_for({"bits": 3, "low": 0.0, "high": 7.0, "packing": "bytes"}, spec_of(4))
    assert codec.decode(bytes([0, 7, 8, 255])).tolist() == [0, 7, 7, 7]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_zero_stays_zero_after_a_relu(bits: int, rule: str) -> None:
    values = relu()
    stage = stage_of(f"quantize:bits={bits},clip={rule}", statistics_of(values))
    assert stage.low == 0
    codec = codec_for(msgspec.to_builtins(stage), spec_of(values.size))
    decoded = codec.decode(codec.encode(values.astype(np.float32)))
    zeros = decoded[values == 0]
    assert zeros.size > 1000
    assert zeros.tobytes() == bytes(zeros.nbytes)  # +0.0, to the bit


def test_coding_twice_changes_nothing_more() -> None:
    values = normal().astype(np.float32)
    codec = codec_for({"bits": 5, "low": -2.0, "high": 3.0}, spec_of(values.size))
    payload = codec.encode(values)
    assert bytes(codec.encode(codec.decode(payload))) == bytes(payload)


# The range.


def squared_error(values: Floats, bits: int, low: float, high: float) -> float:
    step = (high - low) / ((1 << bits) - 1)
    near = np.clip(np.rint((values - low) / step), 0, (1 << bits) - 1) * step + low
    return float(np.mean((near - values) ** 2))


def test_minmax_takes_all() -> None:
    values = normal()
    assert clip_range(statistics_of(values), 4, "minmax") == (values.min(), values.max())
    assert clip_range(statistics_of(relu()), 4, "minmax") == (0, relu().max())
    positive = values - values.min() + 1
    assert clip_range(statistics_of(positive), 4, "minmax") == (0, positive.max())


@pytest.mark.parametrize("share", [60, 75, 99, 99.9, 100])
@pytest.mark.parametrize("values", [relu(), normal()], ids=["relu", "normal"])
def test_a_share_is_a_quantile(values: Floats, share: float) -> None:
    statistics = statistics_of(values)
    width = 2.0**statistics.exponent
    rest = (1 - share / 100) / (1 if values.min() == 0 else 2)
    ranks = np.clip([rest - 1e-9, rest + 1e-9, 1 - rest - 1e-9, 1 - rest + 1e-9], 0, 1)
    wanted = np.quantile(values, ranks, method="inverted_cdf")
    low, high = clip_range(statistics, 4, f"p{share:g}")
    assert wanted[2] - width <= high <= wanted[3] + width
    if values.min() == 0:
        assert low == 0
    else:
        assert wanted[0] - width <= low <= wanted[1] + width


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(
    "values", [relu(), normal(), normal() ** 3], ids=["relu", "normal", "tails"]
)
def test_mse_is_near_the_best_range(values: Floats, bits: int) -> None:
    statistics = statistics_of(values)
    low, high = clip_range(statistics, bits, "mse")
    assert (low == 0) == bool(values.min() >= 0)
    assert values.min() <= low < high <= values.max()
    found = squared_error(values, bits, low, high)
    for rule in RULES[1:]:
        assert found <= 1.02 * squared_error(values, bits, *clip_range(statistics, bits, rule))
    # A plain search on the values themselves, with another grid.
    shares = np.linspace(0.02, 1, 30)
    lows = [0.0] if low == 0 else shares * values.min()
    best = min(
        squared_error(values, bits, float(a), float(b))
        for a, b in itertools.product(lows, shares * values.max())
    )
    assert found <= 1.2 * best


def test_fewer_bits_clip_more() -> None:
    statistics = statistics_of(relu())
    highs = [clip_range(statistics, bits, "mse")[1] for bits in WIDTHS]
    assert highs == sorted(highs)
    assert highs[0] < 0.8 * highs[-1]


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-20])
@pytest.mark.parametrize("rule", RULES)
def test_a_constant_tensor_has_a_range_all_the_same(value: float, rule: str) -> None:
    values = np.full(10, value)
    low, high = clip_range(statistics_of(values), 4, rule)
    assert low == value < high
    codec = codec_for({"bits": 4, "low": low, "high": high}, spec_of(10))
    decoded = codec.decode(codec.encode(values.astype(np.float32)))
    np.testing.assert_allclose(decoded.astype(float), values, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_tensor_without_positive_values(rule: str) -> None:
    values = -1 - relu()
    low, high = clip_range(statistics_of(values), 4, rule)
    assert values.min() <= low < high <= values.max() + 1e-9


@pytest.mark.parametrize("rule", ["", "p", "p49", "p101", "pnan", "p-1", "max", "MSE", "99.9"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(CodecUnknown, match="clip"):
        clip_range(statistics_of(normal()), 4, rule)


def test_the_range_comes_from_the_statistics_of_this_tensor() -> None:
    statistics = statistics_of(normal())
    for rule in RULES:
        stage = stage_of(f"quantize:3,clip={rule}", statistics)
        assert (stage.low, stage.high) == clip_range(statistics, 3, rule)
    assert stage_of("quantize:3", statistics) == stage_of("quantize:3,clip=mse", statistics)


def test_without_a_calibration_the_sentence_says_what_to_do() -> None:
    with pytest.raises(CodecError, match=r"calibration for tensor 'x'.*splitbed calibrate"):
        plan("quantize:4", [spec_of(3)], None)
    other = Calibration("d", "c", (), {"y": statistics_of(normal())})
    with pytest.raises(CodecError, match="calibration for tensor 'x'"):
        plan("quantize:4", [spec_of(3)], other)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"bits": 4},
        {"bits": 1, "low": 0.0, "high": 1.0},
        {"bits": 9, "low": 0.0, "high": 1.0},
        {"bits": "4", "low": 0.0, "high": 1.0},
        {"bits": 4, "low": 1.0, "high": 1.0},
        {"bits": 4, "low": 2.0, "high": 1.0},
        {"bits": 4, "low": 0.0, "high": float("inf")},
        {"bits": 4, "low": float("nan"), "high": 1.0},
        {"bits": 4, "low": 0.0, "high": 1.0, "packing": "words"},
        {"bits": 4, "low": 0.0, "high": 1.0, "clip": "mse"},
    ],
)
def test_a_configuration_from_the_wire_is_checked(config: dict[str, object]) -> None:
    with pytest.raises(CodecUnknown, match="'quantize' is configured wrongly"):
        codec_for(config, spec_of(3))


# Statistics.


def edges_of(statistics: TensorStatistics) -> Floats:
    index = np.arange(len(statistics.counts) + 1, dtype=np.float64) + statistics.first
    edges: Floats = index * 2.0**statistics.exponent
    return edges


def check_against_numpy(statistics: TensorStatistics, values: Floats) -> None:
    assert statistics.low == values.min()
    assert statistics.high == values.max()
    assert statistics.zeros == np.count_nonzero(values == 0)
    assert statistics.elements == values.size
    assert 1 <= len(statistics.counts) <= BINS
    # numpy closes the last bin on both sides, ours are all open above: one more bin for that.
    edges = edges_of(statistics)
    wanted, _ = np.histogram(values, np.append(edges, np.inf))
    assert wanted.tolist() == [*statistics.counts, 0]
    assert statistics.counts[0] > 0
    assert statistics.counts[-1] > 0


VALUES = hnp.arrays(
    np.float64,
    st.integers(1, 60),
    elements=st.just(0.0)
    | st.floats(-1e6, 1e6, allow_subnormal=False)
    | st.floats(-1e-3, 1e-3, allow_subnormal=False),
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_histogram_of_one_array(values: Floats) -> None:
    check_against_numpy(statistics_of(values), values)


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=6))
def test_histogram_of_several_arrays_in_any_order(arrays: list[Floats]) -> None:
    one = statistics_of(np.concatenate(arrays))
    check_against_numpy(one, np.concatenate(arrays))
    assert statistics_of(*arrays) == one
    assert statistics_of(*arrays[::-1]) == one


def test_bins_are_neither_too_few_nor_too_many() -> None:
    for values in (normal(), relu(), normal(mean=-4.0), normal() * 1e-6, normal() * 1e20):
        assert BINS // 5 < len(statistics_of(values).counts) <= BINS


def test_growing_by_many_orders_of_magnitude() -> None:
    arrays = [normal(300, seed=n) * 10.0 ** (n - 9) for n in range(18)]
    check_against_numpy(statistics_of(*arrays), np.concatenate(arrays))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "int64", "bool"])
def test_statistics_of_every_type(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    collector = StatisticsCollector(spec_of(3, 4, dtype=dtype))
    collector.add(array)
    check_against_numpy(collector.statistics(), array.reshape(-1).astype(np.float64))


def test_empty_arrays_count_for_nothing() -> None:
    empty = np.zeros((0, 3))
    assert statistics_of(empty, normal(), empty) == statistics_of(normal())
    with pytest.raises(CodecError, match="'x' was never seen"):
        statistics_of(empty)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(bad: float) -> None:
    collector = StatisticsCollector(spec_of(3))
    collector.add(normal(10))
    with pytest.raises(CodecError, match="'x' has NaN or infinite elements"):
        collector.add(np.array([1e9, bad, 0.0]))
    assert collector.statistics() == statistics_of(normal(10))


@settings(max_examples=100, deadline=None)
@given(VALUES, st.floats(0, 1))
def test_quantiles_are_exact_to_a_bin(values: Floats, share: float) -> None:
    statistics = statistics_of(values)
    found = statistics.quantile(share)
    assert statistics.low <= found <= statistics.high
    wanted = float(np.quantile(values, share, method="inverted_cdf"))
    assert abs(found - wanted) <= 2.0**statistics.exponent


def test_centres_are_means_of_what_lies_there() -> None:
    statistics = statistics_of(np.array([0.0, 0.0, 0.0, 1000.0]))
    assert statistics.centres()[0] == 0
    middle = statistics_of(normal())
    edges = edges_of(middle)
    np.testing.assert_allclose(middle.centres(), (edges[:-1] + edges[1:]) / 2)


def test_a_calibration_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    original = calibration(statistics_of(normal()))
    path.write_bytes(msgspec.json.encode(original))
    assert read_calibration(path) == original


@pytest.mark.parametrize("change", [{"low": "x"}, {"counts": [1] * (BINS + 1)}, {"more": 1}])
def test_what_is_no_calibration(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "calibration.json"
    with pytest.raises(UsageError, match="cannot read the calibration"):
        read_calibration(path)
    content = msgspec.to_builtins(calibration(statistics_of(normal())))
    content["tensors"]["x"] |= change
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(UsageError, match=r"is not a calibration.*splitbed calibrate"):
        read_calibration(path)


# What was wrong once.


@pytest.mark.parametrize("change", [{"counts": []}, {"exponent": 5000}, {"counts": [-1, 0]}])
def test_a_calibration_that_no_collector_makes(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "calibration.json"
    content = msgspec.to_builtins(calibration(statistics_of(normal())))
    content["tensors"]["x"] |= change
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(UsageError):
        read_calibration(path)


def test_a_share_that_is_all_zeros_leaves_no_range_and_so_takes_all() -> None:
    values = np.concatenate([np.zeros(95), np.linspace(1, 5, 5)])
    assert clip_range(statistics_of(values), 4, "p90") == (0, 5)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-1.7e308, 1.7e308, "float64"),
        (0.0, 5e-324, "float64"),
        (0.0, 1e-38, "float32"),
        (0.0, 1e300, "float32"),
        (0.0, 1e5, "float16"),
    ],
)
def test_an_extreme_range_works_or_is_refused(low: float, high: float, dtype: str) -> None:
    try:
        codec = codec_for({"bits": 4, "low": low, "high": high}, spec_of(3, dtype=dtype))
    except (CodecError, CodecUnknown):
        return
    decoded = codec.decode(codec.encode(np.zeros(3, dtype))).astype(np.float64)
    assert (np.abs(decoded) <= (high / 2 - low / 2) / 15).all()


def test_half_a_range_is_honoured_or_refused() -> None:
    try:
        stage = stage_of("quantize:4,low=-3", statistics_of(normal()))
    except CodecUnknown:
        return
    assert stage.low == -3


def test_statistics_of_the_largest_numbers() -> None:
    with np.errstate(over="ignore"), pytest.raises(CodecError, match="a range too wide"):
        statistics_of(np.array([1.7e308, -1.7e308]))
