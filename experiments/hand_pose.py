"""Poses of a three-dimensional hand, and their projection into the picture as capsules.

The hand is a small skeleton: wrist, palm, four fingers of three bones, thumb, forearm.  Everything
here is plain float arithmetic on a few dozen points; `experiments.gestures` turns the projected
bones into pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

Point = tuple[float, float, float]
Thumb = tuple[Point, Point, Point]

# Lengths are in palm lengths (wrist to middle knuckle): x grows away from the thumb, y towards
# the fingertips, z from the palm towards the viewer.
_KNUCKLES: Final[tuple[Point, ...]] = (
    (-0.32, 0.95, 0.0),
    (-0.11, 1.00, 0.0),
    (0.10, 0.96, 0.0),
    (0.29, 0.86, 0.0),
)
_BONES: Final = ((0.45, 0.27, 0.21), (0.49, 0.31, 0.22), (0.45, 0.29, 0.21), (0.36, 0.21, 0.18))
_WIDTHS: Final = (0.112, 0.114, 0.108, 0.094)
_SPLAY: Final = (-9.0, -2.0, 5.0, 14.0)
_STRAIGHT: Final = (6.0, 8.0, 5.0)
_FOLDED: Final = (80.0, 104.0, 58.0)

_OUT: Final[Thumb] = ((-0.47, 0.36, 0.06), (-0.73, 0.58, 0.08), (-0.92, 0.80, 0.08))
_WIDE: Final[Thumb] = ((-0.48, 0.36, 0.10), (-0.80, 0.46, 0.14), (-1.07, 0.53, 0.14))
_ACROSS: Final[Thumb] = ((-0.42, 0.40, 0.22), (-0.27, 0.68, 0.52), (0.02, 0.76, 0.62))
_TUCKED: Final[Thumb] = ((-0.38, 0.40, 0.18), (-0.16, 0.62, 0.30), (0.08, 0.72, 0.30))
_HOLDING: Final[Thumb] = ((-0.37, 0.38, 0.24), (-0.12, 0.58, 0.48), (0.14, 0.68, 0.58))


HAND_PARTS: Final = 21
"""How many of the capsules are the hand itself; the forearm and the sleeve follow them."""


@dataclass(frozen=True)
class Gesture:
    """Resting pose: bend per finger (0 straight, 1 folded), thumb joints, roll in degrees."""

    bends: tuple[float, float, float, float]
    thumb: Thumb
    roll: float = 0.0
    spread: float = 1.0
    ring: bool = False


GESTURES: Final[dict[str, Gesture]] = {
    "call": Gesture((1, 1, 1, 0), _WIDE, spread=1.4),
    "dislike": Gesture((1, 1, 1, 1), _WIDE, roll=78.0),
    "fist": Gesture((1, 1, 1, 1), _ACROSS),
    "four": Gesture((0, 0, 0, 0), _TUCKED),
    "like": Gesture((1, 1, 1, 1), _WIDE, roll=-78.0),
    "ok": Gesture((0, 0, 0, 0), _OUT, ring=True),
    "one": Gesture((0, 1, 1, 1), _ACROSS),
    "palm": Gesture((0, 0, 0, 0), _OUT),
    "peace": Gesture((0, 0, 1, 1), _HOLDING, spread=1.7),
    "three": Gesture((0, 0, 0, 1), _HOLDING, spread=1.3),
}


@dataclass(frozen=True)
class Capsule:
    """A bone from ``a`` to ``b`` with end radii ``ra`` and ``rb`` (palm lengths, then pixels)."""

    a: Point
    b: Point
    ra: float
    rb: float
    sleeve: bool = False


def _wobble(rng: np.random.Generator, sigma: float) -> float:
    """A bounded bell-shaped number; sums of uniforms are the same on every platform."""
    return 2.0 * sigma * (rng.random() + rng.random() + rng.random() - 1.5)


def _between(p: Point, q: Point, t: float) -> Point:
    return (p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1]), p[2] + t * (q[2] - p[2]))


def _finger(
    knuckle: Point, bones: tuple[float, ...], splay: float, angles: list[float], twist: float
) -> list[Point]:
    """Joint positions of a finger; ``twist`` turns its bending plane towards the thumb."""
    s, t = math.radians(splay), math.radians(twist)
    along = (math.sin(s), math.cos(s), 0.0)
    inward = (-math.sin(t) * math.cos(s), math.sin(t) * math.sin(s), math.cos(t))
    joints, total = [knuckle], 0.0
    for length, angle in zip(bones, angles, strict=True):
        total += math.radians(angle)
        c, d = length * math.cos(total), length * math.sin(total)
        x, y, z = joints[-1]
        joints.append(
            (
                x + c * along[0] + d * inward[0],
                y + c * along[1] + d * inward[1],
                z + c * along[2] + d * inward[2],
            )
        )
    return joints


def skeleton(rng: np.random.Generator, gesture: Gesture) -> list[Capsule]:
    """Bones of one hand in palm lengths, before the camera."""
    spread = gesture.spread * rng.uniform(0.6, 1.5)
    thick = rng.uniform(0.9, 1.15)
    parts: list[Capsule] = []
    thumb = [(x + _wobble(rng, 0.03), y + _wobble(rng, 0.03), z) for x, y, z in gesture.thumb]
    for i in range(4):
        bend = gesture.bends[i]
        bend = bend + rng.uniform(0.0, 0.3) * (1.0 - 2.0 * bend)
        angles = [
            s + bend * (f - s) + _wobble(rng, 4.0) for s, f in zip(_STRAIGHT, _FOLDED, strict=True)
        ]
        splay, twist = _SPLAY[i] * spread * (1.0 - 0.7 * bend) + _wobble(rng, 2.0), 0.0
        if gesture.ring and i == 0:
            angles = [a + _wobble(rng, 4.0) for a in (46.0, 62.0, 56.0)]
            twist = rng.uniform(45.0, 62.0)
        joints = _finger(_KNUCKLES[i], _BONES[i], splay, angles, twist)
        if gesture.ring and i == 0:
            x, y, z = joints[-1]
            thumb = [
                (-0.48, 0.38, 0.16),
                (x - 0.08, 0.5 * y + 0.20, 0.3 + 0.2 * z),
                (x - 0.01, y - 0.03, z),
            ]
        width = _WIDTHS[i] * thick
        radii = (1.0, 0.93, 0.87, 0.74)
        parts += [
            Capsule(joints[k], joints[k + 1], width * radii[k], width * radii[k + 1])
            for k in range(3)
        ]
        wrist = (-0.15 + 0.1 * i, 0.04, 0.0)
        parts.append(Capsule(wrist, _KNUCKLES[i], 0.17 * thick, 0.125 * thick))
    root = (-0.20, 0.12, 0.04)
    parts += [
        Capsule(root, thumb[0], 0.19 * thick, 0.145 * thick),
        Capsule(thumb[0], thumb[1], 0.135 * thick, 0.115 * thick),
        Capsule(thumb[1], thumb[2], 0.118 * thick, 0.085 * thick),
        Capsule((-0.24, 0.62, 0.0), _between(root, thumb[0], 0.85), 0.14, 0.12),
        Capsule((0.17, 0.12, 0.04), (0.23, 0.5, 0.03), 0.19 * thick, 0.16 * thick),
    ]
    lean = math.radians(rng.uniform(-22.0, 22.0))
    elbow = (2.4 * math.sin(lean), -2.4 * math.cos(lean), rng.uniform(-0.5, 0.2))
    parts.append(Capsule((0.0, 0.05, 0.0), elbow, 0.21 * thick, 0.33 * thick))
    if rng.random() < 0.5:
        cuff = rng.uniform(0.12, 0.45)
        parts.append(
            Capsule(
                _between((0.0, 0.0, 0.02), elbow, cuff),
                elbow,
                (0.27 + 0.12 * cuff) * thick,
                0.42 * thick,
                sleeve=True,
            )
        )
    return parts


def project(
    rng: np.random.Generator, parts: list[Capsule], roll: float, size: int
) -> list[Capsule]:
    """Turn, mirror, shear and place the bones in the picture; the result is in pixels, y down."""
    yaw, pitch = math.radians(rng.uniform(-37, 37)), math.radians(rng.uniform(-25, 25))
    turn = math.radians(roll + rng.uniform(-28, 28))
    scale, shear = rng.uniform(24.0, 39.0), rng.uniform(-0.12, 0.12)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(turn), math.sin(turn)

    def view(p: Point, r: float) -> tuple[Point, float]:
        x, y, z = p[0], p[1] - 0.8, p[2]
        x, z = cy * x + sy * z, cy * z - sy * x
        y, z = cp * y - sp * z, cp * z + sp * y
        x, y = cr * x - sr * y, sr * x + cr * y
        near = scale * 6.0 / (6.0 - z)
        return (mirror * near * (x + shear * y), -near * y, scale * z), near * r

    seen: list[Capsule] = []
    for c in parts:
        (a, ra), (b, rb) = view(c.a, c.ra), view(c.b, c.rb)
        seen.append(Capsule(a, b, ra, rb, c.sleeve))
    hand = [p for c in seen[:HAND_PARTS] for p in (c.a, c.b)]
    mx = 0.5 * (min(p[0] for p in hand) + max(p[0] for p in hand))
    my = 0.5 * (min(p[1] for p in hand) + max(p[1] for p in hand))
    ox, oy = size / 2 - mx + rng.uniform(-16, 16), size / 2 - my + rng.uniform(-14, 14)
    return [
        Capsule(
            (c.a[0] + ox, c.a[1] + oy, c.a[2]),
            (c.b[0] + ox, c.b[1] + oy, c.b[2]),
            c.ra,
            c.rb,
            c.sleeve,
        )
        for c in seen
    ]
