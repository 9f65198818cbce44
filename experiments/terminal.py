"""Writing to a terminal: names as they are, tables that keep them whole where they can."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import Final

from rich.console import Console, RenderableType
from rich.text import Text

_UNBOUNDED: Final = 10_000
_INDENT: Final = 17
"""Where the text of a fact begins."""


def write(*what: RenderableType) -> None:
    """Print tables and paragraphs on standard output, without spaces at the ends of lines.

    As wide as the terminal, or COLUMNS; a pipe has no width, and what reads it wants whole names.
    """
    is_watched = sys.stdout.isatty() or "COLUMNS" in os.environ
    write_to(Console(width=None if is_watched else _UNBOUNDED, highlight=False), *what)


def write_to(console: Console, *what: RenderableType) -> None:
    """Print on this console, in one piece, without spaces at the ends of lines."""
    with console.capture() as captured:
        console.print(*what, sep="\n", highlight=False)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    console.file.flush()


def hanging(name: str, text: str, console: Console) -> Text:
    """`name` and its text, whose further lines stand below its first."""
    width = max(20, console.width - _INDENT)
    lines = textwrap.wrap(printable(text), width, break_on_hyphens=False) or [""]
    return Text(f"{name:<{_INDENT - 1}} " + f"\n{' ' * _INDENT}".join(lines))


def shown(name: str) -> Text:
    """A name from a file, which may hold anything, as text that means nothing to a terminal."""
    return Text(printable(name))


def printable(name: str) -> str:
    """The name with what cannot be printed written out: an escape character as its number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
