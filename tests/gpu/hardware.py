"""What `check.py` tries with a GPU alone: memory that runs out, TensorRT, energy."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from edge_node.partitions import Partitions
from edge_node.store import ModelStore
from splitbed.engine import Accelerator, Engine, working_provider
from splitbed.engine.failure import is_out_of_memory
from splitbed.engine.providers import onnxruntime_module
from splitbed.errors import OutOfMemory, ProviderMissing, SplitbedError
from splitbed.resources import gpu
from splitbed.resources.gauge import Meter
from splitbed.session import CutQuestion, ProviderChoice
from tests.gpu.cases import Tail, difference
from tests.gpu.measured import TOLERANCE, Check, median_ms

TOO_SMALL_BYTES = 1 << 20
CHUNK_BYTES = 1 << 29
WATCHED_S = 2.0
_READ = {
    "gpu0_pct": ("utilisation", 1, "%"),
    "gpu0_memory_bytes": ("memory", 1e6, "MB"),
    "gpu0_w": ("power", 1, "W"),
    "gpu0_j": ("energy", 1, "J"),
}
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
    """What the edge's own meter tells of the GPU, and by it the joules of a run over idle."""
    if check.provider == "cpu":
        check.note("energy", None, "of a GPU only")
        return
    meter = gpu.find()
    try:
        engine = check.engine(tail.content)
        engine.run(tail.feeds)
        idle = _watched(meter, lambda: time.sleep(0.01))
        busy = _watched(meter, lambda: engine.run(tail.feeds))
    finally:
        meter.close()
    sources = {source.name: source for source in meter.sources()}
    if idle is None or busy is None:
        why = "; ".join(dict.fromkeys(s.reason for s in sources.values() if s.reason))
        check.note("energy", None, why[:160])
        return
    print(f"\n{sources['gpu0_j'].source}")
    print("Read under load: " + ", ".join(_told(name, busy.last.get(name)) for name in _READ))
    print(
        f"Power: {idle.mean_w:.1f} W idle with a context, {busy.mean_w:.1f} W at "
        f"{busy.runs_per_s:.0f} runs a second, "
        f"{1e3 * (busy.mean_w - idle.mean_w) / busy.runs_per_s:.2f} mJ a run over idle"
    )
    lacks = [f"{name}: {sources[name].reason}" for name in _READ if name not in busy.last]
    check.note("energy", not lacks, "; ".join(lacks)[:160])


class _Watched(msgspec.Struct, frozen=True):
    """One GPU at the end of some work, and meanwhile."""

    last: dict[str, float]
    mean_w: float
    runs_per_s: float


def _watched(meter: Meter, work: Callable[[], object]) -> _Watched | None:
    """None where the meter does not count energy."""
    first, start_s, count = meter.read(time.perf_counter_ns()), time.perf_counter(), 0
    if "gpu0_j" not in first:
        return None
    while time.perf_counter() - start_s < WATCHED_S:
        work()
        count += 1
    took_s = time.perf_counter() - start_s
    last = meter.read(time.perf_counter_ns())
    if "gpu0_j" not in last:
        return None
    return _Watched(last, (last["gpu0_j"] - first["gpu0_j"]) / took_s, count / took_s)


def _told(name: str, value: float | None) -> str:
    what, scale, unit = _READ[name]
    return f"{what} unavailable" if value is None else f"{what} {value / scale:,.4g} {unit}"
