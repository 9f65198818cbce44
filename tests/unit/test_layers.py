"""Payloads in layers: any beginning decodes, within its bound, alike in C and in numpy."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitbed.codec import Codec, build, plan, written
from splitbed.codec.entropy import (
    LayeredCoder,
    LayeredModel,
    coder,
    fit_layers,
    layers_for,
    most_layers,
    native,
)
from splitbed.codec.entropy.nesting import Nesting
from splitbed.codec.layers import Layers
from splitbed.errors import CodecError, CodecUnknown, PayloadInvalid, UsageError
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import TensorSpec
from tests.unit.calibrations import calibration_of, maps, smooth

Symbols = NDArray[np.uint8]

SPEC: Final = TensorSpec("x", "float32", (1, 48, 12, 11))

built = pytest.mark.skipif(native.load() is None, reason="the coder in C was not built here")


@functools.cache
def codec_of(tail: str, rectified: bool = False) -> tuple[Codec, Any]:
    """A codec, and frames like those it was calibrated with."""
    rng = np.random.default_rng(3)
    frames = [smooth(rng, SPEC.shape, rectified) for _ in range(12)]
    planned = plan("uniform:0.2+" + tail, [SPEC], calibration_of(SPEC, *frames[:8]))[0]
    return build(planned, SPEC), frames[8:]


# The nesting.


@given(st.integers(2, 256), st.data())
def test_bins_lie_in_one_another(alphabet: int, data: st.DataObject) -> None:
    nesting = Nesting(alphabet, data.draw(st.integers(0, alphabet - 1)))
    symbols = np.arange(alphabet)
    for depth in range(6):
        bins = nesting.bins(depth)[:alphabet]
        low, high = nesting.ends(depth)
        assert (bins.min(), bins.max()) == (low, high)
        assert bins[nesting.zero] == 0
        for found in range(low, high + 1):
            inside = symbols[bins == found]
            assert nesting.span(found, depth) == (inside[0], inside[-1])
            if found:
                assert inside[-1] - inside[0] <= 2**depth - 1
            else:  # nobody in it is further from zero than a bin is wide
                assert max(abs(inside - nesting.zero)) <= 2**depth - 1
        coarse = nesting.bins(depth + 1)[:alphabet].astype(int) - nesting.ends(depth + 1)[0]
        parts = nesting.parts(depth)[:alphabet]
        np.testing.assert_array_equal(nesting.refined(depth)[coarse * 3 + parts], bins)


# Beginnings of payloads.


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shape=st.tuples(st.integers(1, 13), st.integers(1, 9), st.integers(1, 9)),
    step=st.sampled_from([0.05, 0.3, 1.0, 4.0]),
    rectified=st.booleans(),
    wanted=st.integers(0, 6),
)
def test_any_maps_come_back_and_both_make_the_same_bytes(
    seed: int, shape: tuple[int, int, int], step: float, rectified: bool, wanted: int
) -> None:
    seen, alphabet, zero = maps(seed, 4, shape, step, rectified)
    layers = min(wanted, most_layers(alphabet, zero)) or layers_for(seen, alphabet, zero)
    model = fit_layers(seen[:3], alphabet, zero, layers)
    again = LayeredModel.unpacked(model.packed())
    assert again.packed() == model.packed()
    noise = np.random.default_rng(seed).integers(0, alphabet, shape).astype(np.uint8)
    here = LayeredCoder(again, *shape[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(coder.CHOICE, "numpy")
        in_numpy = LayeredCoder(model, *shape[1:])
    for frame in (seen[3], noise, np.full(shape, zero, np.uint8)):
        payload = here.encode(frame)
        assert payload == in_numpy.encode(frame)
        assert len(payload) <= model.most_bytes(shape[1] * shape[2])
        np.testing.assert_array_equal(here.decode(payload), frame)
        np.testing.assert_array_equal(in_numpy.decode(payload), frame)
        for end in here.cuts(payload):
            coarser = here.decode(payload[:end])
            np.testing.assert_array_equal(in_numpy.decode(payload[:end]), coarser)
            assert int(coarser.max()) < alphabet


@built
def test_numpy_is_really_another_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, alphabet, zero = maps(1, 3, (3, 4, 5), 0.3, False)
    model = fit_layers(seen, alphabet, zero, 2)
    monkeypatch.setattr(native.NativeChunks, "encode", lambda *_: pytest.fail("C was called"))
    monkeypatch.setenv(coder.CHOICE, "numpy")
    LayeredCoder(model, 4, 5).encode(seen[0])


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("tail", ["layers", "layers:1", "layers:2", "layers:5"])
def test_every_beginning_decodes_as_the_chunks_it_holds(tail: str, rectified: bool) -> None:
    codec, frames = codec_of(tail, rectified)
    payload = bytes(codec.encode(frames[0]))
    cuts = codec.cuts(payload)
    assert (cuts[0], cuts[-1]) == (0, len(payload))
    assert all(a < b for a, b in pairwise(cuts))
    wanted = None
    for end in sorted({*range(0, len(payload), 5), *cuts}):
        decoded = codec.decode(payload[:end])
        if end in cuts:
            wanted = decoded
        np.testing.assert_array_equal(decoded, wanted)
        if end % 3 == 0:
            assert codec.cuts(payload[:end]) == tuple(cut for cut in cuts if cut <= end)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("tail", ["layers", "layers:3", "layers:5"])
def test_what_is_coarse_keeps_its_bound_and_zero_stays_zero(tail: str, rectified: bool) -> None:
    codec, frames = codec_of(tail, rectified)
    planned = plan(
        "uniform:0.2+" + tail, [SPEC], calibration_of(SPEC, *frames)
    )[0]  # fmt: skip
    codec = build(planned, SPEC)
    source, stage = planned.stages[0].config, msgspec.convert(planned.stages[1].config, Layers)
    model = stage.unpacked()
    for frame in frames:
        payload = bytes(codec.encode(frame))
        whole: Any = codec.decode(payload)
        received = [0] * len(model.groups)
        for chunk, end in zip(model.chunks, codec.cuts(payload)[1:], strict=True):
            received[chunk.group] += 1
            decoded: Any = codec.decode(payload[:end])
            for group, these in enumerate(model.slices):
                if received[group]:
                    missing = model.layers - received[group]
                    mine = np.sort(model.channel[these])
                    off = np.abs(decoded[0, mine] - whole[0, mine]) / source["step"]
                    assert np.rint(off).max() <= 2**missing - 1
                    assert not decoded[0, mine][whole[0, mine] == 0].any()


@pytest.mark.parametrize("rectified", [False, True])
def test_more_bytes_are_nearer(rectified: bool) -> None:
    codec, frames = codec_of("layers", rectified)
    payloads = [bytes(codec.encode(frame)) for frame in frames]
    errors = []
    for number in range(len(codec.cuts(payloads[0]))):
        decoded = [codec.decode(p[: codec.cuts(p)[number]]) for p in payloads]
        errors.append(float(np.mean(np.square(np.subtract(decoded, frames)))))
    assert len(errors) >= 6
    assert all(a > b for a, b in pairwise(errors))
    # Nothing at all is the channels' means, and the end is as near as without layers.
    assert errors[0] < 1.1 * float(np.var(frames))
    assert errors[-1] < 0.01 * errors[0]


def test_the_most_important_comes_first() -> None:
    rng = np.random.default_rng(8)
    scale: Any = np.ones((1, 48, 1, 1), np.float32)
    scale[0, 5:9] = 8.0
    frames: list[Any] = [smooth(rng, SPEC.shape) * scale for _ in range(6)]
    planned = plan("uniform:0.08+layers", [SPEC], calibration_of(SPEC, *frames[:5]))[0]
    codec, stage = build(planned, SPEC), msgspec.convert(planned.stages[1].config, Layers)
    assert set(stage.unpacked().channel[:4].tolist()) == {5, 6, 7, 8}
    payload = bytes(codec.encode(frames[5]))
    decoded = codec.decode(payload[: codec.cuts(payload)[2]])
    error = np.square(decoded - frames[5]).mean(axis=(0, 2, 3))
    assert error[5:9].max() < 0.3 * 64 * float(np.var(frames[5][0, 0]))


# A budget.


@pytest.mark.parametrize("beside", [-1, 0, 1])
@pytest.mark.parametrize("number", [3, 5, -1])
def test_no_payload_is_longer_than_the_budget(number: int, beside: int) -> None:
    unlimited, frames = codec_of("layers")
    budget_bytes = unlimited.cuts(unlimited.encode(frames[0]))[number] + beside
    codec, _ = codec_of(f"layers:budget_bytes={budget_bytes}")
    assert codec.max_bytes <= budget_bytes or codec.max_bytes == unlimited.max_bytes
    for frame in frames:
        whole, payload = bytes(unlimited.encode(frame)), bytes(codec.encode(frame))
        assert len(payload) == max(cut for cut in unlimited.cuts(whole) if cut <= budget_bytes)
        assert whole.startswith(payload)
        np.testing.assert_array_equal(codec.decode(payload), unlimited.decode(payload))
    noise = np.random.default_rng(0).normal(0, 3, SPEC.shape).astype(np.float32)
    assert len(codec.encode(noise)) <= budget_bytes


def test_a_frame_of_which_nothing_fits_is_an_empty_payload() -> None:
    codec, _ = codec_of("layers:budget_bytes=500")
    noise = np.random.default_rng(0).uniform(-20, 20, SPEC.shape).astype(np.float32)
    assert bytes(codec.encode(noise)) == b""
    # Means of channels: each the same everywhere.
    assert not np.ptp(codec.decode(b""), axis=(2, 3)).any()


def test_a_budget_that_frames_seen_do_not_fit_is_refused() -> None:
    with pytest.raises(CodecError, match=r"budget of 20 bytes would send nothing.*use a budget of"):
        codec_of("layers:budget_bytes=20")


def test_more_layers_than_symbols_allow_are_refused() -> None:
    frames = [np.eye(8, dtype=np.float32)[None, None] * k for k in (1, 2, 3)]
    spec = TensorSpec("x", "float32", (1, 1, 8, 8))
    with pytest.raises(CodecError, match=r"layers:6 are more than the .* use at most layers:"):
        plan("uniform:1+layers:6", [spec], calibration_of(spec, *frames))


def test_the_written_form_names_layers_and_budget() -> None:
    frames = codec_of("layers")[1]
    calibration = calibration_of(SPEC, *frames)
    for text in ("layers:2", "layers:3,budget_bytes=900"):
        planned = plan("quantize:5+" + text, [SPEC], calibration)[0]
        assert written(planned) == "quantize:5+" + text


# Size.


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("step", [0.3, 0.8])
def test_layers_cost_little_beside_contexts(rectified: bool, step: float) -> None:
    rng = np.random.default_rng(2)
    spec = TensorSpec("x", "float32", (1, 48, 14, 14))
    frames = [smooth(rng, spec.shape, rectified) for _ in range(12)]
    sizes = {}
    for coder_text in ("ans:context", "ans:channel", "layers"):
        planned = plan(f"uniform:{step}+{coder_text}", [spec], calibration_of(spec, *frames[:10]))
        codec = build(planned[0], spec)
        sizes[coder_text] = sum(len(codec.encode(frame)) for frame in frames[10:])
        if coder_text == "layers":
            assert len(msgspec.json.encode(planned)) < 16_000
    assert sizes["layers"] < 1.15 * sizes["ans:context"]
    assert sizes["layers"] < 0.95 * sizes["ans:channel"]


# What no encoder makes.


def test_damage_is_refused_or_looks_cut_off() -> None:
    codec, frames = codec_of("layers")
    payload = bytes(codec.encode(frames[0]))
    cuts = codec.cuts(payload)
    beginnings = {codec.decode(payload[:cut]).tobytes() for cut in cuts}
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(600):
        damaged = bytearray(payload)
        damaged[int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
        try:
            decoded = codec.decode(bytes(damaged))
        except PayloadInvalid:
            refused += 1
        else:
            assert decoded.tobytes() in beginnings
    assert refused > 550
    for wrong in (payload + b"\0", payload + payload, b"\xff" * len(payload)):
        with pytest.raises(PayloadInvalid):
            codec.decode(wrong)
        if wrong[0] == 255 or len(wrong) > len(payload):
            with pytest.raises(PayloadInvalid):
                codec.cuts(wrong)


def test_byte_stages_after_it_are_refused_in_a_specification_too() -> None:
    frames = codec_of("layers")[1]
    planned = plan("uniform:0.5+layers", [SPEC], calibration_of(SPEC, *frames))[0]
    longer = TensorCodec("x", (*planned.stages, StageSpec("zstd", {"level": 3})))
    with pytest.raises(CodecUnknown, match="'zstd' cannot follow 'layers'"):
        build(longer, SPEC)


def test_a_model_for_another_tensor_is_refused() -> None:
    frames = codec_of("layers")[1]
    planned = plan("uniform:0.5+layers", [SPEC], calibration_of(SPEC, *frames))[0]
    with pytest.raises(CodecError, match="a model of 48 channels, not of the 47"):
        build(planned, TensorSpec("x", "float32", (1, 47, 12, 11)))
    source = dict(planned.stages[0].config) | {"zero": planned.stages[0].config["zero"] - 1}
    other = TensorCodec("x", (StageSpec("uniform", source), planned.stages[1]))
    with pytest.raises(CodecError, match="with zero at"):
        build(other, SPEC)
    layers = dict(planned.stages[1].config) | {"layers": 1}
    other = TensorCodec("x", (planned.stages[0], StageSpec("layers", layers)))
    with pytest.raises(CodecUnknown, match=r"layers has a model of . layers, not of 1"):
        build(other, SPEC)


def test_models_that_contradict_themselves_are_refused() -> None:
    seen, alphabet, zero = maps(7, 3, (6, 5, 4), 0.2, False)
    model = fit_layers(seen, alphabet, zero, 3)
    fields = {name: getattr(model, name) for name in LayeredModel.__dataclass_fields__}
    swapped = model.channel.copy()
    swapped[0] = swapped[1]
    outside = [middle.copy() for middle in model.middles]
    outside[0][0] = alphabet - 1
    not_zero = [middle.copy() for middle in model.middles]
    not_zero[1][-model.nesting.ends(1)[0]] += 1
    wrong: list[dict[str, Any]] = [
        {"channel": swapped},
        {"order": np.append(model.order[1:], np.uint8(1))},
        {"lanes": (3, *model.lanes[1:])},
        {"groups": (*model.groups[:-1], model.groups[-1] + 1)},
        {"mean": np.full_like(model.mean, alphabet)},
        {"middles": tuple(outside)},
        {"middles": tuple(not_zero)},
        {"table_of": np.full_like(model.table_of, 255)},
        {"class_of": np.full_like(model.class_of, 2)},
        {"layers": 2},
        {"zero": alphabet},
        {"finer": model.coarsest},
        {"coarsest": model.finer},
    ]
    LayeredModel(**fields)
    for change in wrong:
        with pytest.raises(UsageError):
            LayeredModel(**fields | change)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_bytes_are_a_model_or_refused(data: st.DataObject) -> None:
    seen, alphabet, zero = maps(7, 3, (6, 5, 4), 0.2, False)
    packed = bytearray(fit_layers(seen, alphabet, zero, 2).packed())
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, min(200, len(packed) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    packed = (
        packed[: data.draw(st.integers(0, len(packed)))] if data.draw(st.booleans()) else packed
    )
    try:
        model = LayeredModel.unpacked(bytes(packed))
    except UsageError:
        return
    coded = LayeredCoder(model, 5, 4)
    frame = np.zeros((model.channels, 5, 4), np.uint8)
    np.testing.assert_array_equal(coded.decode(coded.encode(frame)), frame)


def test_no_bound_is_stated_where_a_budget_leaves_something_out() -> None:
    """At full length the source's bound holds."""
    spec = TensorSpec("x", "float32", (1, 4, 8, 8))
    array = smooth(np.random.default_rng(0), spec.shape)
    found = calibration_of(spec, array)
    whole, cut = (
        build(plan(f"quantize:4+layers{rest}", [spec], found)[0], spec)
        for rest in ("", ":budget_bytes=100")
    )
    assert whole.bound(array) is not None
    assert cut.bound(array) is None
    assert written(plan("quantize:4+layers:budget_bytes=100", [spec], found)[0]).endswith(
        ",budget_bytes=100"
    )
