"""What the pictures of commands have in common: style, colours, the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

from experiments.files import written
from splitbed.errors import UsageError

FORMATS: Final = (".svg", ".png", ".pdf")
STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "splitbed",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
    "axes.spines.top": False,
}
ONE_SCALE: Final[dict[Any, Any]] = {**STYLE, "axes.spines.right": False, "savefig.bbox": "tight"}
"""The style where nothing is read off at the right, and labels may stand outside the axes."""

BLUE, ORANGE, GREEN, GREY = "#6baed6", "#e6550d", "#31a354", "#c7c7c7"
DARK: Final = "#08519c"


def check_picture(path: Path) -> None:
    """Raise UsageError where the name says no format that can be drawn."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: the picture's name ends with one of {', '.join(FORMATS)}")


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure into a file, whose ending says the format, and close it."""
    written(path, drawn(figure, path.suffix.lower().removeprefix(".")))


def drawn(figure: Any, kind: str = "svg") -> bytes:
    """A figure as a file of this format; closes it."""
    content = io.BytesIO()
    # A date in the file would make every picture another file.
    plain = {"Date": None} if kind == "svg" else None
    figure.savefig(content, format=kind, dpi=150, metadata=plain)
    plt.close(figure)
    return content.getvalue()


def bytes_text(value: float) -> str:
    """A size with three digits and a decimal unit, for an axis."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} B"
