"""ONNX Runtime's exceptions as ours: one sentence, and memory that ran out by its own type."""

from __future__ import annotations

import re
from typing import Final

from splitbed.errors import EngineError, OutOfMemory

_SENTENCE_CHARACTERS: Final = 400

_NO_MEMORY: Final = re.compile(
    # ONNX Runtime's arena (bfc_arena.cc): the device refused, or `gpu_mem_limit` is reached.
    r"Failed to allocate memory for requested buffer"
    r"|Available memory of \d+ is smaller than requested bytes"
    # CUDA ("CUDA failure 2: out of memory"), TensorRT ("Error Code 2: OutOfMemory").
    r"|CUDA failure 2\b|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|\bout of memory\b|\bOutOfMemory\b"
    # cuBLAS, and cuDNN 8 and 9 (CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED).
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_\w*ALLOC(?:ATION)?_FAILED"
    # The host's own.
    r"|std::bad_alloc|\bbad allocation\b",
    re.IGNORECASE,
)
"""ONNX Runtime has no code for it: all of these arrive as RuntimeException, Fail or EPFail."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ONNX Runtime, or a library under it, found no memory."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def translated(error: BaseException, did: str) -> EngineError:
    """What ONNX Runtime raised, in one sentence that begins with `did`.

    OutOfMemory for memory that ran out, whoever says so; an error of ours stays as it is.
    """
    if isinstance(error, EngineError):
        return error
    sentence = f"{did}: {line(error)}"
    if is_out_of_memory(error):
        return OutOfMemory(
            f"no memory is left on the device ({sentence}): close a session, keep fewer partitions "
            "warm (--engines), or raise --gpu-memory-mib where it was given"
        )
    return EngineError(sentence)


def line(error: BaseException) -> str:
    """An exception's text on one line, shortened."""
    return " ".join(str(error).split())[:_SENTENCE_CHARACTERS] or type(error).__name__
