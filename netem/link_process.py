"""The process that is a link, as a child of a run."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from splitbed.errors import LinkError
from splitbed.link import Trace

Starter = Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"]
"""Starts a Python module with arguments as a child that ends with us; stderr goes to the file."""

_PATIENCE_S = 5


class LinkProcess:
    """`python -m netem COMMAND`. Raises LinkError with its last words where it does not start."""

    def __init__(
        self, command: list[str], log: Path, start: Starter, trace: Trace | None = None
    ) -> None:
        self._log = log
        with tempfile.TemporaryDirectory() as folder, log.open("ab") as errors:
            if trace is not None:
                # Linux takes no argument of more than 128 kB.
                file = Path(folder, "trace.json")
                file.write_bytes(msgspec.json.encode(trace))
                command = [*command, "--trace-json", str(file)]
            self.process = start(["-m", "netem", *command], errors)
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        if not line:
            self.close()
            words = self._last_line().removeprefix("netem: ")
            raise LinkError(f"the {command[0]} did not start: {words}")
        self.ready: dict[str, Any] = msgspec.json.decode(line)
        """Its ready line."""

    def must_run(self) -> None:
        """Raises LinkError if it has ended."""
        if self.process.poll() is not None:
            raise LinkError(f"the link's process ended on its own: {self._last_line()}")

    def close(self) -> None:
        """End it. Calling it twice is fine."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"see {self._log}"
