"""Joules an inference over idle, from a node's raw samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import variance
from typing import Final

import msgspec

from splitbed.record import How, NodeResources, Phase, ReadingSource, ResourceSample
from splitbed.session import Node
from splitbed.student import student95

_FEWEST_BLOCKS: Final = 3
_ABSENT: Final = "this machine shows no"
_ORDER: Final = ("rapl_j", "hwmon_", "battery_w", "rapl_psys_j", "gpu", "")
"""Meters of a whole machine first, the one that counts before those that are read now and then."""


class Energy(msgspec.Struct, frozen=True):
    """Energy of a frame at one node, beyond what its machine takes at rest."""

    how: How
    source: str
    reason: str = ""
    """Why it is unavailable, and what to do about it."""
    meter: str = ""
    """Name of the readings; "" where there are none."""
    scope: str = ""
    """`machine`, `process`, `part`, or the name of a GPU."""
    j_per_frame: float | None = None
    low: float | None = None
    """95 % interval, by blocks of time and the meter's resolution."""
    high: float | None = None
    idle_w: float | None = None
    busy_w: float | None = None
    frames: int = 0


class _Stretch(msgspec.Struct, frozen=True):
    """Time between two readings of one meter."""

    phase: Phase
    seconds: float
    joules: float


def energies(
    node: Node, samples: Sequence[ResourceSample], about: NodeResources, frames: int
) -> tuple[Energy, ...]:
    """By every meter that the node has, the whole machine's first; one that is unavailable, with
    the reasons, where it has none. Below the first, what of it is modelled as the process's own.

    `frames` is the number of frames that fell into the phase `frames`.
    """
    if not about.sources:
        return (_none("this run keeps no word of its meters: it was made by an older splitbed"),)
    meters = [s for s in about.sources if s.scope and s.unit in ("J", "W")]
    usable = [s for s in meters if s.how != "unavailable"]
    if not usable:
        # What could be had weighs more than what is not there.
        hidden = dict.fromkeys(s.reason for s in meters if not s.reason.startswith(_ABSENT))
        return (_none("; ".join(hidden) or f"{_ABSENT} RAPL, sensor or battery"),)
    # A GPU's counter is better than its power now and then.
    counted = {s.scope for s in usable if s.unit == "J" and s.scope.startswith("gpu")}
    chosen = [s for s in usable if not (s.scope in counted and s.unit == "W")]
    chosen.sort(key=_rank)
    found = [_measure(node, samples, meter, frames) for meter in chosen]
    first = found[0]
    if first.scope == "machine" and first.j_per_frame is not None:
        found.insert(1, _share(first, samples))
    return tuple(found)


def _rank(source: ReadingSource) -> tuple[int, int]:
    place = next(at for at, name in enumerate(_ORDER) if source.name.startswith(name))
    return (0 if source.scope == "machine" else 1, place)


def _none(reason: str) -> Energy:
    return Energy("unavailable", "no energy meter", reason)


def _measure(
    node: Node, samples: Sequence[ResourceSample], meter: ReadingSource, frames: int
) -> Energy:
    found = Energy(meter.how, meter.source, "", meter.name, meter.scope, frames=frames)

    def without(reason: str) -> Energy:
        return msgspec.structs.replace(found, how="unavailable", reason=reason)

    if meter.reason:
        return without(meter.reason)
    stretches = _stretches(samples, meter.name)
    idle = [s for s in stretches if s.phase == "idle"]
    busy = [s for s in stretches if s.phase == "frames"]
    if node == "edge" and idle:
        idle.pop()  # the first frame came within it
    if not idle:
        return without("there is no baseline: let the nodes rest first, with --idle-s 10")
    if frames < 1 or not busy:
        return without("no frame was measured while the meter was read")
    for what, part, cure in (
        ("rest", idle, "give a longer --idle-s"),
        ("frames", busy, "measure more frames"),
    ):
        lasted = sum(s.seconds for s in part)
        if lasted < meter.window_s:
            return without(
                f"this gauge needs {meter.window_s:g} s and got {lasted:.1f} s of {what}: {cure}"
            )
        if meter.unit == "W" and _values(samples, meter.name, part[0].phase) < _FEWEST_BLOCKS:
            return without(f"the gauge hardly moved within {lasted:.0f} s of {what}: {cure}")
    return _over_idle(found, idle, busy, meter)


def _over_idle(
    found: Energy, idle: list[_Stretch], busy: list[_Stretch], meter: ReadingSource
) -> Energy:
    """Difference of mean powers times the time of the frames, with Welch's interval over blocks.

    Neighbouring samples resemble each other, so that blocks of a third of the meter's window stand
    for independent ones. The meter's resolution is added to both sides.
    """
    seconds = sum(s.seconds for s in busy)
    idle_w, busy_w = _mean_w(idle), _mean_w(busy)
    each = seconds / found.frames
    blocks = [_blocks(part, meter.window_s / 3) for part in (idle, busy)]
    low = high = None
    if all(len(part) >= _FEWEST_BLOCKS for part in blocks):
        shares = [variance(part) / len(part) for part in blocks]
        spread = sum(shares)
        freedom = 1.0
        if spread > 0:
            freedom = spread**2 / sum(
                share**2 / (len(part) - 1) for share, part in zip(shares, blocks, strict=True)
            )
        step = meter.resolution
        if meter.unit == "J":
            step *= 1 / seconds + 1 / sum(s.seconds for s in idle)
        half = student95(freedom) * math.sqrt(spread) + step
        low, high = (busy_w - idle_w - half) * each, (busy_w - idle_w + half) * each
    return msgspec.structs.replace(
        found,
        j_per_frame=(busy_w - idle_w) * each,
        low=low,
        high=high,
        idle_w=idle_w,
        busy_w=busy_w,
    )


def _share(whole: Energy, samples: Sequence[ResourceSample]) -> Energy:
    """The process's part of the machine's energy over idle: its part of the busy CPU time."""
    working = [s for s in samples if s.phase == "frames" and s.system_cpu_ns is not None]
    system_ns = sum(s.system_cpu_ns or 0 for s in working)
    # /proc/stat counts in ticks of 10 ms: a share never exceeds the whole.
    share = min(1.0, sum(s.process_cpu_ns for s in working) / system_ns) if system_ns else None
    found = Energy(
        "modelled",
        f"{whole.meter} times this process's share of the machine's busy CPU time",
        meter=whole.meter,
        scope="process",
        frames=whole.frames,
    )
    if share is None or whole.j_per_frame is None:
        reason = "the machine's CPU time is not known"
        return msgspec.structs.replace(found, how="unavailable", reason=reason)
    return msgspec.structs.replace(
        found,
        source=f"{found.source}, {100 * share:.0f} %",
        j_per_frame=share * whole.j_per_frame,
        low=None if whole.low is None else share * whole.low,
        high=None if whole.high is None else share * whole.high,
    )


def _stretches(samples: Sequence[ResourceSample], name: str) -> list[_Stretch]:
    """Energy between readings within one phase. Power is taken to go straight from one to the next.

    A counter counts on where a sample lacks it; what would span two phases is left out.
    """
    found: list[_Stretch] = []
    last: ResourceSample | None = None
    phases: set[Phase] = set()
    for sample in samples:
        phases.add(sample.phase)
        if name not in sample.readings:
            continue
        if last is not None and len(phases) == 1:
            seconds = (sample.t_ns - last.t_ns) / 1e9
            before, after = last.readings[name], sample.readings[name]
            if name.endswith("_j"):
                joules = after - before
            else:
                start = before if last.phase == sample.phase else after
                joules = seconds * (start + after) / 2
            if seconds > 0:
                found.append(_Stretch(sample.phase, seconds, joules))
        last, phases = sample, set()
    return found


def _values(samples: Sequence[ResourceSample], name: str, phase: Phase) -> int:
    """Different values that a gauge showed within a phase."""
    return len({s.readings[name] for s in samples if s.phase == phase and name in s.readings})


def _mean_w(part: Sequence[_Stretch]) -> float:
    return sum(s.joules for s in part) / sum(s.seconds for s in part)


def _blocks(part: Sequence[_Stretch], least_s: float) -> list[float]:
    """Mean powers of consecutive stretches that last at least so long together."""
    found: list[float] = []
    joules = seconds = 0.0
    for stretch in part:
        joules, seconds = joules + stretch.joules, seconds + stretch.seconds
        if seconds >= least_s:
            found.append(joules / seconds)
            joules = seconds = 0.0
    return found
