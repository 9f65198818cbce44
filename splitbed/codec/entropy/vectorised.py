"""The entropy coder in numpy: what runs where no C compiler was at hand, and the other's twin.

A step works on as many symbols as there are lanes, or as a wavefront holds; no step is a symbol.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import model as m
from splitbed.codec.entropy.counts import count_at, counted
from splitbed.codec.entropy.model import ChannelModel, ContextModel
from splitbed.codec.entropy.tables import PRECISION, TOTAL, Tables
from splitbed.codec.layout import wavefronts
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer

Ints = NDArray[np.int64]
Symbols = NDArray[np.uint8]

_COUNT_BYTES: Final = 5
DAMAGED: Final = "an entropy-coded tensor ends too early, or does not end where it should"


def encode_channels(model: ChannelModel, symbols: Symbols, lanes: int) -> bytes:
    """Symbols [channels, any] to bytes."""
    table = np.repeat(model.table_of.astype(np.int64), symbols.size // model.channels)
    return assembled(b"", *put(model.tables, table, symbols.reshape(-1).astype(np.int64), lanes))


def decode_channels(model: ChannelModel, payload: Buffer, each: int, lanes: int) -> Symbols:
    """Symbols [channels, each] again."""
    reader = Reader(model.tables, payload, lanes, most_escapes=0)
    table = np.repeat(model.table_of.astype(np.int64), each)
    found = reader.take(table)
    reader.end()
    return found.astype(np.uint8).reshape(model.channels, each)


def encode_contexts(model: ContextModel, symbols: Symbols, lanes: int) -> bytes:
    """Symbols [channels, height, width] to bytes."""
    channels, height, width = symbols.shape
    values = _padded(symbols.astype(np.int64) - model.zero)
    predicted = model.bias[:, None, None] + _weighted(values, model.near)
    for slot in range(m.PARENTS):
        parent = values[model.parents[:, slot], 2:, 2:-1]
        predicted += model.parent_weights[:, slot, None, None] * parent
    if model.sources:
        sources = values[: model.sources, 2:, 2:-1].reshape(model.sources, -1)
        predicted += _from_all(model.dense, sources).reshape(predicted.shape)
    predicted = _within_range(model, predicted)
    residual = _padded(residual_of(values[:-1, 2:, 2:-1], predicted))
    spread = model.scale[:, None, None] + _spread(model, _shifted(residual), predicted)
    around = sum(residual[model.parents[:, slot], 2:, 2:-1] for slot in range(m.PARENTS))
    table, base = _chosen(model, spread + model.scale_weights[2] * around, predicted)
    coded = symbols.astype(np.int64) - base + model.window
    order = _order(channels, height, width, model.levels)
    coded, table = coded.reshape(-1)[order], table.reshape(-1)[order]
    escaped = (coded < 0) | (coded > 2 * model.window)
    coded[escaped] = model.tables.entries - 1
    escapes = symbols.reshape(-1)[order][escaped].tobytes()
    return assembled(escapes, *put(model.tables, table, coded, lanes))


def decode_contexts(
    model: ContextModel, payload: Buffer, height: int, width: int, lanes: int
) -> Symbols:
    """Symbols [channels, height, width] again."""
    channels = model.channels
    reader = Reader(model.tables, payload, lanes, most_escapes=channels * height * width)
    row = width + 3
    values = np.zeros(((height + 2) * row, channels + 1), np.int64)
    residual = np.zeros_like(values)
    near = model.near.astype(np.int64)
    parents, weights = model.parents, model.parent_weights.astype(np.int64)
    for at in _wavefronts(height, width):
        for level in range(model.levels):
            these = slice(level * channels // model.levels, (level + 1) * channels // model.levels)
            if these.start == these.stop:
                continue
            predicted = np.tile(model.bias[these].astype(np.int64), (len(at), 1))
            for weight, (down, right) in zip(near, m.NEAR, strict=True):
                predicted += weight[these] * values[at + down * row + right, these]
            around = np.zeros_like(predicted)
            for slot in range(m.PARENTS):
                parent = parents[these, slot]
                predicted += weights[these, slot] * values[at[:, None], parent]
                around += residual[at[:, None], parent]
            known = min(these.start, model.sources)
            if known:
                predicted += _from_all(model.dense[these, :known], values[at, :known].T).T
            predicted = _within_range(model, predicted)
            beside = [residual[at + down * row + right, these] for down, right in m.NEAR[:4]]
            spread = model.scale[these] + _spread(model, beside, predicted)
            table, base = _chosen(model, spread + model.scale_weights[2] * around, predicted)
            coded = reader.take(table.reshape(-1)).reshape(table.shape)
            found = coded + base - model.window
            escaped = coded == model.tables.entries - 1
            if escaped.any():
                found[escaped] = reader.escapes(int(np.count_nonzero(escaped)))
            if int(found.min()) < 0 or int(found.max()) >= model.alphabet:
                raise PayloadInvalid(DAMAGED)
            values[at, these] = found - model.zero
            residual[at, these] = residual_of(found - model.zero, predicted)
    reader.end()
    inner = values.reshape(height + 2, row, channels + 1)[2:, 2:-1, :-1] + model.zero
    return np.ascontiguousarray(inner.transpose(2, 0, 1)).astype(np.uint8)


# --------------------------------------------------------------------------- what a symbol looks at


def _padded(inner: Ints) -> Ints:
    """With zeros around, and one channel of zeros at the end."""
    return np.pad(inner, ((0, 1), (2, 0), (2, 1)))


def _shifted(padded: Ints) -> list[Ints]:
    """The residuals W, N, NW, NE of every place, [channels, height, width] each."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 3
    return [
        padded[:-1, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
        for down, right in m.NEAR[:4]
    ]


def _weighted(padded: Ints, near: NDArray[np.int16]) -> Ints:
    height, width = padded.shape[1] - 2, padded.shape[2] - 3
    found = np.zeros((near.shape[1], height, width), np.int64)
    for weight, (down, right) in zip(near, m.NEAR, strict=True):
        found += (
            weight[:, None, None]
            * padded[:-1, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
        )
    return found


def _from_all(dense: NDArray[np.int16], values: Ints) -> Ints:
    """[channels, sources] times [sources, places].

    Whole numbers, which double precision adds up without an error in any order.
    """
    # On ARM matrix products raise floating-point flags for lanes that hold nothing.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        found = (dense.astype(np.float64) @ values.astype(np.float64)).astype(np.int64)
    return found >> m.DENSE_SHIFT


def _within_range(model: ContextModel, predicted: Ints) -> Ints:
    low, high = -model.zero * m.ONE, (model.alphabet - 1 - model.zero) * m.ONE
    return np.clip(predicted, low, high)


def residual_of(values: NDArray[Any], predicted: NDArray[Any]) -> NDArray[Any]:
    """How far values are from what was predicted, in 16ths, up to RESIDUAL_MOST."""
    found: NDArray[Any] = np.minimum(
        np.abs(values * m.ONE - predicted) >> m.RESIDUAL_SHIFT, m.RESIDUAL_MOST
    )
    return found


def _spread(model: ContextModel, beside: list[Ints], predicted: Ints) -> Ints:
    """Without the channel's own and the parents' share."""
    west, north, north_west, north_east = beside
    first, second, _, magnitude = model.scale_weights
    found: Ints = (
        first * (west + north)
        + second * (north_west + north_east)
        + magnitude * (np.abs(predicted) >> m.RESIDUAL_SHIFT)
    )
    return found


def _chosen(model: ContextModel, spread: Ints, predicted: Ints) -> tuple[Ints, Ints]:
    """Table, and the symbol that is predicted, of every place."""
    kind = np.clip(half_octaves(spread) - model.first_class, 0, model.classes - 1)
    return table_and_base(kind, predicted, model.zero)


def half_octaves(spread: NDArray[Any]) -> Ints:
    """Twice the binary logarithm of the spread, rounded down."""
    mantissa, exponent = np.frexp((np.maximum(spread, 0) + 4).astype(np.float64))  # exact
    found: Ints = 2 * (exponent.astype(np.int64) - 1) + ((mantissa * 256).astype(np.int64) >= 181)
    return found


def table_and_base(kind: Ints, predicted: NDArray[Any], zero: int) -> tuple[Ints, Ints]:
    """Table, and the symbol that is predicted, from a class of spread and a predicted value."""
    quarters = (predicted + m.ONE // m.PHASES // 2) // (m.ONE // m.PHASES)
    base = quarters // m.PHASES + zero
    floor = np.clip(base, 0, m.FLOORS - 1)
    return (kind * m.PHASES + quarters % m.PHASES) * m.FLOORS + floor, base


@lru_cache(maxsize=16)
def _wavefronts(height: int, width: int) -> tuple[Ints, ...]:
    """Places of each wavefront, as indices into the padded plane, top row first."""
    return tuple(
        (rows + 2) * (width + 3) + columns + 2 for rows, columns in wavefronts(height, width)
    )


@lru_cache(maxsize=16)
def _order(channels: int, height: int, width: int, levels: int) -> Ints:
    """The order of coding, as indices into [channels, height, width]."""
    found = []
    for places in _wavefronts(height, width):
        rows, columns = np.divmod(places, width + 3)
        flat = (rows - 2) * width + columns - 2
        for level in range(levels):
            these = np.arange(level * channels // levels, (level + 1) * channels // levels)
            found.append((these[None, :] * (height * width) + flat[:, None]).reshape(-1))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


# --------------------------------------------------------------------------------- the coder itself


def put(tables: Tables, table: Ints, entry: Ints, lanes: int) -> tuple[Ints, Ints]:
    """States and words of all symbols; the last are coded first."""
    cumulative = tables.cumulative.astype(np.int64).reshape(-1)
    at = table * (tables.entries + 1) + entry
    starts, sizes = cumulative[at], cumulative[at + 1] - cumulative[at]
    states = np.full(lanes, m.LOWEST, np.int64)
    words: list[Ints] = []
    for first in reversed(range(0, table.size, lanes)):
        size, start = sizes[first : first + lanes], starts[first : first + lanes]
        state = states[: size.size]
        over = state >= size << (32 - PRECISION)
        words.append(state[over] & 0xFFFF)
        state = np.where(over, state >> 16, state)
        share, rest = np.divmod(state, size)
        states[: size.size] = (share << PRECISION) + rest + start
    return states, np.concatenate(words[::-1]) if words else np.zeros(0, np.int64)


def assembled(escapes: bytes, states: Ints, words: Ints) -> bytes:
    """The number of escapes, they themselves, states and words in one piece."""
    stream = states.astype("<u4").tobytes(), words.astype("<u2").tobytes()
    return b"".join((counted(len(escapes)), escapes, *stream))


class Reader:
    """Takes symbols out of a payload in the order in which they were put in."""

    def __init__(self, tables: Tables, payload: Buffer, lanes: int, most_escapes: int) -> None:
        data = memoryview(payload)
        try:
            found = count_at(data, 0, _COUNT_BYTES)
        except ValueError as error:
            raise PayloadInvalid(DAMAGED) from error
        if found is None:
            raise PayloadInvalid(DAMAGED)
        count, at = found
        words_at = at + count + 4 * lanes
        if count > most_escapes or len(data) < words_at or (len(data) - words_at) % 2:
            raise PayloadInvalid(DAMAGED)
        self._escapes = np.frombuffer(data, np.uint8, count, at)
        self._states = np.frombuffer(data, "<u4", lanes, at + count).astype(np.int64)
        self._words = np.frombuffer(data, "<u2", -1, words_at).astype(np.int64)
        if int(self._states.min()) < m.LOWEST:
            raise PayloadInvalid(DAMAGED)
        self._entries = tables.entries
        self._cumulative = tables.cumulative.astype(np.int64).reshape(-1)
        rows = np.arange(tables.frequencies.shape[0], dtype=np.int64)[:, None]
        self._starts = (tables.cumulative[:, :-1] + (rows << PRECISION)).reshape(-1)
        self._lane = self._word = self._escape = 0

    def take(self, table: Ints) -> Ints:
        """The next entries, one for each table given."""
        found = np.empty(table.size, np.int64)
        lanes, done = self._states.size, 0
        while done < table.size:
            count = min(lanes - self._lane, table.size - done)
            mine = slice(self._lane, self._lane + count)
            state, these = self._states[mine], table[done : done + count]
            slot = state & (TOTAL - 1)
            index = np.searchsorted(self._starts, slot + (these << PRECISION), side="right") - 1
            entry = index - these * self._entries
            at = index + these
            start = self._cumulative[at]
            state = (self._cumulative[at + 1] - start) * (state >> PRECISION) + slot - start
            low = np.flatnonzero(state < m.LOWEST)
            if low.size:
                words = self._words[self._word : self._word + low.size]
                if words.size < low.size:
                    raise PayloadInvalid(DAMAGED)
                self._word += low.size
                state[low] = state[low] << 16 | words
            self._states[mine] = state
            found[done : done + count] = entry
            done += count
            self._lane = (self._lane + count) % lanes
        return found

    def escapes(self, count: int) -> NDArray[np.uint8]:
        """The next symbols that go as themselves."""
        found = self._escapes[self._escape : self._escape + count]
        if found.size < count:
            raise PayloadInvalid(DAMAGED)
        self._escape += count
        return found

    def end(self) -> None:
        """Raise PayloadInvalid unless everything was used up."""
        if (
            self._word != self._words.size
            or self._escape != self._escapes.size
            or bool(np.any(self._states != m.LOWEST))
        ):
            raise PayloadInvalid(DAMAGED)
