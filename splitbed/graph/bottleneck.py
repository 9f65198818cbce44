"""The description of a learned codec, `bottleneck.toml`: read strictly, mistakes by their name."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from splitbed.errors import ModelError, ModelUnknown, UsageError
from splitbed.pair import DESCRIPTION, CodeRange, Ranges
from splitbed.tensor import DType, TensorSpec

_MOST_BYTES: Final = 1 << 20

_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
_Shape = Annotated[tuple[Annotated[int, Meta(ge=0, le=1 << 40)], ...], Meta(max_length=32)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unknown keys are refused."""


class CutOf(_Strict, frozen=True):
    """Where the pair stands."""

    sha256: _Sha256
    """Of the model, as `splitbed model inspect` prints it."""
    cut: str
    file: str = ""
    """For people."""


class BoundaryTensor(_Strict, frozen=True):
    """What the encoder reads and the decoder makes again, as the model calls it."""

    name: str
    dtype: DType
    shape: _Shape

    @property
    def spec(self) -> TensorSpec:
        """The same, as it crosses."""
        return TensorSpec(self.name, self.dtype, self.shape)


class CodeTensor(BoundaryTensor, frozen=True):
    """What the encoder makes and the decoder reads."""

    low: float | None = None
    high: float | None = None
    """No element lies outside; both or neither."""


class HalfFile(_Strict, frozen=True):
    """One of the two networks."""

    file: _FileName
    """In the folder of the description."""
    sha256: _Sha256


class Description(_Strict, frozen=True):
    """All of it. What is said of the training is for people, and free in its form."""

    model: CutOf
    boundary: BoundaryTensor | tuple[BoundaryTensor, ...]
    """One table, or an array of tables."""
    code: CodeTensor | tuple[CodeTensor, ...]
    encoder: HalfFile
    decoder: HalfFile
    licence: str = ""
    training: dict[str, Any] = {}
    held_out: dict[str, Any] = {}

    @property
    def boundaries(self) -> tuple[BoundaryTensor, ...]:
        """In the order of the file."""
        return (self.boundary,) if isinstance(self.boundary, BoundaryTensor) else self.boundary

    @property
    def codes(self) -> tuple[CodeTensor, ...]:
        """In the order of the file, which is that of the payloads."""
        return (self.code,) if isinstance(self.code, CodeTensor) else self.code

    @property
    def ranges(self) -> Ranges:
        """Of the code tensors that have one; UsageError for one that is none."""
        return tuple(
            CodeRange(code.name, code.low, code.high)
            for code in self.codes
            if code.low is not None and code.high is not None
        )


def read_description(folder: Path) -> Description:
    """The description in a folder; ModelUnknown where there is none, ModelError for a mistake."""
    path = folder / DESCRIPTION
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ModelError(f"{path} has more than {_MOST_BYTES} bytes: it is no description")
        found = msgspec.convert(tomllib.loads(content.decode("utf-8")), Description)
    except FileNotFoundError as error:
        raise ModelUnknown(f"there is no {path}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not a text file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{path} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ModelError(f"{path} does not describe a learned codec: {error}") from error
    _check(found, path)
    return found


def _check(found: Description, path: Path) -> None:
    if not found.boundaries or not found.codes:
        raise ModelError(f"{path} names no boundary or no code tensor: it needs one of each")
    for what, tensors in (("boundary", found.boundaries), ("code", found.codes)):
        twice = _repeated([tensor.name for tensor in tensors])
        if twice is not None:
            raise ModelError(f"{path} names the {what} tensor '{twice}' twice")
        empty = next((tensor for tensor in tensors if not tensor.name), None)
        if empty is not None:
            raise ModelError(f"{path} has a {what} tensor without a name")
    both = {tensor.name for tensor in found.boundaries} & {code.name for code in found.codes}
    if both:
        raise ModelError(
            f"{path} calls a boundary tensor and a code tensor '{min(both)}': they are two, give "
            "the code another name"
        )
    if found.encoder.file == found.decoder.file:
        raise ModelError(f"{path} has one file for encoder and decoder: they are two")
    for code in found.codes:
        if (code.low is None) != (code.high is None):
            raise ModelError(f"{path} gives '{code.name}' one end of a range: give both or neither")
        if code.low is not None and not code.spec.is_float:
            raise ModelError(
                f"{path} gives '{code.name}' a range, which is {code.dtype}: leave it out, only "
                "floating-point codes are quantised"
            )
    try:
        _ = found.ranges
    except UsageError as error:
        raise ModelError(f"{path}: {error}") from error


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)
