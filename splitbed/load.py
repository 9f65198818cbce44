"""When frames are due, how late they may be, and when a run has seen enough: as it is asked for.

In the terms of MLPerf's LoadGen (Reddi et al., ISCA 2020, section 3): a load is made by a schedule
that knows nothing of the model. `device_node` carries it out.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from splitbed.errors import UsageError

LoadKind = Literal["single", "closed", "rate", "poisson", "offline"]
Late = Literal["keep", "drop"]

LONGEST_S: Final = 600.0
"""A run with a target (`--until`) ends after this time, unless it is told another."""

_LARGEST_FPS: Final = 100_000.0
SHARES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
"""The percentiles that a run may stop for, and that a report gives."""

LoadText = Annotated[
    str,
    Meta(
        description="when frames are due. single: one after another. closed: --window of them "
        "always in flight (single, where that is 1). rate:30: 30 a second, whatever becomes of "
        "them. poisson:30: 30 a second on average, at random. offline: all at once. With a rate, "
        "too, --window bounds what is on the way, and so the rate that can be kept up (default: "
        "single, or closed with a --window)"
    ),
]
DeadlineMs = Annotated[
    Annotated[float, Meta(gt=0, le=3_600_000)] | None,
    Meta(description="a frame that takes longer, from when it was due, is too late"),
]
LateChoice = Annotated[
    Late | None,
    Meta(
        description="what becomes of frames that are too late. keep: finished, and marked. drop: "
        "not sent any more (default: keep)"
    ),
]
MinSeconds = Annotated[
    Annotated[float, Meta(ge=0, le=86_400)] | None,
    Meta(description="go on for so long at least, and for --frames"),
]
UntilText = Annotated[
    str,
    Meta(
        description="go on until a percentile is known, as p99:5%: until the 95 % interval of the "
        "99th percentile lies within 5 % of it"
    ),
]
MaxFrames = Annotated[
    Annotated[int, Meta(ge=1)] | None, Meta(description="with --min-s or --until: no more frames")
]
MaxSeconds = Annotated[
    Annotated[float, Meta(gt=0, le=86_400)] | None,
    Meta(
        description="no frame is begun, or due, after so many seconds "
        f"(default with --until: {LONGEST_S:g})"
    ),
]


class Target(msgspec.Struct, frozen=True):
    """The 95 % interval of a percentile of a frame's total time is to be this narrow."""

    share: float
    within: float
    """Both ends are to lie within this part of the percentile, as 0.05."""


class LoadPlan(msgspec.Struct, frozen=True):
    """What a device does, decided and checked before it starts."""

    kind: LoadKind = "single"
    rate_fps: float | None = None
    """Frames a second, for `rate` and `poisson`."""
    seed: int = 0
    window: int = 1
    deadline_ns: int | None = None
    drop: bool = False
    """Frames that missed the deadline are not sent."""
    frames: int = 1
    """Measured frames, at least; exactly so many where nothing else is asked for."""
    min_s: float | None = None
    until: Target | None = None
    max_frames: int | None = None
    max_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Frames are due by a clock of their own, however the nodes fare."""
        return self.kind in ("rate", "poisson", "offline")

    @property
    def is_serial(self) -> bool:
        """One frame after another: nothing overlaps."""
        return not self.is_open and self.window == 1

    @property
    def is_plain(self) -> bool:
        """So many frames in closed loop, without a deadline or a rule."""
        plain = LoadPlan("closed", seed=self.seed, window=self.window, frames=self.frames)
        return self in (plain, msgspec.structs.replace(plain, kind="single"))

    def facts(self) -> dict[str, Any]:
        """The load for a manifest."""
        return {
            "kind": self.kind,
            "rate_fps": self.rate_fps,
            "seed": self.seed if self.kind == "poisson" else None,
            "window": self.window,
            "deadline_ms": None if self.deadline_ns is None else self.deadline_ns / 1e6,
            "late": None if self.deadline_ns is None else "drop" if self.drop else "keep",
            "rule": {
                "frames": self.frames,
                "min_s": self.min_s,
                "until": None if self.until is None else msgspec.to_builtins(self.until),
                "max_frames": self.max_frames,
                "max_s": self.max_s,
            },
        }


class LoadAsked(Protocol):
    """Options that say what load is wanted, as a person gave them."""

    @property
    def load(self) -> str:
        """`--load`."""

    @property
    def window(self) -> int:
        """`--window`."""

    @property
    def seed(self) -> int:
        """`--seed`."""

    @property
    def deadline_ms(self) -> float | None:
        """`--deadline-ms`."""

    @property
    def late(self) -> Late | None:
        """`--late`."""

    @property
    def min_s(self) -> float | None:
        """`--min-s`."""

    @property
    def until(self) -> str:
        """`--until`."""

    @property
    def max_frames(self) -> int | None:
        """`--max-frames`."""

    @property
    def max_s(self) -> float | None:
        """`--max-s`."""


def plan_load(asked: LoadAsked, frames: int) -> LoadPlan:
    """The load that options ask for, with `frames` to measure at least.

    UsageError for what cannot be read and for options that contradict each other.
    """
    kind, rate_fps = _load(asked.load, asked.window)
    until = _target(asked.until) if asked.until else None
    plan = LoadPlan(
        kind=kind,
        rate_fps=rate_fps,
        seed=asked.seed,
        window=asked.window,
        deadline_ns=None if asked.deadline_ms is None else round(asked.deadline_ms * 1e6),
        drop=asked.late == "drop",
        frames=frames,
        min_s=asked.min_s,
        until=until,
        max_frames=asked.max_frames,
        max_s=LONGEST_S if until is not None and asked.max_s is None else asked.max_s,
    )
    _check(plan, asked)
    return plan


def _check(plan: LoadPlan, asked: LoadAsked) -> None:
    if plan.kind == "single" and plan.window > 1:
        raise UsageError(
            f"--load single has one frame in flight, and --window says {plan.window}: leave out "
            "one of them, or use --load closed"
        )
    if asked.late is not None and plan.deadline_ns is None:
        raise UsageError(
            f"--late {asked.late} says what becomes of late frames: say when they are late with "
            "--deadline-ms, too"
        )
    if plan.kind == "offline":
        for flag, value in (
            ("--deadline-ms", asked.deadline_ms),
            ("--min-s", asked.min_s),
            ("--until", asked.until or None),
            ("--max-frames", asked.max_frames),
            ("--max-s", asked.max_s),
        ):
            if value is not None:
                raise UsageError(
                    f"--load offline has all --frames due at once, and {flag} has no meaning "
                    "there: leave it out, or use another load"
                )
    if plan.max_frames is not None and plan.min_s is None and plan.until is None:
        raise UsageError(
            "--max-frames bounds a run that goes on for --min-s or --until: give one of them, or "
            "--frames alone"
        )
    if plan.max_frames is not None and plan.max_frames < plan.frames:
        raise UsageError(
            f"--max-frames {plan.max_frames} is less than the {plan.frames} frames that are "
            "wanted: raise it, or give fewer --frames"
        )
    if plan.min_s is not None and plan.max_s is not None and plan.max_s < plan.min_s:
        raise UsageError(
            f"--max-s {plan.max_s:g} ends a run before its --min-s {plan.min_s:g}: raise it"
        )


def _load(text: str, window: int) -> tuple[LoadKind, float | None]:
    kind, colon, number = text.partition(":")
    if not text:
        return ("closed" if window > 1 else "single"), None
    if kind in ("rate", "poisson"):
        rate = _number(number)
        if not 0 < rate <= _LARGEST_FPS:
            raise UsageError(
                f"--load {text}: give frames a second after a colon, as in {kind}:30, up to "
                f"{_LARGEST_FPS:,.0f}"
            )
        return ("rate" if kind == "rate" else "poisson"), rate
    if text == "closed" and window == 1:
        return "single", None  # the same by another name
    for known in ("single", "closed", "offline"):
        if text == known:
            return known, None
    raise UsageError(
        f"--load {text}: choose from single, closed, rate:FPS, poisson:FPS and offline"
        + (
            f"; {kind} takes nothing after a colon"
            if colon and kind in ("single", "closed")
            else ""
        )
    )


def _target(text: str) -> Target:
    name, _, width = text.partition(":")
    within = _number(width.removesuffix("%")) if width.endswith("%") else math.nan
    if name not in SHARES or not 0.1 <= within <= 100:
        raise UsageError(
            f"--until {text}: write a percentile and how near its interval is to be, as p99:5%; "
            f"percentiles are {', '.join(SHARES)}, and 0.1 to 100 % is near"
        )
    return Target(SHARES[name], within / 100)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
