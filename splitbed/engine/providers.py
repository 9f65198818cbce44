"""Which execution provider runs a partition, and with which options."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from splitbed.errors import EngineError, ProviderMissing
from splitbed.session import ProviderChoice

PROVIDERS: Final[dict[ProviderChoice, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""ONNX Runtime's names by ours."""

_ON_GPU: Final = (PROVIDERS["cuda"], PROVIDERS["tensorrt"])

_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")

_MIB: Final = 1 << 20

Provider = str | tuple[str, dict[str, str]]
"""As `InferenceSession` takes it: a name, or a name and options."""


class Accelerator(msgspec.Struct, frozen=True):
    """What an engine may use of a GPU."""

    memory_bytes: int = 0
    """Of ONNX Runtime's arena, for each engine; 0 for no bound. What a run needs lies in it;
    weights, the libraries' contexts and the inputs of bindings are allocated beside it."""
    cached: Path | None = None
    """Folder of TensorRT engines (`EngineCache`), None to keep none."""


def onnxruntime_module() -> Any:
    """The module; EngineError, with what to install, where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "onnxruntime cannot be imported: install splitbed[device] for a CPU, or "
            f"splitbed[edge-gpu] for a GPU ({error})"
        ) from error
    return onnxruntime


def installed_distributions() -> dict[str, str]:
    """Every installed distribution that provides `import onnxruntime`, with its version."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def distribution_conflict() -> str | None:
    """A sentence when more than one of them is installed, else None.

    They provide the same import and overwrite each other's files, so what runs is left to chance.
    """
    found = installed_distributions()
    if len(found) < 2:
        return None
    names = " and ".join(sorted(found))
    return (
        f"{names} are installed together and overwrite each other's files: run "
        f"'pip uninstall -y {' '.join(sorted(found))}' and install the one that you want"
    )


def missing(provider: str, why: str) -> ProviderMissing:
    """The refusal of a provider that was asked for by name, with a way out."""
    sentence = f"{provider} was asked for and is not available: {why}"
    conflict = distribution_conflict()
    if conflict:
        return ProviderMissing(f"{sentence}; {conflict}")
    needed = "CUDA and TensorRT" if provider == PROVIDERS["tensorrt"] else "CUDA"
    return ProviderMissing(
        f"{sentence}; use --provider auto or cpu, or install splitbed[edge-gpu] and {needed}"
    )


def wanted(ort: Any, choice: ProviderChoice) -> str:
    """The provider to try first; ProviderMissing where it was asked for and not built in."""
    name = PROVIDERS["cuda" if choice == "auto" else choice]
    if name in ort.get_available_providers():
        return name
    if choice == "auto":
        return PROVIDERS["cpu"]
    raise missing(name, "this onnxruntime was built without it")


def settled(choice: ProviderChoice) -> ProviderChoice:
    """`cpu` for `auto` where nothing else is built in; else the choice itself.

    With CUDA built in, only an engine that was made tells what `auto` came to.
    """
    if choice == "auto" and wanted(onnxruntime_module(), choice) == PROVIDERS["cpu"]:
        return "cpu"
    return choice


def chain(ort: Any, first: str, accelerator: Accelerator) -> list[Provider]:
    """Providers in their order: what `first` cannot run goes to the next."""
    if first not in _ON_GPU:
        return [first]
    preloaded(ort)
    providers: list[Provider] = [(PROVIDERS["cuda"], cuda_options(accelerator)), PROVIDERS["cpu"]]
    if first == PROVIDERS["tensorrt"]:
        # TensorRT multiplies in TF32 unless all of NVIDIA's libraries are told not to.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        providers.insert(0, (first, tensorrt_options(accelerator)))
    return providers


def memory_device(provider: str) -> str:
    """Where a provider's tensors lie, as ONNX Runtime's bindings name it."""
    return "cuda" if provider in _ON_GPU else "cpu"


def cuda_options(accelerator: Accelerator) -> dict[str, str]:
    """Of the CUDA provider.

    The arena grows by what is asked for and not to the next power of two: several partitions share
    a GPU. TF32 is off: it keeps ten bits of a float's mantissa, and results shall be those of the
    CPU. The choice of convolution algorithms is left at EXHAUSTIVE: it is made once for each input
    shape, which is what a warm-up is for.
    """
    options = {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }
    if accelerator.memory_bytes:
        options["gpu_mem_limit"] = str(accelerator.memory_bytes)
    return options


def tensorrt_options(accelerator: Accelerator) -> dict[str, str]:
    """Of the TensorRT provider: single precision, engines kept in a folder where one is given."""
    options = {"device_id": "0", "trt_fp16_enable": "0", "trt_int8_enable": "0"}
    if accelerator.memory_bytes:
        options["trt_max_workspace_size"] = str(max(_MIB, accelerator.memory_bytes))
    if accelerator.cached is not None:
        folder = str(accelerator.cached)
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
    return options


@functools.cache
def preloaded(ort: Any) -> None:
    """Load CUDA and cuDNN from NVIDIA's pip packages, where those are installed.

    ONNX Runtime looks for them in the system's folders only. What it prints about those that it
    does not find is not for a node's standard output; a missing one is told by the session.
    """
    load = getattr(ort, "preload_dlls", None)
    if load is not None:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            load()
