"""What a certified link predicts, by hand; and runs that were made over another link."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from experiments.prediction import predicted_link_ns
from experiments.summary import summarise
from splitbed.certificate import DatagramMeasurement, LinkCertificate, LinkMeasurement
from splitbed.link import Direction, LinkProfile
from splitbed.record import FrameRecord, RunManifest
from splitbed.run_folder import RowWriter, RunFolder, write_manifest
from tests.unit.test_summary import MANIFEST, frame

MS = 1_000_000
PROFILE = LinkProfile("hand", Direction(delay_ns=10 * MS), Direction(delay_ns=10 * MS))
# 1 MB/s up, 0.5 MB/s down, 20 ms round trip.
MEASURED = LinkMeasurement((20 * MS,) * 5, 8e6, 4e6, 1, 1, 1.0)
CERTIFICATE = LinkCertificate("relay", PROFILE, MEASURED, MEASURED)


def row(number: int, due_ms: int, request: int, reply: int, edge_ms: int = 0) -> FrameRecord:
    return FrameRecord(
        "r", 1, number, warmup=False, status="ok", intended_ns=due_ms * MS, edge_ns=edge_ms * MS,
        request_bytes=request, reply_bytes=reply,
    )  # fmt: skip


def predicted_ms(*rows: FrameRecord) -> list[float]:
    return [ns / MS for ns in predicted_link_ns(rows, CERTIFICATE).values()]


def test_a_frame_alone_takes_its_bytes_and_the_round_trip() -> None:
    # 100 kB at 1 MB/s, 5 kB at 0.5 MB/s, and the round trip: 100 + 10 + 20 ms.
    assert predicted_ms(row(0, 0, 100_000, 5_000)) == pytest.approx([130])
    assert predicted_ms(row(0, 0, 0, 0)) == pytest.approx([20])
    assert predicted_ms(row(0, 0, 0, 0, edge_ms=50)) == pytest.approx([20])


def test_over_a_lossy_link_tcp_may_be_lucky() -> None:
    """Its goodput is far below the rate; a frame that loses nothing is no sign of another way."""
    found = DatagramMeasurement(100, 99, 0, 0, 1e6, rate_bps=8e6 * 1500 / 1448)
    slow = msgspec.structs.replace(MEASURED, up_goodput_bps=1e5, up_datagrams=found)
    rows = [row(0, 0, 100_000, 5_000)]
    (predicted,) = predicted_link_ns(rows, LinkCertificate("kernel", PROFILE, slow, slow)).values()
    assert predicted / MS == pytest.approx(130)


def test_a_frame_is_submitted_after_all_its_waits_and_a_late_one_as_well() -> None:
    # Due together; the second is submitted when the uplink is free again.
    first, second = row(0, 0, 100_000, 0), row(1, 0, 100_000, 0)
    waits = {"wait_ns": 40 * MS, "queue_ns": 30 * MS, "window_ns": 30 * MS}
    second = msgspec.structs.replace(second, status="late", **waits)
    assert predicted_ms(first, second) == pytest.approx([120, 120])
    assert predicted_ms(msgspec.structs.replace(first, status="dropped"), second) == [120]


def test_frames_in_flight_wait_for_those_before_them() -> None:
    # All due at once; each takes 100 ms of the uplink, so the third one waits 200 ms.
    rows = [row(number, 0, 100_000, 0) for number in range(3)]
    assert predicted_ms(*rows) == pytest.approx([120, 220, 320])


def test_replies_wait_for_replies() -> None:
    # Sent after 1 and 2 ms; the first reply holds the downlink for 100 ms.
    rows = [row(0, 0, 1000, 50_000), row(1, 0, 1000, 500)]
    assert predicted_ms(*rows) == pytest.approx([1 + 100 + 20, 1 + 100 + 20 + 1])


def test_frames_one_after_the_other_do_not_wait() -> None:
    rows = [row(number, 200 * number, 100_000, 0) for number in range(3)]
    assert predicted_ms(*rows) == pytest.approx([120] * 3)


def run(folder: Path, certificate: LinkCertificate, by_hand: bool, rtt_ms: int = 80) -> Path:
    manifest: RunManifest = msgspec.structs.replace(
        MANIFEST,
        certificate=None if by_hand else certificate,
        config=MANIFEST.config | {"edge": "edge:50052", "window": 1},
        started_utc="2026-01-01T10:00:00+00:00",
        ended_utc="2026-01-01T10:05:00+00:00",
    )
    write_manifest(folder, manifest)
    if by_hand:
        (folder / "link.json").write_bytes(msgspec.json.encode(certificate))
    with RowWriter(RunFolder(folder).frames("device")) as rows:
        for number in range(3):
            rows.write(frame(number, rtt_ns=rtt_ms * MS, edge_ns=30 * MS, edge_tail_ns=0))
    return folder


def hand_made(
    before: str = "09:59:00", after: str = "10:06:00", at: str = "edge:50052"
) -> LinkCertificate:
    def taken(when: str) -> LinkMeasurement:
        return msgspec.structs.replace(MEASURED, at=at, taken_utc=f"2026-01-01T{when}+00:00")

    return LinkCertificate("relay", PROFILE, taken(before), taken(after))


def test_a_certificate_made_by_hand_around_the_run(tmp_path: Path) -> None:
    assert summarise(run(tmp_path, hand_made(), by_hand=True)).violations == ()


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (hand_made(before="10:01:00"), "the first measurement of the link was not before the run"),
        (hand_made(after="10:04:59"), "the second measurement of the link was not after the run"),
        (hand_made(after="09:59:30"), "the second measurement of the link was not after the run"),
        (hand_made(at="edge:50051"), "certified at edge:50051, and run over edge:5"),
    ],
)
def test_a_certificate_made_by_hand_of_something_else(
    tmp_path: Path, certificate: LinkCertificate, words: str
) -> None:
    violations = summarise(run(tmp_path, certificate, by_hand=True)).violations
    assert words in violations[0]
    # What `splitbed run` measures itself is around the run by construction.
    assert summarise(run(tmp_path / "run", certificate, by_hand=False)).violations == ()


def test_frames_faster_than_the_link_went_another_way(tmp_path: Path) -> None:
    # Some 23 ms are predicted beside the edge's 30 ms; 33 ms is 20 ms too fast.
    violations = summarise(run(tmp_path, CERTIFICATE, by_hand=False, rtt_ms=33)).violations
    assert len(violations) == 1
    assert "ms less between the nodes than the certified link allows" in violations[0]


def test_arithmetic_is_for_one_frame_at_a_time(tmp_path: Path) -> None:
    folder = run(tmp_path, CERTIFICATE, by_hand=False)
    assert summarise(folder).arithmetic_ms is not None
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=RunManifest)
    config = manifest.config | {"window": 4}
    write_manifest(folder, msgspec.structs.replace(manifest, config=config))
    found = summarise(folder)
    assert found.arithmetic_ms is None
    assert found.transport_excess_ms is not None
