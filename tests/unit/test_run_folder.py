"""Rows and manifests on disk: what is written is whole, what is read is checked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed import run_folder
from splitbed.certificate import LinkCertificate, LinkMeasurement
from splitbed.errors import RecordError, StorageFull
from splitbed.link import Direction, LinkProfile
from splitbed.record import EdgeFrameRecord, FrameRecord, ModelDigest, ResourceSample, RunManifest
from splitbed.run_folder import RowWriter, RunFolder, read_manifest, read_rows, write_manifest

FRAME = FrameRecord("run-1", 7, 0, warmup=False, status="ok")
FULL_FRAME = msgspec.convert(
    # Every counter gets its own value, so that no two fields can be exchanged unnoticed.
    {
        field.name: number
        for number, field in enumerate(msgspec.structs.fields(FrameRecord), 2**40)
        if field.name.endswith(("_ns", "_bytes", "_id", "_batch")) and field.name != "run_id"
    }
    | {"run_id": "run-1", "warmup": True, "status": "failed:engine", "source": "Küche 1.png"}
    | {"result": {"class": 3, "boxes": [[0.5, 1.0]], "agrees": None}}
    | {"error": 'a "sentence"\nwith a line end'},
    FrameRecord,
)
EDGE_FRAME = EdgeFrameRecord("run-1", 7, 0, "ok", received_ns=1, edge_ns=2)
SAMPLE = ResourceSample("run-1", "edge", 1, 2, 3, 99.5, 12.25, 4096, 8, source="psutil")
MANIFEST = RunManifest("r", "c", {}, 0, "2024-01-01T00:00:00Z", "running", 10, {}, {})
MEASURED = LinkMeasurement((5, 6), 1e6, 2e6, 100, 200, 1.5)
FULL_MANIFEST = RunManifest(
    run_id="r",
    config_id="c",
    config={"window": 4, "codec": ["raw"]},
    seed=3,
    started_utc="2024-01-01T00:00:00Z",
    outcome="complete",
    frames_wanted=10,
    versions={"splitbed": "0"},
    host={"device": {"cpu": "x"}},
    models=(ModelDigest("m", 1, "md5", "sha"),),
    certificate=LinkCertificate(
        "relay", LinkProfile("p", Direction(rate_bps=8000), Direction()), MEASURED, MEASURED
    ),
    link_violations=("uplink",),
    notes=("Ä",),
)


def run_python(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True
    )


def output_of(script: str, *arguments: str) -> Any:
    """What a script, which must succeed, printed as JSON."""
    with run_python(script, *arguments) as child:
        text, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return json.loads(text)


@pytest.mark.parametrize("row", [FRAME, FULL_FRAME, EDGE_FRAME, SAMPLE])
def test_rows_come_back(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    with RowWriter(path) as writer:
        for _ in range(3):
            writer.write(row)
        assert writer.rows == 3
    assert list(read_rows(path, type(row))) == [row] * 3
    assert path.read_bytes().count(b"\n") == 3


NUMBERS = st.integers(0, 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(
    row=st.builds(
        FrameRecord,
        run_id=st.text(),
        session_id=st.integers(0, 2**64 - 1),
        frame_id=NUMBERS,
        warmup=st.booleans(),
        status=st.text(),
        source=st.text(),
        wait_ns=NUMBERS,
        uplink_ns=st.none() | st.integers(-(2**62), 2**62),
        result=st.none()
        | st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
        error=st.text(),
    )
)
def test_any_row_is_one_line_that_comes_back(row: FrameRecord) -> None:
    line = msgspec.json.encode(row)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=FrameRecord) == row


def test_defaults_are_left_out(tmp_path: Path) -> None:
    with RowWriter(tmp_path / "rows") as writer:
        writer.write(FRAME)
    assert json.loads((tmp_path / "rows").read_bytes()) == {
        "run_id": "run-1",
        "session_id": 7,
        "frame_id": 0,
        "warmup": False,
        "status": "ok",
    }


def test_a_row_is_on_disk_at_once_and_appended(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with RowWriter(path) as first, RowWriter(path) as second:
        first.write(FRAME)
        second.write(FULL_FRAME)
        first.write(FRAME)
        assert list(read_rows(path, FrameRecord)) == [FRAME, FULL_FRAME, FRAME]
        first.close()
        with pytest.raises(RecordError):
            first.write(FRAME)


def test_one_row_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        written.append(data)
        return real(fd, data)

    with RowWriter(tmp_path / "rows") as writer:
        monkeypatch.setattr(os, "write", write)
        writer.write(FRAME)
        writer.write(FULL_FRAME)
    assert [data.endswith(b"\n") for data in written] == [True, True]


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert list(read_rows(tmp_path / "none", FrameRecord)) == []
    (tmp_path / "empty").touch()
    assert list(read_rows(tmp_path / "empty", FrameRecord)) == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with RowWriter(path) as writer:
        writer.write(FRAME)
        writer.write(FULL_FRAME)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole), 11):
        path.write_bytes(whole[:end])
        assert list(read_rows(path, FrameRecord)) == [FRAME]


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[1]",
        msgspec.json.encode(EDGE_FRAME),
        msgspec.json.encode(msgspec.to_builtins(FRAME) | {"new_field": 1}),
        msgspec.json.encode(msgspec.to_builtins(FRAME) | {"frame_id": "0"}),
    ],
)
def test_a_foreign_line_is_named_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows"
    good = msgspec.json.encode(FRAME)
    path.write_bytes(b"\n".join([good, good, line, good, b""]))
    rows = read_rows(path, FrameRecord)
    assert [next(rows), next(rows)] == [FRAME, FRAME]
    with pytest.raises(RecordError, match=r"line 3 of .*rows is not a FrameRecord row"):
        next(rows)


def test_what_cannot_be_read_or_opened(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot read"):
        list(read_rows(tmp_path, FrameRecord))
    with pytest.raises(RecordError, match="cannot write"):
        RowWriter(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        RowWriter(tmp_path / "file" / "rows")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_says_how_many_rows_are_safe() -> None:
    with RowWriter(Path("/dev/full")) as writer:
        with pytest.raises(StorageFull, match=r"/dev/full \(0 rows are safe in it\)"):
            writer.write(FRAME)
        assert writer.rows == 0


SHORT_WRITES = """
import json, resource, sys
from pathlib import Path
from splitbed.errors import StorageFull
from splitbed.record import FrameRecord
from splitbed.run_folder import RowWriter

path, limit = Path(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
sentences = []
with RowWriter(path) as writer:
    frame = 0
    while len(sentences) < 3:
        try:
            writer.write(FrameRecord("run", 1, frame, False, "ok", source="x" * frame))
            frame += 1
        except StorageFull as error:
            sentences.append(str(error))
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    writer.write(FrameRecord("run", 1, frame, False, "late"))
print(json.dumps([frame, size, sentences]))
"""


@pytest.mark.parametrize("limit", [1000, 4099])
def test_a_short_write_leaves_whole_rows(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "rows"
    frames, size, sentences = output_of(SHORT_WRITES, str(path), str(limit))
    assert frames > 5
    assert limit - 200 < size <= limit
    assert [f"({frames} rows are safe in it)" in text for text in sentences] == [True] * 3
    # The row written after space was freed follows directly: nothing of the others is left.
    rows = list(read_rows(path, FrameRecord))
    assert [row.frame_id for row in rows] == list(range(frames + 1))
    assert rows[-1].status == "late"


ENDLESS_WRITES = """
import sys
from pathlib import Path
from splitbed.record import FrameRecord
from splitbed.run_folder import RowWriter

result = {"boxes": [[0.125] * 6] * int(sys.argv[2])}
with RowWriter(Path(sys.argv[1])) as writer:
    while True:
        writer.write(FrameRecord("run", 1, writer.rows, False, "ok", result=result))
"""


@pytest.mark.parametrize("boxes", [0, 3, 1000])
def test_a_killed_writer_leaves_whole_rows(tmp_path: Path, boxes: int) -> None:
    path = tmp_path / "rows"
    with run_python(ENDLESS_WRITES, str(path), str(boxes)) as child:
        until = time.monotonic() + 30
        while not (path.exists() and path.stat().st_size > 200_000):
            assert child.poll() is None
            assert time.monotonic() < until
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    rows = list(read_rows(path, FrameRecord))
    assert [row.frame_id for row in rows] == list(range(len(rows)))
    size = sum(len(msgspec.json.encode(row)) + 1 for row in rows)
    assert size > 150_000
    # A row of several pages can be torn by the kill; a reader then leaves it out.
    assert path.stat().st_size == size or boxes == 1000


@pytest.mark.parametrize("manifest", [MANIFEST, FULL_MANIFEST])
def test_a_manifest_comes_back(tmp_path: Path, manifest: RunManifest) -> None:
    write_manifest(tmp_path / "new", manifest)
    assert read_manifest(tmp_path / "new") == manifest
    text = (tmp_path / "new" / "manifest.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "run_id"')
    assert ("notes" in text) == bool(manifest.notes)


def test_readers_never_see_half_a_manifest(tmp_path: Path) -> None:
    long = msgspec.structs.replace(FULL_MANIFEST, notes=("x" * 3000,) * 100)
    write_manifest(tmp_path, MANIFEST)
    done = threading.Event()

    def write() -> None:
        for _ in range(150):
            write_manifest(tmp_path, long)
            write_manifest(tmp_path, MANIFEST)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        manifest = read_manifest(tmp_path)
        assert manifest in (MANIFEST, long)
        seen.add(len(manifest.notes))
    writer.join()
    assert seen == {0, 100}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_manifest_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, MANIFEST)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("os.replace", "pathlib.Path.write_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            with pytest.raises(StorageFull, match=r"manifest\.json"):
                write_manifest(tmp_path, FULL_MANIFEST)
        assert read_manifest(tmp_path) == MANIFEST
        assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"run_id": 3}'])
def test_what_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RecordError, match="is no run folder"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RecordError, match="is not a manifest of this version"):
        read_manifest(tmp_path)


def test_a_manifest_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(RecordError, match="cannot read"):
        read_manifest(tmp_path)


def test_names_in_a_run_folder_do_not_meet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    paths = [
        *(folder.frames(node) for node in ("device", "edge")),
        *(folder.resources(node) for node in ("device", "edge")),
        *(folder.log(process) for process in ("device", "edge", "relay")),
        tmp_path / run_folder.MANIFEST,
    ]
    assert len(set(paths)) == len(paths)
    assert {path.parent for path in paths} == {tmp_path}


def test_session_facts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    assert folder.read_session() == {}
    folder.write_session({"init_ns": 5, "outputs": ["a"]})
    assert folder.read_session() == {"init_ns": 5, "outputs": ["a"]}
    (tmp_path / "new" / "device.session.json").write_bytes(b"{")
    assert folder.read_session() == {}
    (tmp_path / "file").touch()
    with pytest.raises(RecordError):
        RunFolder(tmp_path / "file").write_session({})


def test_a_certificate_made_by_hand(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_link() is None
    certificate = FULL_MANIFEST.certificate
    (tmp_path / "link.json").write_bytes(msgspec.json.encode(certificate))
    assert folder.read_link() == certificate
    (tmp_path / "link.json").write_bytes(b"{}")
    with pytest.raises(RecordError, match="is no certificate of a link"):
        folder.read_link()


def test_a_picture_with_a_name_that_is_no_text_can_be_recorded(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    with RowWriter(tmp_path / "rows") as writer:
        writer.write(FrameRecord("run", 1, 0, False, "ok", source=name))
    assert len(list(read_rows(tmp_path / "rows", FrameRecord))) == 1
