"""An `onnxruntime` with a GPU that is not there: the CPU computes, a ledger keeps the memory.

Everything real is ONNX Runtime's own: sessions, bindings, values, messages of its failures. What is
pretended is the device's name, how much memory it has, and that it refuses more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

IN_THE_ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv "
    "node. Name:'/layer1/Conv' Status Message: /onnxruntime_src/onnxruntime/core/framework/"
    "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, "
    "onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) Failed to allocate memory for "
    "requested buffer of size 939524096\n"
)
AT_THE_LIMIT = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Relu node. "
    "Name:'' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Available "
    "memory of 4182016 is smaller than requested bytes of 16777216"
)
AT_CREATION = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: "
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, "
    "void, common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, "
    "const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = "
    "cudaError] CUDA failure 2: out of memory ; GPU=0 ; hostname=edge ; file=/onnxruntime_src/"
    "onnxruntime/core/providers/cuda/cuda_allocator.cc ; line=50 ; expr=cudaMalloc((void**)&p, "
    "size);"
)


class PretendGpu:
    """The module's attributes that engines use. `free_bytes` is what the device has left."""

    SessionOptions = onnxruntime.SessionOptions
    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel

    def __init__(self, providers: Sequence[str], total_bytes: int, session_bytes: int) -> None:
        self.providers = list(providers)
        self.free_bytes = total_bytes
        self.session_bytes = session_bytes
        """What every session takes when it is made."""
        self.allocations = 0
        """Buffers made on the device so far."""
        self.asked: list[list[Any]] = []
        """Providers with their options, of every session."""
        self.before_run: Callable[[], None] = lambda: None
        self.OrtValue = _Values(self)

    def get_available_providers(self) -> list[str]:
        return self.providers

    def InferenceSession(self, *given: Any, **named: Any) -> _Session:
        return _Session(self, *given, **named)

    def take(self, size_bytes: int, message: str) -> None:
        if size_bytes > self.free_bytes:
            raise RuntimeError(message)
        self.free_bytes -= size_bytes


class _Values:
    def __init__(self, gpu: PretendGpu) -> None:
        self._gpu = gpu

    def ortvalue_from_shape_and_type(
        self, shape: list[int], dtype: Any, device: str, number: int
    ) -> Any:
        assert (device, number) == ("cuda", 0)
        self._gpu.take(int(np.prod(shape)) * np.dtype(dtype).itemsize, IN_THE_ARENA)
        self._gpu.allocations += 1
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)


class _Session:
    def __init__(
        self, gpu: PretendGpu, source: Any, options: Any, *, providers: Any, enable_fallback: int
    ) -> None:
        assert enable_fallback == 0
        names = [one if isinstance(one, str) else one[0] for one in providers]
        self._gpu, self._names, self._held_bytes = gpu, names, 0
        gpu.asked.append(list(providers))
        if names[0] != CPU:
            limit = dict(one for one in providers if not isinstance(one, str))[CUDA]
            if gpu.session_bytes > int(limit.get("gpu_mem_limit", gpu.session_bytes)):
                raise RuntimeError(AT_THE_LIMIT)
            gpu.take(gpu.session_bytes, AT_CREATION)
            self._held_bytes = gpu.session_bytes
        self._real = onnxruntime.InferenceSession(source, options, providers=[CPU])

    def __del__(self) -> None:
        self._gpu.free_bytes += self._held_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return self._names

    def run(self, *given: Any) -> Any:
        self._gpu.before_run()
        return self._real.run(*given)

    def io_binding(self) -> _Binding:
        return _Binding(self._real.io_binding())

    def run_with_iobinding(self, binding: _Binding) -> None:
        self._gpu.before_run()
        self._real.run_with_iobinding(binding.real)


class _Binding:
    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def bind_output(self, name: str, device: str, number: int) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_output(name, "cpu", 0)

    def get_outputs(self) -> list[_OnDevice]:
        return [_OnDevice(value) for value in self.real.get_outputs()]


class _OnDevice:
    """An output; on a device its array is a copy."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def numpy(self) -> Any:
        return self._value.numpy().copy()


def pretend_gpu(
    monkeypatch: pytest.MonkeyPatch,
    *,
    providers: Sequence[str] = (CUDA, CPU),
    total_bytes: int = 1 << 30,
    session_bytes: int = 0,
) -> PretendGpu:
    """Let engines find this GPU until the test ends."""
    gpu = PretendGpu(providers, total_bytes, session_bytes)
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu)
    return gpu
