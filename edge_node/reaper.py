"""A thread that looks, from time to time, for what nobody will ever close."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Reaper:
    """Calls `reap` every `interval_s` seconds until it is stopped."""

    def __init__(self, reap: Callable[[], None], interval_s: float) -> None:
        self._reap, self._interval_s = reap, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reaper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Calling it twice is fine."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._reap()
