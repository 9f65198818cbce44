"""Every stage there is through splitbed.codec.examination, what only tests can say of ours,
and properties over tensors that hypothesis finds.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from splitbed.codec import raw_array
from splitbed.codec.examination import SPECIAL, examine
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES
from splitbed.codec.trial import codec_of, picture, round_trip, same_bits, sample
from splitbed.errors import CodecError, PayloadInvalid
from splitbed.tensor import FLOAT_DTYPES, Array, DType, TensorSpec
from tests.unit.calibrations import smooth

LOW, HIGH = -2.0, 5.0
ARRAY_CODECS: Final[dict[str, list[str]]] = {
    "raw": ["raw"],
    "cast": ["cast", "cast:bfloat16"],
    "quantize": [
        *(f"quantize:bits={bits},low={LOW},high={HIGH}" for bits in range(2, 9)),
        *(f"quantize:bits={b},low=0,high={HIGH},packing=bytes" for b in (2, 5, 8)),
        f"quantize:3,low=-{HIGH},high={HIGH},symmetric=yes",
    ],
    "quantize from frames": [
        "quantize:4,per=channel",
        "quantize:2,per=channel,clip=minmax,packing=bytes",
        "quantize:5,per=channel,symmetric=yes,clip=p99.9",
        "quantize:3,symmetric=yes",
    ],
    "uniform": ["uniform:0.25", "uniform:1.5", "uniform:0.5,diffuse=0.7"],
    "shaped": ["shaped:0.25", "shaped:1.5,rate=0.1", "shaped:0.5,errors=plain"],
    "jpeg": ["jpeg", "jpeg:30", "jpeg:100"],
    "png": ["png"],
}
BYTE_CODECS: Final[dict[str, list[str]]] = {
    "zstd": ["+zstd", "+zstd:19", "+zstd:1+zstd:7"],
    "shuffle": ["+shuffle", "+shuffle:bits+zstd", "+shuffle:bits,size=3"],
}
SYMBOL_CODECS: Final[dict[str, list[str]]] = {
    "ans": ["+ans", "+ans:channel"],
    "layers": ["+layers"],
}
TAILS: Final = ["", *(tail for tails in BYTE_CODECS.values() for tail in tails)]

UNCALIBRATED: Final = ("raw", "cast", "quantize")
TENSOR_CODECS: Final = [
    *(text + tail for stage in UNCALIBRATED for text in ARRAY_CODECS[stage] for tail in TAILS),
    *(
        text + tail
        for stage in ("uniform", "shaped", "quantize from frames")
        for text in ARRAY_CODECS[stage]
        for tail in ("", "+zstd")
    ),
    *(
        text + coder + tail
        for text in (
            *ARRAY_CODECS["uniform"],
            *ARRAY_CODECS["shaped"][:2],
            *ARRAY_CODECS["quantize"][1::3],
            *ARRAY_CODECS["quantize from frames"][:3:2],
        )
        for coder in SYMBOL_CODECS["ans"]
        for tail in ("", "+zstd")
    ),
    *(
        text + coder
        for text in (
            *ARRAY_CODECS["uniform"],
            *ARRAY_CODECS["shaped"][:1],
            *ARRAY_CODECS["quantize"][1::3],
        )
        for coder in SYMBOL_CODECS["layers"]
    ),
]
RAW_CODECS: Final = ["raw" + tail for tail in TAILS]
PICTURE_CODECS: Final = [
    text + tail for stage in ("jpeg", "png") for text in ARRAY_CODECS[stage] for tail in TAILS
]


def test_every_stage_is_examined() -> None:
    assert set(ARRAY_CODECS) == {*ARRAY_STAGES, "quantize from frames"}
    assert set(SYMBOL_CODECS) == set(SYMBOL_STAGES)
    assert set(BYTE_CODECS) == set(BYTE_STAGES)
    assert {text.partition(":")[0] for text in TENSOR_CODECS + PICTURE_CODECS} >= set(ARRAY_STAGES)


def learns(text: str) -> bool:
    """Whether it is completed from calibration frames, which empty tensors have none of."""
    fitted = any(name in text for name in ("uniform", "shaped", "ans", "layers"))
    return fitted or ("quantize" in text and "low=" not in text)


def check(text: str, array: Array) -> Any:
    """One array there and back, with all that holds for every codec; gives the decoded one."""
    if (learns(text) and not array.size) or (array.dtype == np.float16 and "bfloat16" in text):
        with pytest.raises(CodecError):
            codec_of(text, array)
        return array
    return round_trip(codec_of(text, array), array)


@pytest.mark.parametrize("text", [*TENSOR_CODECS, *PICTURE_CODECS])
def test_the_examination(text: str) -> None:
    found = {outcome.check: outcome for outcome in examine(text, mutations=100)}
    assert not [sentence for outcome in found.values() for sentence in outcome.failures]
    taken = 1 if text in PICTURE_CODECS else 13 if text.startswith(("raw", "zstd")) else 3
    assert found["element types"].coded == taken - ("bfloat16" in text)
    assert found["payloads of a hostile peer"].refused > 20
    assert found["layouts of memory"].coded >= 7 * (taken - ("bfloat16" in text))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("text", [t for t in TENSOR_CODECS if t.startswith("uniform")])
def test_floats_within_the_bound_of_uniform(text: str, dtype: DType) -> None:
    for shape in ((7,), (1, 3, 5, 7), (1000,)):
        check(text, sample(dtype, shape))


@pytest.mark.parametrize("text", PICTURE_CODECS)
def test_a_picture_is_still_the_same(text: str) -> None:
    # JPEG promises no bound.
    source = picture((17, 25, 3))
    assert np.abs(check(text, source).astype(int) - source).mean() < 12


@pytest.mark.parametrize("text", PICTURE_CODECS)
def test_noise_is_the_longest_picture(text: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    check(text, noise)


@pytest.mark.parametrize("size", [1, 1000, 1 << 17, (1 << 18) + 1])
@pytest.mark.parametrize("text", RAW_CODECS)
def test_noise_is_the_longest_tensor(text: str, size: int) -> None:
    check(text, np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8))


def test_lossless_says_what_is_true() -> None:
    for text in TENSOR_CODECS:
        assert codec_of(text, np.zeros(2, np.float32)).lossless == text.startswith("raw"), text
    for text in PICTURE_CODECS:
        assert codec_of(text, picture((2, 2, 3))).lossless == text.startswith("png"), text


def floats(width: int) -> st.SearchStrategy[Array]:
    return hnp.arrays(
        np.dtype(f"float{width}"),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": -100, "max_value": 100},
    )


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([16, 32, 64]).flatmap(floats), st.sampled_from(TENSOR_CODECS))
def test_any_moderate_floats(array: Array, text: str) -> None:
    check(text, array)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.dtype(dtype) for dtype in get_args(DType)]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    st.sampled_from(RAW_CODECS),
)
def test_anything_at_all_without_loss(array: Array, text: str) -> None:
    check(text, array)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))),
    st.sampled_from(PICTURE_CODECS),
)
def test_any_picture(array: Array, text: str) -> None:
    check(text, array)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=8), elements=st.floats(width=16)))
def test_cast_keeps_what_float16_holds(array: Array) -> None:
    codec = codec_of("cast", array)
    np.testing.assert_array_equal(codec.decode(codec.encode(array)), array)


# NaN, infinities, values out of range.


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("text", TENSOR_CODECS)
def test_special_values(text: str, dtype: DType) -> None:
    array = np.array(SPECIAL, dtype)
    if dtype == "float16" and "bfloat16" in text:
        with pytest.raises(CodecError, match="use raw"):
            codec_of(text, array)
        return
    codec = codec_of(text, array)
    if text.startswith(("quantize", "uniform", "shaped")):
        with pytest.raises(CodecError, match="NaN cannot be quantised: use raw or cast"):
            codec.encode(array)
        check(text, array[[4, 5]])
        if learns(text):
            return
        ends = codec_of(text, array[[1, 2]])
        highest, lowest = np.asarray(ends.decode(ends.encode(array[[1, 2]]))).tolist()
        assert highest == HIGH
        assert lowest == (0 if "low=0" in text else -HIGH if "symmetric" in text else LOW)
        return
    decoded: Any = codec.decode(codec.encode(array))
    np.testing.assert_array_equal(decoded, array)
    assert np.signbit(decoded[3])
    if text.startswith("raw"):
        assert same_bits(decoded, array)


@pytest.mark.parametrize("at", [0, 500, 999])
@pytest.mark.parametrize(
    "text", [t for s in ("quantize", "uniform", "shaped") for t in ARRAY_CODECS[s]]
)
def test_a_single_nan_anywhere_is_refused(text: str, at: int) -> None:
    array = np.ones(1000, np.float32)
    array[at] = np.nan
    with pytest.raises(CodecError, match="NaN"):
        codec_of(text, array).encode(array)


def test_bfloat16_rounds_to_even_and_refuses_what_would_become_infinite() -> None:
    one = np.array([1.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20], np.float32)
    assert check("cast:bfloat16", one).tolist() == [1.0, 1.0, 1 + 2.0**-6, 1 + 2.0**-7]
    largest = np.array([float.fromhex("0x1.fep127")], np.float32)
    assert check("cast:bfloat16", largest) == largest
    for value, dtype in ((3.4e38, "float32"), (-1e300, "float64")):
        array = np.array([value], dtype)
        with pytest.raises(CodecError, match=r"does not fit bfloat16 \(largest 3.3895e\+38\)"):
            codec_of("cast:bfloat16", array).encode(array)


def test_shuffle_puts_like_bytes_together() -> None:
    array = smooth(np.random.default_rng(0), (1, 8, 20, 20))
    plain, shuffled = (
        len(codec_of(text, array).encode(array)) for text in ("zstd", "shuffle+zstd")
    )
    assert shuffled < 0.95 * plain


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [65520.0, -65536.0, 1e30])
def test_cast_refuses_what_would_become_infinite(dtype: DType, value: float) -> None:
    array = np.array([1.0, value, np.nan], dtype)
    with pytest.raises(CodecError, match=r"does not fit float16.*use raw or quantize"):
        codec_of("cast", array).encode(array)


def test_cast_keeps_the_largest_float16() -> None:
    array = np.array([65504.0, -65504.0, 2.0**-24, 2.0**-26, 6.1e-5], np.float32)
    decoded = check("cast", array)
    assert decoded.tolist()[:4] == [65504.0, -65504.0, 2.0**-24, 0.0]


def array_for(text: str) -> Array:
    """Something that this codec takes."""
    return picture((9, 7, 3)) if text in PICTURE_CODECS else sample("float32", (9, 7))


# Payloads that no encoder makes.


@pytest.mark.parametrize("text", [*TENSOR_CODECS, *PICTURE_CODECS])
def test_a_payload_of_another_length_is_refused(text: str) -> None:
    array = array_for(text)
    codec = codec_of(text, array)
    payload = bytes(codec.encode(array))
    # The last bytes of a picture file hold no pixels, and Pillow does not ask for them.
    short = payload[: len(payload) // 2] if text in PICTURE_CODECS else payload[:-1]
    wrong_ones = [payload[1:], bytes(codec.max_bytes + 1)]
    if codec.progressive:  # any beginning is right, and an end is wrong
        wrong_ones = [payload + b"\0", bytes(codec.max_bytes + 1)]
        for beginning in (b"", short):
            assert codec.spec.matches(codec.decode(beginning))
    else:
        wrong_ones += [b"", short]
        assert codec.cuts(payload) == (len(payload),)
    for wrong in wrong_ones:
        with pytest.raises(PayloadInvalid):
            codec.decode(wrong)


def test_an_uncoded_reply_of_another_length_is_refused() -> None:
    # `raw_array` reads the outputs of a full reply, where no codec bounds the length before.
    spec = TensorSpec("y", "float32", (2, 3))
    assert raw_array(bytes(24), spec).shape == (2, 3)
    for size in (0, 20, 23, 25, 28, 48):
        with pytest.raises(PayloadInvalid, match=rf"takes 24 bytes as float32.* has {size}:"):
            raw_array(bytes(size), spec)


def test_raw_copies_nothing() -> None:
    array = sample("float32", (3, 5))
    codec = codec_of("raw", array)
    payload = codec.encode(array)
    assert np.shares_memory(np.frombuffer(payload, np.uint8), array)
    received = bytes(payload)
    decoded = codec.decode(received)
    assert np.shares_memory(np.frombuffer(received, np.uint8), decoded)
    assert not decoded.flags.writeable


# What was wrong once.


def test_the_refusal_of_another_byte_order_says_so() -> None:
    with pytest.raises(CodecError, match=r"byte order|endian"):
        codec_of("raw", np.zeros(2, np.float32)).encode(np.array([1.0, 2.0], ">f4"))


def test_cast_rounds_down_what_is_nearer_to_the_largest_float16() -> None:
    near = np.array([65519.0], np.float32)
    assert bytes(codec_of("cast", near).encode(near)) == np.float16(65504).tobytes()


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0, 3)])
@pytest.mark.parametrize("text", ["png", "jpeg"])
def test_an_empty_picture_is_coded_or_refused(text: str, shape: tuple[int, ...]) -> None:
    try:
        check(text, np.zeros(shape, np.uint8))
    except CodecError:
        return


def test_a_picture_too_wide_for_jpeg_is_refused() -> None:
    array = np.zeros((1, 70_000, 3), np.uint8)
    with pytest.raises(CodecError):
        codec_of("jpeg", array).encode(array)


@pytest.mark.parametrize(("dtype", "value"), [("float32", 3e38), ("float64", 1e300)])
def test_quantize_clips_any_outlier(dtype: DType, value: float) -> None:
    array = np.array([value, -value], dtype)
    codec = codec_of("quantize:bits=8,low=0,high=1", array)
    decoded = codec.decode(codec.encode(array))
    assert decoded.tolist() == [1, 0]


def test_quantize_keeps_its_bound_far_from_zero() -> None:
    check("quantize:bits=8,low=1000000,high=1000001", np.linspace(1e6, 1e6 + 1, 1001))
