"""Inputs and outputs that lie on the device: buffers made once, filled in place for each run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from splitbed.tensor import Array

_KEPT: Final = 32
"""Bindings of one engine that wait for their next run: shapes, times threads that run at once."""

Key = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Names, types and shapes of the inputs."""


class Steps(msgspec.Struct, frozen=True):
    """One run in its parts, each ended by a synchronised stream; bytes that crossed to and fro."""

    upload_ns: int
    compute_ns: int
    download_ns: int
    upload_bytes: int
    download_bytes: int


def key_of(feeds: Mapping[str, Array]) -> Key:
    """What two runs must share to use the same buffers."""
    return tuple(sorted((name, array.dtype.str, array.shape) for name, array in feeds.items()))


class Binding:
    """Buffers for inputs of one type and shape, and for all outputs. For one thread at a time.

    Outputs stay on the device; only those that are asked for are copied to the host.
    """

    def __init__(self, ort: Any, session: Any, device: str, feeds: Mapping[str, Array]) -> None:
        self._session, self._device = session, device
        self._io = session.io_binding()
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(
                list(array.shape), array.dtype, device, 0
            )
            for name, array in feeds.items()
        }
        outputs = session.get_outputs()
        self._places = {output.name: place for place, output in enumerate(outputs)}
        # What ONNX Runtime allocated for a bound output it uses again, and refuses to where the
        # next run's shape differs. So only shapes that follow from the inputs' stay bound.
        known = {size for tensor in session.get_inputs() for size in tensor.shape}
        self._open = [
            output.name
            for output in outputs
            if not all(isinstance(size, int) or size in known - {None} for size in output.shape)
        ]
        for name in self._places:
            self._io.bind_output(name, device, 0)

    def upload(self, feeds: Mapping[str, Array]) -> None:
        """Copy the inputs to their buffers; they are there when this returns.

        The caller's key vouches for types and shapes: `update_inplace` compares no types and would
        read past a shorter array.
        """
        for name, value in self._inputs.items():
            value.update_inplace(np.ascontiguousarray(feeds[name]))
            # Bound anew for each run: an input that a node on the CPU reads is copied back when it
            # is bound, and would keep the first frame's values. For the others this copies nothing.
            self._io.bind_ortvalue_input(name, value)
        self._io.synchronize_inputs()

    def compute(self) -> None:
        """Run; every output is complete when this returns."""
        for name in self._open:
            self._io.bind_output(name, self._device, 0)
        self._session.run_with_iobinding(self._io)
        self._io.synchronize_outputs()

    def download(self, wanted: Sequence[str]) -> list[Array]:
        """Copies of these outputs in the host's memory."""
        values = self._io.get_outputs()
        found: list[Array] = [values[self._places[name]].numpy() for name in wanted]
        if self._device == "cpu":
            # Views there, and the next run would write into them.
            found = [array.copy() for array in found]
        return found


class Bindings:
    """The bindings of one engine, lent to one run each; threads that run at once get their own."""

    def __init__(self, ort: Any, session: Any, device: str, kept: int = _KEPT) -> None:
        self._ort, self._session, self._device = ort, session, device
        self._most = kept
        self._free: OrderedDict[Key, list[Binding]] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> tuple[list[Array], Steps]:
        """Outputs and the parts of the run. Raises what ONNX Runtime raises."""
        with self._lent(feeds) as binding:
            start_ns = time.perf_counter_ns()
            binding.upload(feeds)
            uploaded_ns = time.perf_counter_ns()
            binding.compute()
            computed_ns = time.perf_counter_ns()
            outputs = binding.download(wanted)
            end_ns = time.perf_counter_ns()
        return outputs, Steps(
            uploaded_ns - start_ns,
            computed_ns - uploaded_ns,
            end_ns - computed_ns,
            sum(array.nbytes for array in feeds.values()),
            sum(array.nbytes for array in outputs),
        )

    def clear(self) -> None:
        """Let every buffer go that no run uses now."""
        with self._lock:
            self._free.clear()

    def waiting(self) -> int:
        """Bindings that no run uses now."""
        with self._lock:
            return sum(map(len, self._free.values()))

    @contextlib.contextmanager
    def _lent(self, feeds: Mapping[str, Array]) -> Iterator[Binding]:
        key = key_of(feeds)
        with self._lock:
            free = self._free.get(key)
            binding = free.pop() if free else None
        if binding is None:
            binding = Binding(self._ort, self._session, self._device, feeds)
        yield binding
        # After a failure it is let go instead, with what it may hold.
        with self._lock:
            self._free.setdefault(key, []).append(binding)
            self._free.move_to_end(key)
            while sum(map(len, self._free.values())) > self._most:
                oldest = next(iter(self._free.values()))
                oldest.pop()
                if not oldest:
                    self._free.popitem(last=False)
