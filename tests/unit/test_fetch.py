"""Fetching a part: cached, resumed, checked, and never kept where it should not be."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed.errors import (
    EdgeUnreachable,
    ModelUnknown,
    ProtocolViolation,
    RecordError,
    SplitbedError,
    StorageFull,
)
from splitbed.tensor import Cut, ModelId, Partition
from splitbed.transport import InProcessTransport, Transport, fetch, fetch_part
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer
from tests.unit.edges import edge_over, model_folder

CONTENT = random.Random(4).randbytes(100_000)


def part_of(content: bytes = CONTENT, sha256: str = "", file_bytes: int = -1) -> Partition:
    return Partition(
        model=ModelId("0" * 64, 1, ()),
        cut=Cut("mid", ()),
        part="first",
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
        file_bytes=len(content) if file_bytes < 0 else file_bytes,
        inputs=(),
        outputs=(),
    )


PART = part_of()


class Fake:
    """A transport that breaks off after so many bytes, once for every number in `breaks`."""

    def __init__(
        self,
        content: bytes = CONTENT,
        breaks: Sequence[int] = (),
        error: SplitbedError | None = None,
        chunk: int = 7_000,
    ) -> None:
        self.offsets: list[int] = []
        self.sent = 0
        self._content, self._breaks, self._chunk = content, list(breaks), chunk
        self._error = error or EdgeUnreachable("the connection was lost")

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        left = self._breaks.pop(0) if self._breaks else None
        for start in range(offset, len(self._content), self._chunk):
            data = self._content[start : start + self._chunk]
            if left is not None and len(data) > left:
                self.sent += left
                yield data[:left]
                raise self._error
            if left is not None:
                left -= len(data)
            self.sent += len(data)
            yield data

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"fetching needs no {name}")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "time", _Hasty)


class _Hasty:
    @staticmethod
    def sleep(seconds: float) -> None:
        assert 0 < seconds <= 2

    perf_counter_ns = time.perf_counter_ns


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_part_is_fetched_once(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "there yet"
    seen: list[tuple[int, int]] = []
    report = fetch_part(Fake(), PART, cache, lambda done, total: seen.append((done, total)))
    assert report.path.read_bytes() == CONTENT
    assert report.path.parent == cache
    assert report.file_bytes == report.fetched_bytes == len(CONTENT)
    assert report.attempts == 1
    assert report.fetch_ns > 0
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    again = fetch_part(Fake(b""), PART, cache)
    assert again.path == report.path
    assert (again.fetched_bytes, again.attempts, again.fetch_ns) == (0, 0, 0)
    assert names(cache) == [report.path.name]


@settings(max_examples=40, deadline=None)
@given(breaks=st.lists(st.integers(0, 40_000), max_size=4), chunk=st.integers(1_000, 60_000))
def test_an_interrupted_transfer_goes_on_where_it_broke_off(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int], chunk: int
) -> None:
    transport = Fake(breaks=breaks, chunk=chunk)
    report = fetch_part(transport, PART, tmp_path_factory.mktemp("cache"))
    assert report.path.read_bytes() == CONTENT
    assert report.attempts == len(transport.offsets)
    assert transport.sent == len(CONTENT), "no byte may cross the link twice"
    assert transport.offsets[0] == 0
    assert transport.offsets == sorted(transport.offsets)


def test_every_byte_that_crossed_the_link_is_reported(tmp_path: Path) -> None:
    transport = Fake(breaks=[30_000, 20_000])
    assert fetch_part(transport, PART, tmp_path).fetched_bytes == transport.sent


def test_giving_up_keeps_what_came_for_the_next_call(tmp_path: Path) -> None:
    transport = Fake(breaks=[10_000] * fetch.ATTEMPTS)
    with pytest.raises(EdgeUnreachable, match="the connection was lost"):
        fetch_part(transport, PART, tmp_path)
    assert transport.offsets == [0, 10_000, 20_000, 30_000, 40_000]
    assert (tmp_path / f"{PART.sha256}.part").read_bytes() == CONTENT[:50_000]
    again = Fake()
    report = fetch_part(again, PART, tmp_path)
    assert again.offsets == [50_000]
    assert report.fetched_bytes == 50_000
    assert report.path.read_bytes() == CONTENT


def test_an_edge_that_stops_early_is_asked_again(tmp_path: Path) -> None:
    transport = Fake(CONTENT[:60_000])
    with pytest.raises(EdgeUnreachable, match="stopped after 60000 of 100000 bytes"):
        fetch_part(transport, PART, tmp_path)
    assert transport.offsets == [0] + [60_000] * (fetch.ATTEMPTS - 1)


@pytest.mark.parametrize("error", [ModelUnknown("no such part"), ProtocolViolation("odd chunk")])
def test_a_refusal_is_not_asked_again(tmp_path: Path, error: SplitbedError) -> None:
    transport = Fake(breaks=[10], error=error)
    with pytest.raises(type(error), match=str(error)):
        fetch_part(transport, PART, tmp_path)
    assert len(transport.offsets) == 1


def test_a_wrong_digest_is_thrown_away(tmp_path: Path) -> None:
    other = bytes(len(CONTENT))
    with pytest.raises(ProtocolViolation, match=r"does not have the digest announced .* try again"):
        fetch_part(Fake(other), PART, tmp_path)
    assert names(tmp_path) == []
    assert fetch_part(Fake(), PART, tmp_path).path.read_bytes() == CONTENT


def test_a_damaged_start_is_noticed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / f"{PART.sha256}.part").write_bytes(bytes(50_000))
    with pytest.raises(ProtocolViolation, match="thrown away"):
        fetch_part(Fake(), PART, tmp_path)
    assert names(tmp_path) == []


def test_a_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / f"{PART.sha256}.onnx").write_bytes(CONTENT[:-1] + b"?")
    report = fetch_part(Fake(), PART, tmp_path)
    assert report.fetched_bytes == len(CONTENT)
    assert report.path.read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [1, 200_000])
def test_too_many_bytes_are_refused(tmp_path: Path, extra: int) -> None:
    with pytest.raises(ProtocolViolation, match="more than the 100000 bytes that it announced"):
        fetch_part(Fake(CONTENT + bytes(extra)), PART, tmp_path)
    assert all(path.stat().st_size == 0 for path in tmp_path.iterdir())
    assert fetch_part(Fake(), PART, tmp_path).path.read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_part_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / f"{PART.sha256}.part").write_bytes(CONTENT + b"more")
    transport = Fake()
    assert fetch_part(transport, PART, tmp_path).path.read_bytes() == CONTENT
    assert transport.offsets == [0]


def test_a_whole_partial_file_needs_no_byte(tmp_path: Path) -> None:
    (tmp_path / f"{PART.sha256}.part").write_bytes(CONTENT)
    report = fetch_part(Fake(), PART, tmp_path)
    assert report.fetched_bytes == 0
    assert report.path.read_bytes() == CONTENT


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / f"{PART.sha256}.part").symlink_to("/dev/full")
    with pytest.raises(StorageFull, match=r"no space left in .* for a head of 100000 bytes"):
        fetch_part(Fake(), PART, tmp_path)


@contextlib.contextmanager
def tiny_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own; skips where it cannot be mounted."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_fitted(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "small", 64 * 1024) as cache:
        with pytest.raises(StorageFull, match="free some, or give another folder with --cache"):
            fetch_part(Fake(), PART, cache)
        kept = (cache / f"{PART.sha256}.part").read_bytes()
        assert kept == CONTENT[: len(kept)]
        subprocess.run(["mount", "-o", "remount,size=1m", str(cache)], check=True)
        transport = Fake()
        assert fetch_part(transport, PART, cache).path.read_bytes() == CONTENT
        assert transport.offsets == [len(kept)]


@pytest.mark.parametrize("in_the_way", ["the cache is a file", "the part is a folder"])
def test_a_cache_that_cannot_be_written(tmp_path: Path, in_the_way: str) -> None:
    cache = tmp_path / "cache"
    if in_the_way == "the cache is a file":
        cache.write_bytes(b"")
    else:
        (cache / f"{PART.sha256}.part").mkdir(parents=True)
    with pytest.raises(RecordError, match="cannot keep the head in"):
        fetch_part(Fake(), PART, cache)


@pytest.mark.parametrize("sha256", ["../outside", "{tmp}/outside", "x" * 64, "a" * 63])
def test_a_digest_that_is_none_is_refused(tmp_path: Path, sha256: str) -> None:
    cache = tmp_path / "cache"
    part = part_of(sha256=sha256.format(tmp=tmp_path))
    with pytest.raises(ProtocolViolation):
        fetch_part(Fake(breaks=[5] * 9), part, cache)
    assert names(tmp_path) in ([], ["cache"])


class _WithAnother(Fake):
    """In the middle of the transfer, another device on this machine fetches the same part."""

    def __init__(self, cache: Path) -> None:
        super().__init__(chunk=50_000)
        self._cache = cache

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        for number, chunk in enumerate(super().part_chunks(sha256, offset)):
            if number == 1:
                assert fetch_part(Fake(), PART, self._cache).path.read_bytes() == CONTENT
            yield chunk


def test_two_devices_may_share_a_cache(tmp_path: Path) -> None:
    report = fetch_part(_WithAnother(tmp_path), PART, tmp_path)
    assert report.path.read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["in-process", "grpc"])
def test_over_a_real_transport(tmp_path: Path, kind: str) -> None:
    with edge_over(model_folder(tmp_path / "models")) as edge:
        part = edge.answer("sum").first
        assert part is not None
        scratch = tmp_path / "cache" / f"{part.sha256}.part"
        scratch.parent.mkdir()
        scratch.write_bytes(b"".join(edge.partitions.chunks(part.sha256, 0))[:100])
        server = GrpcServer(edge.service, "127.0.0.1:0")
        transport: Transport = (
            GrpcTransport(server.address) if kind == "grpc" else InProcessTransport(edge.service)
        )
        report = fetch_part(transport, part, tmp_path / "cache")
        assert report.fetched_bytes == part.file_bytes - 100
        assert hashlib.sha256(report.path.read_bytes()).hexdigest() == part.sha256
        transport.close()
        server.stop(0)
