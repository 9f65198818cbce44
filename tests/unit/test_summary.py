"""From a run folder written by hand to its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from experiments.evaluation import Evaluation, write_evaluation
from experiments.run_facts import Setting
from experiments.statistics import PairedLoss, paired_loss, share
from experiments.summary import STAGES, Summary, summarise
from splitbed.certificate import LinkCertificate, LinkMeasurement
from splitbed.errors import RecordError
from splitbed.link import Direction, LinkProfile
from splitbed.record import FrameRecord, ResourceSample, RunManifest
from splitbed.run_folder import RowWriter, RunFolder, write_manifest
from splitbed.session import Node

MS = 1_000_000
MEASURED = LinkMeasurement(
    rtt_ns=(20 * MS,) * 5,
    up_goodput_bps=8e6,  # 1 byte in 1 us
    down_goodput_bps=8e6,
    up_probe_bytes=1,
    down_probe_bytes=1,
    seconds=1.0,
)
LOOSE = LinkProfile("test", Direction(delay_ns=10 * MS), Direction(delay_ns=10 * MS))
CERTIFICATE = LinkCertificate("relay", LOOSE, MEASURED, MEASURED)

MANIFEST = RunManifest(
    run_id="abc-1",
    config_id="abc",
    config={"model": "models/net.onnx", "cut": "relu3", "codec": "quantize:8+zstd:3"},
    seed=0,
    started_utc="2025-01-01T00:00:00+00:00",
    outcome="complete",
    frames_wanted=3,
    versions={},
    host={},
    certificate=CERTIFICATE,
)


def frame(number: int, head_ms: int = 5, **fields: Any) -> FrameRecord:
    """A frame of 100 ms and twice what its head takes; 1 ms of it is in no stage."""
    parts = {
        "wait_ns": 1 * MS,
        "preprocess_ns": 2 * MS,
        "head_ns": head_ms * MS,
        "encode_ns": 3 * MS,
        "window_ns": 4 * MS,
        "rtt_ns": (80 + head_ms) * MS,
        "finish_ns": 9 * MS,
    }
    figures: dict[str, Any] = {
        "run_id": "abc-1",
        "session_id": 1,
        "frame_id": number,
        "warmup": False,
        "status": "ok",
        "source": f"p{number}.png",
        "edge_ns": 30 * MS,
        "edge_queue_ns": 2 * MS,
        "edge_decode_ns": 4 * MS,
        "edge_tail_ns": 20 * MS,
        "edge_encode_ns": 3 * MS,
        "edge_batch": 1,
        "total_ns": sum(parts.values()) + 1 * MS,
        "raw_bytes": 4000,
        "payload_bytes": 900 + 100 * number,
        "request_bytes": 1900 + 100 * number,
        "reply_bytes": 500,
    }
    return FrameRecord(**(parts | figures | fields))


def failed(number: int, **fields: Any) -> FrameRecord:
    return FrameRecord(
        run_id="abc-1",
        session_id=1,
        frame_id=number,
        status="failed:timeout",
        error="too late",
        **({"warmup": False} | fields),
    )


def answers(**labels: int) -> dict[str, Any]:
    return {f"{name}.png": {"label": label} for name, label in labels.items()}


def written(folder: Path, rows: list[FrameRecord], **manifest: Any) -> Path:
    """A run folder with these rows, and a manifest that differs in these fields."""
    write_manifest(folder, msgspec.structs.replace(MANIFEST, **manifest))
    with RowWriter(RunFolder(folder).frames("device")) as writer:
        for row in rows:
            writer.write(row)
    return folder


def summed(folder: Path, rows: list[FrameRecord], **manifest: Any) -> Summary:
    return summarise(written(folder, rows, **manifest))


THREE = [frame(1, head_ms=5), frame(2, head_ms=6), frame(3, head_ms=10)]

# ----------------------------------------------------------------------------------- a complete run


def test_names_come_from_the_manifest(tmp_path: Path) -> None:
    found = summed(tmp_path, THREE)
    assert (found.run_id, found.folder) == ("abc-1", str(tmp_path))
    assert (found.model, found.cut, found.codec) == ("net", "relu3", "quantize:8+zstd:3")
    assert found.name == "relu3 quantize:8+zstd:3"
    assert (found.link, found.link_kind, found.violations) == ("test", "relay", ())
    assert not found.is_anchor


def test_the_cut_is_the_one_that_was_agreed(tmp_path: Path) -> None:
    codecs = [{"tensor": name, "stages": [{"id": "raw", "config": {}}]} for name in ("a", "b")]
    found = summed(tmp_path, THREE, cut={"name": "@result"}, config={"cut": "?"}, codecs=codecs)
    assert (found.cut, found.codec, found.model) == ("@result", "raw", "")
    assert found.is_anchor


def test_counts(tmp_path: Path) -> None:
    found = summed(tmp_path, [frame(0, warmup=True), *THREE])
    assert found.outcome == "complete"
    assert found.complete
    assert (found.frames_wanted, found.frames_ok) == (3, 3)
    assert (found.frames_failed, found.warmup_frames) == (0, 1)


def test_times_are_those_of_measured_frames(tmp_path: Path) -> None:
    slow_warmup = frame(0, head_ms=500, warmup=True)
    found = summed(tmp_path, [slow_warmup, *THREE])
    # 100 + 2 * head: 110, 112 and 120 ms.
    assert found.total_ms["p50"].value == pytest.approx(112)
    assert found.total_ms["p95"].value == pytest.approx(112 + 0.9 * 8)
    assert found.total_ms["p50"].low is None  # three frames cannot say
    assert {stage: figures["p50"] for stage, figures in found.stages_ms.items()} == pytest.approx(
        {
            "wait": 1,
            "preprocess": 2,
            "head": 6,
            "encode": 3,
            "window": 4,
            "device queue": 0,
            "link": 56,
            "edge queue": 2,
            "decode": 4,
            "tail": 20,
            "reply encode": 3,
            "finish": 9,
        }
    )
    assert found.stages_ms["head"]["p99"] == pytest.approx(6 + 0.98 * 4)


def test_stages_and_rest_add_up(tmp_path: Path) -> None:
    # All but the edge's own bookkeeping (1 of its 30 ms) and the device's (1 ms).
    row = frame(1)
    assert sum(of(row) for of in STAGES.values()) == row.total_ns - 2 * MS
    found = summed(tmp_path, [row], frames_wanted=1)
    assert found.rest_pct == pytest.approx(100 * 1 / 110)


def test_bytes_are_medians(tmp_path: Path) -> None:
    found = summed(
        tmp_path,
        THREE,
        head={"file_bytes": 1234, "fetch_ns": 7_500_000},
        edge={"tail_bytes": 5678},
        codecs=[{"tensor": "x", "stages": []}],
    )
    assert (found.raw_bytes, found.payload_bytes) == (4000, 1100)
    assert (found.request_bytes, found.reply_bytes) == (2100, 500)
    assert found.session_bytes == len('[{"tensor":"x","stages":[]}]')
    assert (found.head_bytes, found.head_fetch_ms, found.tail_bytes) == (1234, 7.5, 5678)


def test_arithmetic_and_excess_of_the_certified_link(tmp_path: Path) -> None:
    found = summed(tmp_path, [frame(1, head_ms=5)], frames_wanted=1)
    # 2000 + 500 bytes at 1 us each, and 20 ms: 22.5 ms; frame: 2 + 5 + 3 + 4 + 20 ms.
    assert found.arithmetic_ms == pytest.approx(34 + 22.5)
    # On the link: 85 of the round trip less 30 at the edge.
    assert found.transport_excess_ms == pytest.approx(55 - 22.5)


def test_use_of_both_nodes(tmp_path: Path) -> None:
    written(tmp_path, THREE)
    nodes: tuple[Node, Node] = ("device", "edge")
    for node in nodes:
        with RowWriter(RunFolder(tmp_path).resources(node)) as writer:
            for cpu, rss in ((10.0, 500), (90.0, 900), (30.0, 700)):
                writer.write(ResourceSample("abc-1", node, 0, 1, 1, cpu, 0.0, rss, 1, "psutil"))
    use = summarise(tmp_path).use
    assert set(use) == {"device", "edge"}
    assert (use["edge"].cpu_pct_median, use["edge"].rss_peak_bytes) == (30.0, 900)
    assert (use["edge"].samples, use["edge"].source) == (3, "psutil")


# ---------------------------------------------------------------------------------- runs gone wrong


def test_run_left_running_says_so(tmp_path: Path) -> None:
    cut_short = msgspec.structs.replace(CERTIFICATE, after=None)
    found = summed(tmp_path, THREE[:2], outcome="running", certificate=cut_short)
    assert found.outcome.startswith("ended without a word after 2 rows")
    assert not found.complete
    assert found.violations == ("not measured after the run",)
    assert found.frames_ok == 2


def test_torn_last_row_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, THREE[:2], outcome="running")
    with RunFolder(tmp_path).frames("device").open("ab") as file:
        file.write(msgspec.json.encode(THREE[2])[:40])
    assert summarise(tmp_path).frames_ok == 2


def test_row_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    written(tmp_path, THREE)
    with RunFolder(tmp_path).frames("device").open("ab") as file:
        file.write(b'{"run_id": 1}\n')
    with pytest.raises(RecordError, match=r"line 4 of .*device\.frames\.jsonl"):
        summarise(tmp_path)


def test_failed_and_dropped_frames_are_counted_and_in_no_time(tmp_path: Path) -> None:
    rows = [*THREE[:2], failed(3), frame(5, status="dropped")]
    found = summed(tmp_path, rows, frames_wanted=4)
    assert (found.frames_ok, found.frames_dropped, found.frames_failed) == (2, 1, 1)
    assert not found.complete
    assert found.total_ms["p99"].value < 113


def test_a_late_frame_is_in_the_percentiles(tmp_path: Path) -> None:
    """Without it, the slower a run the better its tail: only survivors would count."""
    rows = [*THREE[:2], frame(3, head_ms=500, status="late")]
    found = summed(tmp_path, rows)
    assert (found.frames_ok, found.frames_late, found.frames_answered) == (2, 1, 3)
    assert (found.frames_failed, found.complete) == (0, True)
    assert found.total_ms["p99.9"].value > 1090
    assert found.stages_ms["head"]["p99.9"] > 490
    assert found.transport_excess_ms is not None  # it was on the link as well


def test_fewer_frames_than_wanted_are_no_complete_run(tmp_path: Path) -> None:
    assert not summed(tmp_path, THREE, frames_wanted=4).complete
    assert not summed(tmp_path / "b", THREE, outcome="stopped after 3 frames").complete


def test_warmup_frames_are_in_no_figure_even_when_they_fail(tmp_path: Path) -> None:
    found = summed(tmp_path, [failed(0, warmup=True), *THREE])
    assert (found.frames_ok, found.frames_failed, found.warmup_frames) == (3, 0, 1)


@pytest.mark.parametrize(
    "rows", [[], [failed(1)], [frame(1, warmup=True)]], ids=["none", "failed", "warm-up"]
)
def test_run_without_a_measured_frame(rows: list[FrameRecord], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"has no frame that was measured \(edge lost\)"):
        summed(tmp_path, rows, outcome="edge lost")


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"is no run folder: it has no manifest\.json"):
        summarise(tmp_path)


def test_run_without_a_certificate(tmp_path: Path) -> None:
    found = summed(tmp_path, THREE, certificate=None)
    assert (found.link, found.link_kind) == ("unknown", "uncertified")
    assert found.violations == ("the link was not certified",)
    assert found.arithmetic_ms is None
    assert found.transport_excess_ms is None
    assert found.total_ms["p50"].value == pytest.approx(112)


def test_link_outside_its_tolerance(tmp_path: Path) -> None:
    slow = msgspec.structs.replace(MEASURED, rtt_ns=(50 * MS,) * 5)
    after = msgspec.structs.replace(CERTIFICATE, after=slow)
    (violation,) = summed(tmp_path, THREE, certificate=after).violations
    assert violation == "round trip 50.00 ms (+30.00) after the run"


# ------------------------------------------------------------------------------------------ quality


def classified(*labels: int) -> list[FrameRecord]:
    return [frame(number, result={"label": label}) for number, label in enumerate(labels, 1)]


def test_without_a_reference_nothing_is_said_of_quality(tmp_path: Path) -> None:
    found = summed(tmp_path, classified(1, 2, 3))
    for figure in (found.accuracy, found.anchor_accuracy, found.loss, found.agreement):
        assert figure is None
    assert found.max_difference is None
    assert found.points_lost is None


def test_accuracy_agreement_and_loss(tmp_path: Path) -> None:
    reference = {
        "answers": answers(p1=1, p2=2, p3=3, p4=4),
        "labels": {"p1.png": 1, "p2.png": 2, "p3.png": 9, "p4.png": 4},
    }
    found = summed(tmp_path, classified(1, 7, 3, 4), reference=reference)
    assert found.agreement == share(3, 4)
    assert found.accuracy == share(2, 4)
    assert found.anchor_accuracy == share(3, 4)
    assert found.loss == paired_loss([True, True, False, True], [True, False, False, True])
    assert found.points_lost == 25.0


def test_picture_that_was_measured_twice_counts_once(tmp_path: Path) -> None:
    rows = [frame(number, source="p1.png", result={"label": 1}) for number in range(8)] + [
        frame(9, source="p2.png", result={"label": 5})
    ]
    found = summed(tmp_path, rows, reference={"answers": answers(p1=1, p2=2)})
    assert found.agreement == share(1, 2)


def test_only_labelled_pictures_have_an_accuracy(tmp_path: Path) -> None:
    reference = {"answers": answers(p1=1, p2=2), "labels": {"p1.png": 1}}
    found = summed(tmp_path, classified(1, 7), reference=reference)
    assert found.accuracy == share(1, 1)
    assert found.agreement == share(1, 2)


def test_no_loss_without_the_anchors_answer(tmp_path: Path) -> None:
    reference = {"answers": answers(p1=1), "labels": {"p1.png": 1, "p2.png": 2}}
    found = summed(tmp_path, classified(1, 2), reference=reference)
    assert found.accuracy == share(2, 2)
    assert (found.anchor_accuracy, found.loss) == (None, None)


def test_largest_difference_of_raw_outputs(tmp_path: Path) -> None:
    rows = [
        frame(number, result={"outputs": {}, "agreement": {"max_abs": value, "nmse": value}})
        for number, value in enumerate((0.25, 0.75, 0.5))
    ]
    found = summed(tmp_path, rows)
    assert found.max_difference == 0.75
    assert found.accuracy is None


@pytest.mark.parametrize("values", [(0.25, None), (None, None)])
def test_difference_that_was_nan_is_not_small(
    values: tuple[float | None, ...], tmp_path: Path
) -> None:
    rows = [
        frame(number, result={"outputs": {}, "agreement": {"max_abs": value, "nmse": value}})
        for number, value in enumerate(values)
    ]
    found = summed(tmp_path, rows).max_difference
    assert found is not None
    assert not found < 1e9  # NaN or infinite


def test_evaluation_decides_over_the_measured_frames(tmp_path: Path) -> None:
    written(tmp_path, classified(1, 2))
    lost = PairedLoss(3.5, 3, 4, 7, 0)
    kept = Evaluation(200, 950.0, share(190, 200), share(197, 200), lost, share(193, 200))
    write_evaluation(tmp_path, kept)
    found = summarise(tmp_path)
    assert found.evaluation == kept
    assert found.points_lost == 3.5
    (tmp_path / "evaluation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RecordError, match=r"evaluation\.json"):
        summarise(tmp_path)


def test_runs_share_a_setting_whatever_ran_where(tmp_path: Path) -> None:
    """All on the device, no provider runs anything at the edge; it is still the same setting."""
    config = {"window": 1, "threads": 1, "edge_threads": 0, "provider": "auto"}
    found = {
        summed(tmp_path / str(n), THREE, config=config, edge={"provider": provider}).setting
        for n, provider in enumerate(("", "CPUExecutionProvider"))
    }
    assert found == {Setting(1, 1, 0, "auto")}


def test_a_cut_that_was_called_an_anchor_is_one(tmp_path: Path) -> None:
    assert summed(tmp_path, THREE, config=MANIFEST.config | {"anchor": True}).is_anchor


def test_tensors_coded_differently_are_named(tmp_path: Path) -> None:
    codecs = [
        {"tensor": "a", "stages": [{"id": "raw", "config": {}}]},
        {"tensor": "b", "stages": [{"id": "cast", "config": {}}]},
    ]
    assert summed(tmp_path, THREE, codecs=codecs).codec == "raw, cast"
