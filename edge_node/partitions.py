"""Cutting on demand: descriptions, part files and warm engines, each in a bounded cache."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec

from edge_node.store import ModelStore, StoredModel
from splitbed.engine import Accelerator, Engine, settled
from splitbed.errors import ModelUnknown, OutOfMemory, SplitbedError, TaskError
from splitbed.graph import (
    INPUT_CUT,
    OUTPUT_CUT,
    ExtractedPart,
    LearnedPair,
    Parts,
    extract,
    find_cut,
    quantising,
    with_pair,
)
from splitbed.pair import Ranges
from splitbed.session import CutAnswer, CutQuestion, ModelFile, ProviderChoice
from splitbed.task import (
    PICTURE_CUT,
    RESULT_CUT,
    TaskSpec,
    picture_spec,
    result_boundary,
    task_json,
)
from splitbed.tensor import Cut
from splitbed.transport.grpc_settings import CHUNK_BYTES

_DESCRIPTIONS_KEPT: Final = 4096
"""Answers are small; a part that fell out of the cache is cut again from its question."""

_QUANTISING_KEPT: Final = 64
"""Of answers with quantisers: those may be large, and every calibration makes others."""

PARTS_KEPT: Final = 256

EngineKey = tuple[str, ProviderChoice]
"""A part's digest and the provider that runs it."""

_HELD_BYTES: Final = 1 << 30
"""Of learned codecs' weights: each part that is kept holds its own."""


class WarmEngine(msgspec.Struct, frozen=True):
    """An engine, and what it cost to prepare it for this session."""

    engine: Engine
    init_ns: int
    first_inference_ns: int
    """Both 0 where it was warm already."""


class _Answers:
    """Answers by question, and the question of each part, the least recently used gone first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.answers: OrderedDict[CutQuestion, CutAnswer] = OrderedDict()
        self.origins: OrderedDict[str, CutQuestion] = OrderedDict()
        self.turns: dict[CutQuestion, threading.Lock] = {}

    def keep(self, question: CutQuestion, answer: CutAnswer) -> None:
        self.answers[question] = answer
        while len(self.answers) > self._most:
            self.turns.pop(self.answers.popitem(last=False)[0], None)

    def keep_origin(self, sha256: str, question: CutQuestion) -> None:
        self.origins[sha256] = question
        self.origins.move_to_end(sha256)
        while len(self.origins) > 2 * self._most:
            self.origins.popitem(last=False)


class Partitions:
    """Everything that an edge cut.

    Parts are kept as graphs: their weights are read from the model's file when a device fetches
    them. `parts` bounds how many, `engines` the ONNX Runtime sessions kept warm; the least recently
    used goes first, and a part that went is cut again. A session in use keeps its own engine.
    `provider` is what a session that wants `auto` gets, `accelerator` what an engine may use of a
    GPU.

    Where memory runs out, every warm engine that no session uses is let go, and what failed is
    tried once more; then a session is refused, or a frame fails, and the edge goes on.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        provider: ProviderChoice,
        threads: int,
        engines: int,
        parts: int = PARTS_KEPT,
        accelerator: Accelerator | None = None,
    ) -> None:
        self._store = store
        self._provider, self._threads, self._accelerator = provider, threads, accelerator
        self.engines, self._most_parts = engines, parts
        """Engines kept warm, at most."""
        self.on_relief: Callable[[], None] | None = None
        """Whoever keeps engines of its own lets those go, too, that no session uses."""
        self._plain, self._quantising = _Answers(_DESCRIPTIONS_KEPT), _Answers(_QUANTISING_KEPT)
        self._parts: OrderedDict[str, ExtractedPart] = OrderedDict()
        self._engines: OrderedDict[EngineKey, Engine] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[EngineKey, Engine] = weakref.WeakValueDictionary()
        """Those that a session uses as well: they are found again after they were let go. `auto`
        finds what it came to; the engine is kept by its own provider."""
        self._engine_turns: weakref.WeakValueDictionary[EngineKey, threading.Lock] = (
            weakref.WeakValueDictionary()
        )
        """Each lives as long as someone holds it or waits for it."""
        self._lock = threading.RLock()

    def describe(self, question: CutQuestion) -> CutAnswer:
        """What this cut is made of; both parts are ready to be fetched and run afterwards."""
        stored = self._store.get(question.model, question.input_shapes)
        pair = self._store.pair(question.pair, stored) if question.pair else None
        known = self._answers(question)
        with self._lock:
            turn = known.turns.setdefault(question, threading.Lock())
        # Digests read every weight: who asks the same waits for the answer, others go on.
        with turn:
            now = (stored.canonical.id.digest, _json_of(stored.task))
            with self._lock:
                kept = known.answers.get(question)
                if (
                    kept is not None
                    and (kept.model_digest, kept.task_json) == now
                    and _is_of(kept, pair)
                ):
                    known.answers.move_to_end(question)
                    return kept
            try:
                answer = self._cut(question, stored, pair)
            except SplitbedError:
                with self._lock:  # a question without an answer leaves nothing behind
                    known.turns.pop(question, None)
                raise
            with self._lock:
                known.keep(question, answer)
            return answer

    def chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        """A part's file from `offset` on; ModelUnknown for a digest that was never described."""
        for piece in self.part(sha256).file.pieces(max(0, offset)):
            for start in range(0, len(piece), CHUNK_BYTES):
                yield piece[start : start + CHUNK_BYTES]

    def engine(self, sha256: str, provider: ProviderChoice, what: str) -> WarmEngine:
        """A warm engine over a part that was described; OutOfMemory where there is no room.

        Of one part and one provider there is one engine, by whichever choice it was asked for.
        """
        key = (sha256, settled(self._provider if provider == "auto" else provider))
        with self._lock:
            turn = self._engine_turns.setdefault(key, threading.Lock())
        # TensorRT builds for minutes: who wants the same engine waits for it, others go on.
        with turn:
            with self._lock:
                kept = self._alive.get(key)
                if kept is None and key[1] == "auto":  # CUDA where it works, and there it does
                    kept = self._alive.get((sha256, "cuda"))
                if kept is not None:
                    return WarmEngine(self._keep_engine(key, kept), 0, 0)
            try:
                made = self._warm(key, what)
            except OutOfMemory:
                self.relieve()
                made = self._warm(key, what)
            with self._lock:
                engine = self._keep_engine(key, made)
            return WarmEngine(engine, made.init_ns, made.first_inference_ns)

    def relieve(self) -> None:
        """Let every warm engine go that no session uses."""
        with self._lock:
            self._engines.clear()
        if self.on_relief is not None:
            self.on_relief()

    def opened(self, part: ExtractedPart, provider: ProviderChoice, what: str) -> Engine:
        """An engine over any part, not warm and not kept; OutOfMemory where there is no room."""
        choice = self._provider if provider == "auto" else provider
        make = partial(
            Engine,
            provider=choice,
            threads=self._threads,
            what=what,
            accelerator=self._accelerator,
            # A digest reads every weight, and TensorRT's cache alone asks for it.
            sha256=part.partition.sha256 if choice == "tensorrt" else "",
            relieve=self.relieve,
        )
        return part.file.opened(make)

    def _warm(self, key: EngineKey, what: str) -> Engine:
        part = self.part(key[0])
        engine = self.opened(part, key[1], what)
        # The part may leave the batch open; its description never does.
        engine.warm_up({spec.name: spec.shape for spec in part.partition.inputs})
        return engine

    def _keep_engine(self, key: EngineKey, engine: Engine) -> Engine:
        """The one of its provider: an earlier one, where `auto` came to what was there already."""
        own = (key[0], engine.choice)
        engine = self._alive.setdefault(own, engine)
        self._engines[own] = self._alive[key] = engine
        self._engines.move_to_end(own)
        while len(self._engines) > self.engines:
            self._engines.popitem(last=False)
        return engine

    def sizes(self) -> tuple[int, int]:
        """Warm engines, and parts that can be fetched."""
        with self._lock:
            return len(self._engines), len(self._parts)

    def _cut(
        self, question: CutQuestion, stored: StoredModel, pair: LearnedPair | None
    ) -> CutAnswer:
        model, task = stored.canonical, stored.task
        model.require_fixed_outputs()
        at = {PICTURE_CUT: INPUT_CUT, RESULT_CUT: OUTPUT_CUT}.get(question.cut, question.cut)
        point = find_cut(model, stored.points, at, f"model '{question.model}'")
        parts = extract(model, point)
        ranges: Ranges = ()
        if pair is not None:
            coded = with_pair(parts, pair)
            parts, ranges = coded.parts, coded.ranges
        if question.quantisers:
            parts = quantising(parts, question.quantisers)
        cut = parts.cut
        if question.cut == PICTURE_CUT:
            cut = Cut(PICTURE_CUT, (picture_spec(_described(task, question)),))
        elif question.cut == RESULT_CUT:
            cut = Cut(RESULT_CUT, result_boundary(_described(task, question), model.outputs))
        source = model.source
        answer = CutAnswer(
            first=parts.first.partition if parts.first else None,
            second=parts.second.partition if parts.second else None,
            cut=cut,
            model_digest=model.id.digest,
            inputs=model.inputs,
            outputs=model.outputs,
            task_json=_json_of(task),
            source=ModelFile(source.path.name, source.file_bytes, source.md5, source.sha256),
            ranges=ranges,
        )
        with self._lock:
            self._keep(question, parts)
        return answer

    def _answers(self, question: CutQuestion) -> _Answers:
        return self._quantising if question.quantisers or question.pair else self._plain

    def _keep(self, question: CutQuestion, parts: Parts) -> None:
        for part in (parts.first, parts.second):
            if part is not None:
                self._answers(question).keep_origin(part.partition.sha256, question)
                self._parts[part.partition.sha256] = part
                self._parts.move_to_end(part.partition.sha256)
        # The two parts just made stay.
        held = sum(part.held_bytes for part in self._parts.values())
        while len(self._parts) > 2 and (len(self._parts) > self._most_parts or held > _HELD_BYTES):
            held -= self._parts.popitem(last=False)[1].held_bytes

    def part(self, sha256: str) -> ExtractedPart:
        """A part that was described, cut again where the cache let it go; ModelUnknown else."""
        with self._lock:
            question = self._plain.origins.get(sha256) or self._quantising.origins.get(sha256)
            if sha256 not in self._parts and question is not None:
                stored = self._store.get(question.model, question.input_shapes)
                pair = self._store.pair(question.pair, stored) if question.pair else None
                self._cut(question, stored, pair)
            if sha256 not in self._parts:
                raise ModelUnknown(
                    "this edge has no part with that digest (the model may have been replaced): "
                    "start the device again"
                )
            self._parts.move_to_end(sha256)
            return self._parts[sha256]


def _is_of(answer: CutAnswer, pair: LearnedPair | None) -> bool:
    """Whether an answer was made with this pair and its ranges."""
    if pair is None or answer.pair is None:
        return pair is None and answer.pair is None
    ends = [[(r.low, r.high) for r in ranges] for ranges in (answer.ranges, pair.ranges)]
    return answer.pair == pair.id and ends[0] == ends[1]


def _json_of(task: TaskSpec | None) -> str:
    return "" if task is None else task_json(task)


def _described(task: TaskSpec | None, question: CutQuestion) -> TaskSpec:
    if task is None:
        raise TaskError(
            f"model '{question.model}' cannot be cut at {question.cut}: nothing at the edge says "
            f"how pictures become its input; write {question.model}.toml beside it"
        )
    return task
