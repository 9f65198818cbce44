"""A run stops when the percentile that its report prints is narrow: one rule, on the same rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from device_node.ledger import Ledger
from device_node.stopping import Stopping
from experiments.summary import summarise
from splitbed.latency import is_known, latency_ms, stream_percentile
from splitbed.load import SHARES, LoadPlan, Target
from splitbed.percentile import Percentile
from splitbed.record import FrameRecord
from splitbed.run_folder import RowWriter, RunFolder, write_manifest
from tests.unit.test_summary import MANIFEST, frame

MS = 1_000_000
S = 1_000_000_000
FEWEST = 32
"""With fewer answers a run does not look."""

STREAMS = ("independent", "alike", "a stall")


def rows_of(
    seed: int, count: int, stream: str, spread: float, shares: tuple[float, float, float]
) -> list[FrameRecord]:
    """Frames of which some are dropped, some failed and some too late, after three of warm-up."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=count)
    if stream == "alike":
        steps = np.convolve(steps, np.ones(12) / np.sqrt(12), "same")[:count]
    total_ms = 20 * np.exp(spread * steps)
    if stream == "a stall":
        total_ms[count // 2 : count // 2 + count // 20] += np.linspace(200, 0, count // 20)
    fates = ["dropped", "failed:frame-timeout", "late", "ok"]
    drawn = random.choice(fates, size=count, p=[*shares, 1 - sum(shares)])
    return [
        frame(number, warmup=number < 3, status="ok" if number < 3 else fate, total_ns=int(ms * MS))
        for number, (ms, fate) in enumerate(zip(total_ms, drawn.tolist(), strict=True))
    ]


def keep(plan: LoadPlan, rows: list[FrameRecord], folder: RunFolder) -> bool:
    """Whether a device that has kept these rows has seen enough."""
    stopping = Stopping(plan)
    folder.frames("device").unlink(missing_ok=True)
    with RowWriter(folder.frames("device")) as writer:
        ledger = Ledger(plan, writer, stopping, 30)
        for row in rows:
            ledger.keep(row)
    stopping.look(S)
    return stopping.ends(len(rows), S)


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(5, 600),
    stream=st.sampled_from(STREAMS),
    spread=st.sampled_from([0.01, 0.1, 0.4]),
    shares=st.sampled_from([(0.0, 0.0, 0.0), (0.02, 0.0, 0.0), (0.3, 0.02, 0.2), (0.0, 0.0, 0.5)]),
    name=st.sampled_from(["p50", "p90", *SHARES]),
)
@settings(max_examples=40, deadline=None)
def test_the_rule_and_the_report_agree_on_the_same_rows(
    seed: int,
    count: int,
    stream: str,
    spread: float,
    shares: tuple[float, float, float],
    name: str,
) -> None:
    """A run asks for a little less, or a little more, than its report will print."""
    rows = rows_of(seed, count, stream, spread, shares)
    answered = sum(not row.warmup and row.is_answered for row in rows)
    with tempfile.TemporaryDirectory() as scratch:
        files = RunFolder(Path(scratch))
        write_manifest(files.folder, MANIFEST)

        def stops(within: float) -> bool:
            plan = LoadPlan(until=Target(SHARES[name], within), max_frames=10**6)
            return keep(plan, rows, files)

        stops_anyhow = stops(1e9)
        if not answered:
            assert not stops_anyhow
            return
        printed = summarise(files.folder).total_ms[name]
        is_open = printed.low is None or printed.high is None
        event("open" if is_open else "few" if answered < FEWEST else "closed")
        assert stops_anyhow == (answered >= FEWEST and not is_open)
        if printed.low is None or printed.high is None or not stops_anyhow:
            return
        widest = max(printed.value - printed.low, printed.high - printed.value) / printed.value
        assert stops(widest * 1.000001)
        assert not widest or not stops(widest * 0.999999)


def test_frames_without_an_answer_have_no_latency() -> None:
    assert latency_ms(frame(0, total_ns=3 * MS)) == 3
    assert latency_ms(frame(0, total_ns=3 * MS, status="late")) == 3
    assert latency_ms(frame(0, total_ns=3 * MS, status="dropped")) is None
    assert latency_ms(frame(0, total_ns=3 * MS, status="failed:frame-timeout")) is None


def test_ends_that_are_not_there_are_not_narrow() -> None:
    assert Percentile(10.0, 9.5, 10.5).is_within(0.05)
    assert not Percentile(10.0, 9.4, 10.5).is_within(0.05)
    assert not Percentile(10.0, 9.5, 10.6).is_within(0.05)
    assert not Percentile(10.0, None, 10.0).is_within(1)
    assert not Percentile(10.0, 10.0, None).is_within(1)
    assert not is_known([], Target(0.5, 1))
    with pytest.raises(ValueError, match="no samples"):
        stream_percentile([], 0.5, 0)
