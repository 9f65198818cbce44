"""Rounding that hands its errors on: the same symbols in C and numpy, and less harm to the tail."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import experiments.sensitivity
from experiments.sensitivity import FILTERS, measure_sensitivity
from splitbed.codec import Calibration, as_sent, build, needs_sensitivity, plan
from splitbed.codec.entropy import coder as chosen
from splitbed.codec.entropy import native
from splitbed.codec.layout import planes_shape
from splitbed.codec.rounding import Shaper, ShapingTables
from splitbed.codec.sensitivity import TensorSensitivity, feedback_of
from splitbed.codec.shaped import Shaped
from splitbed.errors import CodecError, CodecUnknown, UsageError
from splitbed.task import TaskSpec
from splitbed.tensor import Array, TensorSpec
from tests.unit.calibrations import calibration_of, smooth

built = pytest.mark.skipif(native.load() is None, reason="the coder in C was not built here")


def gram_of(channels: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (max(2, channels // 3), channels)) * rng.uniform(0.1, 2, channels)
    return rows.T @ rows


def calibrated(spec: TensorSpec, frames: list[Array], gram: Any = None) -> Calibration:
    calibration = calibration_of(spec, *frames)
    assert calibration is not None
    channels = planes_shape(spec.shape)[0]
    sensitivity = TensorSensitivity.of(
        gram_of(channels) if gram is None else gram, (0.3, 0.3, 0.1, 0.05)
    )
    return msgspec.structs.replace(calibration, sensitivities={spec.name: sensitivity})


def unasked(calibration: Calibration | None) -> Calibration:
    """Of a tail that nobody asked."""
    assert calibration is not None
    return msgspec.structs.replace(calibration, sensitivities={})


def maps(spec: TensorSpec, count: int, rectified: bool = False) -> list[Array]:
    return [smooth(np.random.default_rng(seed), spec.shape, rectified) for seed in range(count)]


@built
@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 11), st.integers(1, 8)),
    levels=st.sampled_from([2, 7, 256]),
    with_costs=st.booleans(),
)
def test_c_and_numpy_take_the_same_symbols(
    seed: int, shape: tuple[int, int, int], levels: int, with_costs: bool
) -> None:
    rng = np.random.default_rng(seed)
    channels = shape[0]
    costs = rng.uniform(0, 1, (channels, levels)).astype(np.float32) if with_costs else None
    passed = np.triu(rng.integers(-127, 128, (channels, channels)), 1).astype(np.int8)
    tables = ShapingTables(
        steps=rng.uniform(0.1, 2, channels).astype(np.float32),
        passed=passed,
        taps=(0.4, 0.4, 0.16, -0.1),
        low=-3.0,
        high=2.5,
        zero=levels // 3,
        levels=levels,
        costs=costs,
    )
    field = rng.normal(0, 3, shape).astype(np.float32)
    field.reshape(-1)[0] = np.inf
    here = Shaper(tables, *shape).symbols(field)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(chosen.CHOICE, "numpy")
        np.testing.assert_array_equal(Shaper(tables, *shape).symbols(field), here)
    assert int(here.max()) < levels


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shape=st.sampled_from([(1, 5, 4, 3), (2, 3, 4, 5), (1, 6, 7), (3, 8), (11,), (1, 4, 1, 1)]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    text=st.sampled_from(["shaped:0.3", "shaped:1,rate=0.2", "shaped:0.5,errors=plain"]),
)
def test_values_lie_within_five_steps(
    seed: int, shape: tuple[int, ...], dtype: Any, text: str
) -> None:
    spec = TensorSpec("x", dtype, shape)
    frames = [frame.astype(dtype) for frame in maps(spec, 4)]
    calibration = calibrated(spec, frames, gram_of(planes_shape(shape)[0], seed))
    (planned,) = plan(text, [spec], calibration)
    codec = build(planned, spec)
    frame: Any = smooth(np.random.default_rng(seed), shape).astype(dtype)
    statistics = calibration.tensors["x"]
    clipped = np.clip(frame, statistics.low, statistics.high)
    decoded: Any = codec.decode(codec.encode(frame))
    assert decoded.dtype == dtype
    largest = msgspec.convert(planned.stages[0].config, Shaped).steps.max()
    most = 5 * largest + 1e-3 * max(abs(statistics.low), abs(statistics.high))
    assert np.abs(decoded.astype(float) - clipped.astype(float)).max() <= most


def test_what_is_sent_decodes_alike_and_cannot_encode() -> None:
    spec = TensorSpec("x", "float32", (1, 8, 6, 5))
    frames = maps(spec, 5)
    planned = plan("shaped:0.4,rate=0.05+ans", [spec], calibrated(spec, frames))
    sent = as_sent(planned)
    assert len(msgspec.json.encode(sent)) < len(msgspec.json.encode(planned))
    payload = build(planned[0], spec).encode(frames[0])
    edge = build(sent[0], spec)
    assert edge.decode(payload).tobytes() == build(planned[0], spec).decode(payload).tobytes()
    with pytest.raises(CodecError, match="plan it where it encodes"):
        edge.encode(frames[0])
    assert as_sent(sent) == sent


def test_feedback_is_the_factor_of_the_form() -> None:
    """The error left in each term is that channel's own rounding alone."""
    gram = gram_of(7, 3)
    feedback = feedback_of(gram)
    ridged = gram / np.trace(gram) * 7 + 0.1 * np.eye(7)
    unit = np.eye(7) + feedback.passed.T
    terms = np.linalg.inv(unit).T @ ridged @ np.linalg.inv(unit)
    np.testing.assert_allclose(terms, np.diag(np.diag(terms)), atol=1e-9)
    np.testing.assert_allclose(
        np.diag(terms) * feedback.scale**2, np.full(7, np.linalg.det(ridged) ** (1 / 7)), rtol=1e-6
    )


def test_a_tail_that_was_asked_is_harmed_less() -> None:
    """By a linear tail, for no more bytes."""
    spec = TensorSpec("x", "float32", (1, 12, 9, 9))
    rng = np.random.default_rng(1)
    mixing = rng.normal(0, 1, (4, 12))
    box = np.ones((3, 3)) / 9

    def tail(boundary: Any) -> dict[str, Array]:
        mixed = np.einsum("oc,cyx->oyx", mixing, boundary["x"][0].astype(np.float64))
        found = sum(
            box[dy, dx] * mixed[:, dy : dy + 7, dx : dx + 7] for dy in range(3) for dx in range(3)
        )
        return {"y": np.asarray(found)}

    frames = maps(spec, 12)
    crossed = [{"x": frame} for frame in frames[:8]]
    sensitivity = measure_sensitivity(tail, spec, crossed, TaskSpec(output="raw"))
    assert sensitivity is not None
    assert sensitivity.taps != (0.0, 0.0, 0.0, 0.0)  # a blur asks for errors that alternate
    expected = mixing.T @ mixing
    found = sensitivity.matrix()
    assert np.corrcoef(found.reshape(-1), expected.reshape(-1))[0, 1] > 0.95
    calibration = calibration_of(spec, *frames[:8])
    assert calibration is not None
    calibration = msgspec.structs.replace(calibration, sensitivities={"x": sensitivity})
    harm: dict[str, float] = {}
    size: dict[str, int] = {}
    for text in ("uniform:0.5+ans", "shaped:0.8+ans"):
        codec = build(plan(text, [spec], calibration)[0], spec)
        payloads = [codec.encode(frame) for frame in frames[8:]]
        moved: Any = [
            np.subtract(tail({"x": codec.decode(p)})["y"], tail({"x": f})["y"])
            for p, f in zip(payloads, frames[8:], strict=True)
        ]
        harm[text] = float(np.square(moved).sum())
        size[text] = sum(map(len, payloads))
    assert size["shaped:0.8+ans"] <= size["uniform:0.5+ans"]
    assert harm["shaped:0.8+ans"] < 0.6 * harm["uniform:0.5+ans"]


def test_a_rate_saves_bytes_and_costs_error() -> None:
    spec = TensorSpec("x", "float32", (1, 10, 9, 9))
    frames = maps(spec, 8, rectified=True)
    calibration = calibrated(spec, frames[:6])
    sizes, errors = [], []
    for rate in (0, 0.2):
        (planned,) = plan(f"shaped:0.7,rate={rate},errors=plain+ans", [spec], calibration)
        codec = build(planned, spec)
        payload = codec.encode(frames[7])
        sizes.append(len(payload))
        errors.append(float(np.square(codec.decode(payload) - frames[7]).sum()))  # type: ignore[operator]
    assert sizes[1] < sizes[0]
    assert errors[1] > errors[0]


def test_what_cannot_be_planned_is_a_sentence() -> None:
    spec = TensorSpec("x", "float32", (1, 4, 3, 3))
    frames = maps(spec, 3)
    assert needs_sensitivity("shaped:0.5+ans")
    assert not needs_sensitivity("uniform:0.5+ans")
    for text in ("shaped", "shaped:0", "shaped:nan", "shaped:1,errors=round", "shaped:1,rate=2"):
        with pytest.raises(CodecUnknown, match="shaped"):
            plan(text, [spec], calibrated(spec, frames))
    with pytest.raises(CodecError, match="measured the tail"):
        plan("shaped:0.5", [spec], unasked(calibration_of(spec, *frames)))
    with pytest.raises(CodecError, match="measured 3 channels"):
        plan("shaped:0.5", [spec], calibrated(spec, frames, gram_of(3)))
    with pytest.raises(CodecError, match="256 levels"):
        plan("shaped:0.001", [spec], calibrated(spec, frames))
    wide = TensorSpec("x", "float32", (1, 1025, 1, 1))
    with pytest.raises(CodecError, match="at most 1024 channels"):
        plan("shaped:0.5", [wide], calibration_of(wide, *maps(wide, 2)))
    bad: Any = frames[0].copy()
    bad[0, 1, 1, 1] = np.nan
    codec = build(plan("shaped:0.5", [spec], calibrated(spec, frames))[0], spec)
    with pytest.raises(CodecError, match="NaN"):
        codec.encode(bad)


@pytest.mark.parametrize(
    ("channels", "gram", "taps"),
    [(2, b"", (0, 0, 0, 0)), (1, b"\0\0\0\0", (2, 0, 0, 0)), (1, b"\0\0\xc0\x7f", (0, 0, 0, 0))],
)
def test_sensitivities_that_are_none(channels: int, gram: bytes, taps: Any) -> None:
    with pytest.raises(UsageError):
        TensorSensitivity(channels, gram, taps).matrix()


@pytest.mark.parametrize(
    ("gram", "sentence"),
    [
        (np.array([[1.0, 5.0], [5.0, 1.0]]), "errors do good of tensor 'x'"),
        (np.full((2, 2), np.nan), "not of numbers of tensor 'x'"),
    ],
)
def test_a_calibration_that_nobody_measured(gram: Any, sentence: str) -> None:
    spec = TensorSpec("x", "float32", (1, 2, 4, 4))
    with pytest.raises(CodecError, match=sentence):
        plan("shaped:0.5+ans", [spec], calibrated(spec, maps(spec, 3), gram))


@pytest.mark.parametrize("size", [1e-32, 1e36, 1e150])
def test_values_that_single_precision_cannot_divide(size: float) -> None:
    spec = TensorSpec("x", "float64", (1, 2, 4, 4))
    frames: list[Array] = [np.multiply(frame, size, dtype=np.float64) for frame in maps(spec, 3)]
    with pytest.raises(CodecError, match="for tensor 'x', which single precision"):
        plan("shaped:0.5", [spec], calibrated(spec, frames))


def asked(spec: TensorSpec, frames: list[Array], tail: Any) -> TensorSensitivity | None:
    return measure_sensitivity(tail, spec, [{"x": f} for f in frames], TaskSpec(output="raw"))


def test_a_tail_is_not_asked_about_what_never_changes() -> None:
    spec = TensorSpec("x", "float32", (1, 3, 4, 4))
    frames: list[Array] = [np.full(spec.shape, 2.5, np.float32)] * 4
    sensitivity = asked(spec, frames, lambda boundary: pytest.fail("asked"))
    assert sensitivity is not None
    assert not sensitivity.matrix().any()
    calibration = calibrated(spec, frames, sensitivity.matrix())
    codec = build(plan("shaped:0.5+ans", [spec], calibration)[0], spec)
    assert np.allclose(codec.decode(codec.encode(frames[0])).astype(float), 2.5, atol=0.7)


@pytest.mark.parametrize("score", [np.inf, -np.inf, np.nan])
def test_a_tail_whose_answers_are_not_finite(score: float) -> None:
    """Of masked elements the rest is asked; of classes nothing can be said."""
    spec = TensorSpec("x", "float32", (1, 3, 4, 4))
    crossed = [{"x": frame} for frame in maps(spec, 4)]

    def tail(boundary: Any) -> dict[str, Array]:
        moved = boundary["x"].reshape(-1)[:2] * 3
        return {"y": np.append(moved, moved[0] if boundary is crossed[1] else score)}

    for about in (crossed, crossed[1:2]):
        sensitivity = measure_sensitivity(tail, spec, about, TaskSpec(output="raw"))
        assert sensitivity is not None
        assert float(sensitivity.matrix()[0, 0]) > 0
    assert measure_sensitivity(tail, spec, crossed, TaskSpec(output="argmax")) is None


def test_a_slow_tail_is_asked_about_two_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.sensitivity, "_MOST_BUDGETS", np.inf)
    spec = TensorSpec("x", "float32", (1, 3, 4, 4))
    runs = []

    def tail(boundary: Any) -> dict[str, Array]:
        runs.append(boundary)
        return {"y": boundary["x"]}

    few = [{"x": frame} for frame in maps(spec, 9)]
    assert measure_sensitivity(tail, spec, few, TaskSpec(output="raw"), budget_s=1e-9) is not None
    assert len(runs) == 2 * (1 + 3 + 2 * len(FILTERS))


def test_hardly_any_channel_matters() -> None:
    """A tail that looks at nothing, and one that looks at a single channel."""
    spec = TensorSpec("x", "float32", (1, 4, 5, 5))
    frames = maps(spec, 3)
    assert not feedback_of(np.zeros((4, 4))).passed.any()
    one = np.zeros((4, 4))
    one[2, 2] = 5.0
    steps = msgspec.convert(
        plan("shaped:0.5", [spec], calibrated(spec, frames, one))[0].stages[0].config, Shaped
    ).steps
    assert int(steps.argmin()) == 2


def test_a_tail_that_is_too_slow_is_not_asked() -> None:
    spec = TensorSpec("x", "float32", (1, 4, 5, 5))
    runs = 0

    def tail(boundary: Any) -> dict[str, Array]:
        nonlocal runs
        runs += 1
        time.sleep(0.002)
        return {"y": np.asarray(boundary["x"])}

    crossed = [{"x": frame} for frame in maps(spec, 6)]
    raw = TaskSpec(output="raw")
    assert measure_sensitivity(tail, spec, crossed, raw, budget_s=1e-4) is None
    assert runs == 2
    assert measure_sensitivity(tail, spec, crossed, raw, budget_s=5) is not None
