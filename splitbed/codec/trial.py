"""One codec tried on one made-up tensor, or on one payload: what must hold for every codec."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.codec.calibration import Calibration, FrameCollector
from splitbed.codec.codec import Codec
from splitbed.codec.layout import planes_shape
from splitbed.codec.pipeline import build, by_numpy, plan
from splitbed.codec.sensitivity import MOST_CHANNELS, TensorSensitivity
from splitbed.codec.statistics import StatisticsCollector
from splitbed.errors import PayloadInvalid
from splitbed.session import TensorCodec
from splitbed.tensor import FLOAT_DTYPES, Array, DType, TensorSpec


class Broken(Exception):
    """What a codec does, and must not."""


def round_trip(codec: Codec, array: Array) -> Array:
    """One array there and back, with all that holds for every codec; gives the decoded one.

    Raises Broken where something does not hold, and CodecError where the codec refuses the array.
    """
    before = array.tobytes()
    payload = bytes(codec.encode(array))
    hold(array.tobytes() == before, "encoding changed the tensor")
    hold(len(payload) <= codec.max_bytes, f"{len(payload)} bytes, at most {codec.max_bytes}")
    decoded = _own(codec, payload)
    hold(codec.spec.matches(decoded), f"decoded to {decoded.dtype} of {decoded.shape}")
    hold(bool(decoded.flags.aligned), "decoded to memory that is not aligned")
    hold(same_bits(_own(codec, payload), decoded), "decodes the same payload to something else")
    hold(bytes(codec.encode(array)) == payload, "encodes the same tensor to other bytes")
    if codec.lossless:
        hold(same_bits(decoded, array), "is lossless, and something was lost")
        return decoded
    allowed = codec.bound(array)
    if allowed is not None:
        with np.errstate(invalid="ignore"):
            one, other = array.astype(np.float64), decoded.astype(np.float64)
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            error = np.where(same, 0, np.abs(one - other))
            over = np.where(np.isnan(error), np.inf, error) - allowed
        worst = float(np.max(over, initial=0.0))
        hold(not worst > 0, f"an error is {worst:g} larger than the bound that it states")
    return decoded


def same_bits(one: Array, other: Array) -> bool:
    """Equal to the last bit, NaN included."""
    return (
        one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    )


def sample(dtype: DType, shape: tuple[int, ...]) -> Array:
    """Made-up values of that type; floats of mean 1 and deviation 2."""
    rng = np.random.default_rng(len(shape) + 1)
    if dtype in FLOAT_DTYPES:
        return np.asarray(rng.normal(1.0, 2.0, shape)).astype(dtype)
    values = rng.integers(0, 2 if dtype == "bool" else 256, (*shape, np.dtype(dtype).itemsize))
    return np.frombuffer(values.astype(np.uint8).tobytes(), dtype).reshape(shape)


def picture(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A smooth picture, height x width x 3."""
    y, x, c = np.indices(shape)
    pixels: NDArray[np.uint8] = (90 + 5 * y % 90 + x % 60 + 15 * c).astype(np.uint8)
    return pixels


def calibration_of(spec: TensorSpec, *arrays: Array) -> Calibration | None:
    """As `splitbed calibrate` makes it from frames of one tensor; None where it has no elements."""
    if not spec.elements or not spec.is_float:
        return None
    statistics, frames = StatisticsCollector(spec), FrameCollector(spec)
    for array in arrays:
        statistics.add(array)
        frames.add(array)
    kept = frames.frames()
    assert kept is not None
    sensitivities = {}
    channels = planes_shape(spec.shape)[0]
    if channels <= MOST_CHANNELS:  # a tail that looks at a few mixtures of channels
        rows = np.random.default_rng(channels).normal(0, 1, (1 + channels // 3, channels))
        sensitivity = TensorSensitivity.of(rows.T @ rows, (0.3, 0.3, 0.1, 0.05))
        sensitivities[spec.name] = sensitivity
    return Calibration(
        model_digest="0" * 64,
        cut="cut",
        inputs=(),
        tensors={spec.name: statistics.statistics()},
        frames={spec.name: kept},
        sensitivities=sensitivities,
    )


def planned(text: str, array: Array) -> tuple[TensorCodec, TensorSpec]:
    """Specification for tensors such as `array`, calibrated with other samples than `sample`."""
    spec = msgspec.convert(
        {"name": "x", "dtype": array.dtype.name, "shape": array.shape}, TensorSpec
    )
    rng = np.random.default_rng(9)
    frames = [np.asarray(rng.normal(1.0, 2.0, spec.shape)).astype(spec.dtype) for _ in range(3)]
    (codec,) = by_numpy(plan(text, [spec], calibration_of(spec, *frames)))
    return codec, spec


def codec_of(text: str, array: Array) -> Codec:
    """A codec for tensors such as `array`."""
    return build(*planned(text, array))


def attack(codec: Codec, payload: bytes) -> None:
    """Decode what a peer sent: a tensor as announced, or PayloadInvalid; Broken if neither."""
    decoded = codec.decode(payload)
    hold(codec.spec.matches(decoded), f"decoded to {decoded.dtype} of {decoded.shape}")
    hold(len(decoded.tobytes()) == codec.spec.nbytes, "decoded to less than it says")


def hold(holds: bool, otherwise: str) -> None:
    """Raise Broken, saying `otherwise`, for what does not hold."""
    if not holds:
        raise Broken(otherwise)


def _own(codec: Codec, payload: bytes) -> Array:
    try:
        return codec.decode(payload)
    except PayloadInvalid as error:
        raise Broken(f"refuses its own payload: {error}") from error
