"""One process of a run: ready line, signals, an end with its parent, exit codes."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from splitbed.errors import RecordError, SplitbedError

PARENT: Final = "SPLITBED_PARENT"
"""Environment variable: process id of the parent with which this process must end."""

_PR_SET_PDEATHSIG: Final = 1
INTERRUPTED: Final = 130
_LOOK_UP_S: Final = 0.1


def guarded(main: Callable[[], int], program: str) -> int:
    """Run `main`; turn what goes wrong into one sentence on standard error and an exit code."""
    _make_writable()
    if threading.current_thread() is threading.main_thread():
        # As Ctrl-C, so that half-written files go; nodes that drain set their own handler.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()  # what is still to be written may fail, too
        return code
    except SplitbedError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is wrong with us.
        _forget_output()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _forget_output()
        sys.stderr.write(f"{program}: cannot write what there is to say: {error.strerror}\n")
        return RecordError.exit_code


def _make_writable() -> None:
    """Let whatever is written find a place: closed streams, and characters that they have not."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Send what is left in the buffer nowhere, so that the interpreter's end does not stumble."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def announce(**facts: Any) -> None:
    """Print the ready line: one JSON object on standard output, for whoever started us."""
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """Ask Linux to end this process when the parent named by SPLITBED_PARENT is gone."""
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform not in ("linux", "android"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if str(os.getppid()) != parent:  # it went before we asked
        sys.exit(0)


class StopEvent(threading.Event):
    """An event that a signal handler may set, and whose `wait` hears every signal.

    It has no lock: a handler runs on the main thread in the middle of whatever that does, `wait`
    included, and would wait for ever for a lock that its own thread holds. And `wait` looks up now
    and then: a signal that the system gave to another thread leaves the main thread asleep.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told = False

    def set(self) -> None:
        """Tell it."""
        self._told = True

    def clear(self) -> None:
        """Forget it."""
        self._told = False

    def is_set(self) -> bool:
        """Whether it was told."""
        return self._told

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is told, or for `timeout` seconds; whether it was told."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while not self._told and (end_s is None or time.monotonic() < end_s):
            time.sleep(_LOOK_UP_S)
        return self._told


def stop_event() -> threading.Event:
    """An event that the signals to end set: the process drains and ends.

    A terminal that closes is one of them (SIGHUP), unless it was ignored before (nohup).
    """
    event = StopEvent()
    for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has two of them
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue
        signal.signal(number, lambda *_: event.set())
    return event
