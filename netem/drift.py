"""How late things happened against the instant at which they were due."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

_GRAIN_NS: Final = 10_000
"""Times are counted in this grain, so that a long replay needs no more memory than a short one."""


class Drift:
    """Median and largest of any number of delays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()
        self._largest_ns = 0

    def add(self, late_ns: int) -> None:
        """Something happened that much after its instant; early counts as punctual."""
        late_ns = max(0, late_ns)
        with self._lock:
            self._counts[late_ns // _GRAIN_NS] += 1
            self._largest_ns = max(self._largest_ns, late_ns)

    @property
    def max_ns(self) -> int:
        """The largest; 0 where nothing happened."""
        return self._largest_ns

    @property
    def p50_ns(self) -> int:
        """The median, to 10 microseconds; 0 where nothing happened."""
        with self._lock:
            left = (self._counts.total() + 1) // 2
            for grain in sorted(self._counts):
                left -= self._counts[grain]
                if left <= 0:
                    return min(grain * _GRAIN_NS + _GRAIN_NS // 2, self._largest_ns)
        return 0
