"""Small real models, edges and processes for the tests of the transports and of both nodes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import psutil
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from device_node.options import DeviceOptions
from edge_node.metrics import Metrics
from edge_node.partitions import Partitions
from edge_node.service import UNUSED_S, EdgeService
from edge_node.store import ModelStore
from edge_node.turns import Turns
from splitbed import codec
from splitbed.engine import Engine
from splitbed.process import PARENT
from splitbed.session import (
    LOCAL,
    REMOTE,
    SPLIT,
    Buffer,
    CutAnswer,
    CutQuestion,
    Frame,
    Reply,
    SessionSpec,
)
from splitbed.tensor import Array, Partition, TensorSpec
from splitbed.transport import InProcessTransport, Peer, Transport, Work
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer

PICTURE = (1, 3, 8, 8)
NODE = {"versions": {"splitbed": "9"}, "host": {"cores": 2, "processor": "x"}, "threads": 1}
"""What the edges of tests say of themselves."""
TASK = "[task]\nmean = [127.5]\nstd = [127.5]\ntop = 3\n"


def tiny_model(classes: int = 5, seed: int = 0) -> onnx.ModelProto:
    """x -> left = relu(x), right = -x, sum = left + right -> flat -> scores.

    At `left` the input itself crosses too, at `right` two made tensors cross, at `sum` one.
    """
    weights = np.random.default_rng(seed).normal(size=(192, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["left"]),
        helper.make_node("Neg", ["x"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Flatten", ["sum"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    return _model(nodes, PICTURE, (1, classes), [numpy_helper.from_array(weights, "weights")])


def growing_model(elements: int) -> onnx.ModelProto:
    """One number in, `elements` numbers out: small requests, large replies."""
    sizes = numpy_helper.from_array(np.array([1, elements], np.int64), "sizes")
    nodes = [
        helper.make_node("Relu", ["x"], ["mid"]),
        helper.make_node("Expand", ["mid", "sizes"], ["scores"]),
    ]
    return _model(nodes, (1, 1), (1, elements), [sizes])


def wide_model() -> onnx.ModelProto:
    """x -> mid = relu(x) of 3.1 MB -> scores, the mean of each channel."""
    nodes = [
        helper.make_node("Relu", ["x"], ["mid"]),
        helper.make_node("GlobalAveragePool", ["mid"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    return _model(nodes, (1, 3, 512, 512), (1, 3), [])


def _model(
    nodes: list[onnx.NodeProto],
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tests",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape_out)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def model_folder(folder: Path) -> Path:
    """A folder with `tiny.onnx` and its task."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(tiny_model(), str(folder / "tiny.onnx"))
    (folder / "tiny.toml").write_text(TASK, encoding="utf-8")
    return folder


def picture(seed: int) -> NDArray[np.float32]:
    """An input of the tiny model."""
    return np.random.default_rng(seed).normal(size=PICTURE).astype(np.float32)


def uncut(model: Path, value: Array) -> NDArray[np.float32]:
    """What the whole model makes of an input."""
    return Engine(model, provider="cpu", threads=1).run({"x": value})[0].astype(np.float32)


def boundary_of(cut: str, value: NDArray[np.float32]) -> dict[str, Array]:
    """What crosses the tiny model's cut, computed with numpy."""
    left, right = np.maximum(value, 0), -value
    values: dict[str, Array] = {"x": value, "left": left, "right": right, "sum": left + right}
    crossing = {"@input": ["x"], "left": ["x", "left"], "right": ["left", "right"], "sum": ["sum"]}
    return {name: values[name] for name in crossing[cut]}


def payloads(spec: SessionSpec, values: dict[str, Array]) -> tuple[Buffer, ...]:
    """The boundary, coded as the session agreed."""
    return tuple(
        codec.build(written, tensor).encode(values[tensor.name])
        for written, tensor in zip(spec.codecs, spec.cut.boundary, strict=True)
    )


def spec_for(answer: CutAnswer, *, coded: str = "raw", **changes: Any) -> SessionSpec:
    """A session over an answer's cut, as a device would ask for it."""
    placement = REMOTE if answer.first is None else LOCAL if answer.second is None else SPLIT
    spec = SessionSpec(
        run_id="run-1",
        model="tiny",
        model_digest=answer.model_digest,
        placement=placement,
        cut=answer.cut,
        codecs=codec.plan(coded, answer.cut.boundary, None),
        reply="full",
        task_json=answer.task_json,
    )
    return msgspec.structs.replace(spec, **changes)


@dataclass(frozen=True)
class Edge:
    """An edge without a network in front of it."""

    models: Path
    store: ModelStore
    metrics: Metrics
    partitions: Partitions
    service: EdgeService

    def answer(self, cut: str, model: str = "tiny") -> CutAnswer:
        """Describe a cut."""
        return self.service.describe_cut(CutQuestion(model, cut))


@contextlib.contextmanager
def edge_over(
    models: Path,
    *,
    engines: int = 16,
    parts: int = 64,
    records: Path | None = None,
    sessions: int = 8,
    message_bytes: int = 8 << 20,
    partitions_class: type[Partitions] = Partitions,
    unused_s: float = UNUSED_S,
    turns: Turns | None = None,
) -> Iterator[Edge]:
    """A real edge over a folder of models; every session is closed at the end."""
    store, metrics = ModelStore(models), Metrics()
    partitions = partitions_class(store, provider="cpu", threads=1, engines=engines, parts=parts)
    service = EdgeService(
        partitions,
        metrics,
        records=records,
        sessions=sessions,
        message_bytes=message_bytes,
        sample_interval_s=0.05,
        node=NODE,
        unused_s=unused_s,
        turns=turns,
    )
    try:
        yield Edge(models, store, metrics, partitions, service)
    finally:
        service.close()


class Stalling:
    """A peer that works on no frame until it is let go."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.reached = threading.Semaphore(0)
        self.go = threading.Event()

    def process(self, frame: Frame, received_ns: int) -> Reply:
        self.reached.release()
        self.go.wait(30)
        return self._peer.process(frame, received_ns)

    def start(self, frame: Frame, received_ns: int) -> Work:
        self.reached.release()
        self.go.wait(30)
        return self._peer.start(frame, received_ns)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)


def fetched(transport: Transport, part: Partition) -> bytes:
    """A part's file."""
    return b"".join(transport.part_chunks(part.sha256, 0))


def tensor_of(payload: Buffer, spec: TensorSpec) -> NDArray[np.float32]:
    """An uncoded tensor of a full reply."""
    assert spec.dtype == "float32"
    return codec.raw_array(payload, spec).astype(np.float32)


def eventually(condition: Callable[[], object], within_s: float = 5.0) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Node:
    """One of our commands as a process, with its ready line read."""

    def __init__(self, *arguments: str, stdin_open: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE if stdin_open else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"it did not start: {self._rest()}")
        self.ready: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._rest()

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.ready["address"])

    def terminate(self, within_s: float) -> tuple[int, str]:
        """Send SIGTERM; the exit code and what it wrote to standard error."""
        self.process.terminate()
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, self._rest()

    def _rest(self) -> str:
        errors = b""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                errors = stream.read() if stream is self.process.stderr else errors
                stream.close()
        self.process.wait(10)
        return errors.decode()


def finished(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command that ends on its own: exit code, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**_environment(), **(env or {})},
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


_PARENT_SCRIPT = f"""
import os, subprocess, sys, time
environment = {{**os.environ, "{PARENT}": str(os.getpid())}}
child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE, env=environment)
line = child.stdout.readline()
print('{{"pid": %d, "child": %s}}' % (child.pid, line.decode().strip()), flush=True)
time.sleep(60)
"""


def ends_with_its_parent(*arguments: str, within_s: float) -> bool:
    """Whether a child of a process that is killed ends too."""
    with Node("-c", _PARENT_SCRIPT, *arguments) as parent:
        child = psutil.Process(parent.ready["pid"])
        assert child.is_running()
        parent.process.kill()
        ended = eventually(lambda: gone(child), within_s)
        if not ended:
            child.kill()
        return ended


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended, even if nobody has read its exit code."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != PARENT}


@contextlib.contextmanager
def transport_to(edge: Edge, kind: str) -> Iterator[Transport]:
    """The way to an edge: `in-process` or `grpc`, over a socket of this machine."""
    if kind == "in-process":
        yield InProcessTransport(edge.service)
        return
    server = GrpcServer(edge.service, "127.0.0.1:0")
    made = GrpcTransport(server.address)
    yield made
    made.close()
    server.stop(0)


def device_options(folder: Path, **changes: Any) -> DeviceOptions:
    """Of a device in the folder on the `tiny` model, cut at `right`."""
    options = DeviceOptions(
        edge="127.0.0.1:9",
        model="tiny",
        cut="right",
        out=folder / "runs",
        run_id="mine",
        cache=folder / "cache",
    )
    return msgspec.structs.replace(options, **changes)


def drawn_pictures(folder: Path, count: int) -> list[Path]:
    """Small pictures of noise for the tiny model, on disk."""
    drawn = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(folder.iterdir())
