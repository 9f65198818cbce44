"""Fetching a part's file: resumed after an interruption, checked by its digest, kept by it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from splitbed.errors import EdgeUnreachable, ProtocolViolation, RecordError, StorageFull
from splitbed.tensor import Partition
from splitbed.transport.face import Transport

ATTEMPTS = 5


class FetchReport(msgspec.Struct, frozen=True):
    """How a part came here; timed apart from frames."""

    path: Path
    file_bytes: int
    fetched_bytes: int
    """What crossed the link; 0 where the cache had it."""
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
    times within one call and across calls. A file whose digest is wrong is thrown away. Raises
    EdgeUnreachable, ProtocolViolation, StorageFull or RecordError.
    """
    start_ns = time.perf_counter_ns()
    path = cache / f"{partition.sha256}.onnx"
    scratch = cache / f"{partition.sha256}.part"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _digest(path) == partition.sha256:
            return FetchReport(path, partition.file_bytes, 0, 0, 0)
        fetched = attempts = 0
        while True:
            attempts += 1
            try:
                fetched += _continue(transport, partition, scratch, progress)
                break
            except EdgeUnreachable:
                if attempts >= ATTEMPTS:
                    raise
                time.sleep(0.2 * attempts)
        if _digest(scratch) != partition.sha256:
            scratch.unlink()
            raise ProtocolViolation(
                f"the part fetched from the edge does not have the digest announced for it "
                f"({partition.sha256[:12]}...): it was thrown away; try again"
            )
        os.replace(scratch, path)
    except OSError as error:
        if error.errno is not None and os.strerror(error.errno).startswith("No space"):
            raise StorageFull(
                f"no space left in {cache} for a head of {partition.file_bytes} bytes: free some, "
                "or give another folder with --cache"
            ) from error
        raise RecordError(f"cannot keep the head in {cache}: {error.strerror}") from error
    return FetchReport(
        path, partition.file_bytes, fetched, time.perf_counter_ns() - start_ns, attempts
    )


def _continue(
    transport: Transport,
    partition: Partition,
    scratch: Path,
    progress: Callable[[int, int], None],
) -> int:
    """Append what is missing; how many bytes came."""
    came = 0
    with scratch.open("ab") as file:
        size = file.tell()
        if size > partition.file_bytes:
            file.truncate(0)
            size = 0
        for chunk in transport.part_chunks(partition.sha256, size):
            size += len(chunk)
            if size > partition.file_bytes:
                file.truncate(0)
                raise ProtocolViolation(
                    f"the edge sent more than the {partition.file_bytes} bytes that it announced"
                )
            file.write(chunk)
            came += len(chunk)
            progress(size, partition.file_bytes)
    if size < partition.file_bytes:
        raise EdgeUnreachable(
            f"the edge stopped after {size} of {partition.file_bytes} bytes of the head"
        )
    return came


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
