"""`splitbed run` as a user would type it, on the embedded model."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from splitbed.record import EdgeFrameRecord, FrameRecord, ResourceSample
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from tests.integration.nodes import (
    ALONE,
    GESTURE,
    certified,
    child_of,
    finish,
    one_sentence,
    ready,
    splitbed,
    start,
    stop,
    wait_for_rows,
)

QUICK = ("--certify-s", "0.6", "--warmup", "2")
RELAY = ("--backend", "relay")


def run_json(*arguments: object) -> dict[str, Any]:
    made_here = () if "--edge" in arguments else RELAY
    done = certified("run", GESTURE, *QUICK, *made_here, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_three_processes_over_a_shaped_link(pictures: Path, tmp_path: Path) -> None:
    found = run_json(
        *("--cut", "layer3", "--images", pictures, "--frames", 12, "--out", tmp_path),
        *("--link", "rate=20mbit,delay=5ms,queue=50ms"),
    )
    folder = Path(found["folder"])
    assert found["complete"]
    assert found["violations"] == []
    assert found["link_kind"] == "relay"
    assert found["frames_ok"] == 12
    assert found["agreement"]["successes"] == 12  # raw changes nothing
    assert found["accuracy"] == found["anchor_accuracy"]
    assert found["total_ms"]["p50"]["value"] > 10  # twice 5 ms, at least
    assert found["rest_pct"] < 5

    rows = list(read_rows(RunFolder(folder).frames("device"), FrameRecord))
    audit = list(read_rows(RunFolder(folder).frames("edge"), EdgeFrameRecord))
    assert [row.frame_id for row in rows] == list(range(14))
    assert [row.warmup for row in rows] == [True] * 2 + [False] * 12
    assert {row.raw_bytes for row in rows} == {found["raw_bytes"]}
    by_key = {(a.run_id, a.session_id, a.frame_id): a for a in audit}
    for row in rows:
        joined = by_key[row.run_id, row.session_id, row.frame_id]
        assert joined.edge_ns == row.edge_ns
        assert (joined.request_bytes, joined.reply_bytes) == (row.request_bytes, row.reply_bytes)
        assert row.rtt_ns >= row.edge_ns >= row.edge_decode_ns + row.edge_tail_ns
        assert row.total_ns >= row.stages_ns
    for node in ("device", "edge"):
        samples = list(read_rows(RunFolder(folder).resources(node), ResourceSample))
        assert samples
        assert all(sample.rss_bytes > 1e6 and "psutil" in sample.source for sample in samples)

    manifest = read_manifest(folder)
    assert manifest.outcome == "complete"
    assert manifest.link_settings == {"queue": "left out: a relay drops nothing"}
    assert manifest.certificate is not None
    assert manifest.certificate.after is not None
    assert len(manifest.models[0].md5) == 32
    assert len(manifest.models[0].sha256) == 64
    assert manifest.versions["onnxruntime"]
    assert manifest.host["processor"]
    assert manifest.verification is not None
    assert manifest.verification["max_rel"] <= 1e-4
    assert manifest.head is not None
    assert manifest.head["fetched_bytes"] == manifest.head["file_bytes"] > 0
    assert manifest.config["link"] == "rate=20mbit,delay=5ms,queue=50ms"
    assert manifest.edge is not None
    assert manifest.edge["versions"]["onnxruntime"]
    assert manifest.edge["host"]["processor"]
    assert manifest.edge["threads"] >= 0
    assert manifest.clock is not None
    assert manifest.clock["basis"] == "link delays"
    assert manifest.clock["least_up_ns"] == manifest.clock["least_down_ns"] == 5_000_000
    # One machine, one clock.
    assert abs(manifest.clock["offset_ns"]) <= manifest.clock["error_ns"]


@pytest.mark.parametrize(
    ("cut", "codec", "reply"),
    [
        ("@result", "raw", "auto"),
        ("@output", "raw", "result"),
        ("@picture", "jpeg:95", "auto"),
        ("@picture", "png", "full"),
        ("@input", "zstd:3", "auto"),
        ("layer2", "quantize:6+zstd:3", "auto"),
        ("layer2", "cast", "full"),
    ],
)
def test_every_placement(pictures: Path, tmp_path: Path, cut: str, codec: str, reply: str) -> None:
    found = run_json(
        *("--cut", cut, "--codec", codec, "--reply", reply, "--images", pictures),
        *("--frames", 10, "--out", tmp_path),
    )
    assert found["frames_ok"] == 10
    assert found["agreement"]["successes"] >= 9
    if codec in ("raw", "png", "zstd:3"):
        assert found["agreement"]["successes"] == 10
    if reply == "full":
        assert found["max_difference"] is not None


@pytest.mark.parametrize("rule", ["", ",per=channel", ",symmetric=yes"])
def test_quantising_in_the_graph_changes_no_byte_and_no_answer(
    pictures: Path, tmp_path: Path, rule: str
) -> None:
    frames = {}
    for where in ("", ",where=graph"):
        text = f"quantize:5{rule}{where}+zstd:3"
        found = run_json(
            *("--cut", "layer2", "--codec", text, "--images", pictures),
            *("--frames", 20, "--out", tmp_path),
        )
        assert found["codec"] == text
        rows = list(read_rows(RunFolder(Path(found["folder"])).frames("device"), FrameRecord))
        assert len(rows) == 22
        frames[where] = [(row.source, row.raw_bytes, row.payload_bytes, row.result) for row in rows]
        (coded,) = read_manifest(Path(found["folder"])).codecs
        assert coded["stages"][0]["config"].get("where") == ("graph" if where else None)
    assert frames[""] == frames[",where=graph"]


def test_a_budget_of_bytes_a_frame(pictures: Path, tmp_path: Path) -> None:
    """The device sends the first chunks of a payload, numpy or the graph quantising it."""
    sizes = {}
    for text in (
        "quantize:5+layers",
        "quantize:5+layers:4,budget_bytes=900",
        "quantize:5,where=graph+layers:4,budget_bytes=900",
    ):
        found = run_json(
            *("--cut", "layer2", "--codec", text, "--images", pictures),
            *("--frames", 20, "--out", tmp_path),
        )
        assert found["codec"] == text
        assert found["frames_ok"] == 20
        assert found["agreement"]["successes"] >= (20 if "budget" not in text else 15)
        rows = list(read_rows(RunFolder(Path(found["folder"])).frames("device"), FrameRecord))
        sizes[text] = [(row.source, row.payload_bytes, row.result) for row in rows]
    whole, budget, in_graph = sizes.values()
    assert all(0 < size <= 900 for _, size, _ in budget)
    assert min(size for _, size, _ in whole) > 900
    assert budget == in_graph


def test_several_frames_in_flight(pictures: Path, tmp_path: Path) -> None:
    found = run_json(
        *("--cut", "layer3", "--images", pictures, "--frames", 40, "--window", 4),
        *("--out", tmp_path, "--link", "rate=100mbit,delay=10ms"),
        *("--tails", 1, "--batch", 4, "--batch-wait-ms", 5),
    )
    assert found["frames_ok"] == 40
    assert found["agreement"]["successes"] == 40
    rows = list(read_rows(RunFolder(Path(found["folder"])).frames("device"), FrameRecord))
    # In series, 40 frames with a round trip of 20 ms would take 0.8 s.
    measured = [row for row in rows if not row.warmup]
    took_ns = measured[-1].intended_ns - measured[0].intended_ns
    assert took_ns < 40 * 20e6
    assert sorted(row.frame_id for row in rows) == list(range(42))
    manifest = read_manifest(Path(found["folder"]))
    load, edge = manifest.load, manifest.edge
    assert load is not None
    assert (load["kind"], load["window"], load["stopped_by"]) == ("closed", 4, "frames")
    assert edge is not None
    assert (edge["tails"], edge["batch"], edge["batch_wait_ms"]) == (1, 4, 5.0)
    assert found["setting"]["turns"] == "1 tail at once, up to 4 in a batch within 5 ms"
    assert "--tails 1 --batch 4 --batch-wait-ms 5.0" in manifest.config["command"]


def test_kept_pictures_are_not_measured(pictures: Path, tmp_path: Path) -> None:
    found = run_json(
        *("--cut", "layer4", "--codec", "quantize:4", "--images", pictures, "--out", tmp_path)
    )
    folder = Path(found["folder"])
    assert found["frames_ok"] == 60 - 16
    assert "16 of the pictures" in read_manifest(folder).notes[0]


@pytest.mark.parametrize("victim", ["device_node", "edge_node", "netem"])
def test_kill_in_the_middle(pictures: Path, tmp_path: Path, victim: str) -> None:
    """Whoever is killed: every row is whole, the summary true, nothing left behind."""
    process = start(
        "splitbed.cli",
        *("run", GESTURE, "--cut", "layer3", "--images", pictures, "--frames", 2000),
        *("--out", tmp_path, "--link", "rate=50mbit,delay=5ms", *QUICK, *RELAY),
    )
    folder = wait_for_rows(tmp_path, 30)
    nodes = psutil.Process(process.pid).children(recursive=True)
    child_of(process, victim).send_signal(signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 7, err
    sentence = one_sentence(err)
    rows = list(read_rows(RunFolder(folder).frames("device"), FrameRecord))
    ok = [row for row in rows if row.status == "ok" and not row.warmup]
    assert len(ok) >= 28
    assert f"{len(ok)} of 2000 frames" in sentence
    assert "INCOMPLETE" in out
    outcome = read_manifest(folder).outcome
    name = {"device_node": "device", "edge_node": "edge", "netem": "relay"}[victim]
    assert f"the {name} was killed by SIGKILL" in outcome
    _, alive = psutil.wait_procs(nodes, timeout=10)
    assert not alive
    # The report can be made later, and says what it shows.
    page = tmp_path / "page.html"
    done = splitbed("report", folder, "--out", page, "--accept-uncertified")
    assert done.returncode == 7, done.stderr
    assert "is incomplete" in page.read_text()


@pytest.mark.parametrize("window", [1, 4])
def test_an_edge_that_hangs(pictures: Path, tmp_path: Path, window: int) -> None:
    """Stopped in the middle: a row for every frame, and an end soon after the time allowed."""
    edge = start("edge_node", "--models", GESTURE, *ALONE)
    device = start(
        "device_node",
        *("--edge", ready(edge)["address"], "--model", "gesture", "--cut", "layer3"),
        *("--images", pictures, "--frames", 20_000, "--window", window, "--timeout-s", 1),
        *("--out", tmp_path, "--cache", tmp_path / "cache"),
    )
    try:
        folder = wait_for_rows(tmp_path, 20)
        edge.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        code, _, err = finish(device)
        took_s = time.monotonic() - begin
    finally:
        edge.send_signal(signal.SIGCONT)
        assert stop(edge) == 0
    assert code == 5
    assert took_s < 6
    rows = list(read_rows(RunFolder(folder).frames("device"), FrameRecord))
    assert sorted(row.frame_id for row in rows) == list(range(len(rows)))
    lost = [row for row in rows if row.status != "ok"]
    assert {row.status for row in lost} == {"failed:timeout"}
    # With a window, one more was ready to be sent, and some on their way to it.
    assert len(lost) == 1 if window == 1 else window < len(lost) <= window + 5
    sentence = f"the edge did not answer frame {lost[0].frame_id} within 1 s"
    assert sentence in one_sentence(err)
    assert sentence in read_manifest(folder).outcome


def test_a_device_by_hand_takes_no_proxy_and_no_used_folder(pictures: Path, tmp_path: Path) -> None:
    edge = start("edge_node", "--models", GESTURE, *ALONE)
    arguments = (
        *("--edge", ready(edge)["address"], "--model", "gesture", "--cut", "layer3"),
        *("--images", pictures, "--frames", 3, "--out", tmp_path, "--run-id", "mine"),
        *("--cache", tmp_path / "cache"),
    )
    try:
        first = finish(start("device_node", *arguments, http_proxy="http://127.0.0.1:9"))
        again = finish(start("device_node", *arguments))
    finally:
        stop(edge)
    assert first[0] == 0, first[2]
    assert again[0] == 2
    assert "give another --run-id" in one_sentence(again[2])
    manifest = read_manifest(tmp_path / "mine")
    assert manifest.outcome == "complete"
    assert manifest.models[0].name == "gesture.onnx"
    assert manifest.edge is not None
    assert manifest.edge["host"]["processor"]


def test_a_model_behind_a_link(pictures: Path, tmp_path: Path) -> None:
    link = tmp_path / "links" / "gesture.onnx"
    link.parent.mkdir()
    link.symlink_to(GESTURE)
    done = certified(
        *("run", link, "--cut", "layer3", "--images", pictures, "--frames", 3, "--json"),
        *("--out", tmp_path / "runs", *QUICK, *RELAY),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames_ok"] == 3


def test_nothing_survives_a_killed_orchestrator(pictures: Path, tmp_path: Path) -> None:
    process = start(
        "splitbed.cli",
        *("run", GESTURE, "--cut", "layer3", "--images", pictures, "--frames", 5000),
        *("--out", tmp_path, "--link", "rate=50mbit,delay=5ms", *QUICK, *RELAY),
    )
    folder = wait_for_rows(tmp_path, 10)
    nodes = psutil.Process(process.pid).children(recursive=True)
    assert len(nodes) >= 3
    process.kill()
    process.communicate(timeout=10)
    _, alive = psutil.wait_procs(nodes, timeout=15)
    assert not alive, [(p, p.status(), p.cmdline()) for p in alive]
    assert read_manifest(folder).outcome == "running"
    done = splitbed("report", folder, "--out", tmp_path / "x.html")
    assert done.returncode == 4  # its link was not measured again
    done = splitbed("report", folder, "--out", tmp_path / "x.html", "--accept-uncertified")
    assert done.returncode == 7
    assert "ended without a word" in done.stdout


def test_control_c_drains(pictures: Path, tmp_path: Path) -> None:
    process = start(
        "splitbed.cli",
        *("run", GESTURE, "--cut", "layer3", "--images", pictures, "--frames", 5000),
        *("--out", tmp_path, *QUICK, *RELAY),
    )
    folder = wait_for_rows(tmp_path, 10)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "interrupted: stopped after" in one_sentence(err)
    rows = list(read_rows(RunFolder(folder).frames("device"), FrameRecord))
    assert all(row.status == "ok" for row in rows)


def test_an_unreadable_picture_costs_one_frame(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted(pictures.glob("*.png"))[:6]:
        (folder / path.name).write_bytes(path.read_bytes())
    bad = sorted(folder.glob("*.png"))[3]
    bad.write_bytes(bad.read_bytes()[:200])
    done = splitbed(
        *("run", GESTURE, "--cut", "layer3", "--images", folder, "--out", tmp_path / "runs"),
        *QUICK,
        *RELAY,
    )
    assert done.returncode == 7
    sentence = one_sentence(done.stderr)
    assert bad.name in sentence
    rows = list(read_rows(next((tmp_path / "runs").glob("*/device.frames.jsonl")), FrameRecord))
    failed = [row for row in rows if row.status == "failed:picture"]
    assert {row.source for row in failed} == {bad.name}
    assert sum(row.status == "ok" and not row.warmup for row in rows) == 5


def test_an_edge_that_runs_already(pictures: Path, tmp_path: Path) -> None:
    """The two-machine way: edge and relay on one side, the run on the other."""
    edge = start("edge_node", "--models", GESTURE.parent, *ALONE, "--tails", 3)
    relay = start(
        "netem",
        *("relay", "--target", ready(edge)["address"], "--listen", "127.0.0.1:0"),
        *("--profile", "rate=40mbit,delay=4ms"),
    )
    try:
        found = run_json(
            *("--cut", "layer3", "--images", pictures, "--frames", 10, "--out", tmp_path),
            *("--link", "rate=40mbit,delay=4ms", "--edge", ready(relay)["address"]),
        )
        assert found["frames_ok"] == 10
        assert found["total_ms"]["p50"]["value"] > 8
        assert found["setting"]["turns"] == "3 tails at once"  # as that edge told
    finally:
        assert stop(relay) == 0
        assert stop(edge) == 0


def test_a_link_that_is_not_what_it_should_be(pictures: Path, tmp_path: Path) -> None:
    """A run on a link outside its tolerance is shown, marked, and refused by its exit code."""
    edge = start("edge_node", "--models", GESTURE, *ALONE)
    relay = start(
        "netem",
        *("relay", "--target", ready(edge)["address"], "--listen", "127.0.0.1:0"),
        *("--profile", "rate=40mbit,delay=4ms"),
    )
    try:
        arguments = (
            *("run", GESTURE, "--cut", "layer3", "--images", pictures, "--frames", 5),
            *("--out", tmp_path, "--link", "rate=10mbit,delay=9ms"),
            *("--edge", ready(relay)["address"], *QUICK),
        )
        done = splitbed(*arguments)
        assert done.returncode == 4
        assert "was not what" in one_sentence(done.stderr)
        assert splitbed(*arguments, "--accept-uncertified").returncode == 0
    finally:
        stop(relay)
        stop(edge)
    runs = [path.parent for path in tmp_path.glob("*/manifest.json")]
    done = splitbed("report", runs[0], "--out", tmp_path / "r.html")
    assert done.returncode == 4
    assert not (tmp_path / "r.html").exists()
