"""How much slower limits make the head: measured before the first frame, not assumed."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from device_node.head import Head
from splitbed.limits import HeldLimits
from splitbed.student import spread95

_ROUNDS: Final = 6
_FEWEST_ROUNDS: Final = 3
_BLOCK_S: Final = 0.1
_PERIODS: Final = 10
"""Of a quota in a block, at least: a shorter run may use what an idle moment has saved."""
_LONGEST_S: Final = 15.0


def limit_facts(held: HeldLimits, head: Head, *, say: bool) -> dict[str, Any]:
    """What this device is held to and what that does to its head, as facts of its host."""
    found = held.facts()
    if not found:
        return {}
    found["slowdown"] = slowdown = measured_slowdown(head, held)
    if slowdown is not None and say:
        sys.stdout.write(f"{slowdown_text(slowdown)}\n")
        sys.stdout.flush()
    return {"limits": found}


def measured_slowdown(head: Head, held: HeldLimits) -> dict[str, Any] | None:
    """Time of an inference under the limits over that without, with a 95 % interval.

    Both take turns (A B B A) on the same session and input; the ratio is the geometric mean over
    the rounds, its interval Student's, on logarithms. None where the device runs nothing.
    """
    if head.engine is None:
        return None
    engine = head.engine
    feeds = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in head.answer.inputs}

    least_s = max(_BLOCK_S, _PERIODS * held.period_s)

    def block() -> float:
        return _seconds(lambda: engine.run(feeds), least_s)

    ratios: list[float] = []
    free_s: list[float] = []
    engine.run(feeds)
    end_s = time.perf_counter() + _LONGEST_S
    try:
        while len(ratios) < _ROUNDS and (
            len(ratios) < _FEWEST_ROUNDS or time.perf_counter() < end_s
        ):
            held.lift()
            free = block()
            held.hold()
            limited = block() + block()
            held.lift()
            free += block()
            ratios.append(limited / free)
            free_s.append(free / 2)
    finally:
        held.hold()
    logs = [math.log(ratio) for ratio in ratios]
    middle, low, high = spread95(logs)
    return {
        "ratio": math.exp(middle),
        "low": math.exp(low),
        "high": math.exp(high),
        "rounds": len(ratios),
        "unlimited_ns": round(1e9 * sorted(free_s)[len(free_s) // 2]),
    }


def slowdown_text(found: dict[str, Any]) -> str:
    """The same in a line."""
    return (
        f"limits: the head takes {found['ratio']:.2f} times as long as without them "
        f"({found['low']:.2f} to {found['high']:.2f}, {found['rounds']} rounds)"
    )


def _seconds(run: Callable[[], object], least_s: float) -> float:
    """Mean time of a run, of as many as fill that time."""
    runs = 0
    start_s = now_s = time.perf_counter()
    while runs == 0 or now_s - start_s < least_s:
        run()
        runs += 1
        now_s = time.perf_counter()
    return (now_s - start_s) / runs
