"""What `check.py` tries with a GPU alone: memory that runs out, TensorRT, energy."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from edge_node.partitions import Partitions
from edge_node.store import ModelStore
from splitbed.engine import Accelerator, Engine, working_provider
from splitbed.engine.failure import is_out_of_memory
from splitbed.engine.providers import onnxruntime_module
from splitbed.errors import OutOfMemory, ProviderMissing, SplitbedError
from splitbed.session import CutQuestion, ProviderChoice
from tests.gpu.cases import Tail, difference
from tests.gpu.measured import TOLERANCE, Check, median_ms

TOO_SMALL_BYTES = 1 << 20
CHUNK_BYTES = 1 << 29
WATCHED_S = 2.0
SCRIPT = Path(__file__).with_name("check.py")


def memory(check: Check, path: Path, tail: Tail) -> None:
    """A session that has no room is refused by its type; the next one, with room, is served."""
    if check.provider == "cpu":
        check.note("no room: refused, and the edge goes on", None, "the CPU's arena has no bound")
        return
    store = ModelStore(path)

    def tried(accelerator: Accelerator | None) -> str:
        partitions = Partitions(
            store, provider=check.provider, threads=0, engines=4, accelerator=accelerator
        )
        second = partitions.describe(CutQuestion(path.stem, tail.cut)).second
        assert second is not None
        try:
            partitions.engine(second.sha256, "auto", "a tail").engine.run(tail.feeds)
        except SplitbedError as error:
            print(f"  {type(error).__name__}: {str(error)[:200]}")
            return error.kind
        return "served"

    print(f"\nRoom for {TOO_SMALL_BYTES >> 20} MiB, then without a bound:")
    said = [tried(Accelerator(memory_bytes=TOO_SMALL_BYTES)), tried(None)]
    print(f"  {', '.join(said)}")
    passed = said == ["out-of-memory", "served"]
    check.note("no room: refused, and the edge goes on", passed, ", ".join(said))
    done = subprocess.run(
        [sys.executable, SCRIPT, "--provider", check.provider, "--fill", str(path), tail.cut],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    print(f"The whole GPU taken, in a process of its own:\n{done.stdout.rstrip() or done.stderr}")
    check.note("a full GPU: refused by its type", done.returncode == 0)


def fill(provider: ProviderChoice, path: Path, cut: str) -> int:
    """Take all of the GPU's memory, then open a session."""
    ort = onnxruntime_module()
    partitions = Partitions(ModelStore(path), provider=provider, threads=0, engines=4)
    second = partitions.describe(CutQuestion(path.stem, cut)).second
    assert second is not None
    working_provider(provider)  # CUDA's own context comes first
    held, size = [], CHUNK_BYTES
    while size >= 1 << 20:
        try:
            held.append(ort.OrtValue.ortvalue_from_shape_and_type([size], np.uint8, "cuda", 0))
        except Exception as error:
            if not is_out_of_memory(error):
                print(f"  not recognised: {error}")
                return 1
            size //= 2
    print(f"  {len(held)} pieces taken")
    try:
        partitions.engine(second.sha256, provider, "a tail")
    except SplitbedError as error:
        print(f"  {type(error).__name__}: {str(error)[:300]}")
        partitions.engine(second.sha256, "cpu", "a tail")
        print("  a session on the CPU is served")
        return 0 if isinstance(error, OutOfMemory) else 1
    print("  served all the same")
    return 1


def tensorrt(check: Check, tail: Tail) -> None:
    """Built, loaded again from its folder, and compared."""
    what = "TensorRT"
    if check.provider == "cpu" or "TensorrtExecutionProvider" not in (
        onnxruntime_module().get_available_providers()
    ):
        check.note(what, None, "this onnxruntime was built without it")
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            built, loaded = (
                check.engine(
                    tail.content,
                    provider="tensorrt",
                    accelerator=Accelerator(cached=Path(folder)),
                    sha256=tail.sha256,
                )
                for _ in range(2)
            )
            for engine in (built, loaded):
                engine.warm_up(tail.shapes)
            wanted = Engine(tail.content, provider="cpu").run(tail.feeds)
            off = max(difference(e.run(tail.feeds), wanted) for e in (built, loaded))
            run_ms = median_ms(partial(loaded.run, tail.feeds), check.rounds)
    except SplitbedError as error:
        check.note(what, None if isinstance(error, ProviderMissing) else False, str(error)[:160])
        return
    print(f"\nTensorRT, {tail.model} at {tail.cut[-30:]}: built in {built.init_ns / 1e9:.1f} s, ")
    print(f"  loaded in {loaded.init_ns / 1e9:.1f} s, {run_ms:.3f} ms a run, off by {off:.1e}")
    check.note(what, off <= TOLERANCE, f"{off:.1e}")


def energy(check: Check, tail: Tail) -> None:
    """Joules a run over idle, by the GPU's own counter."""
    with _nvml() as read:
        if check.provider == "cpu" or read is None:
            check.note("energy", None, "no NVML here (pip install nvidia-ml-py)")
            return
        engine = check.engine(tail.content)
        engine.run(tail.feeds)
        idle_w = _watts(read, lambda: time.sleep(0.01), WATCHED_S)[0]
        busy_w, runs_per_s = _watts(read, lambda: engine.run(tail.feeds), WATCHED_S)
    print(
        f"\nPower: {idle_w:.1f} W idle with a context, {busy_w:.1f} W at {runs_per_s:.0f} runs a "
        f"second, {1e3 * (busy_w - idle_w) / runs_per_s:.2f} mJ a run over idle"
    )
    check.note("energy", True)


def _watts(
    read: Callable[[], int], work: Callable[[], object], least_s: float
) -> tuple[float, float]:
    start_mj, start_s, count = read(), time.perf_counter(), 0
    while time.perf_counter() - start_s < least_s:
        work()
        count += 1
    took_s = time.perf_counter() - start_s
    return (read() - start_mj) / 1e3 / took_s, count / took_s


@contextlib.contextmanager
def _nvml() -> Iterator[Callable[[], int] | None]:
    """Reads millijoules since the driver was loaded; None where there is no such counter."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:
        yield None
        return
    print(f"\n{pynvml.nvmlDeviceGetName(handle)}, driver {pynvml.nvmlSystemGetDriverVersion()}")
    yield lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    pynvml.nvmlShutdown()
