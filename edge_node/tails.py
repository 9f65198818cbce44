"""Tails that sessions share, and several frames in one run of them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edge_node.partitions import EngineKey, Partitions, WarmEngine
from splitbed.engine import Engine, observed
from splitbed.errors import ModelError, SplitbedError
from splitbed.graph import ExtractedPart, stackable
from splitbed.session import ProviderChoice
from splitbed.tensor import Array, TensorSpec

TOLERANCE: Final = 1e-4
"""Of outputs in a batch against those of the frame alone, relative to the largest of them."""

_TRIED: Final = 3
"""Frames of noise that a batch is tried with, at most."""


class SharedTail:
    """The tail of all sessions that end alike.

    A frame alone runs in `engine`, as without batches. Several run stacked along the first axis in
    `stack`, which is the same part with its batch open: the weights are in memory twice. Outputs
    may differ by the order in which floating-point sums are taken.
    """

    def __init__(
        self, engine: Engine, stack: Engine | None = None, most: int = 1, why_single: str = ""
    ) -> None:
        self.engine, self._stack = engine, stack
        self.most = most if stack is not None else 1
        """Frames that it takes at once."""
        self.why_single = why_single
        """Why it takes only one, where more were wanted."""

    def run(
        self, feeds: Sequence[Mapping[str, Array]], wanted: Sequence[str] | None = None
    ) -> list[dict[str, Array]]:
        """See `edge_node.turns.Tail`. Raises EngineError."""
        if len(feeds) == 1 or self._stack is None:
            return [_one(self.engine, feed, wanted) for feed in feeds]
        stacked = {
            name: np.concatenate([feed[name] for feed in feeds]) for name in self._stack.inputs
        }
        made = _one(self._stack, stacked, wanted)
        rows = {name: len(array) // len(feeds) for name, array in made.items()}
        return [
            {name: made[name][at * n : (at + 1) * n] for name, n in rows.items()}
            for at in range(len(feeds))
        ]


class Tails:
    """The tails of an edge that runs up to `batch` frames at once, of up to `most_bytes` together.

    What is stacked was tried before on noise, against the same frames one by one. A tail that
    cannot be batched runs frame by frame; standard error and `SharedTail.why_single` say why.
    """

    def __init__(self, partitions: Partitions, *, batch: int, most_bytes: int, kept: int) -> None:
        self._partitions, self._batch = partitions, batch
        self._most_bytes, self._most_kept = most_bytes, kept
        self._kept: OrderedDict[EngineKey, SharedTail] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[EngineKey, SharedTail] = (
            weakref.WeakValueDictionary()
        )
        """Those that a session uses as well: they are found again after they were let go, for one
        stack is enough, and only sessions of the same tail share a run."""
        self._turns: weakref.WeakValueDictionary[EngineKey, threading.Lock] = (
            weakref.WeakValueDictionary()
        )
        """Each lives as long as someone holds it or waits for it."""
        self._lock = threading.Lock()
        partitions.on_relief = self._forget

    def get(
        self, sha256: str, provider: ProviderChoice, what: str
    ) -> tuple[SharedTail, WarmEngine]:
        """The tail over a part that was described, and what its engine cost."""
        warm = self._partitions.engine(sha256, provider, what)
        if self._batch == 1:
            return SharedTail(warm.engine), warm
        key = (sha256, warm.engine.choice)
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        # TensorRT builds for minutes: who wants the same tail waits for it. Others go on, and so
        # does relief, which making this very stack may ask for.
        with turn:
            with self._lock:
                tail = self._alive.get(key)
                if tail is not None:
                    self._keep(key, tail)
                    return tail, warm
            tail = self._stacked(sha256, warm.engine, what)
            with self._lock:
                self._keep(key, tail)
            return tail, warm

    def _keep(self, key: EngineKey, tail: SharedTail) -> None:
        self._kept[key] = self._alive[key] = tail
        self._kept.move_to_end(key)
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)

    def _forget(self) -> None:
        with self._lock:
            self._kept.clear()

    def _stacked(self, sha256: str, engine: Engine, what: str) -> SharedTail:
        try:
            part = self._partitions.part(sha256)
            inputs = part.partition.inputs
            frame_bytes = max(1, sum(spec.nbytes for spec in inputs))
            most = min(self._batch, self._most_bytes // frame_bytes)
            if most < 2:
                raise ModelError(f"two frames of {frame_bytes} bytes are more than a message holds")
            opened = stackable(part, observed)
            stack = self._partitions.opened(opened, engine.choice, f"{what}, stacked")
            _check(SharedTail(engine, stack, most), part, min(most, _TRIED))
            # Every size is a new shape to cuDNN and TensorRT: none is left to a frame.
            stack.warm_up_batches({spec.name: spec.shape for spec in inputs}, range(2, most + 1))
        except SplitbedError as error:
            sys.stderr.write(f"edge: frames of {what} run one by one: {error}\n")
            return SharedTail(engine, why_single=str(error))
        return SharedTail(engine, stack, most)


def _one(
    engine: Engine, feed: Mapping[str, Array], wanted: Sequence[str] | None
) -> dict[str, Array]:
    names = engine.outputs
    if wanted is not None:  # what the session reads may have crossed as it is
        names = tuple(name for name in names if name in wanted) or names
    outputs = engine.run({name: feed[name] for name in engine.inputs}, names)
    return dict(zip(names, outputs, strict=True))


def _check(tail: SharedTail, part: ExtractedPart, frames: int) -> None:
    """Raise ModelError where frames come out of a batch as others than they are alone."""
    rng = np.random.default_rng(0)
    inputs = part.partition.inputs
    feeds = [{spec.name: _noise(rng, spec) for spec in inputs} for _ in range(frames)]
    alone = [tail.run([feed])[0] for feed in feeds]
    for one, other in zip(alone, tail.run(feeds), strict=True):
        for name, wanted in one.items():
            got = other[name]
            if wanted.shape != got.shape or not _alike(wanted, got):
                raise ModelError(f"its output '{name}' is another one in a batch")


def _noise(rng: np.random.Generator, spec: TensorSpec) -> Array:
    if np.issubdtype(spec.numpy_dtype, np.floating):
        return rng.uniform(-1, 1, spec.shape).astype(spec.numpy_dtype)
    return np.zeros(spec.shape, spec.numpy_dtype)  # an index, maybe: any other may be too large


def _alike(wanted: Array, got: Array) -> bool:
    if not np.issubdtype(wanted.dtype, np.floating):
        return bool(np.array_equal(wanted, got))
    finite = np.abs(wanted[np.isfinite(wanted)])
    limit = TOLERANCE * max(1.0, float(finite.max(initial=0.0)))
    return bool(np.allclose(wanted, got, rtol=0, atol=limit, equal_nan=True))
