"""A device's place among the users of a link (the other side of netem.users)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from netem.answering import REQUEST, is_readable
from netem.probe import ProbeClient
from netem.users import LONGEST_MEASUREMENT_MS, Word, is_sensible
from splitbed.certificate import LinkMeasurement
from splitbed.errors import LinkError

PATIENCE_S: Final = 1800.0
"""Longest wait for others."""
_LOOK_UP_S: Final = 0.2
_PROMPT_S: Final = 1.0
"""An end of the link that need not wait answers within this and its round trip."""


class Attendance(ProbeClient):
    """One user of a link, from joining to `close`. Raises LinkError where it has to.

    `stop` ends a wait for others; `waits` hears, over and over, how many others are waited for.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self.link = self.facts()
        """What the link says of itself."""
        self._give(REQUEST.pack(b"J", 0))
        word = self._decoded(self._answer(), Word)
        if word.say != "joined":
            self.close()
            raise LinkError(
                f"the link at {self._where} has {word.others} users already: let one of them end"
            )

    def idle(
        self, longest_s: float, stop: threading.Event | None, waits: Callable[[int], None]
    ) -> Word:
        """Use the link no more until told to measure it (`measured` is next), or to go on.

        A measurement of this user would take `longest_s` at most.
        """
        longest_ms = min(int(longest_s * 1000), LONGEST_MEASUREMENT_MS)
        self._give(REQUEST.pack(b"I", longest_ms))
        return self._last_word(("measure", "measured"), stop, waits)

    def measured(self, found: LinkMeasurement) -> Word:
        """Hand over the measurement that was asked for."""
        data = msgspec.json.encode(found)
        self._give(REQUEST.pack(b"M", len(data)) + data)
        return self._last_word(("measured",), None, lambda _: None)

    def done(self, code: int, stop: threading.Event | None, waits: Callable[[int], None]) -> int:
        """Wait until everybody is done; the largest exit code of all."""
        self._give(REQUEST.pack(b"Q", code))
        return self._last_word(("over",), stop, waits).code

    def close(self) -> None:
        """Leave. Calling it twice is fine."""
        self._sock.close()

    def _last_word(
        self,
        wanted: tuple[str, ...],
        stop: threading.Event | None,
        waits: Callable[[int], None],
    ) -> Word:
        start, others = time.monotonic(), 0
        while True:
            while not self._answers():
                waits(others)
                self._check(start, stop)
            word = self._decoded(self._answer(), Word)
            if word.say == "wait":
                others = word.others
                continue
            unusable = word.say == "measured" and (
                word.measurement is None or not is_sensible(word.measurement)
            )
            if word.say not in wanted or unusable:
                raise LinkError(f"the link at {self._where} answers what makes no sense")
            return word

    def _answers(self) -> bool:
        with self._named():
            return is_readable(self._sock, _LOOK_UP_S)

    def _check(self, start: float, stop: threading.Event | None) -> None:
        waited_s = time.monotonic() - start
        if stop is not None and stop.is_set() and waited_s > _PROMPT_S:
            raise LinkError(f"stopped while others use the link at {self._where}")
        if waited_s > PATIENCE_S:
            raise LinkError(
                f"others have used the link at {self._where} for {waited_s / 60:.0f} minutes: let "
                "them end, or do not share it"
            )
