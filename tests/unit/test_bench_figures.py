"""From raw samples to the bench's rows, and rows against the picture."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.bench_report import compared, smallest
from experiments.bench_rows import BreakEven, Row, Samples, break_even, row_of
from experiments.statistics import paired_loss, share
from experiments.task_metric import Score
from splitbed import codec
from splitbed.session import Buffer
from splitbed.tensor import Array, Cut, TensorSpec

SPEC = TensorSpec("t", "float32", (1, 100))
SAME = Score(share(100, 100), None, None)


@pytest.mark.parametrize(
    ("saved_bytes", "extra_ns", "wanted"),
    [
        # 100,000 bytes in 10 ms: 80 Mbit/s.
        (100_000, 10e6, BreakEven("below", 80e6)),
        (100_000, 0, BreakEven("always", None)),
        (100_000, -5e6, BreakEven("always", None)),
        (0, 10e6, BreakEven("never", None)),
        (-1, 10e6, BreakEven("never", None)),
        (-100_000, -10e6, BreakEven("above", 80e6)),
    ],
)
def test_break_even(saved_bytes: float, extra_ns: float, wanted: BreakEven) -> None:
    assert break_even(saved_bytes, extra_ns) == wanted


def test_at_the_break_even_rate_both_take_the_same_time() -> None:
    raw, coded, coding_ns = 50_176, 5_411, 0.6e6
    rate_bps = break_even(raw - coded, coding_ns).rate_bps
    assert rate_bps is not None
    assert 8 * raw / rate_bps == pytest.approx(8 * coded / rate_bps + coding_ns / 1e9)


class Rounding:
    """A codec of one byte an element that loses what is behind the point."""

    spec = SPEC

    def encode(self, array: Array) -> Buffer:
        return np.rint(array).astype(np.uint8).tobytes()

    def decode(self, payload: Buffer) -> Array:
        return np.frombuffer(payload, np.uint8).astype(np.float32).reshape(SPEC.shape)


def test_a_row_of_known_samples() -> None:
    samples = Samples(Cut("t", (SPEC,)), "rounding", variance=0.5, seen={})
    samples.count_symbols()
    array = np.full(SPEC.shape, 3.25, np.float32)
    array[0, 0] = 4.5  # to even: 4
    for _ in range(10):
        samples.add([Rounding()], {"t": array})
    samples.encode_ns, samples.decode_ns = [200_000] * 9 + [10_000_000], [300_000] * 10
    row = row_of(samples, SAME)
    assert (row.raw_bytes, row.elements, row.pictures) == (400, 100, 10)
    assert row.payload_bytes.value == 100
    assert (row.bits_per_element, row.factor) == (8, 4)
    mse = (99 * 0.25**2 + 0.5**2) / 100
    assert row.error.mse == pytest.approx(mse)
    assert row.error.nmse == pytest.approx(mse / 0.5)
    assert row.error.max_abs == 0.5
    assert row.encode.p50_ms.value == pytest.approx(0.2)
    assert row.encode.p95_ms.value > 1
    assert row.encode.mbytes_per_s == pytest.approx(400 / 0.2e-3 / 1e6)
    assert row.decode.elements_per_s == pytest.approx(100 / 0.3e-3)
    assert row.break_even.pays == "below"
    assert row.break_even.rate_bps == pytest.approx(8 * 300 / 0.5e-3)
    assert row.session_bytes is None
    one, other = 0.99, 0.01  # 99 elements are 3, one is 4
    ideal = -one * math.log2(one) - other * math.log2(other)
    assert row.order0_bits == row.order0_channel_bits == pytest.approx(ideal)


def test_what_loses_nothing_has_no_error_and_a_constant_has_no_variance() -> None:
    samples = Samples(Cut("t", (SPEC,)), "raw", variance=0.0, seen={})
    coder = codec.build(codec.plan("raw", (SPEC,), None)[0], SPEC)
    array = np.full(SPEC.shape, np.inf, np.float32)
    array[0, 1:] = 1
    samples.add([coder], {"t": array})
    row = row_of(samples, SAME)
    assert (row.error.mse, row.error.max_abs) == (0, 0)
    assert row.error.nmse is None
    assert row.break_even.pays == "never"


class Darker:
    """A codec of bytes that takes one from each."""

    spec = TensorSpec("p", "uint8", (2, 3))

    def encode(self, array: Array) -> Buffer:
        return (array.astype(np.int16) - 1).astype(np.uint8).tobytes()

    def decode(self, payload: Buffer) -> Array:
        return np.frombuffer(payload, np.uint8).reshape(self.spec.shape)


def test_errors_of_whole_numbers_have_a_sign() -> None:
    """200 - 201 is -1, and not 255 as the type of a picture has it."""
    samples = Samples(Cut("p", (Darker.spec,)), "darker", variance=1.0, seen={})
    samples.add([Darker()], {"p": np.full((2, 3), 201, np.uint8)})
    assert (samples.error.mse, samples.error.max_abs) == (1, 1)


def row(text: str, nbytes: int, lost: int = 0, same: int = 100, ms: float = 1.0) -> Row:
    """`lost` pictures became wrong; below zero, so many became right."""
    samples = Samples(Cut("t", (SPEC,)), text, variance=1.0, seen={})
    samples.payload_bytes = [nbytes] * 5
    samples.encode_ns = samples.decode_ns = [round(ms * 5e5)] * 5
    before = [False] * max(0, -lost) + [True] * 100
    after = [False] * max(0, lost) + [True] * (len(before) - max(0, lost))
    loss = paired_loss(before, after)
    return row_of(samples, Score(share(same, 100), share(sum(after), len(after)), loss))


ANCHORS = (
    row("jpeg:10", 1000, lost=9, same=91),
    row("jpeg:50", 2000, lost=1, same=97),
    row("jpeg:90", 4000, lost=0, same=99, ms=0.5),
    row("png", 9000, lost=0, same=100),
)


def test_a_row_is_held_against_the_smallest_picture_that_is_no_worse() -> None:
    found = compared(row("c", 500, lost=1, same=98, ms=1.5), ANCHORS)
    assert found.at_equal_loss is not None
    assert found.at_equal_agreement is not None
    assert (found.at_equal_loss.anchor, found.at_equal_loss.factor) == ("jpeg:50", 4)
    assert found.at_equal_loss.break_even.rate_bps == pytest.approx(8 * 1500 / 0.5e-3)
    assert (found.at_equal_agreement.anchor, found.at_equal_agreement.factor) == ("jpeg:90", 8)


def test_a_cut_that_loses_against_the_picture_says_so() -> None:
    found = compared(row("c", 8000, lost=0, same=99, ms=0.1), ANCHORS)
    assert found.at_equal_loss is not None
    assert found.at_equal_loss.factor == 0.5
    assert found.at_equal_loss.break_even.pays == "above"


def test_what_gains_by_luck_is_held_against_a_picture_that_loses_nothing() -> None:
    found = compared(row("c", 500, lost=-1), ANCHORS)
    assert found.row.score.loss is not None
    assert found.row.score.loss.points < 0
    assert found.at_equal_loss is not None
    assert found.at_equal_loss.anchor == "jpeg:90"


def test_nothing_to_be_held_against() -> None:
    found = compared(row("c", 500, lost=0, same=100), ANCHORS[:2])
    assert found.at_equal_loss is None
    assert found.at_equal_agreement is None


def test_the_smallest_is_within_both_limits() -> None:
    rows = [
        row("smallest, loses too much", 10, lost=2),
        row("agrees too little", 20, lost=1, same=97),
        row("good", 30, lost=1, same=98),
        row("better and larger", 40),
    ]
    assert smallest(rows) == "good"
    assert smallest(rows[:2]) is None


def test_what_the_tail_cannot_see_is_no_error() -> None:
    spec = TensorSpec("t", "float32", (4,))
    samples = Samples(Cut("t", (spec,)), "uniform", variance=1.0, seen={"t": (0.0, 6.0)})
    clip = codec.build(codec.plan("quantize:bits=8,low=0,high=6", [spec], None)[0], spec)
    samples.add([clip], {"t": np.array([-5, 9, 0, 6], np.float32)})
    assert samples.error.max_abs < 1e-6
