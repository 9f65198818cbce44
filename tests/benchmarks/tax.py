"""The tax of cutting: head plus tail against the uncut canonical model, paired in one run.

    python tests/benchmarks/tax.py [--rounds 25] [--threads 1] [MODEL ...]

For every cut that one tensor crosses, the parts and the uncut model take turns (A B B A), with the
same number of threads, on the same input, in one process; the ratio of a cut is the median of its
rounds' ratios. Without models: MobileNetV2, PoseNet and ResNet-50 of the zoo. Cuts above 1.05 are
listed with what they break and where they would better be.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

from experiments.feeds import noise
from experiments.models import open_model
from splitbed.engine import Engine
from splitbed.graph import CanonicalModel, ListedCut, extract, list_cuts
from splitbed.host import described
from splitbed.progress import Progress
from splitbed.runnable import carry

MODELS = ("zoo:mobilenet_v2", "zoo:posenet_mobilenet_v1_100", "zoo:resnet50")
SHOWN_ABOVE = 1.05
WARM_UP = 10


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"{described()}, {options.threads} threads, {options.rounds} rounds of A B B A\n")
    for name in options.models:
        report(name, options.rounds, options.threads)
    return 0


def report(name: str, rounds: int, threads: int) -> None:
    model = open_model(name)
    content = model.file().content
    feed = noise(model, 1).arrays[0]
    cuts = [
        cut for cut in list_cuts(model).legal if cut.marks.single and 0 < cut.point.depth_pct < 100
    ]

    found: list[tuple[ListedCut, float, float]] = []
    progress = Progress(name, len(cuts))
    for cut in cuts:
        parts = in_parts(model, cut, threads)
        # As new as the parts: a session's memory is best placed in a process that has just begun.
        whole = Engine(content, provider="cpu", threads=threads)

        def uncut(whole: Engine = whole) -> None:
            whole.run(feed)

        ratios, times = [], []
        for _ in range(WARM_UP):  # new sessions take some runs until their memory is where it stays
            parts(feed)
            uncut()
        for _ in range(rounds):
            a = seconds(uncut)
            b = seconds(lambda: parts(feed))  # noqa: B023 (called at once)
            b += seconds(lambda: parts(feed))  # noqa: B023
            a += seconds(uncut)
            ratios.append(b / a)
            times.append(a / 2)
        found.append((cut, median(ratios), median(times)))
        progress.update(len(found))
    progress.close()
    print(f"{name}: {len(cuts)} cuts of one tensor, uncut {1e3 * found[0][2]:.2f} ms")
    for label, chosen in (
        ("all", found),
        ("breaking no fusion", [row for row in found if not row[0].marks.breaks]),
        ("breaking one", [row for row in found if row[0].marks.breaks]),
    ):
        if chosen:
            values = sorted(ratio for _, ratio, _ in chosen)
            print(
                f"  {label:<19} {len(chosen):>3}  median {median(values):.3f}, "
                f"{values[0]:.3f} to {values[-1]:.3f}, "
                f"{sum(v > SHOWN_ABOVE for v in values)} above {SHOWN_ABOVE}"
            )
    for cut, ratio, _ in sorted(found, key=lambda row: -row[1]):
        if ratio > SHOWN_ABOVE:
            assert cut.point.cut is not None
            why = [f"breaks {cut.marks.breaks}: better {cut.marks.moved_to}"] * bool(
                cut.marks.breaks
            ) + ["layout"] * cut.marks.layout
            print(
                f"  {ratio:.3f}  {cut.point.cut.nbytes / 1e6:5.2f} MB  {cut.point.name}\n"
                f"         {'; '.join(why) or 'not explained'}"
            )
    print()


def in_parts(model: CanonicalModel, cut: ListedCut, threads: int) -> Callable[..., None]:
    parts = extract(model, cut.point)
    assert parts.first is not None
    assert parts.second is not None
    head = Engine(parts.first.content, provider="cpu", threads=threads)
    tail = Engine(parts.second.content, provider="cpu", threads=threads)
    names = [spec.name for spec in parts.cut.boundary]

    def run(feed) -> None:  # type: ignore[no-untyped-def]
        tail.run(carry(head, feed, names))

    return run


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
