"""How long a thread waits that has no way to wait for a limited time."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

_LOOK_S: Final = 0.25
"""How often it is looked: no wait is longer than it may be by more."""


class Patience:
    """Calls `give_up`, once, when a wait lasts too long; that must end the wait."""

    def __init__(self, give_up: Callable[[], object]) -> None:
        self._give_up = give_up
        self._deadline_s = math.inf
        self._late = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._look, name="patience", daemon=True).start()

    @contextlib.contextmanager
    def at_most(self, timeout_s: float) -> Iterator[None]:
        """Around a wait; TimeoutError, whatever else it raises or gives, where it was given up."""
        self._deadline_s = time.monotonic() + timeout_s
        try:
            yield
        finally:
            with self._lock:
                self._deadline_s = math.inf
                late, self._late = self._late, False
            if late:
                raise TimeoutError(f"nothing came within {timeout_s:g} s")

    def end(self) -> None:
        """Nothing is waited for any more."""
        self._over.set()

    def _look(self) -> None:
        pause_s = _LOOK_S
        while not self._over.wait(pause_s):
            with self._lock:
                left_s = self._deadline_s - time.monotonic()
                self._late = left_s <= 0
            if left_s <= 0:
                self._give_up()
                return
            pause_s = min(left_s, _LOOK_S)
