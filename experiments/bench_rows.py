"""One row of the codec bench: what a codec does to a cut, from raw samples to figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np

from experiments.score import Score
from experiments.symbol_counts import SymbolCounts
from splitbed.percentile import Percentile, percentile
from splitbed.session import Buffer
from splitbed.tensor import Array, Cut, TensorSpec


class Coder(Protocol):
    """What codes one tensor; `splitbed.codec.Codec` is one."""

    spec: TensorSpec

    def encode(self, array: Array) -> Buffer:
        """The payload."""

    def decode(self, payload: Buffer) -> Array:
        """The tensor again."""


class Networks(Protocol):
    """A learned codec's two networks, which stand before and after what codes the tensors."""

    def encode(self, boundary: Mapping[str, Array]) -> Mapping[str, Array]:
        """What crosses."""

    def decode(self, crossing: Mapping[str, Array]) -> dict[str, Array]:
        """The boundary again."""


class Times(msgspec.Struct, frozen=True):
    """Milliseconds a frame, all tensors of the cut together, and the speed of the median."""

    p50_ms: Percentile
    p95_ms: Percentile
    mbytes_per_s: float
    """Of the raw tensors."""
    elements_per_s: float


class CodingError(msgspec.Struct, frozen=True):
    """What decoding gives against what was encoded, over all elements of all pictures.

    Within what the tail can tell apart: below a ReLU that comes next, nothing is an error.
    """

    mse: float
    nmse: float | None
    """`mse` over the variance of the elements; None where that is zero."""
    max_abs: float


class BreakEven(msgspec.Struct, frozen=True):
    """At which rates of the link a codec is worth its time."""

    pays: Literal["always", "below", "above", "never"]
    rate_bps: float | None
    """The rate below or above which it pays."""


class Row(msgspec.Struct, frozen=True):
    """One codec at one cut."""

    cut: str
    codec: str
    pictures: int
    elements: int
    raw_bytes: int
    payload_bytes: Percentile
    """Median."""
    bits_per_element: float
    factor: float
    """Raw bytes over the median of the payload's."""
    order0_bits: float | None
    """Bits an element of an ideal coder with one table of the decoded values for each tensor."""
    order0_channel_bits: float | None
    """The same with a table for each channel. None for both where what is decoded is no symbols."""
    session_bytes: int | None
    """What the session's specification holds of this codec, calibration included; None for codecs
    that no session can have."""
    encode: Times
    decode: Times
    coding_ms: float
    """Median of encoding and decoding together."""
    error: CodingError
    score: Score
    break_even: BreakEven
    """Against sending the tensors raw, whose coding takes no time."""
    chosen: tuple[str, ...] = ()
    """What `auto` found for each fold, on the pictures of the others; empty for other codecs."""


class Samples:
    """Raw samples of one codec at one cut, picture by picture."""

    def __init__(
        self, cut: Cut, codec: str, variance: float, seen: Mapping[str, tuple[float, float]]
    ) -> None:
        self.cut, self.codec, self.variance, self._seen = cut, codec, variance, seen
        self.payload_bytes: list[int] = []
        self.encode_ns: list[int] = []
        self.decode_ns: list[int] = []
        self.session_bytes: list[int] = []
        """One for each calibration; empty where no session can have the codec."""
        self.chosen: list[str] = []
        """What `auto` found for each fold; empty for other codecs."""
        self._squared, self._largest = 0.0, 0.0
        self._counts: list[SymbolCounts] = []
        self._of_fold: dict[str, SymbolCounts] = {}

    def count_symbols(self) -> None:
        """Count what is decoded from now on; anew for each fold, whose values are others."""
        self._of_fold = {spec.name: SymbolCounts(spec) for spec in self.cut.boundary}
        self._counts += self._of_fold.values()

    def add(
        self,
        coders: Sequence[Coder],
        boundary: Mapping[str, Array],
        networks: Networks | None = None,
    ) -> dict[str, Array]:
        """Code one picture's boundary, timed, networks included; what was decoded."""
        start_ns = time.perf_counter_ns()
        crossing = boundary if networks is None else networks.encode(boundary)
        payloads = [coder.encode(crossing[coder.spec.name]) for coder in coders]
        sent_ns = time.perf_counter_ns()
        decoded = {c.spec.name: c.decode(p) for c, p in zip(coders, payloads, strict=True)}
        decoded = decoded if networks is None else networks.decode(decoded)
        end_ns = time.perf_counter_ns()
        self.encode_ns.append(sent_ns - start_ns)
        self.decode_ns.append(end_ns - sent_ns)
        self.payload_bytes.append(sum(map(len, payloads)))
        for name, array in decoded.items():
            if name in self._of_fold:
                self._of_fold[name].add(array)
            # Only where they differ: infinities that stay infinities are no error.
            wrong = np.zeros(array.shape)
            given, found = boundary[name], array
            if name in self._seen:
                given, found = np.clip(given, *self._seen[name]), np.clip(found, *self._seen[name])
            np.subtract(found, given, wrong, where=found != given, dtype=np.float64)
            self._squared += float(np.vdot(wrong, wrong))
            self._largest = max(self._largest, float(np.abs(wrong).max(initial=0.0)))
        return decoded

    @property
    def elements(self) -> int:
        """Of one picture, all tensors together."""
        return sum(spec.elements for spec in self.cut.boundary)

    def order0_bits(self, *, by_channel: bool) -> float | None:
        """Bits an element of an ideal order-0 coder, over all folds (`SymbolCounts.bits`)."""
        found = [counts.bits(by_channel=by_channel) for counts in self._counts]
        known = [bits for bits in found if bits is not None]
        if not known or len(known) < len(found):
            return None
        return sum(known) / max(1, self.elements * len(self.payload_bytes))

    @property
    def error(self) -> CodingError:
        """Of all pictures so far."""
        mse = self._squared / max(1, self.elements * len(self.payload_bytes))
        nmse = mse / self.variance if self.variance else None
        return CodingError(mse=mse, nmse=nmse, max_abs=self._largest)


def row_of(samples: Samples, score: Score) -> Row:
    """The figures of all samples."""
    elements, raw_bytes = samples.elements, samples.cut.nbytes
    size = percentile(samples.payload_bytes, 0.5)
    both = [a + b for a, b in zip(samples.encode_ns, samples.decode_ns, strict=True)]
    coding_ns = percentile(both, 0.5).value
    return Row(
        cut=samples.cut.name,
        codec=samples.codec,
        pictures=len(both),
        elements=elements,
        raw_bytes=raw_bytes,
        payload_bytes=size,
        bits_per_element=8 * size.value / max(1, elements),
        factor=raw_bytes / max(1.0, size.value),
        order0_bits=samples.order0_bits(by_channel=False),
        order0_channel_bits=samples.order0_bits(by_channel=True),
        session_bytes=max(samples.session_bytes, default=None),
        encode=_times(samples.encode_ns, raw_bytes, elements),
        decode=_times(samples.decode_ns, raw_bytes, elements),
        coding_ms=coding_ns / 1e6,
        error=samples.error,
        score=score,
        break_even=break_even(raw_bytes - size.value, coding_ns),
        chosen=tuple(samples.chosen),
    )


def break_even(saved_bytes: float, extra_ns: float) -> BreakEven:
    """Where what is saved on the link makes up for the time that saving it takes.

    8 * saved bytes / extra time; either of them may be negative.
    """
    if saved_bytes > 0 and extra_ns <= 0:
        return BreakEven("always", None)
    if saved_bytes <= 0 and extra_ns >= 0:
        return BreakEven("never", None)
    rate_bps = 8e9 * saved_bytes / extra_ns
    return BreakEven("below" if saved_bytes > 0 else "above", rate_bps)


def _times(samples_ns: Sequence[int], raw_bytes: int, elements: int) -> Times:
    middle, high = (percentile([ns / 1e6 for ns in samples_ns], at) for at in (0.5, 0.95))
    seconds = max(middle.value, 1e-6) / 1e3
    return Times(middle, high, raw_bytes / 1e6 / seconds, elements / seconds)
