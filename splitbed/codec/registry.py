"""Every codec stage there is: ours in one literal table, and those that installed packages offer.

What is neither, no edge accepts. An id of ours is never another package's.
"""

from __future__ import annotations

import difflib
from typing import Final

from splitbed.codec.ans import Ans
from splitbed.codec.cast import Cast
from splitbed.codec.extensions import Extension, extension, installed
from splitbed.codec.layers import Layers
from splitbed.codec.picture import Jpeg, Png
from splitbed.codec.quantize import Quantize
from splitbed.codec.raw import Raw
from splitbed.codec.shaped import Shaped
from splitbed.codec.shuffle import Shuffle
from splitbed.codec.stage import ArrayStage, ByteStage, Stage, SymbolStage
from splitbed.codec.uniform import Uniform
from splitbed.codec.zstd import Zstd
from splitbed.errors import CodecUnknown

ARRAY_STAGES: Final[dict[str, type[ArrayStage]]] = {
    "raw": Raw,
    "cast": Cast,
    "quantize": Quantize,
    "uniform": Uniform,
    "shaped": Shaped,
    "jpeg": Jpeg,
    "png": Png,
}

SYMBOL_STAGES: Final[dict[str, type[SymbolStage]]] = {
    "ans": Ans,
    "layers": Layers,
}

BYTE_STAGES: Final[dict[str, type[ByteStage]]] = {
    "shuffle": Shuffle,
    "zstd": Zstd,
}

_OTHERWISE: Final = ("auto", "learned")
"""Written like stages, and none: no package's stage of that id could ever be reached."""

_OURS: Final[dict[str, type[Stage]]] = {**ARRAY_STAGES, **SYMBOL_STAGES, **BYTE_STAGES}


def stage(name: str) -> type[Stage]:
    """The stage of that id, imported where it is another package's; CodecUnknown if there is none.

    The id may come from the network: it only ever chooses among what is installed.
    """
    if name in _OURS:
        return _OURS[name]
    found = extension(name)
    if found is not None:
        return found.load()
    known = [*_OURS, *installed()]
    close = difflib.get_close_matches(name[:80], known, 1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise CodecUnknown(f"unknown codec stage '{name[:80]}' (known: {', '.join(known)}){hint}")


def origin(name: str) -> str:
    """Package and version that a stage comes from; "" for ours, and for one that is not here."""
    found = None if name in _OURS else extension(name)
    return "" if found is None else found.origin


def offered() -> tuple[Extension, ...]:
    """What other packages offer, nothing of it imported."""
    return tuple(one for claims in installed().values() for one in claims)


def extensions() -> tuple[tuple[Extension, str], ...]:
    """What other packages offer, each with what keeps it from being used, "" if nothing does."""
    return tuple((one, _trouble(one)) for one in offered())


def _trouble(one: Extension) -> str:
    if one.id in _OURS:
        return (
            f"codec stage '{one.id}' of the package {one.origin} is not taken: splitbed has a "
            "stage of that id, which stays"
        )
    if one.id in _OTHERWISE:
        return (
            f"codec stage '{one.id}' of the package {one.origin} is not taken: '{one.id}:...' "
            "means something else where a codec is written"
        )
    try:
        stage(one.id)
    except CodecUnknown as error:
        return str(error)
    return ""
