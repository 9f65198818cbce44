"""Proof that head then tail, the uncut canonical model and the file as given answer alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from splitbed.errors import VerificationError
from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cuts import cut_points
from splitbed.graph.difference import Comparison, Difference, distance
from splitbed.graph.extract import Parts, extract
from splitbed.graph.reading import label, writes
from splitbed.runnable import Runnable, carry
from splitbed.tensor import Array

TOLERANCE: Final = 1e-4
"""Largest difference allowed, relative to the largest magnitude of the output tensor."""


Opener = Callable[[bytes | Path], Runnable]
"""Makes a Runnable of a model file, or of its content."""


class Verification(msgspec.Struct, frozen=True):
    """How far head then tail is from the uncut canonical model, over all inputs given."""

    cut: str
    inputs: int
    max_abs: float
    max_rel: float
    """Largest difference over the largest magnitude of that output."""
    nmse: float
    same_top1: int
    """Inputs for which the largest element of every output is the same one."""
    tolerance: float
    canonical_max_rel: float = 0.0
    """The same of the uncut canonical model against the file as it was given."""

    @property
    def passed(self) -> bool:
        """Whether the parts may be measured."""
        return self.max_rel <= self.tolerance


class Verifier:
    """The uncut model's answers to some inputs, made once, and checks of any number of cuts.

    `opener` runs what is compared with: the file as given and the uncut canonical model. Raises
    VerificationError where these two differ by more than `tolerance`.
    """

    def __init__(
        self,
        model: CanonicalModel,
        feeds: Iterable[Mapping[str, Array]],
        opener: Opener,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._model, self._opener, self._tolerance = model, opener, tolerance
        self._feeds = [dict(feed) for feed in feeds]
        if not self._feeds:
            raise VerificationError(f"{model.source.path} was given no input to be verified on")
        names = [value.name for value in model.proto.graph.output]
        # One after the other: of a large model, memory holds one copy.
        source = opener(model.source.given)
        given = [
            dict(zip(source.outputs, source.run(_only(feed, source)), strict=True))
            for feed in self._feeds
        ]
        del source
        whole = model.file().opened(opener)
        self._wanted = [carry(whole, feed, names) for feed in self._feeds]
        comparison = Comparison()
        for outputs, wanted in zip(self._wanted, given, strict=True):
            comparison.add(outputs, wanted)
        self.canonical: Difference = comparison.result()
        """Of the uncut canonical model to the file as given."""
        if comparison.problem:
            raise VerificationError(
                f"the uncut canonical model of {model.source.path}: {comparison.problem}"
            )
        if self.canonical.max_rel > tolerance:
            raise VerificationError(
                f"the canonical form of {model.source.path} differs from the file by "
                f"{self.canonical.max_rel:.2g} of the output's magnitude (allowed {tolerance:.0e}):"
                " it cannot be used"
            )

    def check(
        self,
        parts: Parts,
        head: Opener | None = None,
        tail: Opener | None = None,
        *,
        tolerance: float | None = None,
    ) -> Verification:
        """Run head, then tail, on every input, each where its opener runs it.

        Raises VerificationError where they differ by more than the tolerance, with the tensor where
        the difference starts.
        """
        head, tail = head or self._opener, tail or self._opener
        tolerance = self._tolerance if tolerance is None else tolerance
        where = f"cut at '{parts.cut.name}'"
        first = parts.first.file.opened(head) if parts.first else None
        second = parts.second.file.opened(tail) if parts.second else None
        boundary = [spec.name for spec in parts.cut.boundary]
        comparison = Comparison()
        for feed, wanted in zip(self._feeds, self._wanted, strict=True):
            got = carry(second, carry(first, feed, boundary), list(wanted))
            comparison.add(got, wanted)
        if comparison.problem:
            raise VerificationError(f"{where}, {comparison.problem}")
        found = comparison.result()
        if found.max_rel > tolerance:
            raise VerificationError(
                f"{where}, head then tail differs from the uncut model by {found.max_rel:.2g} of "
                f"the output's magnitude (allowed {tolerance:.0e}): this cut cannot be "
                f"measured; {self._blame(parts, head, tail, tolerance)}"
            )
        return Verification(
            cut=parts.cut.name,
            inputs=len(self._feeds),
            max_abs=found.max_abs,
            max_rel=found.max_rel,
            nmse=found.nmse,
            same_top1=found.same_top1,
            tolerance=tolerance,
            canonical_max_rel=self.canonical.max_rel,
        )

    def _blame(self, parts: Parts, head: Opener, tail: Opener, tolerance: float) -> str:
        """The first tensor that differs when all of them are looked at."""
        model = self._model
        open_parts = extract(model, parts.point, expose=True)
        whole = extract(model, cut_points(model)[-1], expose=True).first
        if whole is None:
            return "choose another"
        reference = whole.file.opened(self._opener)
        first = open_parts.first.file.opened(head) if open_parts.first else None
        second = open_parts.second.file.opened(tail) if open_parts.second else None
        boundary = [spec.name for spec in parts.cut.boundary]
        for feed in self._feeds:
            wanted = carry(reference, feed, list(reference.outputs))
            crossing = carry(first, feed, [*(first.outputs if first else ()), *boundary])
            got = crossing | carry(second, crossing, list(second.outputs if second else ()))
            for place, node in enumerate(model.order):
                for name in writes(node):
                    if name not in wanted or name not in got:
                        continue
                    if _differs(got[name], wanted[name], tolerance):
                        part = "head" if place in parts.point.head else "tail"
                        return (
                            f"the difference starts at '{name}' in the {part}, which node "
                            f"'{label(node)}' ({node.op_type}) makes"
                        )
        return (
            "no tensor differs when all are looked at, so an optimisation over several nodes does"
        )


def verify(
    model: CanonicalModel,
    parts: Parts,
    feeds: Iterable[Mapping[str, Array]],
    opener: Opener,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Run the file as given, the uncut canonical model, and head then tail, on every input.

    Raises VerificationError where they differ by more than `tolerance`.
    """
    return Verifier(model, feeds, opener, tolerance).check(parts)


def _differs(got: Array, wanted: Array, tolerance: float) -> bool:
    return got.shape != wanted.shape or distance(got, wanted) > tolerance


def _only(feed: Mapping[str, Array], part: Runnable) -> dict[str, Array]:
    # Old files list their weights among the inputs; nobody feeds those.
    return {name: feed[name] for name in part.inputs if name in feed}
