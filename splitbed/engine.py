"""One ONNX Runtime session: provider, threads, times of initialisation and first inference."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from splitbed.errors import EngineError, ProviderMissing
from splitbed.session import ProviderChoice
from splitbed.tensor import Array, DType, TensorSpec

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")


_IDENTITY_MODEL: Final = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a00100d"
)
"""The smallest ONNX model, y = x of one float: enough to see whether a provider loads."""


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


def working_provider(choice: ProviderChoice) -> str:
    """The provider that a session with this choice would take; ProviderMissing if none."""
    return Engine(_IDENTITY_MODEL, provider=choice, what="a trial model").provider


def observed(model: bytes | Path) -> list[TensorSpec]:
    """The outputs of a model whose shape ONNX Runtime infers, its own operators included.

    Nothing is optimised and nothing is run. Raises EngineError where it cannot load the model.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model
    try:
        session = ort.InferenceSession(source, options, providers=[_PROVIDERS["cpu"]])
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot load a model: {_line(error)}") from error
    found = []
    for value in session.get_outputs():
        try:
            dtype = _numpy_type(value.type).name
        except TypeError:
            continue  # no tensor of numbers
        if dtype in get_args(DType) and all(isinstance(size, int) for size in value.shape):
            found.append(TensorSpec(value.name, dtype, tuple(value.shape)))  # type: ignore[arg-type]
    return found


class Engine:
    """One ONNX Runtime session over one partition.

    `provider` is `auto` (CUDA where it works, else the CPU), `cpu` or `cuda`; one that is asked for
    by name and missing is an error, never another provider. `threads` is the number of intra-op
    threads, 0 for ONNX Runtime's choice.

    Worker threads do not spin between runs (`session.intra_op.allow_spinning`): on a machine that
    runs both nodes, one node's spinning would be charged to the other's time.
    """

    def __init__(
        self,
        model: bytes | Path,
        *,
        provider: ProviderChoice = "auto",
        threads: int = 0,
        what: str = "the model",
    ) -> None:
        ort = _onnxruntime()
        self._what = what
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # failures are raised; the rest is not for our users
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = str(model) if isinstance(model, Path) else model
        start_ns = time.perf_counter_ns()
        self._session = self._create(ort, source, options, provider)
        self.init_ns = time.perf_counter_ns() - start_ns
        """Time to create the session, graph optimisation included."""
        self.first_inference_ns = 0
        """Time of the first run, 0 before it."""
        self.provider: str = self._session.get_providers()[0]
        """The provider taken, by ONNX Runtime's name."""
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def _create(self, ort: Any, source: str | bytes, options: Any, choice: ProviderChoice) -> Any:
        available = ort.get_available_providers()
        wanted = _PROVIDERS["cuda" if choice == "auto" else choice]
        if wanted not in available:
            if choice != "auto":
                raise ProviderMissing(_missing(wanted, "this onnxruntime was built without it"))
            wanted = _PROVIDERS["cpu"]
        cpu = _PROVIDERS["cpu"]
        chain = [wanted] if wanted == cpu else [wanted, cpu]
        try:
            session = ort.InferenceSession(source, options, providers=chain)
        except Exception as error:
            if wanted != cpu and choice == "auto":
                return self._create(ort, source, options, "cpu")
            raise EngineError(f"ONNX Runtime cannot load {self._what}: {_line(error)}") from error
        if session.get_providers()[0] != wanted and choice != "auto":
            # ONNX Runtime warns and takes the CPU where CUDA's libraries do not load.
            raise ProviderMissing(_missing(wanted, "its libraries or device could not be used"))
        return session

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs for these inputs, in the order of `outputs`."""
        start_ns = time.perf_counter_ns() if not self.first_inference_ns else 0
        try:
            outputs: list[Array] = self._session.run(None, dict(feeds))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in {self._what}: {_line(error)}") from error
        if start_ns:
            self.first_inference_ns = time.perf_counter_ns() - start_ns
        return outputs

    def warm_up(self) -> None:
        """Run once on zeros, so that the first real frame does not pay for it."""
        feeds = {}
        for tensor in self._session.get_inputs():
            if not all(isinstance(size, int) for size in tensor.shape):
                return
            feeds[tensor.name] = np.zeros(tensor.shape, _numpy_type(tensor.type))
        self.run(feeds)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "onnxruntime cannot be imported: install splitbed[device] for a CPU, or "
            f"splitbed[edge-gpu] for a GPU ({error})"
        ) from error
    return onnxruntime


def _missing(provider: str, why: str) -> str:
    sentence = f"{provider} was asked for and is not available: {why}"
    conflict = distribution_conflict()
    if conflict:
        return f"{sentence}; {conflict}"
    return f"{sentence}; use --provider auto or cpu, or install splitbed[edge-gpu] and CUDA"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _numpy_type(ort_type: str) -> np.dtype[Any]:
    names = {"float": "float32", "double": "float64", "bool": "bool"}
    inner = ort_type.removeprefix("tensor(").removesuffix(")")
    return np.dtype(names.get(inner, inner))
