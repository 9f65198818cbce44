"""Channels tiled into a picture, through the real libraries."""

from __future__ import annotations

import builtins
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from experiments.tile_formats import video_missing
from experiments.tiles import TileCodec, build_tiles, check_tiles, layout_of
from splitbed.codec import Calibration
from splitbed.codec.statistics import StatisticsCollector
from splitbed.errors import CodecError, CodecUnknown, UsageError
from splitbed.tensor import Array, TensorSpec

needs_video = pytest.mark.skipif(video_missing() is not None, reason=str(video_missing()))
STILLS = ("tiles:png", "tiles:jpeg:95", "tiles:webp:95")
VIDEOS = ("tiles:h264:4", "tiles:hevc:4")
SHAPES = ((1, 64, 14, 14), (1, 576, 7, 7), (1, 7, 5, 9), (1, 1001), (3, 3), (1, 1, 1, 1), (2, 8, 3))


def features(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Smooth in each channel, half of them cut off at zero, as after a ReLU."""
    rng = np.random.default_rng(5)
    noise = rng.standard_normal(shape)
    smooth = noise if len(shape) < 3 else np.cumsum(noise, -1) / math.sqrt(shape[-1])
    return np.maximum(smooth, 0).astype(np.float32)


def built(text: str, array: Array) -> TileCodec:
    spec = TensorSpec("t", "float32", array.shape)
    collector = StatisticsCollector(spec)
    collector.add(array)
    calibration = Calibration("", "", (), {"t": collector.statistics()})
    check_tiles(text)
    return build_tiles(text, spec, calibration)


def difference(decoded: Array, array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.abs(decoded.astype(np.float32) - array))


@given(st.lists(st.integers(1, 7), max_size=3), st.integers(1, 300))
def test_every_element_has_its_pixel(tail: list[int], channels: int) -> None:
    layout = layout_of(TensorSpec("t", "float32", (channels, *tail)))
    symbols = np.random.default_rng(0).integers(0, 256, channels * math.prod(tail), np.uint8)
    picture = layout.tiled(symbols)
    assert picture.shape == layout.size
    np.testing.assert_array_equal(layout.untiled(picture), symbols)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 64, 14, 14), (112, 112)),
        ((1, 576, 7, 7), (168, 168)),
        ((1, 24, 56, 56), (4 * 56, 6 * 56)),
        ((1, 24, 10, 20), (6 * 10, 4 * 20)),  # the longer side along the shorter one
        ((1, 1280), (32, 40)),
        ((1, 97, 4, 4), (9 * 4, 11 * 4)),  # a prime: two tiles stay empty
    ],
)
def test_the_picture_is_nearly_square(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert layout_of(TensorSpec("t", "float32", shape)).size == size


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", [*STILLS, *(pytest.param(v, marks=needs_video) for v in VIDEOS)])
def test_what_is_decoded_is_near_what_was_encoded(text: str, shape: tuple[int, ...]) -> None:
    array = features(shape)
    codec = built(text, array)
    decoded = codec.decode(codec.encode(array))
    assert codec.spec.matches(decoded)
    step = float(array.max()) / 255 if array.max() > 0 else 0.0
    error = difference(decoded, array)
    if text == "tiles:png":  # only the quantisation loses
        assert error.max() <= step / 2 * 1.001
    else:
        assert error.max() <= 40 * step
        assert error.mean() <= 6 * step


@pytest.mark.parametrize(
    ("fine", "coarse"),
    [
        ("tiles:jpeg:90", "tiles:jpeg:30"),
        ("tiles:webp:90", "tiles:webp:30"),
        pytest.param("tiles:h264:15", "tiles:h264:40", marks=needs_video),
        pytest.param("tiles:hevc:15", "tiles:hevc:40", marks=needs_video),
    ],
)
def test_the_setting_trades_bytes_for_errors(fine: str, coarse: str) -> None:
    array = features((1, 64, 14, 14))
    sizes, errors = [], []
    for text in (fine, coarse):
        codec = built(text, array)
        payload = codec.encode(array)
        sizes.append(len(payload))
        errors.append(float((difference(codec.decode(payload), array) ** 2).mean()))
    assert sizes[0] > 1.5 * sizes[1]
    assert errors[0] < 0.5 * errors[1]


@needs_video
def test_no_encoder_writes_its_name_into_the_payload() -> None:
    """x264 would: 600 bytes of settings in every frame that stands alone."""
    flat = np.ones((1, 64, 14, 14), np.float32)
    for text in ("tiles:h264:51", "tiles:hevc:51"):
        assert len(built(text, flat).encode(flat)) < 150


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tiles:gif", "jpeg, webp, png, h264, hevc, not 'gif'"),
        ("tiles:", "not ''"),
        ("tiles:jpeg:0", "tiles:jpeg takes 1 to 100, not '0'"),
        ("tiles:jpeg:good", "not 'good'"),
        ("tiles:jpeg:", "not ''"),
        ("tiles:h264:52", "takes 0 to 51"),
        ("tiles:png:3", "takes no setting"),
        ("tiles:png+zstd", "no stage can follow"),
    ],
)
def test_what_cannot_be_written(text: str, words: str) -> None:
    with pytest.raises(CodecUnknown, match=words):
        check_tiles(text)


def test_without_pyav_the_video_formats_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *others: object) -> object:
        if name == "av":
            raise ImportError(name)
        return imported(name, *others)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "av", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    check_tiles("tiles:jpeg")
    with pytest.raises(UsageError, match=r"PyAV is not installed.*splitbed\[bench\]"):
        check_tiles("tiles:hevc:30")


def test_nan_and_empty_tensors_are_refused() -> None:
    array = features((1, 4, 3, 3))
    codec = built("tiles:png", array)
    array = array.copy()
    array[0, 0, 0, 0] = np.nan
    with pytest.raises(CodecError, match="NaN"):
        codec.encode(array)
    with pytest.raises(CodecError, match="empty"):
        build_tiles("tiles:png", TensorSpec("t", "float32", (1, 0)), Calibration("", "", (), {}))


@pytest.mark.parametrize(
    "text",
    ["tiles:jpeg", "tiles:webp", *(pytest.param(v, marks=needs_video) for v in VIDEOS)],
)
def test_a_picture_that_no_encoder_takes_is_a_sentence(text: str) -> None:
    array = features((1, 1, 1, 70_000))
    with pytest.raises(CodecError, match="picture of 70000x1, which cannot be coded"):
        built(text, array).encode(array)
