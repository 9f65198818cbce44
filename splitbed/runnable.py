"""Running one part of a cut model, whatever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from splitbed.tensor import Array


class Runnable(Protocol):
    """Something that runs a model; `splitbed.engine.Engine` is one."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it reads."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it makes."""

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs in the order of `outputs`."""


def carry(
    part: Runnable | None, values: Mapping[str, Array], wanted: Sequence[str]
) -> dict[str, Array]:
    """The wanted values, computed by `part` or handed through from `values`."""
    made: dict[str, Array] = {}
    if part is not None:
        results = part.run({name: values[name] for name in part.inputs})
        made = dict(zip(part.outputs, results, strict=True))
    return {name: made[name] if name in made else values[name] for name in wanted}
