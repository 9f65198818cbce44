"""A codec that was planned for one cut, in a small file: what a device reads instead of fitting."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from splitbed.codec.text import learned
from splitbed.errors import UsageError
from splitbed.pair import PairId
from splitbed.session import TensorCodec
from splitbed.tensor import Cut, TensorSpec

FILE_MARK: Final = "@"
"""Begins a codec that is given as a file: `--codec @codec.json`."""
MOST_FILE_BYTES: Final = 16 << 20
PLANNED_FORMAT: Final = "splitbed-codec-1"

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Named = Annotated[str, Meta(max_length=4096)]


class PlannedCodec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The complete codecs of one cut, tables included, as JSON; no frame is in it."""

    format: Literal["splitbed-codec-1"]
    model_digest: Sha256
    """Of the model as splitbed cuts it (`ModelId.digest`)."""
    cut: Named
    codec: Named
    """As a person would write it."""
    boundary: Annotated[tuple[TensorSpec, ...], Meta(max_length=10_000)]
    codecs: Annotated[tuple[TensorCodec, ...], Meta(max_length=10_000)]
    """One for each boundary tensor, in the boundary's order."""
    digests: Annotated[tuple[Sha256, ...], Meta(max_length=100_000)] = ()
    """SHA-256 of the files of the pictures that it was fitted to, which are not to be measured."""
    pair: PairId | None = None
    """The learned codec whose code the boundary is; None where it is the model's own."""

    def __post_init__(self) -> None:
        named = [spec.name for spec in self.boundary]
        if [codec.tensor for codec in self.codecs] != named:
            raise UsageError("its codecs are not those of its boundary, one for each tensor")
        if learned(self.codec) != ("" if self.pair is None else self.pair.name):
            raise UsageError("its learned codec is not the one that its text begins with")

    def codecs_at(
        self, model_digest: str, cut: Cut, pair: PairId | None, source: str
    ) -> tuple[TensorCodec, ...]:
        """The codecs, for this cut; UsageError where they were planned for anything else.

        `source` says in the error where the codecs are from. Nothing is built of a plan before this
        held its boundary against the real one.
        """
        for ours, theirs, what in (
            (self.model_digest, model_digest, "another model"),
            (self.cut, cut.name, f"the cut {self.cut}"),
            (self.pair, pair, "another learned codec"),
            (self.boundary, cut.boundary, "other tensors"),
        ):
            if ours != theirs:
                raise UsageError(
                    f"the codec in {source} was planned for {what}, and this is the cut "
                    f"{cut.name}: make it again with {plan_command(self.codec, cut.name)}"
                )
        return self.codecs


def plan_command(text: str, cut: str) -> str:
    """What a person types to have a codec planned."""
    return (
        f"`splitbed calibrate MODEL.onnx --cut {shlex.quote(cut)} --images PICTURES --codec "
        f"{shlex.quote(text)}`"
    )


def read_planned(path: Path) -> PlannedCodec:
    """The file that `splitbed calibrate --codec` writes; UsageError for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the codec {path}: {error.strerror}") from error
    if len(content) > MOST_FILE_BYTES:
        raise UsageError(f"{path} is no planned codec: it has more than {MOST_FILE_BYTES} bytes")
    try:
        return msgspec.json.decode(content, type=PlannedCodec)
    except (msgspec.MsgspecError, UsageError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is no planned codec ({error}): make one with "
            "`splitbed calibrate ... --codec TEXT`"
        ) from error
