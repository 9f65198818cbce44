"""The link of a run: a relay in a process of its own, with and without a trace."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import msgspec
import pytest

from experiments.children import start_module
from netem.relay_link import ProcessLink
from splitbed.errors import LinkError
from splitbed.link import Change, Direction, LinkProfile, Step, Trace

MS = 1_000_000
NONE = LinkProfile("none", Direction(), Direction())
SHAPED = LinkProfile("shaped", Direction(50_000_000, MS), Direction(50_000_000, MS))


def long_trace(first: Change) -> Trace:
    """Longer, as JSON, than an argument may be."""
    steps = [Step(0, first)]
    steps += [Step(i * 10_000 * MS, Change(i), Change(i)) for i in range(1, 5000)]
    return Trace("long", tuple(steps), 50_000_000 * MS)


@pytest.mark.parametrize("profile", [NONE, SHAPED], ids=["none", "shaped"])
def test_a_trace_makes_a_relay_of_any_profile(profile: LinkProfile, tmp_path: Path) -> None:
    trace = long_trace(Change(delay_ns=80 * MS))
    assert len(msgspec.json.encode(trace)) > 128 * 1024
    before = set(Path(tempfile.gettempdir()).iterdir())
    with socket.create_server(("127.0.0.1", 0)) as edge:
        where = f"127.0.0.1:{edge.getsockname()[1]}"
        link = ProcessLink(profile, where, tmp_path / "log", start_module, trace=trace)
        try:
            assert not any(
                (path / "trace.json").exists()
                for path in set(Path(tempfile.gettempdir()).iterdir()) - before
                if path.is_dir()
            )
            assert link.kind == "relay"
            assert link.address != where
            facts = link.facts()
            assert (facts.kind, facts.trace, facts.profile) == ("relay", "long", profile)
            assert link.replay(False) is None
            assert min(link.measure(0.1).rtt_ns) < 80 * MS
            assert link.replay(True) is None
            assert min(link.measure(0.1).rtt_ns) >= 80 * MS
            report = link.replay(False)
            assert report is not None
            assert (report.trace, report.digest) == ("long", trace.digest)
            assert report.changes == 1
            assert min(link.measure(0.1).rtt_ns) < 80 * MS
        finally:
            link.close()


def test_without_a_trace_nothing_is_replayed(tmp_path: Path) -> None:
    for profile, kind in ((NONE, "direct"), (SHAPED, "relay")):
        link = ProcessLink(profile, "127.0.0.1:1", tmp_path / "log", start_module)
        try:
            assert link.kind == link.facts().kind == kind
            assert link.facts().trace == ""
            assert link.replay(True) is None
            assert link.replay(False) is None
        finally:
            link.close()


def test_a_trace_with_loss_is_refused_in_the_relay_s_words(tmp_path: Path) -> None:
    trace = Trace("lossy", (Step(0, Change(loss_pct=1)),), MS)
    with pytest.raises(LinkError, match=r"the relay did not start: the trace lossy asks for loss"):
        ProcessLink(SHAPED, "127.0.0.1:1", tmp_path / "log", start_module, trace=trace)
