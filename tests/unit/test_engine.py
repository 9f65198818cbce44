"""One ONNX Runtime session: providers, threads, times, and errors of one sentence."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from splitbed.engine import (
    Engine,
    distribution_conflict,
    engine,
    installed_distributions,
    working_provider,
)
from splitbed.errors import EngineError, ProviderMissing
from splitbed.tensor import Array
from tests import models
from tests.models import info, model, node, saved

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CHAIN = models.chain().SerializeToString()


def x(*values: float) -> dict[str, Array]:
    return {"x": np.array([values], np.float32)}


def one_sentence(error: pytest.ExceptionInfo[EngineError]) -> str:
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence


def providers(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that this onnxruntime was built with these providers."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(names))


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that these distributions are installed, and no other."""

    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)


# ------------------------------------------------------------------------------------------ running


@pytest.mark.parametrize("from_file", [False, True], ids=["bytes", "path"])
def test_runs_a_model(from_file: bool, tmp_path: Path) -> None:
    source = saved(models.chain(), tmp_path / "model.onnx") if from_file else CHAIN
    made = Engine(source, provider="cpu")
    assert (made.inputs, made.outputs) == (("x",), ("y",))
    (y,) = made.run(x(-1, 0, 1, 2))
    np.testing.assert_allclose(
        y.astype(np.float64), np.tanh([[0, 0, -1, -2]]), rtol=1e-6, atol=1e-6
    )


def test_outputs_come_in_the_order_of_the_model() -> None:
    made = Engine(models.two_ended().SerializeToString(), provider="cpu")
    assert made.inputs == ("a", "b")
    assert made.outputs == ("late", "early")
    ones = np.ones((1, 4), np.float32)
    late, early = made.run({"b": ones * 2, "a": ones})  # in any order
    np.testing.assert_array_equal(early, ones)
    np.testing.assert_allclose(late.astype(np.float64), 2 * np.tanh(-ones), rtol=1e-6)


def test_times_of_creation_and_of_the_first_run_are_kept() -> None:
    made = Engine(CHAIN, provider="cpu")
    assert made.init_ns > 0
    assert made.first_inference_ns == 0
    made.run(x(1, 2, 3, 4))
    first = made.first_inference_ns
    assert first > 0
    made.run(x(1, 2, 3, 4))
    assert made.first_inference_ns == first


def test_failed_first_run_is_no_first_inference() -> None:
    made = Engine(CHAIN, provider="cpu")
    with pytest.raises(EngineError):
        made.run(x(1))
    assert made.first_inference_ns == 0


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_are_those_asked_for_and_do_not_spin(threads: int) -> None:
    options = Engine(CHAIN, provider="cpu", threads=threads)._session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


# ------------------------------------------------------------------------------------------ warm-up


def test_warm_up_is_the_first_run() -> None:
    made = Engine(CHAIN, provider="cpu")
    made.warm_up()
    assert made.first_inference_ns > 0


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"]
)
def test_warm_up_feeds_every_type(dtype: str) -> None:
    shape = [2, 3]
    proto = model(
        [node("Identity", ["x"], ["y"])], [info("x", shape, dtype)], [info("y", shape, dtype)]
    )
    made = Engine(proto.SerializeToString(), provider="cpu")
    made.warm_up()
    assert made.first_inference_ns > 0


def test_warm_up_leaves_out_a_model_with_open_shapes() -> None:
    proto = model([node("Relu", ["x"], ["y"])], [info("x", ["N", 3])], [info("y", ["N", 3])])
    made = Engine(proto.SerializeToString(), provider="cpu")
    made.warm_up()
    assert made.first_inference_ns == 0


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "content",
    [b"", b"text\nof several\nlines", CHAIN[:-9], bytes(100)],
    ids=["empty", "text", "truncated", "zeros"],
)
def test_bytes_that_are_no_model(content: bytes) -> None:
    with pytest.raises(EngineError) as caught:
        Engine(content, provider="cpu", what="the head of 'm' at r")
    assert "cannot load the head of 'm' at r: " in one_sentence(caught)
    assert caught.value.__cause__ is not None


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        Engine(tmp_path / "absent.onnx", provider="cpu")
    assert "absent.onnx" in one_sentence(caught)


def test_unknown_operator_is_named() -> None:
    proto = model([node("Frobnicate", ["x"], ["y"])], [info("x", [1])], [info("y", [1])])
    with pytest.raises(EngineError) as caught:
        Engine(proto.SerializeToString(), provider="cpu")
    assert "Frobnicate" in one_sentence(caught)


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros((1, 4), np.float64)},
        {"x": np.zeros((1, 4), np.float32), "z": np.zeros(1, np.float32)},
    ],
    ids=["missing", "shape", "type", "unknown"],
)
def test_wrong_feeds(feeds: dict[str, Array]) -> None:
    made = Engine(CHAIN, provider="cpu", what="the tail of 'm'")
    with pytest.raises(EngineError) as caught:
        made.run(feeds)
    assert "failed in the tail of 'm': " in one_sentence(caught)


def test_onnxruntime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError) as caught:
        Engine(CHAIN)
    assert "install splitbed[device]" in one_sentence(caught)


# ---------------------------------------------------------------------------------------- providers


def test_cpu_is_the_cpu() -> None:
    assert Engine(CHAIN, provider="cpu").provider == CPU
    assert working_provider("cpu") == CPU


def test_auto_without_cuda_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    providers(monkeypatch, CPU)
    assert Engine(CHAIN).provider == CPU
    assert working_provider("auto") == CPU


@pytest.mark.parametrize(
    "attempt", [lambda: Engine(CHAIN, provider="cuda"), lambda: working_provider("cuda")]
)
def test_cuda_that_was_not_built_in_is_missing(
    attempt: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    providers(monkeypatch, CPU)
    installed(monkeypatch, onnxruntime="1.20")
    with pytest.raises(ProviderMissing) as caught:
        attempt()
    sentence = one_sentence(caught)
    assert sentence.startswith(f"{CUDA} was asked for and is not available: this onnxruntime")
    assert "install splitbed[edge-gpu]" in sentence


def pretend(
    monkeypatch: pytest.MonkeyPatch, taken: Callable[[list[str]], list[str]]
) -> list[list[str]]:
    """Sessions that take what `taken` makes of the providers asked for; what was asked."""
    asked: list[list[str]] = []

    class Session:
        def __init__(
            self,
            source: object,
            options: object,
            providers: list[str | tuple[str, object]],
            enable_fallback: int,
        ) -> None:
            names = [one if isinstance(one, str) else one[0] for one in providers]
            asked.append(names)
            self.taken = taken(names)

        def get_providers(self) -> list[str]:
            return self.taken

        def get_inputs(self) -> list[object]:
            return []

        get_outputs = get_inputs

    providers(monkeypatch, CUDA, CPU)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return asked


def test_cuda_is_tried_first_and_the_cpu_only_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, lambda providers: providers)
    assert Engine(CHAIN, provider="auto").provider == CUDA
    assert Engine(CHAIN, provider="cuda").provider == CUDA
    assert Engine(CHAIN, provider="cpu").provider == CPU
    assert asked == [[CUDA, CPU], [CUDA, CPU], [CPU]]


def test_cuda_whose_libraries_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda _: [CPU])  # ONNX Runtime warns and takes the CPU
    assert Engine(CHAIN, provider="auto").provider == CPU
    with pytest.raises(ProviderMissing) as caught:
        Engine(CHAIN, provider="cuda")
    assert "its libraries or device could not be used" in one_sentence(caught)


def test_cuda_that_fails_when_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(providers: list[str]) -> list[str]:
        if CUDA in providers:
            raise RuntimeError("CUDA failure 35:\n driver too old")
        return providers

    pretend(monkeypatch, no_driver)
    assert Engine(CHAIN, provider="auto").provider == CPU
    with pytest.raises(EngineError) as caught:
        Engine(CHAIN, provider="cuda")
    assert "CUDA failure 35: driver too old" in one_sentence(caught)


def test_no_warning_reaches_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(CHAIN, provider="auto").warm_up()


# ------------------------------------------------------------------------------------ distributions


def test_one_distribution_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, onnxruntime_gpu="1.20")
    assert installed_distributions() == {"onnxruntime-gpu": "1.20"}
    assert distribution_conflict() is None
    installed(monkeypatch)
    assert installed_distributions() == {}
    assert distribution_conflict() is None


def test_two_distributions_are_a_conflict_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, onnxruntime="1.20", onnxruntime_gpu="1.19")
    sentence = distribution_conflict()
    assert sentence is not None
    assert sentence.startswith("onnxruntime and onnxruntime-gpu are installed together")
    assert "'pip uninstall -y onnxruntime onnxruntime-gpu'" in sentence


def test_conflict_explains_why_cuda_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, onnxruntime="1.20", onnxruntime_gpu="1.19")
    providers(monkeypatch, CPU)
    with pytest.raises(ProviderMissing) as caught:
        Engine(CHAIN, provider="cuda")
    assert "are installed together" in one_sentence(caught)


def test_the_trial_model_is_the_identity() -> None:
    made = Engine(engine._IDENTITY_MODEL, provider="cpu")
    (y,) = made.run({made.inputs[0]: np.array([2.5], np.float32)})
    np.testing.assert_array_equal(y, [2.5])
