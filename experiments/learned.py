"""Learned codecs at a cut: found beside the model, put into its parts, and proved to be there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from experiments.preparation import VERIFIED_PICTURES, PreparedCut, PreparedModel
from splitbed import codec
from splitbed.engine import Engine, observed
from splitbed.errors import ModelUnknown, VerificationError
from splitbed.graph import LearnedPair, load_pair, with_pair
from splitbed.graph.difference import Comparison, distance
from splitbed.graph.verify import TOLERANCE
from splitbed.pair import DESCRIPTION, find_folder
from splitbed.runnable import Runnable, carry
from splitbed.tensor import Array

_MOST_FLIPPED: Final = 1e-3
"""Of a code, elements that may lie elsewhere: rounding in an encoder makes a step of a last bit."""


def find_pair(model: PreparedModel, text: str) -> LearnedPair | None:
    """The learned codec that a codec's text begins with, from beside the model; None without one.

    Raises ModelUnknown where it is not there, and what `load_pair` raises.
    """
    name = codec.learned(text)
    if not name:
        return None
    path = model.canonical.source.path
    folder = find_folder(name, [path.parent])
    if folder is None:
        raise ModelUnknown(
            f"there is no learned codec {path.parent / name}: put its folder, with {DESCRIPTION} "
            f"and both networks, beside {path.name}"
        )
    return load_pair(folder, name, observed)


def coded_cut(model: PreparedModel, cut: PreparedCut, text: str) -> PreparedCut:
    """The cut as it is coded: with a learned codec in its parts, or unchanged where there is none.

    Raises what `find_pair` and `with_pair` raise.
    """
    pair = find_pair(model, text)
    if pair is None:
        return cut
    coded = with_pair(cut.parts, pair)
    return msgspec.structs.replace(
        cut, cut=coded.parts.cut, parts=coded.parts, pair=pair, ranges=coded.ranges
    )


def needs_calibration(text: str, cut: PreparedCut) -> bool:
    """Whether a codec needs to have seen what crosses at this cut (`coded_cut`)."""
    floats = {spec.name for spec in cut.cut.boundary if spec.is_float}
    known = floats <= {known.tensor for known in cut.ranges}
    return bool(floats) and codec.needs_calibration(text, known=known)


class PairRunner:
    """Both networks of a pair by themselves, between a plain cut's boundary and its code.

    Names of the code are those that cross (`coded`), which the pair's own files need not have.
    """

    def __init__(self, coded: PreparedCut, opener: Callable[[bytes | Path], Runnable]) -> None:
        assert coded.pair is not None
        pair: LearnedPair = coded.pair
        self._encoder = opener(pair.encoder.proto.SerializeToString(deterministic=True))
        self._decoder = opener(pair.decoder.proto.SerializeToString(deterministic=True))
        self._coded = [spec.name for spec in pair.boundary]
        crossing = [spec.name for spec in coded.cut.boundary]
        self._names = dict(zip((spec.name for spec in pair.code), crossing, strict=False))
        self._others = crossing[len(self._names) :]

    def encode(self, boundary: Mapping[str, Array]) -> dict[str, Array]:
        """What crosses instead of a boundary: the code, and what the pair does not code."""
        made = carry(self._encoder, boundary, list(self._names))
        return {new: made[old] for old, new in self._names.items()} | {
            name: boundary[name] for name in self._others
        }

    def decode(self, crossing: Mapping[str, Array]) -> dict[str, Array]:
        """A boundary of what crossed."""
        code = {old: crossing[new] for old, new in self._names.items()}
        made = carry(self._decoder, code, self._coded)
        return made | {name: crossing[name] for name in self._others}


def verify_pair(
    model: PreparedModel,
    plain: PreparedCut,
    coded: PreparedCut,
    pictures: Sequence[Path],
    threads: int,
) -> None:
    """Prove on a few real pictures that the networks in the parts are the pair's.

    The head with the encoder in it makes what head and encoder make one after the other, and the
    tail with the decoder in it answers what decoder and tail do, within the tolerance of every cut.
    What the pair itself loses is not looked at. Raises VerificationError.
    """
    if coded.pair is None:
        return
    opener = partial(Engine, provider="cpu", threads=threads)
    assert plain.parts.first
    assert plain.parts.second
    assert coded.parts.first
    assert coded.parts.second
    plain_head, plain_tail = (
        p.file.opened(opener) for p in (plain.parts.first, plain.parts.second)
    )
    head, tail = (p.file.opened(opener) for p in (coded.parts.first, coded.parts.second))
    pair = PairRunner(coded, opener)
    names = [spec.name for spec in plain.cut.boundary]
    crossing = [spec.name for spec in coded.cut.boundary]
    outputs = [spec.name for spec in model.canonical.outputs]
    where = f"cut at '{plain.cut.name}', learned:{coded.pair.id.name}"
    comparison = Comparison()
    for path in pictures[:VERIFIED_PICTURES]:
        feeds = model.feeds(path)
        wanted = pair.encode(carry(plain_head, feeds, names))
        made = carry(head, feeds, crossing)
        for name in crossing:
            if not _alike(made[name], wanted[name]):
                raise VerificationError(
                    f"{where}: '{name}' of {path.name} differs by "
                    f"{distance(made[name], wanted[name]):.2g} of its magnitude between the head "
                    "with the encoder in it and the two one after the other: it cannot be measured"
                )
        comparison.add(
            carry(tail, wanted, outputs), carry(plain_tail, pair.decode(wanted), outputs)
        )
    found = comparison.result()
    if comparison.problem or found.max_rel > TOLERANCE:
        raise VerificationError(
            f"{where}: the tail with the decoder in it answers otherwise than the two one after "
            f"the other ({comparison.problem or f'{found.max_rel:.2g} of the output'}): it cannot "
            "be measured"
        )


def _alike(made: Array, wanted: Array) -> bool:
    if made.shape != wanted.shape or made.dtype != wanted.dtype:
        return False
    if not wanted.size or distance(made, wanted) <= TOLERANCE:
        return True
    a, b = made.astype(np.float64), wanted.astype(np.float64)
    far = np.abs(a - b) > TOLERANCE * np.abs(b).max()
    return bool(np.isfinite(a).all()) and float(far.mean()) <= _MOST_FLIPPED
