"""Writing to a terminal: names as they are, tables that keep them whole where they can."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console, RenderableType
from rich.text import Text

_UNBOUNDED: Final = 10_000


def write(*what: RenderableType) -> None:
    """Print tables and paragraphs on standard output, without spaces at the ends of lines.

    As wide as the terminal, or COLUMNS; a pipe has no width, and what reads it wants whole names.
    """
    is_watched = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if is_watched else _UNBOUNDED, highlight=False)
    with console.capture() as captured:
        console.print(*what, sep="\n")
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def shown(name: str) -> Text:
    """A name from a file, which may hold anything, as text that means nothing to a terminal."""
    return Text(printable(name))


def printable(name: str) -> str:
    """The name with what cannot be printed written out: an escape character as its number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
