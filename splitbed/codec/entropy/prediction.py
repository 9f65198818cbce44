"""Learning what predicts a symbol: its neighbours, and other channels at the same place.

Least squares on symbols of calibration frames, by two ways: on the four channels most like each
one, and on all channels of earlier levels. The second explains more where channels are mixtures of
each other, and less where frames are few; frames that were kept aside decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import model as m

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int32]

_ROWS: Final = 20_000
"""Places that weights are learnt from, at most; fewer where channels are many."""
_MOST_ELEMENTS: Final = 8_000_000
_RIDGE: Final = 0.005
_RIDGES: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of all channels: how much of a channel's variance is added to it."""
_TRIED: Final = 32
"""Channels that decide between ways of predicting."""
_NOISE: Final = 1 / 12
"""Variance of rounding: what no prediction can take away."""
_GAIN: Final = 0.02
"""Bits a symbol that all channels must save, for what they cost in time and in the session."""


@dataclass(frozen=True)
class Weights:
    """Of a ContextModel; see there."""

    near: NDArray[np.int16]
    parents: NDArray[np.int16]
    parent_weights: NDArray[np.int16]
    dense: NDArray[np.int16]
    bias: NDArray[np.int32]
    levels: int

    def predicted(self, values: Ints, padded: Ints) -> Ints:
        """What the coder will predict for values [frames, channels, height, width], in 64ths."""
        found = np.empty_like(values)
        frames, channels, height, width = values.shape
        sources = self.dense.shape[1]
        said = np.zeros((channels, frames, height, width), np.int64)
        if sources:
            known = np.moveaxis(values[:, :sources], 1, 0).reshape(sources, -1)
            # Exact: whole numbers of which single precision holds the sums of few, double all.
            product = self.dense.astype(np.float64) @ known.astype(np.float64)
            said = (product.astype(np.int64) >> m.DENSE_SHIFT).reshape(said.shape)
        for channel in range(channels):
            own = said[channel] + self.bias[channel]
            for i, step in enumerate(m.NEAR):
                own += int(self.near[i, channel]) * beside(padded, channel, *step)
            pairs = zip(self.parents[channel], self.parent_weights[channel], strict=True)
            for parent, weight in pairs:
                if weight:
                    own += int(weight) * padded[:, parent, 2:, 2:-1]
            found[:, channel] = own
        return found


def beside(padded: Ints, channel: int, down: int, right: int) -> Ints:
    """The neighbour of every place of a channel: [frames, height, width]."""
    height, width = padded.shape[2] - 2, padded.shape[3] - 3
    return padded[:, channel, 2 + down : 2 + down + height, 2 + right : 2 + right + width]


class _Rows:
    """Some places of all channels, less each channel's mean, and their neighbours."""

    def __init__(self, padded: Ints, frames: NDArray[np.intp], most: int) -> None:
        _, channels, height, width = padded.shape
        height, width = height - 2, width - 3
        places = frames.size * height * width
        rows = np.random.default_rng(0).choice(places, min(places, most), replace=False)
        frame, place = np.divmod(rows, height * width)
        self._padded, self._frame = padded, frames[frame]
        self._y, self._x = 2 + place // width, 2 + place % width
        self.count = rows.size
        self.own = self._at(np.arange(channels - 1), 0, 0)
        self.mean = self.own.mean(axis=1, dtype=np.float64)
        self.own -= self.mean[:, None].astype(np.float32)

    def _at(self, channels: NDArray[np.intp], down: int, right: int) -> Singles:
        y, x = self._y + down, self._x + right
        found: Singles = self._padded[self._frame, channels[:, None], y, x].astype(np.float32)
        return found

    def near(self, channels: NDArray[np.intp]) -> tuple[Singles, Floats]:
        """[channels, 6, rows] less their means, and the means."""
        found = np.stack([self._at(channels, *step) for step in m.NEAR], axis=1)
        mean = found.mean(axis=2, dtype=np.float64)
        return found - mean[:, :, None].astype(np.float32), mean


@dataclass(frozen=True)
class _Solution:
    """Weights as learnt, not rounded, of some channels: [some, 6] and [some, channels]."""

    of: NDArray[np.intp]
    near: Floats
    others: Floats

    def left(self, rows: _Rows) -> float:
        """Bits a symbol of what rows leave unexplained, as of Gaussian noise."""
        near, _ = rows.near(self.of)
        rest = rows.own[self.of] - self.others.astype(np.float32) @ rows.own
        rest -= np.einsum("ki,kir->kr", self.near.astype(np.float32), near)
        variance = np.square(rest).mean(axis=1, dtype=np.float64)
        return float(np.mean(np.log2(variance + _NOISE))) / 2


def _nothing(of: NDArray[np.intp], channels: int) -> _Solution:
    return _Solution(of, np.zeros((of.size, len(m.NEAR))), np.zeros((of.size, channels)))


def learnt(values: Ints, padded: Ints) -> Weights:
    """Weights for values [frames, channels, height, width]; `padded` has zeros around them."""
    frames, channels = values.shape[:2]
    most = max(64, min(_ROWS, _MOST_ELEMENTS // channels))
    every = np.arange(frames)
    kept_aside = every % 4 == 3
    few, all_levels = min(m.LEVELS, channels), min(m.MOST_LEVELS, channels)
    ridge = None
    if kept_aside.any() and channels > m.PARENTS:
        rows, others = (
            _Rows(padded, every[~kept_aside], most),
            _Rows(padded, every[kept_aside], most),
        )
        gram, begins = _gram(rows), m.firsts(channels, few)
        some = np.unique(np.linspace(0, channels - 1, _TRIED).astype(np.intp))
        least = _on_parents(rows, gram, _parents(gram, begins), some).left(others) - _GAIN
        begins = m.firsts(channels, all_levels)
        for tried in _RIDGES:
            left = _on_all(rows, gram, begins, tried, some).left(others)
            if left < least:
                least, ridge = left, tried
    whole, levels = _Rows(padded, every, most), few if ridge is None else all_levels
    gram, begins, all_of_them = _gram(whole), m.firsts(channels, levels), np.arange(channels)
    parents = _parents(gram, begins)
    if ridge is None:
        solution = _on_parents(whole, gram, parents, all_of_them)
        return _rounded(solution, whole, parents, levels, 0)
    sources = min(int(begins[-1]), m.most_sources(channels))
    solution = _on_all(whole, gram, begins, ridge, all_of_them)
    return _rounded(solution, whole, parents, levels, sources)


def _gram(rows: _Rows) -> Floats:
    found: Floats = (rows.own @ rows.own.T).astype(np.float64) / rows.count
    return found


def _parents(gram: Floats, begins: NDArray[np.int64]) -> NDArray[np.int16]:
    """[channels, 4]: those of earlier levels most like each one, and of nobody where none is."""
    channels = begins.size
    scale = np.sqrt(np.diag(gram)) + 1e-6
    like = np.abs(gram / np.outer(scale, scale))
    found = np.full((channels, m.PARENTS), channels, np.int16)
    for channel in range(channels):
        chosen = np.argsort(-like[channel, : begins[channel]], kind="stable")[: m.PARENTS]
        found[channel, : chosen.size] = chosen
    return found


def _on_parents(
    rows: _Rows, gram: Floats, parents: NDArray[np.int16], of: NDArray[np.intp]
) -> _Solution:
    """Of six neighbours and up to four channels."""
    channels = gram.shape[0]
    found = _nothing(of, channels)
    for some in np.array_split(np.arange(of.size), -(-of.size // 64)):
        near, _ = rows.near(of[some])
        for at, beside_it in zip(some, near, strict=True):
            channel = of[at]
            known = parents[channel][parents[channel] < channels]
            seen = np.concatenate([beside_it, rows.own[known]])
            ridge = _RIDGE * (gram[channel, channel] + 1e-3)
            square = (seen @ seen.T).astype(np.float64) / rows.count + ridge * np.eye(len(seen))
            with_own = (seen @ rows.own[channel]).astype(np.float64) / rows.count
            weights = np.linalg.solve(square, with_own)
            found.near[at] = weights[: len(m.NEAR)]
            found.others[at, known] = weights[len(m.NEAR) :]
    return found


def _on_all(
    rows: _Rows, gram: Floats, begins: NDArray[np.int64], ridge: float, of: NDArray[np.intp]
) -> _Solution:
    """Of six neighbours and every channel of earlier levels.

    One system of the channels before serves a whole level; the neighbours, which are each channel's
    own, follow from what it leaves of them (the Schur complement).
    """
    found = _nothing(of, begins.size)
    for begin in np.unique(begins[of]):
        places = np.flatnonzero(begins[of] == begin)
        these = of[places]
        known = min(int(begin), m.most_sources(begins.size))
        near, _ = rows.near(these)
        flat = near.reshape(-1, rows.count)
        variance = gram[these, these]
        square = np.einsum("kir,kjr->kij", near, near).astype(np.float64) / rows.count
        square += (_RIDGE * (variance + 1e-3))[:, None, None] * np.eye(len(m.NEAR))
        wanted = np.einsum("kir,kr->ki", near, rows.own[these]).astype(np.float64) / rows.count
        if known:
            before = gram[:known, :known] + np.diag(ridge * (np.diag(gram)[:known] + 1e-3))
            with_near = (rows.own[:known] @ flat.T).astype(np.float64) / rows.count
            right = np.concatenate([with_near, gram[:known, these]], axis=1)
            solved = np.linalg.solve(before, right)
            of_near = solved[:, : flat.shape[0]].reshape(known, these.size, -1)
            of_own, across = solved[:, flat.shape[0] :], with_near.reshape(known, these.size, -1)
            square -= np.einsum("jki,jkl->kil", across, of_near)
            wanted -= np.einsum("jki,jk->ki", across, of_own)
        found.near[places] = np.linalg.solve(square, wanted[:, :, None])[:, :, 0]
        if known:
            explained = np.einsum("jki,ki->kj", of_near, found.near[places])
            found.others[places, :known] = of_own.T - explained
    return found


def _rounded(
    solution: _Solution, rows: _Rows, parents: NDArray[np.int16], levels: int, sources: int
) -> Weights:
    channels = parents.shape[0]
    near = np.clip(np.rint(solution.near.T * m.ONE), -127, 127).astype(np.int16)
    weights = np.zeros((channels, m.PARENTS), np.int16)
    dense = np.zeros((channels, sources), np.int16)
    if sources:
        fine = m.ONE << m.DENSE_SHIFT
        whole = np.rint(solution.others[:, :sources] * fine)
        dense = np.clip(whole, -m.MOST_DENSE, m.MOST_DENSE).astype(np.int16)
        said = dense.astype(np.float64) @ rows.mean[:sources] / (1 << m.DENSE_SHIFT)
    else:
        known = np.minimum(parents, channels - 1)
        of_parents = np.take_along_axis(solution.others, known.astype(np.int64), axis=1)
        of_parents = np.where(parents < channels, of_parents, 0)
        weights = np.clip(np.rint(of_parents * m.ONE), -127, 127).astype(np.int16)
        said = (weights * rows.mean[known]).sum(axis=1)
    blocks = np.array_split(np.arange(channels), -(-channels // 64))
    beside_mean = np.concatenate([rows.near(block)[1] for block in blocks])
    said = said + np.einsum("ki,ki->k", near.T.astype(np.float64), beside_mean)
    bias = np.rint(rows.mean * m.ONE - said)
    bias = np.clip(bias, -(1 << 20), 1 << 20).astype(np.int32)
    return Weights(near, parents, weights, dense, bias, levels)
