"""One ONNX Runtime session: provider, threads, times of initialisation and first inference."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from splitbed.engine import providers
from splitbed.engine.binding import Bindings, Key, Steps, key_of
from splitbed.engine.cache import EngineCache
from splitbed.engine.failure import is_out_of_memory, translated
from splitbed.engine.providers import PROVIDERS, Accelerator
from splitbed.errors import OutOfMemory
from splitbed.session import ProviderChoice
from splitbed.tensor import Array, DType, TensorSpec

Shapes = Mapping[str, Sequence[int]]
"""Of some inputs, by name."""

_IDENTITY_MODEL: Final = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a00100d"
)
"""The smallest ONNX model, y = x of one float: enough to see whether a provider loads."""


def working_provider(choice: ProviderChoice) -> str:
    """The provider that a session with this choice would take; ProviderMissing if none."""
    return Engine(_IDENTITY_MODEL, provider=choice, what="a trial model").provider


def observed(model: bytes | Path) -> list[TensorSpec]:
    """The outputs of a model whose shape ONNX Runtime infers, its own operators included.

    Nothing is optimised and nothing is run. Raises EngineError where it cannot load the model.
    """
    ort = providers.onnxruntime_module()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = _session(ort, model, options, [PROVIDERS["cpu"]])
    except Exception as error:
        raise translated(error, "ONNX Runtime cannot load a model") from error
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
    """One ONNX Runtime session over one partition. Any number of threads may run it at once.

    `provider` is `auto` (CUDA where it works, else the CPU), `cpu`, `cuda` or `tensorrt`; one that
    is asked for by name and missing is an error, never another provider. `threads` is the number of
    intra-op threads, 0 for ONNX Runtime's choice. `accelerator` says what may be used of a GPU, and
    `sha256`, the partition's digest, where its TensorRT engines are kept; without it none are.

    `bound` puts inputs and outputs into buffers on the device (`Binding`); None does so on a GPU
    alone. On the CPU the plain run reads the arrays where they are.

    `relieve` is called when memory ran out in a run; it frees what it can, and the run is tried
    once more.

    Worker threads do not spin between runs (`session.intra_op.allow_spinning`): on a machine that
    runs both nodes, one node's spinning would be charged to the other's time.

    Raises EngineError where the model cannot be loaded, ProviderMissing, and OutOfMemory.
    """

    def __init__(
        self,
        model: bytes | Path,
        *,
        provider: ProviderChoice = "auto",
        threads: int = 0,
        what: str = "the model",
        accelerator: Accelerator | None = None,
        sha256: str = "",
        bound: bool | None = None,
        relieve: Callable[[], object] | None = None,
    ) -> None:
        ort = providers.onnxruntime_module()
        self._what, self._relieve = what, relieve
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # failures are raised; the rest is not for our users
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        accelerator = accelerator or Accelerator()
        start_ns = time.perf_counter_ns()
        self._session = self._create(ort, model, options, provider, accelerator, sha256)
        self.init_ns = time.perf_counter_ns() - start_ns
        """Time to create the session: graph optimisation, and the building of TensorRT engines."""
        self.first_inference_ns = 0
        """Time of the first run, 0 before it."""
        self.provider: str = self._session.get_providers()[0]
        """The provider taken, by ONNX Runtime's name."""
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        device = providers.memory_device(self.provider)
        self._bindings: Bindings | None = None
        if device != "cpu" if bound is None else bound:
            self._bindings = Bindings(ort, self._session, device)
        self._warm: set[Key] = set()

    @property
    def choice(self) -> ProviderChoice:
        """The provider taken, by our name: never `auto`."""
        return next(ours for ours, name in PROVIDERS.items() if name == self.provider)

    @property
    def bound(self) -> bool:
        """Whether inputs and outputs lie in buffers on the device."""
        return self._bindings is not None

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        """Outputs for these inputs, complete and in the host's memory.

        They come in the order of `outputs`, or of `wanted`: the others are not copied from the
        device. Raises EngineError; OutOfMemory where a second try, after `relieve`, failed too.
        """
        return self._run(feeds, wanted)[0]

    def steps(self, feeds: Mapping[str, Array]) -> tuple[list[Array], Steps]:
        """As `run`, with the parts of the time. Only the whole is known where nothing is bound."""
        return self._run(feeds, None)

    def warm_up(self, shapes: Shapes | None = None) -> None:
        """Run once on zeros of these shapes, so that no real frame pays for the first of them.

        The model's own shapes count where none is given; where one of those is open, nothing is
        done. Nor is anything for shapes that were warm already.
        """
        given = shapes or {}
        feeds = {}
        for tensor in self._session.get_inputs():
            shape = tuple(given.get(tensor.name, tensor.shape))
            if not all(isinstance(size, int) for size in shape):
                return
            try:
                feeds[tensor.name] = np.zeros(shape, _numpy_type(tensor.type))
            except (MemoryError, ValueError) as error:
                raise translated(error, f"{self._what} cannot be warmed up") from error
        key = key_of(feeds)
        if key in self._warm:
            return
        if self.provider == PROVIDERS["tensorrt"]:
            # Where a dimension is open, TensorRT builds its engine in the first run with a shape.
            start_ns = time.perf_counter_ns()
            self.run(feeds)
            if not self._warm:
                self.init_ns += time.perf_counter_ns() - start_ns
                self.first_inference_ns = 0
        self.run(feeds)
        self._warm.add(key)

    def warm_up_batches(self, shapes: Shapes, sizes: Collection[int]) -> None:
        """Warm up for batches of these sizes: the first dimension of every input takes each.

        The largest comes first, so that memory grows once, then the smallest: TensorRT builds for
        the range of sizes that it has seen, and finds the others inside.
        """
        for size in sorted(set(sizes), key=lambda size: (size != max(sizes), size)):
            self.warm_up({name: (size, *shape[1:]) for name, shape in shapes.items()})

    def _create(
        self,
        ort: Any,
        model: bytes | Path,
        options: Any,
        choice: ProviderChoice,
        accelerator: Accelerator,
        sha256: str,
    ) -> Any:
        first = providers.wanted(ort, choice)
        cache = own = None
        if first == PROVIDERS["tensorrt"] and accelerator.cached is not None and sha256:
            cache = EngineCache(accelerator.cached)
            own = cache.folder_for(sha256)
        given = Accelerator(accelerator.memory_bytes, own)
        try:
            session = _session(ort, model, options, providers.chain(ort, first, given))
        except Exception as error:
            spent = is_out_of_memory(error)
            if choice == "auto" and first != PROVIDERS["cpu"] and not spent:
                return self._create(ort, model, options, "cpu", accelerator, sha256)
            if cache is not None and own is not None and not spent and cache.forget(own):
                # A kept engine may be damaged, or of a driver that was replaced.
                return self._create(ort, model, options, choice, accelerator, sha256)
            raise translated(error, f"ONNX Runtime cannot load {self._what}") from error
        if session.get_providers()[0] != first and choice != "auto":
            # ONNX Runtime warns and takes the next where a provider's libraries do not load.
            raise providers.missing(first, "its libraries or device could not be used")
        return session

    def _run(
        self, feeds: Mapping[str, Array], wanted: Sequence[str] | None
    ) -> tuple[list[Array], Steps]:
        names = self.outputs if wanted is None else tuple(wanted)
        start_ns = time.perf_counter_ns()
        try:
            done = self._once(feeds, names)
        except OutOfMemory:
            if self._relieve is None:
                raise
            if self._bindings is not None:
                self._bindings.clear()
            self._relieve()
            done = self._once(feeds, names)
        if not self.first_inference_ns:
            self.first_inference_ns = time.perf_counter_ns() - start_ns
        return done

    def _once(self, feeds: Mapping[str, Array], names: Sequence[str]) -> tuple[list[Array], Steps]:
        try:
            if self._bindings is not None:
                return self._bindings.run(feeds, names)
            start_ns = time.perf_counter_ns()
            outputs: list[Array] = self._session.run(names, dict(feeds))
            return outputs, Steps(0, time.perf_counter_ns() - start_ns, 0, 0, 0)
        except Exception as error:
            raise translated(error, f"ONNX Runtime failed in {self._what}") from error


def _session(ort: Any, model: bytes | Path, options: Any, chain: list[providers.Provider]) -> Any:
    """A session that fails where it fails.

    By default ONNX Runtime's Python class prints to standard output and goes on with the CPU, when
    it is made and at every run: a GPU without memory would turn into a slow CPU, silently.
    """
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=chain, enable_fallback=0)


def _numpy_type(ort_type: str) -> np.dtype[Any]:
    names = {"float": "float32", "double": "float64", "bool": "bool"}
    inner = ort_type.removeprefix("tensor(").removesuffix(")")
    return np.dtype(names.get(inner, inner))
