"""What `auto` looks through: families of codecs, each a ladder from few bytes to many.

One literal table. A family's rungs are tried by bisection, so bytes should rise along them and loss
should fall; how smoothly is a matter of the search's time, not of what it may answer. A codec is
added as a rung or as a family of its own. VERSION changes when a rung's bytes or losses do.
"""

from __future__ import annotations

from typing import Final

import msgspec

from splitbed.task import PICTURE_CUT
from splitbed.tensor import Cut

VERSION: Final = 3

_STEPS: Final = (
    *(
        "4",
        "3.4",
        "2.8",
        "2.4",
        "2",
        "1.7",
        "1.4",
        "1.2",
        "1",
        "0.9",
        "0.8",
        "0.7",
        "0.6",
        "0.5",
        "0.45",
        "0.4",
        "0.35",
    ),
    *("0.3", "0.25", "0.2", "0.15", "0.1", "0.07", "0.05"),
)
_QUALITIES: Final = (10, 15, 20, 30, 40, 50, 60, 65, 70, 75, 80, 85, 90, 92, 95, 97, 99)


class Family(msgspec.Struct, frozen=True):
    """Codecs of one kind, the fewest bytes first."""

    name: str
    rungs: tuple[str, ...]


FEATURES: Final = (
    Family("shaped", tuple(f"shaped:{step}+ans" for step in _STEPS)),
    Family("uniform", tuple(f"uniform:{step}+ans" for step in _STEPS)),
    Family("diffuse", tuple(f"uniform:{step},diffuse=0.8+ans" for step in _STEPS)),
    Family("quantize", tuple(f"quantize:{bits}+zstd:3" for bits in range(2, 9))),
    Family("cast", ("cast+zstd:3",)),
    Family("raw", ("raw+shuffle+zstd:3",)),
)
"""The likeliest first: a family that cannot be smaller any more costs no run of a tail."""

PICTURES: Final = (
    Family("jpeg", tuple(f"jpeg:{quality}" for quality in _QUALITIES)),
    Family("png", ("png",)),
)
"""For `@picture`."""

WHOLE_NUMBERS: Final = (Family("raw", ("raw+zstd:3",)),)
"""For indices, masks and labels, which are coded without loss."""

FALLBACK: Final = "raw"
"""Where nothing else keeps within the target."""


def families_for(cut: Cut) -> tuple[Family, ...]:
    """What can code this boundary."""
    if cut.name == PICTURE_CUT:
        return PICTURES
    return FEATURES if any(spec.is_float for spec in cut.boundary) else WHOLE_NUMBERS
