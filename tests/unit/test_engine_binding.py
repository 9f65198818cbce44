"""Inputs and outputs in buffers on the device: the same results, made once, never mixed up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from splitbed.engine import Engine
from splitbed.engine.binding import Bindings
from splitbed.errors import EngineError
from splitbed.tensor import Array
from tests import models
from tests.models import info, model, node
from tests.unit.pretend_gpu import CUDA, pretend_gpu

CHAIN = models.chain().SerializeToString()
OPEN = model(
    [node("Relu", ["x"], ["r"]), node("Tanh", ["r"], ["y"])],
    [info("x", ["batch", 3])],
    [info("y", ["batch", 3])],
).SerializeToString()


def bound(content: bytes) -> Engine:
    """Buffers on the CPU: the same code as on a GPU."""
    return Engine(content, provider="cpu", threads=1, bound=True)


def bindings(engine: Engine) -> Bindings:
    assert engine._bindings is not None
    return engine._bindings


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    return np.random.default_rng(seed).uniform(-9, 9, shape).astype(dtype)


def close(got: Array, wanted: Array) -> None:
    np.testing.assert_allclose(
        got.astype(np.float64), wanted.astype(np.float64), rtol=1e-6, atol=1e-7
    )


def test_buffers_are_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Engine(CHAIN, provider="cpu").bound
    assert bound(CHAIN).bound
    pretend_gpu(monkeypatch)
    assert Engine(CHAIN, provider="cuda").bound
    assert not Engine(CHAIN, provider="cuda", bound=False).bound
    assert not Engine(CHAIN, provider="cpu").bound


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "float64", "uint8", "int8", "uint16", "int32", "int64", "bool"]
)
def test_every_type_goes_through(dtype: str) -> None:
    content = model(
        [node("Identity", ["x"], ["m"]), node("Concat", ["m", "m"], ["y"], axis=0)],
        [info("x", [2, 3], dtype)],
        [info("y", [4, 3], dtype)],
    ).SerializeToString()
    engine = bound(content)
    for seed in range(3):
        x = random(2, 3, seed=seed, dtype="float64").astype(dtype)
        (y,) = engine.run({"x": x})
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.concatenate([x, x]))


def test_results_are_those_of_the_plain_run() -> None:
    plain, engine = Engine(CHAIN, provider="cpu", threads=1), bound(CHAIN)
    for seed in range(5):
        x = random(1, 4, seed=seed)
        np.testing.assert_array_equal(engine.run({"x": x})[0], plain.run({"x": x})[0])


def test_outputs_stay_what_they_are_when_the_next_run_comes() -> None:
    engine = bound(CHAIN)
    first = engine.run({"x": random(1, 4, seed=1)})[0]
    kept = first.copy()
    engine.run({"x": random(1, 4, seed=2)})
    np.testing.assert_array_equal(first, kept)


def test_inputs_need_not_lie_in_one_piece() -> None:
    x = np.asfortranarray(random(3, 3))
    turned = x[:, ::-1]
    (y,) = bound(OPEN).run({"x": turned})
    close(y, np.tanh(np.maximum(turned, 0)))


def test_only_the_outputs_that_are_wanted_are_copied() -> None:
    engine = bound(models.two_ended().SerializeToString())
    feeds: dict[str, Array] = {"a": np.ones((1, 4), np.float32), "b": np.ones((1, 4), np.float32)}
    late, early = engine.run(feeds)
    np.testing.assert_array_equal(engine.run(feeds, ["early"])[0], early)
    got = engine.run(feeds, ["early", "late"])
    np.testing.assert_array_equal(got[0], early)
    np.testing.assert_array_equal(got[1], late)
    assert len(engine.run(feeds, ["late"])) == 1
    _, steps = bindings(engine).run(feeds, ["late"])
    assert (steps.upload_bytes, steps.download_bytes) == (32, 16)


def test_the_plain_run_gives_the_wanted_outputs_too() -> None:
    engine = Engine(models.two_ended().SerializeToString(), provider="cpu")
    feeds: dict[str, Array] = {"a": np.ones((1, 4), np.float32), "b": np.ones((1, 4), np.float32)}
    late, early = engine.run(feeds)
    np.testing.assert_array_equal(engine.run(feeds, ["early"])[0], early)
    np.testing.assert_array_equal(engine.run(feeds, ["early", "late"])[1], late)


def test_parts_of_a_run_are_timed() -> None:
    outputs, steps = bound(CHAIN).steps({"x": random(1, 4)})
    assert min(steps.upload_ns, steps.compute_ns, steps.download_ns) > 0
    assert (steps.upload_bytes, steps.download_bytes) == (16, outputs[0].nbytes)


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros((1, 4), np.float64)},
        {"x": np.zeros((1, 4), np.uint8)},
        {"x": np.zeros((1, 4), np.float32), "z": np.zeros(1, np.float32)},
    ],
    ids=["missing", "shape", "wider type", "narrower type", "unknown"],
)
def test_wrong_feeds_fail_and_spoil_nothing(feeds: dict[str, Array]) -> None:
    engine = bound(CHAIN)
    x = random(1, 4)
    wanted = engine.run({"x": x})[0]
    with pytest.raises(EngineError, match="failed in the model: "):
        engine.run(feeds)
    np.testing.assert_array_equal(engine.run({"x": x})[0], wanted)


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(EngineError):
        bound(CHAIN).run({"x": random(1, 4)}, ["z"])


def test_batches_of_any_size_take_turns() -> None:
    engine = bound(OPEN)
    for seed, size in enumerate([1, 4, 2, 4, 1, 8, 4]):
        x = random(size, 3, seed=seed)
        (y,) = engine.run({"x": x})
        close(y, np.tanh(np.maximum(x, 0)))
    assert bindings(engine).waiting() == 4


def test_outputs_whose_shape_follows_from_the_data() -> None:
    content = model(
        [node("NonZero", ["x"], ["y"])], [info("x", [1, 6])], [info("y", [2, "n"], "int64")]
    ).SerializeToString()
    engine = bound(content)
    for count in (3, 0, 6, 1):
        x = np.zeros((1, 6), np.float32)
        x[0, :count] = 1
        np.testing.assert_array_equal(engine.run({"x": x})[0], np.stack(np.nonzero(x)))


def test_threads_at_once_do_not_share_buffers() -> None:
    engine = bound(OPEN)

    def work(number: int) -> None:
        for turn in range(40):
            x = random(1 + turn % 3, 3, seed=number * 1000 + turn)
            close(engine.run({"x": x})[0], np.tanh(np.maximum(x, 0)))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert 3 <= bindings(engine).waiting() <= 18


def test_waiting_buffers_are_bounded() -> None:
    session = bound(OPEN)._session
    import onnxruntime

    few = Bindings(onnxruntime, session, "cpu", kept=3)
    for size in range(1, 9):
        few.run({"x": random(size, 3)}, ["y"])
    assert few.waiting() == 3
    few.clear()
    assert few.waiting() == 0


def test_no_frame_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pretend_gpu(monkeypatch)
    engine = Engine(CHAIN, provider="cuda")
    assert engine.provider == CUDA
    engine.warm_up()
    made = gpu.allocations
    assert made == 1
    for seed in range(20):
        x = random(1, 4, seed=seed)
        close(engine.run({"x": x})[0], np.tanh(-np.maximum(x, 0)))
    assert gpu.allocations == made


# ------------------------------------------------------------------------------------------ warm-up


def test_shapes_can_be_warmed_where_the_model_leaves_them_open() -> None:
    engine = bound(OPEN)
    engine.warm_up()
    assert engine.first_inference_ns == 0
    engine.warm_up({"x": (1, 3)})
    first = engine.first_inference_ns
    assert first > 0
    engine.warm_up_batches({"x": (1, 3)}, [1, 2, 8])
    assert engine.first_inference_ns == first
    assert bindings(engine).waiting() == 3


def test_a_warm_shape_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pretend_gpu(monkeypatch)
    runs = []
    gpu.before_run = lambda: runs.append(1)
    engine = Engine(OPEN, provider="cuda")
    for _ in range(3):
        engine.warm_up_batches({"x": (1, 3)}, [1, 4])
    assert len(runs) == 2


def test_the_largest_batch_is_warmed_first_then_the_smallest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_gpu(monkeypatch)
    engine = Engine(OPEN, provider="cuda")
    engine.warm_up_batches({"x": (1, 3)}, [2, 4, 1, 8, 4])
    assert [key[0][2][0] for key in bindings(engine)._free] == [8, 1, 2, 4]


def test_a_batch_that_the_model_does_not_take() -> None:
    with pytest.raises(EngineError):
        bound(CHAIN).warm_up_batches({"x": (1, 4)}, [2])


def test_a_shape_that_no_memory_holds() -> None:
    with pytest.raises(EngineError):
        bound(OPEN).warm_up({"x": (1 << 60, 3)})
