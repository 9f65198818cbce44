"""The folder that a run leaves behind: rows, manifest, logs.

Rows are JSON lines. One row is one `write(2)` on a file opened with O_APPEND, so a process that is
killed leaves whole rows only, and nothing is buffered in the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

import msgspec

from splitbed.certificate import LinkCertificate
from splitbed.errors import RecordError, StorageFull
from splitbed.record import (
    EdgeFrameRecord,
    FrameRecord,
    NodeResources,
    ResourceSample,
    RunManifest,
)
from splitbed.session import ClockExchange, Node

MANIFEST: Final = "manifest.json"
_LONGEST_ROW_BYTES: Final = 1 << 20
_SESSION: Final = "device.session.json"

AnyRow = FrameRecord | EdgeFrameRecord | ResourceSample | ClockExchange
Row = TypeVar("Row", FrameRecord, EdgeFrameRecord, ResourceSample, ClockExchange)


class RowWriter:
    """Appends rows of one kind to one file, a `write(2)` each.

    Raises StorageFull when the disk is full and RecordError for any other failure to write; a row
    that went in only partly is taken back, so the file always ends with a whole row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            _drop_torn_line(self._fd)
        except OSError as error:
            raise cannot_write(error, path, 0) from error

    def write(self, row: AnyRow) -> None:
        """Append one row."""
        try:
            line = msgspec.json.encode(row) + b"\n"
        except UnicodeEncodeError:  # a file name need not be text
            line = msgspec.json.encode(_as_text(msgspec.to_builtins(row))) + b"\n"
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            raise cannot_write(error, self.path, self.rows) from error
        if written != len(line):
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise cannot_write(OSError(errno.ENOSPC, "short write"), self.path, self.rows)
        self.rows += 1

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _as_text(value: Any) -> Any:
    """The same with `?` for what UTF-8 cannot carry."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list) else value


def _drop_torn_line(descriptor: int) -> None:
    """Cut off what a machine that lost power left behind the last whole row."""
    size = os.fstat(descriptor).st_size
    kept = os.pread(descriptor, min(size, _LONGEST_ROW_BYTES), max(0, size - _LONGEST_ROW_BYTES))
    if kept and not kept.endswith(b"\n"):
        os.ftruncate(descriptor, size - len(kept) + kept.rfind(b"\n") + 1)


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """The rows of a file in order; nothing for a file that is not there.

    A last line without its line end (a machine that lost power) is left out. Raises RecordError
    for a line that is no row of this kind, with its number.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    decoder = msgspec.json.Decoder(kind)
    lines = data.split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise RecordError(
                f"line {number} of {path} is not a {kind.__name__} row ({error}); "
                "was it written by another version of splitbed?"
            ) from error


def write_manifest(folder: Path, manifest: RunManifest) -> None:
    """Write the manifest into its run folder; readers see the old or the new one, never half."""
    text = msgspec.json.encode(_as_text(msgspec.to_builtins(manifest)))
    _replace(folder / MANIFEST, msgspec.json.format(text, indent=2) + b"\n")


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise cannot_write(error, path) from error


def read_manifest(folder: Path) -> RunManifest:
    """The manifest of a run folder; RecordError where there is none or it cannot be read."""
    path = folder / MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunManifest)
    except FileNotFoundError as error:
        raise RecordError(f"{folder} is no run folder: it has no {MANIFEST}") from error
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise RecordError(f"{path} is not a manifest of this version: {error}") from error


class RunFolder:
    """The names of the files in one run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def frames(self, node: Node) -> Path:
        """Frame rows: FrameRecord of the device, EdgeFrameRecord of the edge."""
        return self.folder / f"{node}.frames.jsonl"

    def resources(self, node: Node) -> Path:
        """ResourceSample rows of one node."""
        return self.folder / f"{node}.resources.jsonl"

    def clock(self) -> Path:
        """ClockExchange rows of the device, in order."""
        return self.folder / "device.clock.jsonl"

    def write_sources(self, node: Node, about: NodeResources) -> None:
        """Keep once what holds for all resource samples of a node; the last one written counts."""
        text = msgspec.json.format(msgspec.json.encode(about), indent=1)
        _replace(self.folder / f"{node}.sources.json", text + b"\n")

    def read_sources(self, node: Node) -> NodeResources:
        """What `write_sources` kept; nothing where there is none, as in older runs."""
        path = self.folder / f"{node}.sources.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=NodeResources)
        except FileNotFoundError:
            return NodeResources()
        except (OSError, msgspec.MsgspecError) as error:
            raise RecordError(f"{path} does not say where samples come from: {error}") from error

    def log(self, process: Literal["device", "edge", "relay"]) -> Path:
        """What a process printed to standard error."""
        return self.folder / f"{process}.log"

    def read_link(self) -> LinkCertificate | None:
        """A certificate that was made by hand (`splitbed link certify --save`), if there is one."""
        path = self.folder / "link.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=LinkCertificate)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise RecordError(f"{path} is no certificate of a link: {error}") from error

    def write_session(self, facts: dict[str, Any]) -> None:
        """Keep what the device learnt when its session opened, for whoever orchestrates."""
        _replace(self.folder / _SESSION, msgspec.json.encode(facts))

    def read_session(self) -> dict[str, Any]:
        """What `write_session` kept; empty where the session never opened."""
        try:
            return msgspec.json.decode((self.folder / _SESSION).read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError):
            return {}


def cannot_write(error: OSError, path: Path, rows: int | None = None) -> RecordError:
    """The error in our terms; `rows` are those that a file of rows keeps."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        kept = "" if rows is None else f" ({rows} rows are safe in it)"
        return StorageFull(
            f"no space left to write {path}{kept}: free some space, or give another folder with "
            "--out"
        )
    return RecordError(f"cannot write {path}: {error.strerror or error}")
