"""Fetching a part's file: resumed after an interruption, checked by its digest, kept by it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from splitbed.errors import EdgeUnreachable, ProtocolViolation, RecordError, StorageFull
from splitbed.tensor import Partition
from splitbed.transport.face import Transport

ATTEMPTS: Final = 5
_DIGEST: Final = re.compile("[0-9a-f]{64}")


class FetchReport(msgspec.Struct, frozen=True):
    """How a part came here; timed apart from frames."""

    path: Path
    file_bytes: int
    fetched_bytes: int
    """What crossed the link, interrupted attempts included; 0 where the cache had it."""
    fetch_ns: int
    attempts: int


def fetch_part(
    transport: Transport,
    partition: Partition,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FetchReport:
    """The file of `partition`, from the cache or from the edge.

    A transfer that breaks off leaves what came in the cache and goes on from there, up to ATTEMPTS
    times within one call and across calls. A file whose digest is wrong is thrown away. Several
    devices may share a cache. Raises EdgeUnreachable, ProtocolViolation, StorageFull or
    RecordError.
    """
    start_ns = time.perf_counter_ns()
    sha256 = partition.sha256
    if not _DIGEST.fullmatch(sha256):  # it becomes a file's name
        raise ProtocolViolation(f"the edge announced a part with the digest '{sha256[:80]}'")
    path = cache / f"{sha256}.onnx"
    fetched = attempts = 0
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _digest(path) == sha256:
            return FetchReport(path, partition.file_bytes, 0, 0, 0)
        with _own_scratch(cache, sha256) as scratch:
            while True:
                attempts += 1
                try:
                    for size in _missing(transport, partition, scratch, progress):
                        fetched += size
                    break
                except EdgeUnreachable:
                    if attempts >= ATTEMPTS:
                        raise
                    time.sleep(0.2 * attempts)
            if _digest(scratch) != sha256:
                scratch.unlink()
                raise ProtocolViolation(
                    f"the part fetched from the edge does not have the digest announced for it "
                    f"({sha256[:12]}...): it was thrown away; try again"
                )
            os.replace(scratch, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"no space left in {cache} for a head of {partition.file_bytes} bytes: free some, "
                "or give another folder with --cache"
            ) from error
        raise RecordError(f"cannot keep the head in {cache}: {error.strerror}") from error
    return FetchReport(
        path, partition.file_bytes, fetched, time.perf_counter_ns() - start_ns, attempts
    )


@contextlib.contextmanager
def _own_scratch(cache: Path, sha256: str) -> Iterator[Path]:
    """The file in which a transfer goes on, or a fresh one while another device has that."""
    path = cache / f"{sha256}.part"
    with path.open("ab") as file:
        if _locked(file, path):
            yield path
            return
    descriptor, name = tempfile.mkstemp(".part", f"{sha256}.", cache)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _locked(file: IO[bytes], path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held the lock may have made the file the finished part since it was opened.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _missing(
    transport: Transport,
    partition: Partition,
    scratch: Path,
    progress: Callable[[int, int], None],
) -> Iterator[int]:
    """Append what is missing; the size of each chunk that came."""
    with scratch.open("ab") as file:
        size = file.tell()
        if size > partition.file_bytes:
            file.truncate(0)
            size = 0
        for chunk in transport.part_chunks(partition.sha256, size):
            size += len(chunk)
            yield len(chunk)
            if size > partition.file_bytes:
                file.truncate(0)
                raise ProtocolViolation(
                    f"the edge sent more than the {partition.file_bytes} bytes that it announced"
                )
            file.write(chunk)
            progress(size, partition.file_bytes)
    if size < partition.file_bytes:
        raise EdgeUnreachable(
            f"the edge stopped after {size} of {partition.file_bytes} bytes of the head"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
