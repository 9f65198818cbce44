"""Symbols predicted from all channels before them: both coders alike, and what is learnt of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitbed.codec.entropy import ContextCoder, ContextModel, fit_contexts, native, vectorised
from splitbed.codec.entropy import model as m
from splitbed.codec.entropy.tables import Tables
from splitbed.errors import PayloadInvalid, UsageError

Symbols = NDArray[np.uint8]

built = pytest.mark.skipif(native.load() is None, reason="the coder in C was not built here")


def any_model(rng: Any, channels: int) -> ContextModel:
    """One that no calibration made, of the largest weights that are allowed."""
    levels = int(rng.integers(1, m.MOST_LEVELS + 1))
    begins = m.firsts(channels, levels)
    sources = int(rng.integers(0, m.most_sources(channels) + 1))
    dense = rng.choice([-m.MOST_DENSE, m.MOST_DENSE, 0, 3], (channels, sources)).astype(np.int16)
    dense[np.arange(sources) >= begins[:, None]] = 0
    parents = rng.integers(0, np.maximum(begins, 1)[:, None], (channels, m.PARENTS))
    parents = np.where((begins[:, None] > 0) & (rng.random(parents.shape) < 0.7), parents, channels)
    alphabet, window = int(rng.choice([2, 3, 17, 256])), int(rng.integers(1, m.MOST_WINDOW + 1))
    classes = int(rng.integers(1, m.MOST_CLASSES + 1))
    most = int(rng.choice([1, 127]))
    first, second, third, fourth = (int(w) for w in rng.choice([-4096, 4096, 0, 77], 4))
    return ContextModel(
        alphabet=alphabet,
        zero=int(rng.integers(0, alphabet)),
        window=window,
        first_class=int(rng.integers(0, 65)),
        scale_weights=(first, second, third, fourth),
        bias=rng.integers(-(1 << 20), (1 << 20) + 1, channels).astype(np.int32),
        scale=rng.integers(-(1 << 26), (1 << 26) + 1, channels).astype(np.int32),
        near=rng.integers(-most, most + 1, (len(m.NEAR), channels)).astype(np.int16),
        parents=parents.astype(np.int16),
        parent_weights=rng.integers(-most, most + 1, (channels, m.PARENTS)).astype(np.int16),
        dense=dense,
        levels=levels,
        tables=Tables.of(
            rng.exponential(1, (classes * m.PHASES * m.FLOORS, 2 * window + 2)) ** 4 + 1e-9
        ),
    )


@built
@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 6)),
    lanes=st.sampled_from([1, 4, 32]),
)
def test_c_and_numpy_agree_on_any_model_and_any_payload(
    seed: int, shape: tuple[int, int, int], lanes: int
) -> None:
    rng = np.random.default_rng(seed)
    model = ContextModel.unpacked(any_model(rng, shape[0]).packed())
    coder = ContextCoder(model, *shape[1:], lanes)
    symbols = rng.integers(0, model.alphabet, shape).astype(np.uint8)
    payload = coder.encode(symbols)
    assert vectorised.encode_contexts(model, symbols, lanes) == payload
    broken = bytearray(payload)
    broken[int(rng.integers(0, len(broken)))] ^= 1 << int(rng.integers(0, 8))
    for given_bytes in (payload, bytes(broken), payload[: int(rng.integers(0, len(payload)))]):
        found = []
        for decode in (
            coder.decode,
            lambda p: vectorised.decode_contexts(model, p, *shape[1:], lanes),
        ):
            try:
                found.append(decode(given_bytes).tobytes())
            except PayloadInvalid:
                found.append(b"damaged")
        assert found[0] == found[1]
        if given_bytes is payload:
            assert found[0] == symbols.tobytes()


def mixtures(frames: int, channels: int = 32) -> Symbols:
    """Channels that are all mixtures of a few, so that four tell less than all."""
    rng = np.random.default_rng(3)
    mixing = rng.normal(0, 1, (channels, 8))
    hidden = rng.normal(0, 1, (frames, 8, 9, 8))
    mixed = np.einsum("ch,fhyx->fcyx", mixing, hidden) + rng.normal(0, 0.2, (1, channels, 1, 1))
    return np.asarray(np.clip(np.rint(3 * mixed) + 40, 0, 80)).astype(np.uint8)


def test_all_channels_are_taken_where_they_save() -> None:
    symbols = mixtures(17)
    model = fit_contexts(symbols[:16], 81, 40)
    assert model.sources > 0
    few = fit_contexts(symbols[:3], 81, 40)  # none kept aside to decide
    assert few.sources == 0
    sizes = [len(ContextCoder(one, 9, 8, 8).encode(symbols[16])) for one in (model, few)]
    assert sizes[0] < 0.9 * sizes[1]
    independent = np.random.default_rng(1).integers(0, 9, (16, 32, 9, 8)).astype(np.uint8)
    assert fit_contexts(independent, 9, 0).sources == 0


def changed(model: ContextModel, **fields: Any) -> ContextModel:
    kept = {name: getattr(model, name) for name in model.__dataclass_fields__}
    return ContextModel(**{**kept, **fields})


def test_models_that_contradict_themselves() -> None:
    model = fit_contexts(mixtures(16), 81, 40)
    begins = m.firsts(32, model.levels)
    too_late = model.dense.copy()
    too_late[5, int(begins[5])] = 1  # what is decoded beside it, or after
    too_large = model.dense.copy()
    too_large[31, 0] = m.MOST_DENSE + 1
    for fields in (
        {"dense": too_late},
        {"dense": too_large},
        {"dense": np.zeros((32, 33), np.int16)},
        {"dense": np.zeros((31, 8), np.int16)},
        {"levels": 0},
        {"levels": m.MOST_LEVELS + 1},
    ):
        with pytest.raises(UsageError, match="contradicts itself"):
            changed(model, **fields)
    packed = model.packed()
    for wrong in (packed[:-1], packed + b"\0", packed[:12] + b"\xff\xff" + packed[14:]):
        with pytest.raises(UsageError):
            ContextModel.unpacked(wrong)
