"""Codecs as they are written, the specifications made of them, and the answers to mistakes."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import pytest

from splitbed import codec
from splitbed.codec.pipeline import build, plan, written
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES
from splitbed.codec.text import Written, is_lossless, needs_calibration, parse
from splitbed.errors import CodecError, CodecUnknown, UsageError
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import TensorSpec

FLOATS: Final = TensorSpec("features", "float32", (1, 4))
MASK: Final = TensorSpec("mask", "bool", (1, 5))
INDEX: Final = TensorSpec("index", "int64", (2,))
PICTURE: Final = TensorSpec("picture", "uint8", (4, 6, 3))
RANGE: Final = "low=0,high=1"


def stages_of(text: str) -> list[tuple[str, dict[str, str]]]:
    return [(stage.id, stage.arguments) for stage in parse(text)]


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("raw", [("raw", {})]),
        ("cast", [("cast", {})]),
        ("cast:float16", [("cast", {"to": "float16"})]),
        ("zstd", [("raw", {}), ("zstd", {})]),
        ("zstd:9+zstd", [("raw", {}), ("zstd", {"level": "9"}), ("zstd", {})]),
        ("raw+zstd:level=9", [("raw", {}), ("zstd", {"level": "9"})]),
        ("quantize:4+zstd:3", [("quantize", {"bits": "4"}), ("zstd", {"level": "3"})]),
        (
            "quantize:bits=4,clip=p99.9+zstd",
            [("quantize", {"bits": "4", "clip": "p99.9"}), ("zstd", {})],
        ),
        ("quantize:4,clip=minmax", [("quantize", {"bits": "4", "clip": "minmax"})]),
        (" quantize: 4 , clip = mse + zstd ", [("quantize", {"bits": "4", "clip": "mse"}),
                                               ("zstd", {})]),
        ("quantize:4,low=-1.5,high=2e-3", [("quantize", {"bits": "4", "low": "-1.5",
                                                         "high": "2e-3"})]),
        ("jpeg:85", [("jpeg", {"quality": "85"})]),
        ("png", [("png", {})]),
    ],
)  # fmt: skip
def test_written_forms(text: str, stages: list[tuple[str, dict[str, str]]]) -> None:
    assert stages_of(text) == stages
    assert parse(text) == tuple(Written(name, arguments) for name, arguments in stages)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "unknown codec stage ''"),
        ("raw+", "unknown codec stage ''"),
        ("quantise:4", "did you mean 'quantize'?"),
        ("zst", "did you mean 'zstd'?"),
        ("RAW", "unknown codec stage 'RAW'"),
        (
            "h264",
            "(known: raw, cast, quantize, uniform, shaped, jpeg, png, ans, layers, shuffle, zstd)",
        ),
        ("raw+cast", "codec 'raw+cast': 'cast' codes a tensor, so it can only come first"),
        ("zstd+quantize:4", "'quantize' codes a tensor, so it can only come first"),
        ("raw:3", "codec stage 'raw:3': '3' should be written name=value"),
        ("quantize:clip=mse,4", "'4' should be written name=value"),
        ("quantize:4,5", "'5' should be written name=value"),
        ("quantize", "codec stage 'quantize' needs its bits, as in quantize:4"),
        ("quantize:1", "quantize takes 2 to 8 bits, not '1'"),
        ("quantize:9", "quantize takes 2 to 8 bits, not '9'"),
        ("quantize:-4", "quantize takes 2 to 8 bits, not '-4'"),
        ("quantize:four", "quantize takes 2 to 8 bits, not 'four'"),
        ("quantize:4.0", "quantize takes 2 to 8 bits, not '4.0'"),
        ("quantize:4:8", "quantize takes 2 to 8 bits, not '4:8'"),
        ("quantize:4,clip=best", "quantize: clip is mse, minmax, or a share as in p99.9"),
        ("quantize:4,range=3", "codec stage 'quantize': "),
        ("quantize:4,low=a,high=1", "codec stage 'quantize': "),
        ("quantize:4,packing=words", "codec stage 'quantize': "),
        ("quantize:4,low=2,high=1", "low < high"),
        ("quantize:4,low=nan,high=1", "low < high"),
        ("quantize:4,low=0,high=inf", "low < high"),
        ("cast:int8", "codec stage 'cast': "),
        ("zstd:0", "codec stage 'zstd': "),
        ("zstd:20", "codec stage 'zstd': "),
        ("zstd:fast", "codec stage 'zstd': "),
        ("zstd:level=x", "codec stage 'zstd': "),
        ("zstd:speed=3", "codec stage 'zstd': "),
        ("jpeg:0", "codec stage 'jpeg': "),
        ("jpeg:101", "codec stage 'jpeg': "),
        ("layers", "'layers' codes symbols, so it comes right after quantize or uniform"),
        (
            "cast+layers",
            "'layers' codes symbols, so it comes right after quantize or uniform",
        ),
        ("uniform:1+layers+zstd", "nothing can follow 'layers', whose payloads may be cut off"),
        ("uniform:1+layers+ans", "'ans' codes symbols, so it comes right after"),
        ("uniform:1+layers:0", "codec stage 'layers': "),
        ("uniform:1+layers:7", "codec stage 'layers': "),
        ("uniform:1+layers:budget_bytes=0", "codec stage 'layers': "),
        ("uniform:1+layers:budget=9", "codec stage 'layers': "),
        ("png:9", "codec stage 'png:9': '9' should be written name=value"),
    ],
)
def test_mistakes_are_named_before_any_tensor_is_at_hand(text: str, sentence: str) -> None:
    with pytest.raises(CodecUnknown) as caught:
        parse(text)
    assert sentence in str(caught.value)


def test_a_mistake_in_a_codec_is_a_usage_error() -> None:
    # It ends a command with exit code 2, as every mistake in what a person wrote.
    with pytest.raises(UsageError):
        parse("nonsense")


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("raw", False),
        ("zstd", False),
        ("cast+zstd", False),
        ("quantize:4", True),
        ("quantize:4,clip=p99+zstd", True),
        (f"quantize:4,{RANGE}+zstd", False),
        ("jpeg", False),
    ],
)
def test_which_codecs_need_a_calibration(text: str, needed: bool) -> None:
    assert needs_calibration(text) == needed
    if needed:
        with pytest.raises(CodecError, match="needs a calibration"):
            plan(text, [FLOATS], None)


def stage_ids(codecs: tuple[TensorCodec, ...]) -> list[str]:
    return ["+".join(stage.id for stage in one.stages) for one in codecs]


def test_a_plan_has_one_codec_for_each_tensor_in_order() -> None:
    boundary = [FLOATS, MASK, INDEX, PICTURE]
    codecs = plan("raw+zstd:5", boundary, None)
    assert [one.tensor for one in codecs] == [spec.name for spec in boundary]
    assert stage_ids(codecs) == ["raw+zstd"] * 4
    assert [one.stages[1].config for one in codecs] == [{"level": 5}] * 4
    assert plan("raw", [], None) == ()


@pytest.mark.parametrize("lossy", ["cast", f"quantize:4,{RANGE}"])
def test_tensors_that_hold_no_floats_go_raw_with_the_same_tail(lossy: str) -> None:
    name = lossy.partition(":")[0]
    boundary = [MASK, FLOATS, INDEX, PICTURE]
    assert stage_ids(plan(lossy, boundary, None)) == ["raw", name, "raw", "raw"]
    codecs = plan(f"{lossy}+zstd:2+zstd", boundary, None)
    assert stage_ids(codecs) == [f"{first}+zstd+zstd" for first in ("raw", name, "raw", "raw")]
    mask = np.array([[True, False, True, True, False]])
    index = np.array([-(2**62), 7])
    for spec, planned, array in ((MASK, codecs[0], mask), (INDEX, codecs[2], index)):
        working = build(planned, spec)
        assert working.lossless
        np.testing.assert_array_equal(working.decode(working.encode(array)), array)


@pytest.mark.parametrize("text", ["quantize:4", "cast+zstd"])
def test_a_boundary_of_integers_only_is_refused(text: str) -> None:
    """It would go raw, and be printed under a name that it does not have."""
    with pytest.raises(CodecError, match=r"nothing at this cut holds any \(.*\): use raw\+zstd"):
        plan(text, [MASK, INDEX], None)


@pytest.mark.parametrize(
    ("text", "lossless"),
    [("raw", True), ("zstd:3", True), ("raw+zstd", True), ("png+zstd", True), ("cast", False),
     ("quantize:8+zstd", False), ("jpeg:90", False), ("raw, quantize:4", False), ("", False)],
)  # fmt: skip
def test_what_gives_back_what_went_in(text: str, lossless: bool) -> None:
    assert is_lossless(text) is lossless


@pytest.mark.parametrize("text", ["jpeg", "png", "jpeg+zstd"])
@pytest.mark.parametrize(
    "spec",
    [FLOATS, MASK, TensorSpec("x", "uint8", (3, 4)), TensorSpec("x", "uint8", (3, 4, 1)),
     TensorSpec("x", "uint8", (1, 3, 4, 3)), TensorSpec("x", "int8", (4, 6, 3))],
    ids=str,
)  # fmt: skip
def test_only_pictures_are_coded_as_pictures(text: str, spec: TensorSpec) -> None:
    with pytest.raises(CodecError, match=r"codes pictures .* cut at @picture"):
        plan(text, [PICTURE, spec], None)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("raw", "raw"),
        ("zstd", "raw+zstd:3"),
        ("cast+zstd:9", "cast:float16+zstd:9"),
        (f"quantize:bits=5,{RANGE},packing=bytes+zstd", "quantize:5+zstd:3"),
    ],
)
def test_the_short_form(text: str, short: str) -> None:
    (planned,) = plan(text, [FLOATS], None)
    assert written(planned) == short
    assert stages_of(short) is not None  # and it can be read again


def test_the_short_form_of_pictures() -> None:
    assert written(plan("jpeg", [PICTURE], None)[0]) == "jpeg:90"
    assert written(plan("png+zstd", [PICTURE], None)[0]) == "png+zstd:3"


@pytest.mark.parametrize("text", ["raw", "cast+zstd", f"quantize:3,{RANGE}+zstd:7"])
def test_a_plan_is_json_that_builds_the_same_codec(text: str) -> None:
    (planned,) = plan(text, [FLOATS], None)
    read = msgspec.json.decode(msgspec.json.encode(planned), type=TensorCodec)
    assert read == planned
    array = np.array([[0.0, 0.3, 0.7, 1.0]], np.float32)
    ours, theirs = build(planned, FLOATS), build(read, FLOATS)
    np.testing.assert_array_equal(
        ours.decode(ours.encode(array)), theirs.decode(ours.encode(array))
    )


RAW: Final = StageSpec("raw")
ZSTD: Final = StageSpec("zstd")


@pytest.mark.parametrize(
    ("planned", "sentence"),
    [
        (TensorCodec("other", (RAW,)), "a codec for tensor 'other' came where 'features' is next"),
        (TensorCodec("features", ()), "tensor 'features' has a codec without stages"),
        (TensorCodec("features", (ZSTD,)), "'zstd' is not known here as a first stage"),
        (TensorCodec("features", (StageSpec("h264"),)), "unknown codec stage 'h264'"),
        (TensorCodec("features", (RAW, RAW)), "'raw' is not known here as a later stage"),
        (TensorCodec("features", (RAW, StageSpec("lz4"))), "unknown codec stage 'lz4'"),
        (TensorCodec("features", (RAW, StageSpec("zstd", {"level": 99}))), "configured wrongly"),
        (TensorCodec("features", (RAW, StageSpec("zstd", {"level": "3"}))), "configured wrongly"),
        (TensorCodec("features", (RAW, StageSpec("zstd", {"speed": 3}))), "configured wrongly"),
        (TensorCodec("features", (StageSpec("cast", {"to": "int8"}),)), "configured wrongly"),
        (TensorCodec("features", (StageSpec("quantize"),)), "configured wrongly"),
    ],
)
def test_a_specification_that_none_of_ours_can_be(planned: TensorCodec, sentence: str) -> None:
    with pytest.raises(CodecUnknown) as caught:
        build(planned, FLOATS)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("stage", ["cast", "quantize"])
def test_lossy_stages_refuse_integers_when_a_peer_asks_for_them(stage: str) -> None:
    config = {} if stage == "cast" else {"bits": 4, "low": 0.0, "high": 1.0}
    with pytest.raises(CodecError, match=f"{stage} codes floating-point tensors, not int64"):
        build(TensorCodec("index", (StageSpec(stage, config),)), INDEX)


def test_a_missing_configuration_is_the_default() -> None:
    working = build(TensorCodec("features", (StageSpec("cast"), ZSTD)), FLOATS)
    array = np.array([[0.0, 0.5, 1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(working.decode(working.encode(array)), array)


def test_stages_are_registered_under_their_own_ids() -> None:
    for table in (ARRAY_STAGES, BYTE_STAGES):
        for name, stage in table.items():
            assert stage.id == name
            assert stage.__doc__
            assert stage.positional is None or stage.positional in stage.__struct_fields__
    assert not set(ARRAY_STAGES) & set(BYTE_STAGES)
    assert set(codec.__all__) <= set(dir(codec))


# What was wrong once.


@pytest.mark.parametrize("text", ["quantize:4,bits=5", "zstd:level=3,level=4", "jpeg:3,quality=9"])
def test_an_argument_given_twice_is_refused(text: str) -> None:
    with pytest.raises(CodecUnknown):
        parse(text)


def test_a_number_with_a_positive_exponent() -> None:
    assert stages_of("quantize:4,low=0,high=1e+3")[0][1]["high"] == "1e+3"


@pytest.mark.parametrize("text", ["zstd:", "quantize:4,"])
def test_a_colon_or_comma_with_nothing_behind_it(text: str) -> None:
    with pytest.raises(CodecUnknown):
        parse(text)
