"""Starting nodes as processes, as a user would, and leaving none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import msgspec

from splitbed.errors import from_exit_code
from splitbed.process import PARENT


def start_module(arguments: list[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start `python ARGUMENTS` as a child that ends when this process does, whatever ends it.

    Its standard output is piped; standard error goes to the file. It is in a session of its own, so
    that Ctrl-C reaches only us and we end it in order.
    """
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, PARENT: str(os.getpid())},
        start_new_session=True,
    )


def ready_line(process: subprocess.Popen[bytes], what: str, log: Path) -> dict[str, Any]:
    """Wait for the child's ready line; an error with its own words if it ends instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        words = last_words(log).removeprefix(f"{what}: ")
        raise from_exit_code(process.returncode, f"the {what} did not start: {words}")
    return msgspec.json.decode(line, type=dict[str, Any])


def end(process: subprocess.Popen[bytes], patience_s: float = 10) -> None:
    """Let a child drain, then insist. Fine for one that has ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def ending(process: subprocess.Popen[bytes]) -> str:
    """How a child ended, as a clause."""
    code = process.poll()
    if code is None:
        return "is running"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def last_words(log: Path) -> str:
    """The last line that a process left in its log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else f"it left nothing in {log}"
