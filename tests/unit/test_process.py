"""Exit codes, the ready line, signals, and an end with the parent."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest

from splitbed import errors, process
from splitbed.errors import SplitbedError
from splitbed.progress import Progress
from tests.unit.edges import Node, ends_with_its_parent, eventually, finished


def _classes(root: type[SplitbedError]) -> Iterator[type[SplitbedError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


@pytest.mark.parametrize("kind", list(_classes(SplitbedError)), ids=lambda kind: kind.__name__)
def test_an_error_becomes_a_sentence_and_its_exit_code(
    kind: type[SplitbedError], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise kind("this went wrong: do that")

    assert process.guarded(fail, "tool") == kind.exit_code
    assert 1 <= kind.exit_code <= 7
    assert capsys.readouterr() == ("", "tool: this went wrong: do that\n")


def test_the_codes_of_the_tree() -> None:
    for kind, code in (
        (errors.UsageError, 2),
        (errors.CutUnknown, 2),
        (errors.ProviderMissing, 3),
        (errors.LinkUncertified, 4),
        (errors.EdgeUnreachable, 5),
        (errors.StorageFull, 6),
        (errors.RunIncomplete, 7),
    ):
        assert kind.exit_code == code


def test_what_main_returns_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert process.guarded(lambda: 9, "tool") == 9
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_is_no_crash(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert process.guarded(interrupt, "tool") == 130
    assert capsys.readouterr().err == "tool: interrupted\n"


def test_a_mistake_of_ours_is_not_hidden() -> None:
    def fail() -> int:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        process.guarded(fail, "tool")


def test_a_reader_that_leaves_is_no_error() -> None:
    script = (
        "import sys\nfrom splitbed.process import announce, guarded\n"
        "def main():\n    announce(ready=1)\n    sys.stdin.read()\n"
        "    print('x' * 10**6)\n    sys.stdout.flush()\n    return 1\n"
        "sys.exit(guarded(main, 'tool'))"
    )
    with Node("-c", script, stdin_open=True) as node:
        assert node.process.stdout is not None
        assert node.process.stdin is not None
        node.process.stdout.close()
        node.process.stdin.close()
        assert node.process.wait(10) == 0
        assert node.process.stderr is not None
        assert node.process.stderr.read() == b""


def test_the_ready_line_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    process.announce(address="127.0.0.1:5", note="two\nlines", models=3)
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert out.endswith("}\n")
    assert msgspec.json.decode(out) == {
        "address": "127.0.0.1:5",
        "note": "two\nlines",
        "models": 3,
    }
    assert err == ""


TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@pytest.mark.parametrize("number", TO_END)
def test_signals_set_the_stop_event(number: signal.Signals) -> None:
    kept = {each: signal.getsignal(each) for each in TO_END}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        stop = process.stop_event()
        assert isinstance(stop, threading.Event)
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(2)
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)


def test_a_closed_terminal_is_ignored_where_it_was() -> None:
    kept = {each: signal.getsignal(each) for each in TO_END}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = process.stop_event()
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.wait(0.2)
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)


def test_a_signal_that_another_thread_takes_is_heard() -> None:
    script = (
        "import signal, threading, time\nfrom splitbed import process\n"
        "stop = process.stop_event()\n"
        "def other():\n    process.announce(ready=1)\n    time.sleep(0.3)\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n    time.sleep(30)\n"
        "threading.Thread(target=other, daemon=True).start()\nstop.wait()"
    )
    with Node("-c", script) as node:
        assert node.process.wait(5) == 0


WAITING = (
    "import time\nfrom splitbed import process\nprocess.end_with_parent()\n"
    "process.announce(ready=1)\ntime.sleep(30)"
)


def test_a_child_ends_with_the_parent_that_it_was_given() -> None:
    assert ends_with_its_parent("-c", WAITING, within_s=3)


def test_a_child_of_somebody_else_ends_at_once() -> None:
    assert finished("-c", WAITING, env={process.PARENT: "1"}) == (0, "", "")


def test_without_a_parent_named_a_process_lives_on() -> None:
    with Node("-c", WAITING) as node:
        assert not eventually(lambda: node.process.poll() is not None, 0.2)


# --- progress ---------------------------------------------------------------------------------


class _Screen(io.StringIO):
    def __init__(self, watched: bool) -> None:
        super().__init__()
        self._watched = watched

    def isatty(self) -> bool:
        return self._watched


class _Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr("splitbed.progress.time", made)
    return made


def test_progress_shows_what_is_left(clock: _Clock) -> None:
    screen = _Screen(watched=True)
    progress = Progress("frames", 40, screen)
    clock.now += 2
    progress.update(0)
    assert screen.getvalue() == "\r\x1b[Kframes: 0/40"
    clock.now += 3
    progress.update(10)
    assert screen.getvalue().endswith("\r\x1b[Kframes: 10/40, 15 s left")
    progress.close()
    assert screen.getvalue().endswith("15 s left\r\x1b[K")
    shown = screen.getvalue()
    progress.close()
    assert screen.getvalue() == shown


def test_progress_is_not_shown_too_soon_or_too_often(clock: _Clock) -> None:
    screen = _Screen(watched=True)
    progress = Progress("frames", 1000, screen)
    for number in range(100):
        clock.now += 0.009
        progress.update(number)
    assert screen.getvalue() == ""
    for number in range(1000):
        clock.now += 0.001
        progress.update(number)
    assert 2 <= screen.getvalue().count("\r") <= 6


def test_progress_is_silent_where_nobody_watches(clock: _Clock) -> None:
    screen = _Screen(watched=False)
    progress = Progress("frames", 40, screen)
    clock.now += 10
    progress.update(5)
    progress.close()
    assert screen.getvalue() == ""


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("frames", 2)
    progress.update(1)
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_a_signal_in_the_middle_of_waiting_ends_it() -> None:
    """Whatever lock the main thread holds when the handler runs, the handler must not want it."""
    script = (
        "import os, signal, time\nfrom splitbed import process\n"
        "stop = process.stop_event()\n"
        "with stop._cond:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.05)\n"
        "assert stop.wait(2)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
