"""A generator of traces: a Gauss-Markov rate with handover gaps, calibrated to a profile.

    generate:seed=1,cv=0.6,correlation=4s,gap=300ms,every=15s,floor=5%,step=100ms,duration=60s

Any part may be left out. Each direction's rate is a first-order autoregressive process, the
discrete Gauss-Markov process, as B. Maglaris et al. used it for bit rates ("Performance models of
statistical multiplexing in packet video communications", IEEE Trans. Commun. 36, 1988):
`x' = a x + sqrt(1 - a^2) w` with unit deviation, `a = exp(-step / correlation)`, and the rate
`m (1 + cv x)`, never below `floor` of the profile's. Now and then nothing passes in either
direction, as in a handover, or in the outages that K. Winstein et al. modelled for cellular links
("Stochastic forecasts achieve high throughput and low delay over cellular networks", NSDI 2013):
for `gap`, at intervals distributed exponentially (in whole steps) with mean `every`.

Calibration: `m` is chosen, for each direction and seed, so that the mean over the whole trace, gaps
and floor included, is the profile's rate to 0.5 bit/s.

The defaults are what mahimahi's Verizon-LTE-short shows in steps of 100 ms: coefficient of
variation 0.59 up and 0.71 down, correlation 3.1 and 4.4 s, gaps of 0.32 and 0.23 s every 15.6 and
14 s.

The same seed gives the same trace on every machine: normal numbers are sums of twelve uniform
integers, and no function whose last digit depends on a mathematical library decides a rate.
"""

from __future__ import annotations

import difflib
import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from netem.trace_steps import FASTEST_BPS, LONGEST_NS, MOST_STEPS, made_of_steps
from splitbed.errors import UsageError
from splitbed.link import Change, LinkProfile, Step, Trace

GENERATE: Final = "generate:"

_ITEM: Final = re.compile(r"[a-z]+=(?P<number>[0-9]{1,12}(\.[0-9]{1,9})?)(?P<unit>s|ms|%|)")
_TIMES: Final = ("correlation", "gap", "every", "step", "duration")
_SHARE: Final = {"": 1.0, "%": 0.01}
_TIME: Final = {"s": 1e9, "ms": 1e6}
_UNITS: Final[dict[str, dict[str, float]]] = {
    "seed": {"": 1.0},
    "cv": _SHARE,
    "floor": _SHARE,
    **dict.fromkeys(_TIMES, _TIME),
}
_STEEPEST: Final = 1e6
"""Largest factor by which rates may be raised to make up for gaps."""

Span = tuple[int, int, bool]
"""Beginning and end in nanoseconds, and whether anything passes."""


class GeneratorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the generator can be told."""

    seed: Annotated[int, Meta(ge=0)] = 0
    cv: Annotated[float, Meta(ge=0, le=3)] = 0.6
    """Coefficient of variation of the rate outside gaps, before the floor: deviation by mean."""
    correlation_ns: Annotated[int, Meta(ge=0)] = 4_000_000_000
    """Time after which the correlation of the rate with itself is 1/e."""
    gap_ns: Annotated[int, Meta(ge=0)] = 300_000_000
    """Length of a gap; 0: none."""
    every_ns: Annotated[int, Meta(gt=0)] = 15_000_000_000
    """Mean time from the end of a gap to the beginning of the next."""
    floor: Annotated[float, Meta(ge=0, le=0.9)] = 0.05
    """Least rate outside gaps, as a share of the profile's."""
    step_ns: Annotated[int, Meta(ge=1_000_000)] = 100_000_000
    duration_ns: Annotated[int, Meta(gt=0, le=LONGEST_NS)] = 60_000_000_000


def generated(text: str, profile: LinkProfile) -> Trace:
    """The trace of `generate:...` over a profile. Raises UsageError."""
    options = _options(text)
    if not any(d.rate_bps for d in (profile.up, profile.down)):
        raise UsageError(
            f"trace '{text}': the profile '{profile.name}' has no rate that could vary; name "
            "another one"
        )
    spans = _spans(options)
    # Each direction and the gaps have numbers of their own, so that none depends on another.
    sides = [
        _rates(text, direction.rate_bps, spans, options, 3 * options.seed + 1 + index)
        for index, direction in enumerate((profile.up, profile.down))
    ]
    steps = (
        Step(begin_ns, Change(up), Change(down))
        for (begin_ns, _, _), up, down in zip(spans, *sides, strict=True)
    )
    source = f"{text} over the profile '{profile.name}' (Gauss-Markov, mean rates as the profile's)"
    return made_of_steps(text, source, steps, options.duration_ns)


def _spans(options: GeneratorOptions) -> list[Span]:
    """Steps and gaps in order; a gap that ends within a step leaves the rest of the step."""
    numbers = random.Random(3 * options.seed)
    likely = min(1.0, options.step_ns / options.every_ns) if options.gap_ns else 0.0
    found: list[Span] = []
    gap_end_ns = 0
    for begin_ns in range(0, options.duration_ns, options.step_ns):
        end_ns = min(begin_ns + options.step_ns, options.duration_ns)
        if gap_end_ns <= begin_ns and numbers.random() < likely:
            gap_end_ns = begin_ns + options.gap_ns
        turn_ns = min(max(gap_end_ns, begin_ns), end_ns)
        if turn_ns > begin_ns:
            found.append((begin_ns, turn_ns, False))
        if turn_ns < end_ns:
            found.append((turn_ns, end_ns, True))
    return found


def _rates(
    text: str, mean_bps: int | None, spans: Sequence[Span], options: GeneratorOptions, seed: int
) -> list[int | None]:
    """Rate in each span; None outside gaps where the profile has none."""
    if mean_bps is None:
        return [None if is_open else 0 for _, _, is_open in spans]
    process = _process(options, seed)
    relative: list[float] = []
    step = -1
    for begin_ns, _, is_open in spans:
        while step < begin_ns // options.step_ns:
            step, value = step + 1, next(process)
        relative.append(1 + options.cv * value if is_open else 0.0)
    weights = [
        (end_ns - begin_ns) / options.duration_ns if is_open else 0.0
        for begin_ns, end_ns, is_open in spans
    ]
    scale = _scale(relative, weights, options.floor)
    if scale is None:
        raise UsageError(
            f"trace '{text}': gaps leave so little time that the mean rate cannot be kept; make "
            "them shorter or rarer"
        )
    return [
        min(FASTEST_BPS, round(mean_bps * max(options.floor, scale * value))) if is_open else 0
        for value, (_, _, is_open) in zip(relative, spans, strict=True)
    ]


def _process(options: GeneratorOptions, seed: int) -> Iterator[float]:
    numbers = random.Random(seed)
    # Rounded, so that no machine's exp() decides a digit of it.
    kept = round(math.exp(-options.step_ns / max(1, options.correlation_ns)), 9)
    fresh = math.sqrt(1 - kept * kept)
    value = _normal(numbers)
    while True:
        yield value
        value = kept * value + fresh * _normal(numbers)


def _normal(numbers: random.Random) -> float:
    """Mean 0, deviation 1: the sum of twelve numbers from 0 to 1, less 6."""
    total = 0
    for _ in range(12):
        total += 2 * numbers.getrandbits(32) + 1
    return total / (1 << 33) - 6


def _scale(relative: Sequence[float], weights: Sequence[float], floor: float) -> float | None:
    """The factor that makes the weighted mean of `max(floor, factor * relative)` 1; None: none.

    The mean grows with the factor and bends upward only, so Newton's steps from above come down to
    it without passing it, and reach it in a few.
    """
    pairs = [(w, r) for w, r in zip(weights, relative, strict=True) if w > 0]
    factor = 1.0
    while _mean(pairs, factor, floor) < 1:
        factor *= 2
        if factor > _STEEPEST:
            return None
    for _ in range(100):
        above = [(w, r) for w, r in pairs if factor * r > floor]
        below = math.fsum(w for w, r in pairs if factor * r <= floor)
        better = (1 - floor * below) / math.fsum(w * r for w, r in above)
        if better >= factor:
            break
        factor = better
    return factor


def _mean(pairs: Sequence[tuple[float, float]], factor: float, floor: float) -> float:
    return math.fsum(w * max(floor, factor * r) for w, r in pairs)


def _options(text: str) -> GeneratorOptions:
    given: dict[str, float] = {}
    for item in filter(None, text.removeprefix(GENERATE).split(",")):
        key = item.partition("=")[0]
        if key not in _UNITS:
            close = difflib.get_close_matches(key, _UNITS, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(_UNITS)}"
            raise UsageError(f"trace '{text}': '{key}' is not understood: {hint}")
        match = _ITEM.fullmatch(item)
        if match is None or match["unit"] not in _UNITS[key]:
            wanted = " or ".join(f"{key}=NUMBER{unit}" for unit in _UNITS[key])
            raise UsageError(f"trace '{text}': '{item}' is not understood: write {wanted}")
        field = f"{key}_ns" if key in _TIMES else key
        if field in given:
            raise UsageError(f"trace '{text}': '{key}' stands there twice")
        value = float(match["number"]) * _UNITS[key][match["unit"]]
        given[field] = value if key in ("cv", "floor") else round(value)
    try:
        options = msgspec.convert(given, GeneratorOptions)
    except msgspec.ValidationError as error:
        raise UsageError(f"trace '{text}': {error}") from error
    if options.duration_ns > MOST_STEPS * options.step_ns:
        raise UsageError(f"trace '{text}': more than {MOST_STEPS} steps; make the step longer")
    return options
