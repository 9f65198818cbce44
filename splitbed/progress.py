"""Progress with time left, for anything that takes more than two seconds. Standard error only."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO

_EVERY_S: Final = 0.2
_SHOWN_AFTER_S: Final = 1.0


class Progress:
    """One line that is written over on a terminal; silent where nobody watches."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what, self._total = what, total
        self._stream = sys.stderr if stream is None else stream
        self._start = self._shown = time.monotonic()
        self._visible = False
        self._watched = self._stream.isatty()

    def show(self) -> None:
        """Show the line now: of something whose first step may take long."""
        if self._watched:
            self._visible = True
            self._stream.write(f"\r\x1b[K{self._what} ...")
            self._stream.flush()

    def update(self, done: int) -> None:
        """`done` of the total are done."""
        now = time.monotonic()
        if not self._watched or now - self._shown < _EVERY_S or now - self._start < _SHOWN_AFTER_S:
            return
        self._shown, self._visible = now, True
        left = ""
        if done:
            seconds = (now - self._start) / done * (self._total - done)
            left = f", {seconds:.0f} s left"
        self._stream.write(f"\r\x1b[K{self._what}: {done}/{self._total}{left}")
        self._stream.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._visible:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._visible = False
