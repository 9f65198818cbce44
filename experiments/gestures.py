"""Synthetic hand-gesture pictures, rendered from a seed with NumPy alone.

The bones of a posed hand are drawn as rounded capsules into a height map and a coverage map.
Shading comes from the slope of the height map, so folded fingers stay visible in front of the
palm.  Background, clutter, shadow, occlusion, blur and noise then make the picture hard to read.

A picture depends only on ``(GENERATOR_VERSION, seed, index)``.  Edges are anti-aliased by signed
distances and every step is continuous in its inputs, so platforms that round differently agree to
within one or two grey levels.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.hand_pose import GESTURES, HAND_PARTS, Capsule, project, skeleton

GENERATOR_VERSION: Final = 1
SIZE: Final = 128
CLASSES: Final[tuple[str, ...]] = (
    "call",
    "dislike",
    "fist",
    "four",
    "like",
    "ok",
    "one",
    "palm",
    "peace",
    "three",
)
TRAIN_SEED: Final = 20_110
HELD_OUT_SEED: Final = 20_220
CALIBRATION_SEED: Final = 20_330
HELD_OUT_COUNT: Final = 2000

Plane = NDArray[np.float32]
_Y: Final[Plane] = (np.arange(SIZE, dtype=np.float32) + np.float32(0.5))[:, None]
_X: Final[Plane] = _Y.T.copy()


def _colour(rng: np.random.Generator) -> Plane:
    """A random colour, mostly muted, float32 3x1x1 in grey levels."""
    tint = 90.0 if rng.random() < 0.2 else 30.0
    level = rng.uniform(25.0, 230.0) + rng.uniform(-tint, tint, 3)
    return level.astype(np.float32).reshape(3, 1, 1)


def _signed(rng: np.random.Generator, most: float) -> Plane:
    """A random change of colour, the same in all channels but for a tint; float32 3x1x1."""
    change = rng.uniform(-most, most) + rng.uniform(-0.3 * most, 0.3 * most, 3)
    return change.astype(np.float32).reshape(3, 1, 1)


def _skin(rng: np.random.Generator) -> Plane:
    """A skin tone between light and dark, now and then the colour of a glove; float32 3x1x1."""
    if rng.random() < 0.1:
        return _colour(rng)
    t = rng.random()
    light, dark = np.array([240.0, 200.0, 175.0]), np.array([95.0, 60.0, 42.0])
    tone: NDArray[np.float64] = light + t * (dark - light) + rng.uniform(-14.0, 14.0, 3)
    return tone.astype(np.float32).reshape(3, 1, 1)


def _window(c: Capsule, pad: float) -> tuple[slice, slice]:
    """Rows and columns of the picture which the capsule can touch."""
    r = max(c.ra, c.rb) + pad
    x0, x1 = min(c.a[0], c.b[0]) - r, max(c.a[0], c.b[0]) + r
    y0, y1 = min(c.a[1], c.b[1]) - r, max(c.a[1], c.b[1]) + r
    return (
        slice(max(0, math.floor(y0)), min(SIZE, max(0, math.ceil(y1)))),
        slice(max(0, math.floor(x0)), min(SIZE, max(0, math.ceil(x1)))),
    )


def _distance(c: Capsule, rows: slice, cols: slice) -> tuple[Plane, Plane, Plane]:
    """Per pixel: place along the bone (0..1), distance to its axis and radius there (pixels)."""
    dx, dy = c.b[0] - c.a[0], c.b[1] - c.a[1]
    px, py = _X[:, cols] - np.float32(c.a[0]), _Y[rows] - np.float32(c.a[1])
    inverse = 1.0 / max(dx * dx + dy * dy, 1e-3)
    t = np.clip(px * np.float32(dx * inverse) + py * np.float32(dy * inverse), 0.0, 1.0)
    qx, qy = px - t * np.float32(dx), py - t * np.float32(dy)
    return t, np.sqrt(qx * qx + qy * qy), np.float32(c.ra) + t * np.float32(c.rb - c.ra)


def _raster(parts: list[Capsule], floor: float) -> tuple[Plane, Plane, Plane]:
    """Coverage (0..1), height (pixels) and sleeve share (0..1) of the hand, each SIZE x SIZE."""
    cover = np.zeros((SIZE, SIZE), np.float32)
    height = np.full((SIZE, SIZE), floor, np.float32)
    sleeve = np.zeros((SIZE, SIZE), np.float32)
    for c in parts:
        rows, cols = _window(c, 1.0)
        if rows.start >= rows.stop or cols.start >= cols.stop:
            continue
        t, d, r = _distance(c, rows, cols)
        edge = np.clip(r - d + np.float32(0.5), 0.0, 1.0)
        top = np.sqrt(np.maximum(r * r - d * d, 0.0)) + t * np.float32(c.b[2] - c.a[2])
        top += np.float32(c.a[2])
        here = height[rows, cols]
        here += edge * np.maximum(top - here, 0.0)
        np.maximum(cover[rows, cols], edge, out=cover[rows, cols])
        if c.sleeve:
            np.maximum(sleeve[rows, cols], edge, out=sleeve[rows, cols])
    return cover, height, sleeve


def _blur(plane: Plane, passes: int) -> Plane:
    """Repeated 1-2-1 smoothing over the last two axes; the border is repeated."""
    for _ in range(passes):
        for axis in (-1, -2):
            plane = np.moveaxis(plane, axis, -1)
            out = 0.5 * plane
            out[..., 1:] += 0.25 * plane[..., :-1]
            out[..., :-1] += 0.25 * plane[..., 1:]
            out[..., 0] += 0.25 * plane[..., 0]
            out[..., -1] += 0.25 * plane[..., -1]
            plane = np.moveaxis(out, -1, axis)
    return plane


def _smooth_noise(rng: np.random.Generator, cells: int) -> Plane:
    """Bilinear noise in -1..1 from a coarse grid, SIZE x SIZE."""
    grid = rng.uniform(-1.0, 1.0, (cells + 1, cells + 1)).astype(np.float32)
    place = np.arange(SIZE, dtype=np.float32) * np.float32(cells / SIZE)
    low = place.astype(np.intp)
    part = place - low.astype(np.float32)
    tall = grid[low] + part[:, None] * (grid[low + 1] - grid[low])
    wide: Plane = tall[:, low] + part * (tall[:, low + 1] - tall[:, low])
    return wide


def _paint(image: Plane, c: Capsule, colour: Plane, strength: float = 1.0) -> None:
    """Blend a flat capsule into a 3 x SIZE x SIZE picture."""
    rows, cols = _window(c, 1.0)
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return
    _, d, r = _distance(c, rows, cols)
    share = np.clip(r - d + np.float32(0.5), 0.0, 1.0) * np.float32(strength)
    here = image[:, rows, cols]
    here += share * (colour - here)


def _stick(rng: np.random.Generator, length: float, radius: float) -> Capsule:
    """A capsule at a random place and angle, in pixels."""
    x, y = rng.uniform(-5.0, SIZE + 5.0, 2)
    turn = rng.uniform(0.0, math.tau)
    dx, dy = length * math.cos(turn), length * math.sin(turn)
    return Capsule((x, y, 0.0), (x + dx, y + dy, 0.0), radius, radius * rng.uniform(0.6, 1.1))


def _slope(turn: float) -> Plane:
    """A plane rising in direction ``turn``, -0.5..0.5 along the axes, SIZE x SIZE."""
    across, down = np.float32(math.cos(turn) / SIZE), np.float32(math.sin(turn) / SIZE)
    return across * (_X - np.float32(SIZE / 2)) + down * (_Y - np.float32(SIZE / 2))


def _background(rng: np.random.Generator, skin: Plane) -> Plane:
    """Gradient, stripes, blobs and clutter, float32 3 x SIZE x SIZE in grey levels."""
    first, second = _colour(rng), _colour(rng)
    turn = rng.uniform(0.0, math.tau)
    u = _slope(turn)
    image = first + (0.5 + u) * (second - first)
    if rng.random() < 0.4:
        waves, phase = rng.uniform(3.0, 14.0), rng.random()
        wave = (u * np.float32(waves) + np.float32(phase)) * np.float32(math.tau)
        stripe: Plane = np.asarray(np.sin(wave), np.float32)
        image = image + stripe * _signed(rng, 28.0)
    image = image + _smooth_noise(rng, int(rng.integers(3, 14))) * _signed(rng, 40.0)
    image = np.ascontiguousarray(image, np.float32)
    if rng.random() < 0.35:
        x, y, r = rng.uniform(20, 108), rng.uniform(10, 80), rng.uniform(14, 26)
        _paint(
            image,
            Capsule((x, y - 4.0, 0.0), (x, y + 10.0, 0.0), r, 0.8 * r),
            0.9 * skin + rng.uniform(-25.0, 25.0),
        )
    for _ in range(int(rng.integers(0, 9))):
        near_skin = rng.random() < 0.4
        colour = skin * rng.uniform(0.6, 1.2) if near_skin else _colour(rng)
        stick = _stick(rng, rng.uniform(0.0, 45.0), rng.uniform(2.0, 9.0))
        _paint(image, stick, colour.astype(np.float32), rng.uniform(0.5, 1.0))
    return _blur(image, int(rng.integers(0, 4)))


def _shade(rng: np.random.Generator, height: Plane, cover: Plane) -> Plane:
    """Light on the hand as a factor per pixel, SIZE x SIZE: slope, creases, spread."""
    gx, gy = np.zeros_like(height), np.zeros_like(height)
    gx[:, 1:-1] = 0.5 * (height[:, 2:] - height[:, :-2])
    gy[1:-1] = 0.5 * (height[2:] - height[:-2])
    turn, tilt = rng.uniform(0.0, math.tau), rng.uniform(0.25, 0.8)
    lx, ly = math.cos(turn) * tilt, math.sin(turn) * tilt - 0.25
    facing = 1.0 - np.float32(lx) * gx - np.float32(ly) * gy
    facing /= np.sqrt(1.0 + gx * gx + gy * gy)
    crease = np.clip(_blur(height, 3) - height, 0.0, 6.0) * cover
    ambient = rng.uniform(0.45, 0.7)
    light = ambient + (1.0 - ambient) * np.clip(facing, 0.0, 1.4)
    return np.asarray(light * (1.0 - np.float32(0.09) * crease), np.float32)


def _shadow(rng: np.random.Generator, cover: Plane) -> Plane:
    """The hand's outline, softened and moved by up to 7 pixels, SIZE x SIZE in 0..1."""
    down, right = (int(v) for v in rng.integers(0, 15, 2))
    wide = np.zeros((SIZE + 14, SIZE + 14), np.float32)
    wide[down : down + SIZE, right : right + SIZE] = _blur(cover, 4)
    return wide[7 : 7 + SIZE, 7 : 7 + SIZE]


def draw(seed: int, index: int) -> tuple[NDArray[np.uint8], int]:
    """Render one picture.

    Returns the picture, uint8 128x128x3 in RGB order, and its class, an index into ``CLASSES``.
    The class is ``index`` modulo the number of classes, so every prefix is balanced.
    """
    rng = np.random.default_rng([GENERATOR_VERSION, seed, index])
    label = index % len(CLASSES)
    gesture = GESTURES[CLASSES[label]]
    skin = _skin(rng)
    parts = project(rng, skeleton(rng, gesture), gesture.roll, SIZE)
    cover, height, sleeve = _raster(parts, min(c.b[2] for c in parts[:HAND_PARTS]) - 6.0)
    image = _background(rng, skin)

    image *= 1.0 - np.float32(rng.uniform(0.0, 0.45)) * _shadow(rng, cover)
    tone = skin + sleeve * (_colour(rng) - skin)
    tone = tone + _smooth_noise(rng, 10) * np.float32(5.0)
    image += cover * (tone * _shade(rng, height, cover) - image)

    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            bar = _stick(rng, rng.uniform(10.0, 60.0), rng.uniform(1.5, 6.0))
            _paint(image, bar, _colour(rng))
    return _sensor(rng, image), label


def _sensor(rng: np.random.Generator, image: Plane) -> NDArray[np.uint8]:
    """Lighting across the room, blur, contrast and noise; uint8 SIZE x SIZE x 3."""
    turn, drop = rng.uniform(0.0, math.tau), rng.uniform(0.0, 0.8)
    image = image * (1.0 + np.float32(drop) * _slope(turn))
    image = _blur(image, int(rng.integers(0, 4)))
    contrast, light = rng.uniform(0.33, 1.1), rng.uniform(-30.0, 30.0)
    image = (image - 120.0) * np.float32(contrast) + np.float32(120.0 + light)
    # Four random bytes summed are close to a normal number (standard deviation 147.8) and,
    # unlike one, exactly the same everywhere.
    grain = rng.integers(0, 256, (4, 3, SIZE, SIZE), np.uint8).sum(axis=0, dtype=np.int16)
    image = image + (grain.astype(np.float32) - np.float32(510.0)) * np.float32(
        rng.uniform(2.0, 20.0) / 147.8
    )
    levels = np.rint(np.clip(image, 0.0, 255.0)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def write_folder(folder: Path, seed: int, count: int, first: int = 0) -> None:
    """Write pictures ``first`` to ``first + count - 1`` as PNG files, and ``labels.tsv``.

    A marker file, written last, records what the folder holds; a folder whose marker and files
    match is left alone, and one that an interrupted call left behind is written again.
    """
    from PIL import Image

    marker = folder / "complete.json"
    wanted = {"version": GENERATOR_VERSION, "seed": seed, "count": count, "first": first}
    names = [f"{index:06d}.png" for index in range(first, first + count)]
    files = ["labels.tsv", *names]
    if _holds(marker, wanted) and all((folder / name).is_file() for name in files):
        return
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    for stale in folder.glob("[0-9]*.png"):
        stale.unlink()
    lines = ["file\tclass_index\tname"]
    for index, name in zip(range(first, first + count), names, strict=True):
        picture, label = draw(seed, index)
        Image.fromarray(picture).save(folder / name)
        lines.append(f"{name}\t{label}\t{CLASSES[label]}")
    _replace(folder / "labels.tsv", "\n".join(lines) + "\n")
    _replace(marker, json.dumps(wanted) + "\n")


def _holds(marker: Path, wanted: dict[str, int]) -> bool:
    try:
        return bool(json.loads(marker.read_text(encoding="utf-8")) == wanted)
    except (OSError, ValueError):
        return False


def _replace(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    os.replace(fresh, path)
