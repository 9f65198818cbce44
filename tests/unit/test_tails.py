"""Several frames in one run of a tail: which parts can, and that nothing else changes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_node.partitions import Partitions, WarmEngine
from edge_node.store import ModelStore
from edge_node.tails import SharedTail, Tails
from splitbed.engine import Engine
from splitbed.errors import ModelError
from splitbed.graph import (
    ExtractedPart,
    canonicalise,
    cut_points,
    extract,
    load,
    quantising,
    stackable,
)
from splitbed.quantiser import Quantiser
from splitbed.session import CutQuestion, ProviderChoice
from splitbed.tensor import Array
from tests.models import chain, info, model, node, residual, run, saved, weights
from tests.unit.pretend_gpu import CPU, CUDA, pretend_gpu


def tail_of(proto: onnx.ModelProto, folder: Path, cut: str) -> ExtractedPart:
    """The second part at a cut."""
    cleaned = canonicalise(load(saved(proto, folder / "model.onnx")))
    point = next(point for point in cut_points(cleaned) if point.name == cut)
    part = extract(cleaned, point).second
    assert part is not None
    return part


def alike(found: Array, wanted: Array) -> None:
    """Both are float32, and equal but for the order of sums."""
    assert found.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(
        found.astype(np.float64), wanted.astype(np.float64), rtol=1e-5, atol=1e-5
    )


def flattening(batch: int | str = 1) -> onnx.ModelProto:
    """As an exporter writes it: the size of the batch is folded into a reshape."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Reshape", ["r", "sizes"], ["flat"]),
            node("MatMul", ["flat", "w"], ["y"]),
        ],
        [info("x", [batch, 2, 3])],
        [info("y", [batch, 4])],
        [*weights(w=np.linspace(-1, 1, 24).reshape(6, 4)), *weights(sizes=np.array([1, -1]))],
    )


def mixing() -> onnx.ModelProto:
    """Every shape follows the batch, and yet each frame depends on the others."""
    return model(
        [node("Relu", ["x"], ["r"]), node("Softmax", ["r"], ["y"], axis=0)],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )


@pytest.mark.parametrize(
    ("proto", "cut"),
    [
        (flattening(), "r"),
        (flattening(), "flat"),
        (flattening("n"), "r"),
        (chain(), "n"),
        (residual(), "r"),  # where the model's own input crosses too
    ],
)
def test_an_opened_part_does_to_many_what_it_does_to_one(
    proto: onnx.ModelProto, cut: str, tmp_path: Path
) -> None:
    part = tail_of(proto, tmp_path, cut)
    opened = stackable(part)
    assert opened.partition.inputs == part.partition.inputs
    assert opened.partition.outputs == part.partition.outputs
    onnx.checker.check_model(onnx.load_from_string(opened.content), full_check=True)
    rng = np.random.default_rng(0)
    feeds = [
        {s.name: rng.normal(size=s.shape).astype(np.float32) for s in part.partition.inputs}
        for _ in range(5)
    ]
    together = run(
        opened.content, {name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]}
    )
    for number, feed in enumerate(feeds):
        for name, wanted in run(part.content, feed).items():
            rows = len(wanted)
            got = together[name][number * rows : (number + 1) * rows]
            alike(got, wanted)


def test_the_part_itself_is_taken_where_its_model_left_the_batch_open(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Tanh", ["r"], ["y"])]
    part = tail_of(model(nodes, [info("x", ["n", 4])], [info("y", ["n", 4])]), tmp_path, "r")
    assert stackable(part) is part
    part = tail_of(flattening(), tmp_path, "r")
    assert stackable(part) != part


def doubling() -> onnx.ModelProto:
    return model(
        [node("Relu", ["x"], ["r"]), node("Concat", ["r", "r"], ["y"], axis=0)],
        [info("x", [1, 4])],
        [info("y", [2, 4])],
    )


def transposing() -> onnx.ModelProto:
    """Its ends would stack; what lies between them would not."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("MatMul", ["r", "w"], ["m"]),
            node("Transpose", ["m"], ["t"], perm=[1, 0]),
            node("MatMul", ["t", "one"], ["u"]),
            node("Transpose", ["u"], ["y"], perm=[1, 0]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
        weights(w=np.eye(4), one=np.ones((1, 1))),
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (doubling, "differs in its first dimension"),
        (transposing, "does not serve every batch with one graph"),
    ],
)
def test_a_part_that_cannot_be_stacked_says_why(
    make: Callable[[], onnx.ModelProto], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        stackable(tail_of(make(), tmp_path, "r"))


# --- at an edge ---------------------------------------------------------------------------------


def tail_at(folder: Path, proto: onnx.ModelProto, batch: int, most_bytes: int = 1 << 20) -> Tails:
    saved(proto, folder / "m.onnx")
    partitions = Partitions(ModelStore(folder), provider="cpu", threads=1, engines=4)
    tails = Tails(partitions, batch=batch, most_bytes=most_bytes, kept=4)
    part = partitions.describe(CutQuestion("m", "r")).second
    assert part is not None
    tails.sha256 = part.sha256  # type: ignore[attr-defined]
    return tails


def shared(tails: Tails) -> SharedTail:
    return tails.get(tails.sha256, "auto", "the tail of 'm' at r")[0]  # type: ignore[attr-defined]


def frames(count: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"r": rng.normal(size=(1, 2, 3)).astype(np.float32)} for _ in range(count)]


def same(found: Sequence[dict[str, Array]], wanted: Sequence[dict[str, Array]]) -> None:
    for one, other in zip(found, wanted, strict=True):
        alike(one["y"], other["y"])


def test_sessions_with_equal_tails_share_one(tmp_path: Path) -> None:
    tails = tail_at(tmp_path, flattening(), 4)
    tail = shared(tails)
    assert tail.most == 4
    assert tail.why_single == ""
    assert shared(tails) is tail
    feeds = frames(4)
    same(tail.run(feeds), [tail.run([feed])[0] for feed in feeds])


def test_without_batches_nothing_is_opened(tmp_path: Path) -> None:
    tail = shared(tail_at(tmp_path, flattening(), 1))
    assert (tail.most, tail.why_single) == (1, "")


@pytest.mark.parametrize(
    ("proto", "most_bytes", "words"),
    [
        (mixing(), 1 << 20, "its output 'y' is another one in a batch"),
        (doubling(), 1 << 20, "differs in its first dimension"),
        (flattening(), 47, "two frames of 24 bytes are more than a message holds"),
    ],
)
def test_a_tail_that_runs_one_by_one_says_why_once(
    proto: onnx.ModelProto,
    most_bytes: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tails = tail_at(tmp_path, proto, 4, most_bytes)
    for _ in range(2):
        tail = shared(tails)
        assert tail.most == 1
        assert words in tail.why_single
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("edge: frames of the tail of 'm' at r run one by one: ")
    assert words in said


def test_a_batch_takes_no_more_bytes_than_a_message(tmp_path: Path) -> None:
    assert shared(tail_at(tmp_path, flattening(), 8, most_bytes=3 * 24)).most == 3


def test_what_is_quantised_in_the_graph_is_not_stacked(tmp_path: Path) -> None:
    cleaned = canonicalise(load(saved(flattening(), tmp_path / "model.onnx")))
    point = next(point for point in cut_points(cleaned) if point.name == "r")
    quantiser = Quantiser("r", (0.0,), (0.1,), 15)
    part = quantising(extract(cleaned, point), (quantiser,)).second
    assert part is not None
    with pytest.raises(ModelError, match="quantises in the graph"):
        stackable(part)


# --- opened by many at once, and let go ---------------------------------------------------------

WAIT_S = 30.0
"""For what takes milliseconds, and for ever where someone waits for the wrong lock."""


class Counting(Partitions):
    """Counts engines made; making those whose name holds `slow` waits for `go_on`."""

    def __init__(self, folder: Path, provider: ProviderChoice = "cpu") -> None:
        super().__init__(ModelStore(folder), provider=provider, threads=1, engines=4)
        self.made: list[str] = []
        self.slow = ""
        self.reached, self.go_on = threading.Event(), threading.Event()

    def opened(self, part: ExtractedPart, provider: ProviderChoice, what: str) -> Engine:
        self.made.append(what)
        if self.slow and self.slow in what:
            self.reached.set()
            assert self.go_on.wait(WAIT_S)
        return super().opened(part, provider, what)

    def digest(self, cut: str) -> str:
        part = self.describe(CutQuestion("m", cut)).second
        assert part is not None
        return part.sha256


def counting(folder: Path, kept: int = 4, **options: ProviderChoice) -> tuple[Counting, Tails]:
    saved(flattening(), folder / "m.onnx")
    partitions = Counting(folder, **options)
    return partitions, Tails(partitions, batch=4, most_bytes=1 << 20, kept=kept)


@contextmanager
def building(
    partitions: Counting, tails: Tails
) -> Iterator[tuple[ThreadPoolExecutor, Future[tuple[SharedTail, WarmEngine]]]]:
    """While the stack of the tail at r is being made on another thread; it is made at the end."""
    first, partitions.slow = partitions.digest("r"), "r, stacked"
    with ThreadPoolExecutor(4) as pool:
        try:
            made = pool.submit(tails.get, first, "cpu", "the tail at r")
            assert partitions.reached.wait(WAIT_S)
            yield pool, made
            assert not made.done()
        finally:
            partitions.go_on.set()


def test_a_stack_that_is_being_made_holds_up_no_other_tail(tmp_path: Path) -> None:
    partitions, tails = counting(tmp_path)
    other = partitions.digest("flat")
    with building(partitions, tails) as (pool, _):
        tail, _ = pool.submit(tails.get, other, "cpu", "the tail at flat").result(WAIT_S / 2)
        assert tail.most == 4


def test_a_stack_that_is_being_made_holds_up_no_relief(tmp_path: Path) -> None:
    partitions, tails = counting(tmp_path)
    with building(partitions, tails) as (pool, _):
        pool.submit(partitions.relieve).result(WAIT_S / 2)


def test_who_wants_the_tail_that_is_being_made_gets_that_one(tmp_path: Path) -> None:
    partitions, tails = counting(tmp_path)
    first = partitions.digest("r")
    with building(partitions, tails) as (pool, made):
        others = [pool.submit(tails.get, first, "cpu", "the tail at r") for _ in range(3)]
    found = {id(future.result()[0]) for future in (made, *others)}
    assert len(found) == 1
    assert partitions.made == ["the tail at r", "the tail at r, stacked"]


def test_a_tail_in_use_is_found_again_after_relief(tmp_path: Path) -> None:
    partitions, tails = counting(tmp_path)
    first = partitions.digest("r")
    used, _ = tails.get(first, "cpu", "the tail at r")
    partitions.relieve()
    again, warm = tails.get(first, "cpu", "the tail at r")
    assert again is used
    assert (warm.engine, warm.init_ns) == (used.engine, 0)
    assert len(partitions.made) == 2


def test_a_tail_in_use_is_found_again_after_others_took_its_place(tmp_path: Path) -> None:
    partitions, tails = counting(tmp_path, kept=1)
    first, other = partitions.digest("r"), partitions.digest("flat")
    used, _ = tails.get(first, "cpu", "the tail at r")
    tails.get(other, "cpu", "the tail at flat")
    assert tails.get(first, "cpu", "the tail at r")[0] is used


def test_a_tail_that_nobody_uses_goes_with_relief(tmp_path: Path) -> None:
    partitions, tails = counting(tmp_path)
    first = partitions.digest("r")
    tail = weakref.ref(tails.get(first, "cpu", "the tail at r")[0])
    assert tail() is not None
    partitions.relieve()
    assert tail() is None


def share(partitions: Counting, tails: Tails, choices: Sequence[ProviderChoice]) -> SharedTail:
    """The one tail that all of these get, whose engine and stack were made once."""
    first = partitions.digest("r")
    found = [tails.get(first, choice, "the tail at r")[0] for choice in choices]
    assert all(tail is found[0] for tail in found)
    return found[0]


@pytest.mark.parametrize("choices", [("auto", "cpu", "auto"), ("cpu", "auto", "cpu")])
def test_auto_and_cpu_share_a_tail_where_there_is_no_gpu(
    choices: Sequence[ProviderChoice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, providers=[CPU])
    partitions, tails = counting(tmp_path, provider="auto")
    assert share(partitions, tails, choices).engine.provider == CPU
    assert partitions.made == ["the tail at r", "the tail at r, stacked"]


@pytest.mark.parametrize("choices", [("auto", "cuda", "auto"), ("cuda", "auto", "cuda")])
def test_auto_and_cuda_share_a_tail_where_there_is_a_gpu(
    choices: Sequence[ProviderChoice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    partitions, tails = counting(tmp_path, provider="auto")
    tail = share(partitions, tails, choices)
    assert tail.engine.provider == CUDA
    assert partitions.made == ["the tail at r", "the tail at r, stacked"]
    on_cpu, _ = tails.get(partitions.digest("r"), "cpu", "the tail at r")
    assert on_cpu.engine.provider == CPU


@pytest.mark.parametrize(
    ("choices", "made"), [(("auto", "cpu", "auto"), 2), (("cpu", "auto", "cpu", "auto"), 3)]
)
def test_auto_and_cpu_share_a_tail_where_the_gpu_does_not_work(
    choices: Sequence[ProviderChoice],
    made: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = pretend_gpu(monkeypatch)

    def broken(size_bytes: int, message: str) -> None:
        raise RuntimeError("CUDA failure 35: driver too old")

    monkeypatch.setattr(gpu, "take", broken)
    partitions, tails = counting(tmp_path, provider="auto")
    assert share(partitions, tails, choices).engine.provider == CPU
    # After `cpu`, only an engine that was made tells that `auto` is the same: once.
    assert len(partitions.made) == made
