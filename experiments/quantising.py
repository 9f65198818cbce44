"""Cuts whose parts quantise what crosses themselves, and the proof that the bytes stay the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from experiments.preparation import VERIFIED_PICTURES, PreparedCut, PreparedModel
from splitbed import codec
from splitbed.engine import Engine
from splitbed.errors import VerificationError
from splitbed.graph import quantising
from splitbed.graph.difference import Comparison
from splitbed.graph.verify import TOLERANCE
from splitbed.runnable import carry
from splitbed.session import Buffer, TensorCodec
from splitbed.tensor import Array


class CodedCut:
    """Head, codecs and tail of one cut in this process, as two nodes run them.

    The parts do what the codecs leave to the graph; UsageError where they cannot.
    """

    def __init__(
        self,
        cut: PreparedCut,
        codecs: Sequence[TensorCodec],
        opener: Callable[[bytes | Path], Engine],
    ) -> None:
        quantisers = codec.quantisers(codecs, cut.cut.boundary)
        parts = quantising(cut.parts, quantisers) if quantisers else cut.parts
        self.codecs = [
            codec.build(written, spec)
            for written, spec in zip(codecs, cut.cut.boundary, strict=True)
        ]
        self.head = parts.first.file.opened(opener) if parts.first else None
        self.tail = parts.second.file.opened(opener) if parts.second else None
        self.taken = [name for coded in self.codecs for name in coded.taken]
        """Names of what the head hands to the codecs."""

    def crossing(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """What the head hands to the codecs."""
        return carry(self.head, feeds, self.taken)

    def encoded(self, crossing: dict[str, Array]) -> list[Buffer]:
        """The payloads."""
        return [coded.encode_from(crossing) for coded in self.codecs]

    def decoded(self, payloads: Sequence[Buffer]) -> dict[str, Array]:
        """What the codecs hand to the tail."""
        return {
            coded.spec.name: coded.decode(payload)
            for coded, payload in zip(self.codecs, payloads, strict=True)
        }

    def answer(self, decoded: dict[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The model's outputs."""
        return carry(self.tail, decoded, outputs)


def verify_quantising(
    model: PreparedModel,
    cut: PreparedCut,
    codecs: Sequence[TensorCodec],
    pictures: Sequence[Path],
    threads: int,
) -> None:
    """Prove on a few real pictures that where quantising is done changes nothing.

    Payloads are equal to the byte, and so is what reaches the tail; its outputs are those of the
    plain tail within the tolerance of every cut. Raises VerificationError, or UsageError where the
    graph cannot do it. Codecs that leave nothing to the graph prove nothing.
    """
    if not codec.quantisers(codecs, cut.cut.boundary):
        return
    opener = partial(Engine, provider="cpu", threads=threads)
    graph = CodedCut(cut, codecs, opener)
    plain = CodedCut(cut, codec.by_numpy(codecs), opener)
    outputs = [spec.name for spec in model.canonical.outputs]
    comparison = Comparison()
    for path in pictures[:VERIFIED_PICTURES]:
        feeds = model.feeds(path)
        payloads = plain.encoded(plain.crossing(feeds))
        if [*map(bytes, graph.encoded(graph.crossing(feeds)))] != [*map(bytes, payloads)]:
            raise VerificationError(
                f"cut at '{cut.cut.name}', the graph's symbols of {path.name} are not numpy's: "
                "leave out where=graph"
            )
        comparison.add(
            graph.answer(graph.decoded(payloads), outputs),
            plain.answer(plain.decoded(payloads), outputs),
        )
    found = comparison.result()
    if comparison.problem or found.max_rel > TOLERANCE:
        raise VerificationError(
            f"cut at '{cut.cut.name}', the tail that dequantises answers otherwise than the plain "
            f"one ({comparison.problem or f'{found.max_rel:.2g} of the output'}): leave out "
            "where=graph"
        )
