"""What happens to runs whose link strays: measured again, marked, left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from experiments import testbed
from experiments.report import gather, write_report
from experiments.table import facts
from netem.link import Link
from splitbed.certificate import DatagramMeasurement, LinkCertificate, LinkMeasurement
from splitbed.errors import LinkUncertified, RecordError
from splitbed.link import Direction, LinkCounters, LinkKind, LinkProfile, Replay
from splitbed.record import FrameRecord
from splitbed.run_folder import RowWriter, RunFolder, write_manifest
from tests.unit.test_summary import MANIFEST, frame

MS = 1_000_000
PROFILE = LinkProfile("ten", Direction(delay_ns=5 * MS), Direction(delay_ns=5 * MS))


def measured(rtt_ms: float) -> LinkMeasurement:
    return LinkMeasurement((int(rtt_ms * MS),) * 5, 1e6, 1e6, 1, 1, 1.0)


class Scripted:
    """A link whose measurements are known beforehand."""

    kind: LinkKind = "relay"
    profile = PROFILE
    address = "127.0.0.1:1"

    def __init__(self, rtts_ms: Iterator[float]) -> None:
        self._rtts_ms = rtts_ms

    def counters(self) -> LinkCounters:
        return LinkCounters(0, 0, 0)

    def measure(self, seconds: float) -> LinkMeasurement:
        return measured(next(self._rtts_ms))

    def replay(self, begin: bool) -> Replay | None:
        return None

    def close(self) -> None:
        pass


class ScriptedTestbed(testbed.Testbed):
    def __init__(self, rtts_ms: Iterator[float], tmp_path: Path) -> None:
        self._scripted = Scripted(rtts_ms)
        options = testbed.TestbedOptions(
            PROFILE, "relay", tmp_path, tmp_path, None, "cpu", 0, 0.1, 0.1, 0
        )
        super().__init__(options, tmp_path / "logs")

    def _start(self) -> Link:
        return self._scripted


def test_a_link_within_tolerance_is_measured_once(tmp_path: Path) -> None:
    certificate = ScriptedTestbed(iter([10.0]), tmp_path).certificate()
    assert certificate.before_attempts == 1


def test_a_busy_moment_before_a_run_is_waited_for(tmp_path: Path) -> None:
    with ScriptedTestbed(iter([14.0, 13.0, 11.0, 10.5]), tmp_path) as bed:
        certificate = bed.certificate()
        assert certificate.before == measured(11.0)
        assert certificate.before_attempts == 3
        whole = bed.certified(certificate)
    assert whole.after == measured(10.5)
    assert whole.violations() == []


def test_a_link_that_stays_outside_is_said_to_be(tmp_path: Path) -> None:
    with ScriptedTestbed(iter([14.0] * 5), tmp_path) as bed:
        certificate = bed.certified(bed.certificate())
    assert certificate.before_attempts == 4
    assert len(certificate.violations()) == 2


def test_after_a_run_there_is_one_measurement(tmp_path: Path) -> None:
    """What the link was during the run cannot be made better by measuring until it fits."""
    with ScriptedTestbed(iter([10.0, 14.0, 10.0]), tmp_path) as bed:
        certificate = bed.certified(bed.certificate())
        assert certificate.violations() == ["round trip 14.00 ms (+4.00) after the run"]
        # The next run starts on a link that is measured again.
        assert bed.certificate().before_attempts == 2


def run(folder: Path, *rtts_ms: float) -> Path:
    before, *after = map(measured, rtts_ms)
    certificate = LinkCertificate("relay", PROFILE, before, after[0] if after else None)
    write_manifest(folder, msgspec.structs.replace(MANIFEST, certificate=certificate))
    with RowWriter(RunFolder(folder).frames("device")) as rows:
        for number in range(3):
            row: FrameRecord = frame(number)
            rows.write(row)
    return folder


def test_runs_outside_tolerance_are_left_out(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a", 10, 10), run(tmp_path / "b", 10, 14), run(tmp_path / "c", 10)]
    found = gather(folders, accept_uncertified=False)
    assert [s.folder for s in found.shown] == [str(folders[0])]
    with pytest.raises(LinkUncertified, match=r"^2 of 3 runs are left out .* \(\+4\.00\) after"):
        found.check()
    accepted = gather(folders, accept_uncertified=True)
    assert len(accepted.shown) == 3
    accepted.check()


def test_no_run_within_tolerance_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(LinkUncertified, match="1 of 1 runs"):
        gather([run(tmp_path / "a", 10, 14)], accept_uncertified=False)


def test_a_run_without_a_frame_does_not_hide_the_others(tmp_path: Path) -> None:
    good = run(tmp_path / "a", 10, 10)
    empty = tmp_path / "b"
    write_manifest(empty, msgspec.structs.replace(MANIFEST, outcome="the device was killed"))
    found = gather([good, empty], accept_uncertified=False)
    assert len(found.shown) == 1
    assert found.empty == [
        f"the run in {empty} has no frame that was measured (the device was killed)"
    ]
    found.check()
    with pytest.raises(RecordError, match="has no frame that was measured"):
        gather([empty], accept_uncertified=False)


def test_a_killed_run_by_hand_says_what_there_is_of_it(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", 10, 10)
    manifest = msgspec.structs.replace(MANIFEST, certificate=None, outcome="running")
    write_manifest(folder, manifest)
    with pytest.raises(
        LinkUncertified,
        match=r"in .*/a \(3 of 3 frames\): the link was not certified; it is incomplete: ended "
        r"without a word after 3 rows .*; certify a run by hand with `splitbed link certify --save",
    ):
        gather([folder], accept_uncertified=False)
    assert len(gather([folder], accept_uncertified=True).shown) == 1


LOSSY = LinkProfile("lossy", Direction(50_000_000, loss_pct=1.0), Direction())


def lossy(lost: int) -> LinkMeasurement:
    """Certified as LOSSY if this many are lost of 1000."""
    up = DatagramMeasurement(1000, 1000 - lost, 0, 0, 25e6, rate_bps=49.9e6)
    down = DatagramMeasurement(1000, 1000, 0, 0, 25e6)
    return LinkMeasurement(
        (1 * MS, 2 * MS), 1e6, 9e8, 1, 1, 1.0, up_datagrams=up, down_datagrams=down
    )


def lossy_run(folder: Path, before: LinkMeasurement, after: LinkMeasurement) -> Path:
    run(folder, 10, 10)
    certificate = LinkCertificate("kernel", LOSSY, before, after)
    write_manifest(folder, msgspec.structs.replace(MANIFEST, certificate=certificate))
    return folder


def test_a_run_with_more_loss_than_asked_is_left_out(tmp_path: Path) -> None:
    good = lossy_run(tmp_path / "a", lossy(10), lossy(9))
    bad = lossy_run(tmp_path / "b", lossy(10), lossy(50))
    found = gather([good, bad], accept_uncertified=False)
    assert [summary.folder for summary in found.shown] == [str(good)]
    with pytest.raises(
        LinkUncertified, match=r"uplink lost 50 of 1000 packets \(5 %, asked 1 %: 2 to 22\) after"
    ):
        found.check()
    assert len(gather([good, bad], accept_uncertified=True).shown) == 2


def test_what_datagrams_found_is_shown(tmp_path: Path) -> None:
    (summary,) = gather(
        [lossy_run(tmp_path / "a", lossy(10), lossy(5))], accept_uncertified=False
    ).shown
    shown = dict(facts(summary))
    assert shown["link"] == "certified before and after"
    assert shown["link measured"] == (
        "round trip 2.00 ms, deviation 0.71; lost 0.75 % up, 0.00 % down; UDP up 49.9 Mbit/s"
    )
    write_report([summary], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<td>1.00 / 0.00 %<td>0.75 / 0.00 %" in page
    assert "1.00 (UDP 49.90)" in page
    assert "0.71 ms" in page


def test_a_run_without_datagrams_says_nothing_of_loss(tmp_path: Path) -> None:
    (summary,) = gather([run(tmp_path / "a", 10, 10)], accept_uncertified=False).shown
    assert dict(facts(summary))["link measured"] == "round trip 10.00 ms, deviation 0.00"
    write_report([summary], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<td>none<td>not measured" in page
