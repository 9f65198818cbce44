"""Nodes, and other Python programs that serve a benchmark, as processes that are always ended.

A program may be of another source tree than this one, and pinned to a processor. It says in a ready
line where it listens (`splitbed.process.announce`). It ends with the benchmark whatever ends that
(`end_with_benchmark`; nodes do so by themselves), and its complaints are kept until it has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from experiments import children
from splitbed.errors import TransportError, UsageError, from_exit_code
from splitbed.process import PARENT, end_with_parent

ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE_S: Final = 60.0
"""To drain, before a process is killed: sixteen may do so at once."""


class Program:
    """`python WORDS` in a source tree. Its standard input stays open until it is to end.

    Use it in a `with` block: leaving that ends the process.
    """

    def __init__(
        self, what: str, *words: object, tree: Path = ROOT, processor: int | None = None
    ) -> None:
        self.what = what
        """Its name in errors."""
        if not (tree / "splitbed" / "__init__.py").exists():
            raise UsageError(f"there is no source tree of splitbed at {tree}")
        self._errors = tempfile.NamedTemporaryFile()  # noqa: SIM115 closed by __exit__
        pin: Callable[[], None] | None = None
        if processor is not None:
            pin = lambda: os.sched_setaffinity(0, {processor})  # noqa: E731
        path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, PARENT: str(os.getpid())},
            cwd=tree,  # `-m` looks there first
            preexec_fn=pin,
            start_new_session=True,  # Ctrl-C reaches the benchmark alone, which ends it in order
        )

    @cached_property
    def ready(self) -> dict[str, Any]:
        """Its ready line, waited for; raises SplitbedError with its last words if it ends."""
        return children.ready_line(self.process, self.what, Path(self._errors.name))

    @property
    def address(self) -> str:
        """Where it listens, from its ready line."""
        return str(self.ready["address"])

    def tell(self, line: str) -> None:
        """Write a line to its standard input; raises SplitbedError where it has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError as error:
            self.finish(_PATIENCE_S)
            raise TransportError(f"the {self.what} ended before it was told to") from error

    def line(self) -> str:
        """Its next line; raises SplitbedError with its last words where there is none."""
        assert self.process.stdout is not None
        read = self.process.stdout.readline()
        if not read:
            self.finish(_PATIENCE_S)
            raise TransportError(f"the {self.what} ended without a word")
        return read.decode()

    def finish(self, within_s: float) -> None:
        """Wait for its own end; raises SplitbedError with its last words where it failed."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise TransportError(f"the {self.what} did not end within {within_s:g} s") from error
        if code:
            words = children.last_words(Path(self._errors.name))
            ending = children.ending(self.process)
            raise from_exit_code(code, f"the {self.what} {ending}: {words}")

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        children.end(self.process, _PATIENCE_S)
        self._errors.close()


def end_with_benchmark() -> None:
    """For a program that is started so, first of all: whatever ends the benchmark ends it.

    At once, where the benchmark tells it to: it has nothing to drain, and an interrupted server of
    gRPC's does not end.
    """
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def edge(
    models: Path,
    *more: object,
    records: Path | None = None,
    threads: int = 1,
    tree: Path = ROOT,
    processor: int | None = None,
) -> Program:
    """An edge over a folder of models, on a free port; it keeps rows where `records` says so."""
    return Program(
        "edge",
        *("-m", "edge_node", "--models", models.resolve(), "--listen", "127.0.0.1:0"),
        *("--status", "", "--provider", "cpu", "--threads", threads),
        *("--records", "" if records is None else records.resolve(), *more),
        tree=tree,
        processor=processor,
    )


def device(
    address: str,
    model: str,
    cut: str,
    pictures: Path,
    out: Path,
    run: str,
    *more: object,
    tree: Path = ROOT,
    processor: int | None = None,
) -> Program:
    """A device that leaves its rows in `out`/`run`, and ends by itself after its frames."""
    return Program(
        "device",
        *("-m", "device_node", "--edge", address, "--model", model, "--cut", cut),
        *("--images", pictures, "--out", out, "--run-id", run, *more),
        tree=tree,
        processor=processor,
    )
