"""`auto:1pp`: what a codec may cost, written in its place; whoever orchestrates looks for one."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from splitbed.errors import CodecUnknown

_AUTO: Final = "auto"
_FORMS: Final = "as in auto:1pp, auto:0.5pp,99% or, for outputs that are no classes, auto:nmse=0.01"

LEAST_AGREEMENT_PCT: Final = 98.0
"""Of the answers, where nobody says."""


class Target(msgspec.Struct, frozen=True):
    """What the smallest codec is looked for within."""

    loss_points: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Net loss of accuracy against the uncut model, in percentage points."""
    agreement_pct: Annotated[float, Meta(ge=0, le=100)] = LEAST_AGREEMENT_PCT
    """Answers that are the uncut model's."""
    nmse: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Squared error of the outputs over their energy, instead of the other two; else None."""

    @property
    def text(self) -> str:
        """As it is written."""
        if self.nmse is not None:
            return f"{_AUTO}:nmse={self.nmse:g}"
        return f"{_AUTO}:{self.loss_points:g}pp,{self.agreement_pct:g}%"


def find_target(text: str) -> Target | None:
    """What `auto:...` asks for, None for any other codec; CodecUnknown where it cannot be read."""
    name, _, wanted = text.strip().partition(":")
    if name != _AUTO:
        return None
    given: dict[str, str] = {}
    for part in wanted.split(",") if wanted else ():
        item = part.strip()
        if item.endswith("pp"):
            key, value = "loss_points", item[:-2]
        elif item.endswith("%"):
            key, value = "agreement_pct", item[:-1]
        elif item.startswith("nmse="):
            key, value = "nmse", item[5:]
        else:
            raise CodecUnknown(f"codec '{text}': '{item}' is no target, {_FORMS}")
        if key in given:
            raise CodecUnknown(f"codec '{text}' says one thing twice, {_FORMS}")
        given[key] = value
    if "loss_points" not in given and set(given) != {"nmse"}:
        raise CodecUnknown(f"codec '{text}' does not say how much may be lost, {_FORMS}")
    if "nmse" in given and len(given) > 1:
        raise CodecUnknown(f"codec '{text}' asks for two kinds of loss, {_FORMS}")
    try:
        return msgspec.convert(given, Target, strict=False)
    except msgspec.ValidationError as error:
        raise CodecUnknown(f"codec '{text}': {error}; {_FORMS}") from error
