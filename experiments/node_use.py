"""What a node used while a run went on, from its raw samples, and how that is said."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

from experiments.edge_frames import edge_frames
from experiments.energy import Energy, energies
from splitbed.record import (
    EdgeFrameRecord,
    FrameRecord,
    ReadingSource,
    ResourceSample,
)
from splitbed.resources.gpu import SLOWED
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import Node

_FIRMWARE_NOW: Final = 0xF
"""Bits of a Raspberry Pi's get_throttled that speak of now; the others of some time before."""


_ENERGY: Final = {"machine": "machine", "process": "itself", "part": "a part"}
"""What an energy is of, in a table."""


class GpuUse(msgspec.Struct, frozen=True):
    """One GPU while frames went through, with everything on it. None: not supported."""

    busy_pct_median: float | None
    memory_peak_bytes: float | None
    power_w_median: float | None
    clock_hz_median: float | None


class NodeUse(msgspec.Struct, frozen=True):
    """What one node's process used while the run went on."""

    cpu_pct_median: float
    """Of one core, while it worked on frames."""
    rss_first_bytes: int
    """When the run began; an edge that serves several runs keeps their engines warm."""
    rss_peak_bytes: int
    """Within the run: the largest sample, or the high-water mark where it rose meanwhile."""
    samples: int
    source: str
    frames: int = 0
    """That the next three are divided by."""
    counted: str = ""
    """Of an edge: what those frames are, and how that is known."""
    cpu_ms_per_frame: float | None = None
    waits_per_frame: float | None = None
    """Voluntary context switches of all threads."""
    preempted_per_frame: float | None = None
    """Involuntary ones."""
    system_cpu_pct_median: float | None = None
    memory_bytes: dict[str, int] = {}
    """Around loading the engine, and after the first frame."""
    frequency_hz: tuple[float, float] | None = None
    """Lowest and highest current frequency of any core, while it worked on frames."""
    temperature_celsius_max: float | None = None
    throttled: int | None = None
    """Samples in which the machine slowed itself down; None where it does not tell."""
    gpus: dict[str, GpuUse] = {}
    energy: tuple[Energy, ...] = ()
    sources: tuple[ReadingSource, ...] = ()
    """Where each value comes from, or why there is none."""


def node_use(files: RunFolder) -> dict[str, NodeUse]:
    """By node; without those that left no samples."""
    found: dict[str, NodeUse] = {}
    nodes: tuple[Node, ...] = ("device", "edge")
    for node in nodes:
        samples = list(read_rows(files.resources(node), ResourceSample))
        if samples:
            found[node] = _use(files, node, samples)
    return found


def _use(files: RunFolder, node: Node, samples: list[ResourceSample]) -> NodeUse:
    about, rows = files.read_sources(node), read_rows(files.frames("device"), FrameRecord)
    counted = ""
    if node == "device":
        # It enters phase `frames` when every warm-up frame has its row.
        frames = sum(not row.warmup and row.status != "dropped" for row in rows)
    else:
        of_edge = read_rows(files.frames("edge"), EdgeFrameRecord)
        found = edge_frames(samples, about.start_ns, of_edge, rows)
        samples, frames, counted = found.samples, found.frames, found.counted
    working = [sample for sample in samples if sample.phase == "frames"] or samples
    return NodeUse(
        cpu_pct_median=median(sample.process_cpu_pct for sample in working),
        rss_first_bytes=samples[0].rss_bytes,
        rss_peak_bytes=_peak(samples),
        samples=len(samples),
        source=samples[0].source,
        frames=frames,
        counted=counted,
        cpu_ms_per_frame=_each([s.process_cpu_ns / 1e6 for s in working], frames),
        waits_per_frame=_each([s.voluntary_switches for s in working], frames),
        preempted_per_frame=_each([s.involuntary_switches for s in working], frames),
        system_cpu_pct_median=_middle([s.system_cpu_pct for s in working]),
        memory_bytes=about.memory_bytes,
        frequency_hz=_ends(_readings(working, "freq_", "_hz")),
        temperature_celsius_max=max(_readings(samples, "temp_", "_celsius"), default=None),
        throttled=_throttled(samples),
        gpus=_gpus(working),
        energy=energies(node, samples, about, frames),
        sources=about.sources,
    )


def _each(values: Sequence[float | None], frames: int) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / frames if frames and len(known) == len(values) else None


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _peak(samples: Sequence[ResourceSample]) -> int:
    seen = max(sample.rss_bytes for sample in samples)
    first, last = samples[0].rss_peak_bytes, samples[-1].rss_peak_bytes
    # A mark that did not rise may be of a time before this run.
    return max(seen, last) if first is not None and last is not None and last > first else seen


def _readings(samples: Sequence[ResourceSample], start: str, end: str) -> list[float]:
    return [
        value
        for sample in samples
        for name, value in sample.readings.items()
        if name.startswith(start) and name.endswith(end)
    ]


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def _throttled(samples: Sequence[ResourceSample]) -> int | None:
    told, count = False, 0
    before: dict[str, float] = {}
    for sample in samples:
        slowed = False
        for name, value in sample.readings.items():
            if name.startswith("throttle_"):
                told, slowed = True, slowed or value > before.get(name, value)
                before[name] = value
            elif name.endswith("_flags"):
                mask = SLOWED if name.startswith("gpu") else -1
                mask = _FIRMWARE_NOW if name.startswith("firmware") else mask
                told, slowed = True, slowed or bool(int(value) & mask)
        count += slowed
    return count if told else None


def _gpus(samples: Sequence[ResourceSample]) -> dict[str, GpuUse]:
    names = {name.split("_")[0] for s in samples for name in s.readings if name.startswith("gpu")}
    found = {}
    for gpu in sorted(names):
        parts = {
            part: [s.readings[f"{gpu}_{part}"] for s in samples if f"{gpu}_{part}" in s.readings]
            for part in ("pct", "memory_bytes", "w", "sm_hz")
        }
        middle = {part: _middle(values) for part, values in parts.items()}
        found[gpu] = GpuUse(
            middle["pct"], max(parts["memory_bytes"], default=None), middle["w"], middle["sm_hz"]
        )
    return found


def use_facts(node: str, use: NodeUse) -> list[tuple[str, str]]:
    """Lines about one node for a table: name and text."""
    text = f"CPU {use.cpu_pct_median:.0f} % of a core"
    if use.cpu_ms_per_frame is not None:
        text += f", {use.cpu_ms_per_frame:.2f} ms a frame"
    text += f"; RSS {use.rss_first_bytes / 1e6:.0f} to {use.rss_peak_bytes / 1e6:.0f} MB"
    found = [(f"{node} process", text)]
    if use.counted:
        found.append((f"{node} frames", f"{use.frames:,} counted, {use.counted}"))
    if use.waits_per_frame is not None and use.preempted_per_frame is not None:
        found.append(
            (
                f"{node} switches",
                f"{use.waits_per_frame:.1f} voluntary, {use.preempted_per_frame:.1f} involuntary "
                "a frame",
            )
        )
    memory = [
        f"{use.memory_bytes[key] / 1e6:.0f} {words}"
        for key, words in (
            ("before_engine", "before the engine"),
            ("after_engine", "after it"),
            ("after_first_frame", "at the first frame"),
        )
        if key in use.memory_bytes
    ]
    if memory:
        found.append((f"{node} MB", ", ".join(memory)))
    heat = []
    if use.frequency_hz is not None:
        heat.append("{:.2f} to {:.2f} GHz".format(*(hz / 1e9 for hz in use.frequency_hz)))
    if use.temperature_celsius_max is not None:
        heat.append(f"up to {use.temperature_celsius_max:.0f} °C")
    if use.throttled is not None:
        heat.append(
            f"slowed down in {use.throttled} of {use.samples} samples"
            if use.throttled
            else "not slowed down"
        )
    if heat:
        found.append((f"{node} cores", ", ".join(heat)))
    found += [(f"{node} {name}", _gpu_text(gpu)) for name, gpu in use.gpus.items()]
    shown = [e for at, e in enumerate(use.energy) if at == 0 or e.scope != "part"]
    for one in shown:
        known = one.j_per_frame is not None
        of = _ENERGY.get(one.scope, one.scope) if known else "energy"
        found.append((f"{node} {of}"[:16], energy_text(one)))
    return found


def energy_text(energy: Energy) -> str:
    """Joules a frame and how they are known; never a number where there is none."""
    if energy.j_per_frame is None:
        return f"unavailable{f' ({energy.meter})' * bool(energy.meter)}: {energy.reason}"
    ends = ""
    if energy.low is not None and energy.high is not None:
        ends = f" ({energy.low:.3g} to {energy.high:.3g})"
    return f"{energy.j_per_frame:.3g} J a frame over idle{ends}, {energy.how}: {energy.meter}"


def _gpu_text(gpu: GpuUse) -> str:
    parts = []
    if gpu.busy_pct_median is not None:
        parts.append(f"busy {gpu.busy_pct_median:.0f} %")
    if gpu.memory_peak_bytes is not None:
        parts.append(f"{gpu.memory_peak_bytes / 1e6:,.0f} MB")
    if gpu.power_w_median is not None:
        parts.append(f"{gpu.power_w_median:.0f} W")
    if gpu.clock_hz_median is not None:
        parts.append(f"{gpu.clock_hz_median / 1e9:.2f} GHz")
    return ", ".join(parts) or "it tells nothing"
