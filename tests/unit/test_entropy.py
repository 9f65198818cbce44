"""The entropy coder: lossless, the same bytes in C and in numpy, near to what its model allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitbed.codec.entropy import (
    ChannelCoder,
    ChannelModel,
    ContextCoder,
    ContextModel,
    Tables,
    fit_channels,
    fit_contexts,
    native,
    vectorised,
)
from splitbed.codec.entropy import coder as chosen
from splitbed.codec.entropy import model as m
from splitbed.codec.entropy.tables import TOTAL
from splitbed.codec.learning import MOST_MODEL_BYTES
from splitbed.codec.uniform import Uniform
from splitbed.errors import PayloadInvalid, UsageError
from tests.unit.calibrations import maps, smooth

Symbols = NDArray[np.uint8]

built = pytest.mark.skipif(native.load() is None, reason="the coder in C was not built here")


def mixtures(seed: int, frames: int, shape: tuple[int, int, int]) -> Symbols:
    """Symbols of channels that are mixtures of a few, as a pointwise convolution makes them."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    few: Any = np.stack([smooth(rng, (6, height, width)) for _ in range(frames)])
    mixed: Any = np.einsum("ck,fkyx->fcyx", np.asarray(rng.normal(0, 2, (channels, 6))), few)
    found: Symbols = (np.clip(np.rint(mixed), -30, 30) + 30).astype(np.uint8)
    return found


def models(symbols: Symbols, alphabet: int, zero: int) -> tuple[ContextModel, ChannelModel]:
    flat = symbols.reshape(*symbols.shape[:2], -1)
    return fit_contexts(symbols, alphabet, zero), fit_channels(flat, alphabet)


def both(
    coder: ContextCoder | ChannelCoder,
    model: ContextModel | ChannelModel,
    frame: Symbols,
    lanes: int,
) -> bytes:
    """One frame there and back in numpy, and by whatever runs here; its payload."""
    _, height, width = frame.shape
    if isinstance(model, ContextModel):
        payload = vectorised.encode_contexts(model, frame, lanes)
        again = vectorised.decode_contexts(model, payload, height, width, lanes)
    else:
        payload = vectorised.encode_channels(model, frame, lanes)
        again = vectorised.decode_channels(model, payload, height * width, lanes)
    np.testing.assert_array_equal(again.reshape(frame.shape), frame)
    assert coder.encode(frame) == payload
    np.testing.assert_array_equal(coder.decode(payload).reshape(frame.shape), frame)
    return payload


@built
@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shape=st.tuples(st.integers(1, 13), st.integers(1, 9), st.integers(1, 9)),
    step=st.sampled_from([0.05, 0.3, 1.0, 4.0]),
    rectified=st.booleans(),
    lanes=st.sampled_from([1, 2, 16, 256]),
)
def test_any_maps_come_back_and_both_make_the_same_bytes(
    seed: int, shape: tuple[int, int, int], step: float, rectified: bool, lanes: int
) -> None:
    symbols, alphabet, zero = maps(seed, 4, shape, step, rectified)
    contexts, channels = models(symbols[:3], alphabet, zero)
    _, height, width = shape
    noise = np.random.default_rng(seed).integers(0, alphabet, shape).astype(np.uint8)
    for frame in (symbols[3], noise, np.zeros(shape, np.uint8)):
        both(ContextCoder(contexts, height, width, lanes), contexts, frame, lanes)
        both(ChannelCoder(channels, height * width, lanes), channels, frame, lanes)


def test_without_c_it_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols, alphabet, zero = maps(5, 3, (6, 5, 7), 0.3, True)
    contexts, channels = models(symbols, alphabet, zero)
    with_c = ContextCoder(contexts, 5, 7, 4).encode(symbols[0])
    monkeypatch.setenv(chosen.CHOICE, "numpy")
    assert chosen.implementation() == "numpy"
    coder = ContextCoder(contexts, 5, 7, 4)
    assert coder.encode(symbols[0]) == with_c
    np.testing.assert_array_equal(coder.decode(with_c), symbols[0])
    by_channel = ChannelCoder(channels, 35, 4)
    np.testing.assert_array_equal(
        by_channel.decode(by_channel.encode(symbols[0])), symbols[0].reshape(6, 35)
    )


def ideal_bits(tables: Tables, table: Any, entry: Any) -> float:
    """What these entries cost by their tables, without any coder."""
    share = tables.frequencies[table, entry].astype(np.float64) / TOTAL
    return float(-np.log2(share).sum())


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("step", [0.2, 1.0])
def test_within_three_percent_of_the_tables_own_code_length(rectified: bool, step: float) -> None:
    symbols, alphabet, zero = maps(2, 9, (32, 14, 14), step, rectified)
    _, model = models(symbols[:8], alphabet, zero)
    frame = symbols[8]
    table = np.broadcast_to(model.table_of[:, None, None], frame.shape)
    ideal = ideal_bits(model.tables, table, frame)
    lanes = 8
    payload = ChannelCoder(model, 14 * 14, lanes).encode(frame)
    assert 8 * len(payload) <= 1.03 * ideal + 8


def test_contexts_save_what_neighbours_tell() -> None:
    symbols, alphabet, zero = maps(3, 12, (24, 16, 16), 0.3, True)
    contexts, channels = models(symbols[:10], alphabet, zero)
    frame = symbols[10]
    by_context = len(ContextCoder(contexts, 16, 16, 8).encode(frame))
    by_channel = len(ChannelCoder(channels, 256, 8).encode(frame))
    assert by_context < 0.9 * by_channel


def test_mixtures_are_predicted_from_all_channels_and_others_are_not() -> None:
    symbols = mixtures(0, 16, (32, 9, 9))
    model = fit_contexts(symbols[:12], 61, 30)
    assert model.sources == 30  # all channels but those of the last level
    payload = both(ContextCoder(model, 9, 9, 4), model, symbols[12], 4)
    few = fit_contexts(symbols[:3], 61, 30)  # too few frames to keep some aside
    assert few.sources == 0
    assert len(payload) < 0.8 * len(ContextCoder(few, 9, 9, 4).encode(symbols[12]))
    noise = np.random.default_rng(0).integers(0, 16, (12, 32, 9, 9)).astype(np.uint8)
    assert fit_contexts(noise, 16, 3).sources == 0


@built
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shape=st.tuples(st.integers(5, 40), st.integers(1, 7), st.integers(1, 7)),
)
def test_any_mixtures_come_back_and_both_make_the_same_bytes(
    seed: int, shape: tuple[int, int, int]
) -> None:
    symbols = mixtures(seed, 9, shape)
    model = fit_contexts(symbols[:8], 61, 30)
    noise = np.random.default_rng(seed).integers(0, 61, shape).astype(np.uint8)
    for frame in (symbols[8], noise):
        both(ContextCoder(model, *shape[1:], 4), model, frame, 4)


def test_dead_channels_cost_nothing() -> None:
    """So there is no stage that takes them out."""
    symbols, alphabet, zero = maps(9, 9, (12, 10, 10), 0.3, True)
    dead = np.full((9, 12, 10, 10), zero, np.uint8)
    both_kinds = np.concatenate([symbols, dead], axis=1)
    alone, alone_by_channel = models(symbols[:8], alphabet, zero)
    with_dead, by_channel = models(both_kinds[:8], alphabet, zero)
    wanted = len(ContextCoder(alone, 10, 10, 1).encode(symbols[8]))
    assert len(ContextCoder(with_dead, 10, 10, 1).encode(both_kinds[8])) < 1.02 * wanted + 8
    wanted = len(ChannelCoder(alone_by_channel, 100, 1).encode(symbols[8]))
    assert len(ChannelCoder(by_channel, 100, 1).encode(both_kinds[8])) < 1.02 * wanted + 8


def test_noise_costs_no_more_than_a_little() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 16, (6, 8, 10, 10)).astype(np.uint8)
    contexts, channels = models(noise[:5], 16, 3)
    flat_bytes = noise[5].size * 4 / 8
    assert len(ContextCoder(contexts, 10, 10, 1).encode(noise[5])) < 1.15 * flat_bytes
    assert len(ChannelCoder(channels, 100, 1).encode(noise[5])) < 1.05 * flat_bytes


def test_far_symbols_go_as_themselves() -> None:
    """A window of differences that most are within; the others come back, too."""
    symbols, alphabet, zero = maps(4, 5, (5, 6, 6), 0.05, False)
    model = fit_contexts(np.full_like(symbols, zero), alphabet, zero)
    assert model.window < alphabet - 1
    both(ContextCoder(model, 6, 6, 2), model, symbols[0], 2)


# Payloads and models of others.


def outcome(decode: Any, payload: bytes) -> bytes | None:
    try:
        return bytes(np.ascontiguousarray(decode(payload)).tobytes())
    except PayloadInvalid:
        return None


@built
def test_both_judge_damage_alike() -> None:
    symbols, alphabet, zero = maps(6, 5, (7, 5, 6), 0.1, True)
    contexts, channels = models(symbols[:4], alphabet, zero)
    model = fit_contexts(np.zeros_like(symbols), alphabet, zero)  # escapes
    rng = np.random.default_rng(0)
    refused = 0
    for context in (contexts, model):
        coder = ContextCoder(context, 5, 6, 4)
        by_channel = ChannelCoder(channels, 30, 4)
        pairs: list[tuple[Any, Any, bytes]] = [
            (
                coder.decode,
                lambda p, c=context: vectorised.decode_contexts(c, p, 5, 6, 4),
                coder.encode(symbols[4]),
            ),
            (
                by_channel.decode,
                lambda p: vectorised.decode_channels(channels, p, 30, 4),
                by_channel.encode(symbols[4]),
            ),
        ]
        for here, there, payload in pairs:
            for number in range(1500):
                data = bytearray(payload)
                for _ in range(int(rng.integers(1, 3))):
                    data[int(rng.integers(len(data)))] = int(rng.integers(256))
                if number % 3 == 0:
                    data = data[: int(rng.integers(len(data) + 1))]
                found = outcome(here, bytes(data))
                assert found == outcome(there, bytes(data))
                refused += found is None
    assert refused > 5000


@pytest.mark.parametrize("channels", [1, 64, 1024, 2048, 4096])
def test_the_largest_model_fits_into_a_session(channels: int) -> None:
    sources = m.most_sources(channels)
    classes = m.MOST_CLASSES * m.PHASES * m.FLOORS
    rest = channels * (4 + 4 + len(m.NEAR) + 3 * m.PARENTS) + 2 * classes * (2 * m.MOST_WINDOW + 2)
    assert 2 * channels * sources + rest + 100 < MOST_MODEL_BYTES


def test_models_survive_packing() -> None:
    symbols, alphabet, zero = maps(7, 4, (9, 5, 6), 0.3, False)
    contexts, channels = models(symbols, alphabet, zero)
    dense = fit_contexts(mixtures(1, 8, (20, 5, 6)), 61, 30)
    assert dense.sources
    pairs = ((contexts, ContextModel), (dense, ContextModel), (channels, ChannelModel))
    for model, kind in pairs:
        packed = model.packed()
        assert kind.unpacked(packed).packed() == packed
        for wrong in (b"", packed[:-1], packed + b"\0", bytes(len(packed)), packed[:7]):
            with pytest.raises(UsageError):
                kind.unpacked(wrong)


@pytest.mark.parametrize("kind", ["context", "dense", "channel"])
def test_no_damaged_model_is_taken_that_would_read_elsewhere(kind: str) -> None:
    """What is taken codes and decodes without an error of memory, whatever its numbers are."""
    symbols, alphabet, zero = maps(8, 4, (9, 5, 6), 0.3, True)
    contexts, channels = models(symbols, alphabet, zero)
    if kind == "dense":
        symbols, alphabet, zero = mixtures(2, 9, (9, 5, 6)), 61, 30
        contexts = fit_contexts(symbols[:8], alphabet, zero)
        assert contexts.sources
    packed = (channels if kind == "channel" else contexts).packed()
    rng = np.random.default_rng(3)
    taken = 0
    for _ in range(4000):
        data = bytearray(packed)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            if kind != "channel":
                context = ContextModel.unpacked(bytes(data))
                if context.channels != 9 or context.alphabet < alphabet:
                    continue
                both(ContextCoder(context, 5, 6, 2), context, symbols[0], 2)
            else:
                channel = ChannelModel.unpacked(bytes(data))
                if channel.channels != 9 or channel.alphabet < alphabet:
                    continue
                both(ChannelCoder(channel, 30, 2), channel, symbols[0], 2)
        except UsageError:
            continue
        taken += 1
    assert taken > 10


@pytest.mark.parametrize(
    "frequencies",
    [
        np.zeros((1, 4), np.uint16),
        np.full((1, 4), 4095, np.uint16),
        np.array([[16384, 0]], np.uint16),
        np.full((1, 4), 4096, np.uint32),
        np.zeros((0, 4), np.uint16),
        np.full((1, 1), 16384, np.uint16),
    ],
)
def test_tables_that_are_none(frequencies: Any) -> None:
    with pytest.raises(UsageError):
        Tables(frequencies)


@pytest.mark.parametrize(
    "weights", [[1.0, 0.0], [1e9, 1.0, 1.0], [1.0] * 256, [0.0] * 200 + [1e-9]]
)
def test_any_weights_become_a_table(weights: list[float]) -> None:
    found = Tables.of(np.array([weights])).frequencies
    assert found.sum() == TOTAL
    assert found.min() >= 1


@built
@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 1 << 30),
    share=st.sampled_from([0.1, 0.5, 0.8, 1.0]),
    levels=st.sampled_from([2, 5, 256]),
)
def test_errors_are_handed_on_alike(
    shape: tuple[int, int, int], seed: int, share: float, levels: int
) -> None:
    array = np.random.default_rng(seed).normal(0, levels, (1, *shape)).astype(np.float32)
    stage = Uniform(step=1.0, zero=levels // 2, levels=levels, diffuse=share)
    here = stage.symbols(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(chosen.CHOICE, "numpy")
        np.testing.assert_array_equal(stage.symbols(array), here)
