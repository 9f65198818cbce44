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

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        """Outputs in the order of `outputs`, or those that are wanted, in their order."""


def carry(
    part: Runnable | None, values: Mapping[str, Array], wanted: Sequence[str]
) -> dict[str, Array]:
    """The wanted values, computed by `part` or handed through from `values`."""
    made: dict[str, Array] = {}
    if part is not None:
        asked = set(wanted)
        # Of a part on a GPU only these are copied to the host. It runs in any case.
        names = tuple(name for name in part.outputs if name in asked) or part.outputs
        results = part.run({name: values[name] for name in part.inputs}, names)
        made = dict(zip(names, results, strict=True))
    return {name: made[name] if name in made else values[name] for name in wanted}
