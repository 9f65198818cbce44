"""Memory that runs out: recognised, of its own type, and not the end of an edge."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_node.partitions import Partitions
from splitbed.engine import Accelerator, Engine
from splitbed.engine.failure import is_out_of_memory, translated
from splitbed.errors import EngineError, OutOfMemory, SplitbedError, from_kind
from splitbed.session import Frame, Reply, SessionSpec
from splitbed.tensor import Array
from tests import models
from tests.models import info, model, node, weights
from tests.unit.edges import (
    Edge,
    boundary_of,
    edge_over,
    model_folder,
    payloads,
    picture,
    spec_for,
    transport_to,
    uncut,
)
from tests.unit.pretend_gpu import (
    AT_CREATION,
    AT_THE_LIMIT,
    CPU,
    CUDA,
    IN_THE_ARENA,
    PretendGpu,
    pretend_gpu,
)

CHAIN = models.chain().SerializeToString()

SPENT = [
    IN_THE_ARENA,
    AT_THE_LIMIT,
    AT_CREATION,
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=edge ; expr=cublasCreate(&h)",
    "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cudnnCreate(&cudnn_handle_);",
    "CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
    "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP failed to create engine from network: "
    "[Tensorrt] Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
]
OTHER = [
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
    "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
    "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0",
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x",
    "",
]


@pytest.mark.parametrize("text", SPENT)
def test_every_layers_words_for_it_are_known(text: str) -> None:
    error = translated(RuntimeError(text), "ONNX Runtime failed in the tail of 'm'")
    assert isinstance(error, OutOfMemory)
    sentence = str(error)
    assert sentence.startswith("no memory is left on the device (ONNX Runtime failed in the tail")
    assert "--engines" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("text", OTHER)
def test_other_failures_stay_what_they_are(text: str) -> None:
    error = translated(RuntimeError(text), "ONNX Runtime failed")
    assert type(error) is EngineError
    assert not is_out_of_memory(RuntimeError(text))


def test_the_hosts_own_memory_counts() -> None:
    assert isinstance(translated(MemoryError(), "it failed"), OutOfMemory)


def test_the_type_crosses_the_wire() -> None:
    assert isinstance(from_kind("out-of-memory", "x"), OutOfMemory)
    assert OutOfMemory.exit_code == 3


def test_a_tensor_larger_than_any_memory() -> None:
    """ONNX Runtime's real words, from a real attempt."""
    content = model(
        [node("Expand", ["x", "shape"], ["y"])],
        [info("x", [1]), info("shape", [1], "int64")],
        [info("y", ["n"])],
    ).SerializeToString()
    engine = Engine(content, provider="cpu", threads=1)
    feeds: dict[str, Array] = {"x": np.ones(1, np.float32), "shape": np.array([1 << 46])}
    with pytest.raises(OutOfMemory):
        engine.run(feeds)
    feeds["shape"] = np.array([3])
    np.testing.assert_array_equal(engine.run(feeds)[0], [1, 1, 1])


LIMITED = """
import sys

import numpy as np
import onnxruntime

from splitbed.engine import Engine
from splitbed.errors import OutOfMemory

place = onnxruntime.OrtMemoryInfo(
    "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
)
arena = onnxruntime.OrtArenaCfg({"max_mem": 4 << 20, "arena_extend_strategy": 1})
onnxruntime.create_and_register_allocator(place, arena)


class Options(onnxruntime.SessionOptions):
    def __init__(self):
        super().__init__()
        self.add_session_config_entry("session.use_env_allocators", "1")


onnxruntime.SessionOptions = Options
model = sys.stdin.buffer.read()
small, large = (np.ones((size, 1024), np.float32) for size in (1, 4096))
for bound in (False, True):
    engine = Engine(model, provider="cpu", threads=1, bound=bound)
    engine.run({"x": small})
    try:
        engine.run({"x": large})
    except OutOfMemory as error:
        print(bound, "smaller than requested" in str(error))
    (y,) = engine.run({"x": small})
    print(bound, y[0, 0] > 1.7)
"""


def test_an_arena_with_a_limit_refuses_and_lives_on() -> None:
    """What `gpu_mem_limit` does on a GPU, with ONNX Runtime's arena on the CPU.

    The allocator belongs to the whole process, so this needs one of its own.
    """
    content = model(
        [node("Relu", ["x"], ["a"]), node("Tanh", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])],
        [info("x", ["n", 1024])],
        [info("y", ["n", 1024])],
    ).SerializeToString()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], input=content, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    words = done.stdout.decode().split()
    assert words == ["False", "True", "False", "True", "True", "True", "True", "True"]


# -------------------------------------------------------------------------------------- the engine


def test_no_memory_is_no_reason_to_go_on_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, total_bytes=10, session_bytes=100)
    for choice in ("auto", "cuda"):
        with pytest.raises(OutOfMemory, match="CUDA failure 2"):
            Engine(CHAIN, provider=choice)
    assert Engine(CHAIN, provider="cpu").provider == CPU


def test_a_run_is_tried_again_when_others_made_room(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pretend_gpu(monkeypatch)
    x = {"x": np.ones((1, 4), np.float32)}

    def spent() -> None:
        if gpu.session_bytes == 0:
            raise RuntimeError(IN_THE_ARENA)

    def relieve() -> None:
        gpu.session_bytes = 1

    gpu.before_run = spent
    with pytest.raises(OutOfMemory):
        Engine(CHAIN, provider="cuda").run(x)
    engine = Engine(CHAIN, provider="cuda", relieve=relieve)
    np.testing.assert_allclose(
        engine.run(x)[0].astype(np.float64), np.tanh([[-1, -1, -1, -1]]), rtol=1e-6
    )


def test_a_run_is_tried_twice_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pretend_gpu(monkeypatch)
    tries = []

    def spent() -> None:
        tries.append(1)
        raise RuntimeError(IN_THE_ARENA)

    gpu.before_run = spent
    engine = Engine(CHAIN, provider="cuda", relieve=lambda: None)
    with pytest.raises(OutOfMemory):
        engine.run({"x": np.ones((1, 4), np.float32)})
    assert len(tries) == 2


# ---------------------------------------------------------------------------------------- the edge


def on_cuda(store: object, **options: object) -> Partitions:
    return Partitions(store, **{**options, "provider": "cuda"})  # type: ignore[arg-type]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendGpu:
    """Room for two sessions and their buffers."""
    return pretend_gpu(monkeypatch, total_bytes=250_000, session_bytes=100_000)


@pytest.fixture
def edge(tmp_path: Path, gpu: PretendGpu) -> Iterator[Edge]:
    with edge_over(model_folder(tmp_path), partitions_class=on_cuda) as made:  # type: ignore[arg-type]
        yield made


def submit(edge: Edge, session_id: int, spec: SessionSpec, frame_id: int = 1) -> Reply:
    sent = payloads(spec, boundary_of(spec.cut.name, picture(frame_id)))
    return edge.service.process(Frame(session_id, frame_id, sent), 0)


def specs(edge: Edge) -> list[SessionSpec]:
    """Sessions over three different tails."""
    return [spec_for(edge.answer(cut)) for cut in ("left", "right", "sum")]


def test_engines_that_nobody_uses_make_room(edge: Edge) -> None:
    one, two, three = specs(edge)
    first = edge.service.open_session(one)
    second = edge.service.open_session(two)
    assert first.provider == CUDA
    edge.service.close_session(second.session_id)
    assert edge.partitions.sizes()[0] == 2
    third = edge.service.open_session(three)  # takes the place of the second's engine
    assert edge.partitions.sizes()[0] == 1
    for session, spec in ((first, one), (third, three)):
        reply = submit(edge, session.session_id, spec)
        assert reply.error is None
        np.testing.assert_allclose(
            np.frombuffer(reply.payloads[0], np.float32).reshape(1, -1),
            uncut(edge.models / "tiny.onnx", picture(1)),
            rtol=1e-4,
            atol=1e-5,
        )
    # An engine that was let go while a session uses it is found again, not made twice.
    again = edge.service.open_session(one)
    assert again.init_ns == 0


def test_a_session_without_room_is_refused_and_the_others_go_on(edge: Edge) -> None:
    one, two, three = specs(edge)
    first = edge.service.open_session(one)
    second = edge.service.open_session(two)
    for _ in range(2):
        with pytest.raises(OutOfMemory, match="the tail of 'tiny' at sum"):
            edge.service.open_session(three)
    for session, spec in ((first, one), (second, two)):
        assert submit(edge, session.session_id, spec).error is None
    edge.service.close_session(first.session_id)
    third = edge.service.open_session(three)
    assert submit(edge, third.session_id, three).error is None


def test_a_frame_without_room_fails_and_the_next_one_goes(edge: Edge, gpu: PretendGpu) -> None:
    (one, *_) = specs(edge)
    session = edge.service.open_session(one)

    def spent() -> None:
        raise RuntimeError(IN_THE_ARENA)

    gpu.before_run = spent
    reply = submit(edge, session.session_id, one, 1)
    assert isinstance(reply.error, OutOfMemory)
    gpu.before_run = lambda: None
    assert submit(edge, session.session_id, one, 2).error is None


def test_a_frame_takes_the_room_of_engines_that_nobody_uses(edge: Edge, gpu: PretendGpu) -> None:
    one, two, _ = specs(edge)
    session = edge.service.open_session(one)
    idle = edge.service.open_session(two)
    edge.service.close_session(idle.session_id)

    def spent() -> None:
        if gpu.free_bytes < 100_000:
            raise RuntimeError(AT_THE_LIMIT)

    gpu.before_run = spent
    assert submit(edge, session.session_id, one).error is None
    assert edge.partitions.sizes()[0] == 0


def test_a_device_reads_the_refusal_as_what_it_is(edge: Edge) -> None:
    one, two, three = specs(edge)
    for spec in (one, two):
        edge.service.open_session(spec)
    with transport_to(edge, "grpc") as transport, pytest.raises(OutOfMemory) as caught:
        transport.open(three)
    assert "the tail of 'tiny' at sum" in str(caught.value)
    assert isinstance(caught.value, SplitbedError)


def test_the_bound_on_memory_reaches_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = pretend_gpu(monkeypatch)
    Engine(CHAIN, provider="cuda", accelerator=Accelerator(memory_bytes=7 << 20))
    (_, options), last = gpu.asked[0]
    assert options["gpu_mem_limit"] == str(7 << 20)
    assert last == CPU
    Engine(CHAIN, provider="cuda")
    assert "gpu_mem_limit" not in gpu.asked[1][0][1]


def test_a_tail_whose_batch_is_open_is_warm_before_its_first_frame(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Neg", ["r"], ["n"]),
            node("MatMul", ["n", "w"], ["scores"]),
        ],
        [info("x", ["N", 4])],
        [info("scores", ["N", 3])],
        weights(w=np.ones((4, 3))),
    )
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(proto, str(folder / "open.onnx"))
    with edge_over(folder) as edge:
        second = edge.answer("r", "open").second
        assert second is not None
        warm = edge.partitions.engine(second.sha256, "cpu", "a tail")
        assert warm.first_inference_ns > 0
        warm.engine.warm_up_batches({s.name: s.shape for s in second.inputs}, [2, 4])
        (scores,) = warm.engine.run({"r": np.ones((4, 4), np.float32)})
        assert scores.shape == (4, 3)
