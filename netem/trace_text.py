"""The text of a trace file: its rows with their numbers, and its figures, strictly."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Final

from splitbed.errors import UsageError

_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_SHOWN: Final = 40
"""Characters of a broken row that an error repeats."""


class TraceText:
    """Rows of a text: blank ones and those that begin with # are left out, numbers stay."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text.removeprefix("\ufeff")
        self.where = where
        """File that errors name."""

    def rows(self) -> Iterator[tuple[int, str]]:
        """Number of the line, counted from 1, and the line without white space around it."""
        # Not splitlines(): it also breaks where an editor counts no line.
        for number, line in enumerate(io.StringIO(self._text, newline="\n"), 1):
            row = line.strip()
            if row and not row.startswith("#"):
                yield number, row

    def error(self, number: int, sentence: str) -> UsageError:
        """The error for a line."""
        return UsageError(f"{self.where}, line {number}: {sentence}")

    def figure(self, number: int, word: str, text: str, most: float) -> float:
        """A number from 0 to `most`; `word` says what it is."""
        text = text.strip()
        if not _NUMBER.fullmatch(text):
            raise self.error(number, f"{word} is '{shown(text)}', which is no number")
        value = float(text)
        if value < 0:
            raise self.error(number, f"{word} is {shown(text)}, which is negative")
        if value > most:
            raise self.error(number, f"{word} is {shown(text)}; the largest possible is {most:g}")
        return value


def shown(text: str) -> str:
    """What stands there, cut to a length that fits into a sentence, without what is unprintable."""
    text = "".join(c if c.isprintable() else "?" for c in text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
