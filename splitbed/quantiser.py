"""What quantising a tensor is, said in numbers alone: codecs describe it, graphs do it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from splitbed.errors import UsageError

SMALLEST_STEP: Final = 1e-30
LARGEST_STEP: Final = 1e36
"""Steps whose reciprocal, and whose multiples, single precision holds."""

MOST_CHANNELS: Final = 16_384
"""Of one tensor; a description comes from the network and is bounded before it is used."""

_LARGEST: Final = {"float32": float.fromhex("0x1.fffffep+127"), "float16": 65504.0}
_SMALLEST_LOW: Final = 1e-25
"""Other than zero. From here on no level lies so near to zero that single precision makes it one:
ONNX Runtime would lose the sign that numpy keeps."""
_SLACK: Final = 1 + 1e-9  # a range's end is computed again from low and step

Values = Annotated[tuple[float, ...], Meta(min_length=1, max_length=MOST_CHANNELS)]


class Quantiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How each element x of a tensor becomes a symbol of one byte, and a symbol a value again.

    Symbol: trunc(clip((x - low) * (1 / step) + 0.5, 0, highest + 0.5)) in single precision, `low`
    and 1 / step rounded to it once. Value: low + symbol * step in double precision, each operation
    rounded by itself, then rounded once to the tensor's type. Loss: half a step within the range,
    and what clipping cuts off. A tensor with NaN has no symbols. `low` and `step` hold one value
    for the tensor, or one for each channel (axis 1).
    """

    tensor: str
    low: Values
    step: Values
    highest: Annotated[int, Meta(ge=1, le=255)]
    """The largest symbol."""

    def __post_init__(self) -> None:
        if not (1 <= len(self.low) == len(self.step) <= MOST_CHANNELS and 1 <= self.highest <= 255):
            raise UsageError(
                f"a quantiser of '{self.tensor[:80]}' needs as many steps as lower ends, at most "
                f"{MOST_CHANNELS}, and symbols up to 255"
            )
        if not all(
            abs(low) <= _LARGEST["float32"]
            and SMALLEST_STEP <= step <= LARGEST_STEP  # NaN is neither
            for low, step in zip(self.low, self.step, strict=True)
        ):
            raise UsageError(
                f"a quantiser of '{self.tensor[:80]}' has a range that single precision cannot hold"
            )

    @property
    def per_channel(self) -> bool:
        """Whether channels have values of their own."""
        return len(self.low) > 1

    def refuses(self, dtype: str, shape: tuple[int, ...]) -> str | None:
        """Why a tensor of this type and shape cannot be quantised so, None if it can."""
        if dtype not in _LARGEST:
            return f"a graph quantises {' and '.join(_LARGEST)}, and '{self.tensor}' is {dtype}"
        ends = zip(self.low, self.step, strict=True)
        largest = max(max(abs(low), abs(low + self.highest * step)) for low, step in ends)
        if largest > _LARGEST[dtype] * _SLACK:
            return f"a quantiser with values up to {largest:g} does not fit {dtype}"
        if any(0 < abs(low) < _SMALLEST_LOW for low in self.low):
            return f"a quantiser of '{self.tensor}' begins so near to zero that signs would be lost"
        if 0 in shape:
            return f"'{self.tensor}' holds nothing that a graph could quantise"
        if self.per_channel and (len(shape) < 2 or shape[1] != len(self.low)):
            channels = shape[1] if len(shape) > 1 else 0
            return f"'{self.tensor}' has {channels} channels and its quantiser {len(self.low)}"
        return None
