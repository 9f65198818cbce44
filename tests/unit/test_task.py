"""What pictures mean to a model: geometry, numbers, answers, and where that is written."""

from __future__ import annotations

import io
import tomllib
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from splitbed.errors import PictureUnreadable, TaskError, UsageError
from splitbed.task import (
    PICTURE_CUT,
    RESULT_CUT,
    Answerer,
    Preprocessor,
    TaskSpec,
    agreement,
    find_task,
    models_folder,
    picture_files,
    picture_spec,
    read_picture,
    result_boundary,
    shapes_to_bind,
    task_from_json,
    task_json,
    written_task,
)
from splitbed.tensor import Array, DType, TensorSpec

FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def task(**fields: Any) -> TaskSpec:
    return msgspec.convert(fields, TaskSpec)


def image_input(*shape: int, name: str = "input", dtype: DType = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def scores(*values: float) -> dict[str, Array]:
    return {"scores": np.array([values], np.float32)}


def classifier(classes: int, **fields: Any) -> Answerer:
    return Answerer(task(**fields), [TensorSpec("scores", "float32", (1, classes))])


# ----------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", FILTERS)
def test_squash_is_a_plain_resize(name: str) -> None:
    image = picture(37, 23)
    made = Preprocessor(task(size=(20, 30), filter=name)).picture(image)
    assert made.shape == (20, 30, 3)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, np.asarray(image.resize((30, 20), FILTERS[name])))


@pytest.mark.parametrize("resize", ["squash", "shorter", "letterbox"])
def test_picture_of_the_right_size_is_left_alone(resize: str) -> None:
    image = picture(30, 20)
    made = Preprocessor(task(size=(20, 30), resize=resize, filter="lanczos")).picture(image)
    np.testing.assert_array_equal(made, np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (50, 50)])
def test_shorter_side_then_the_centre(width: int, height: int) -> None:
    image = picture(width, height)
    made = Preprocessor(task(size=(24, 24), resize="shorter", shorter=32)).picture(image)
    if width <= height:
        resized = image.resize((32, round(32 * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((round(32 * width / height), 32), Image.Resampling.BILINEAR)
    left, top = (resized.width - 24) // 2, (resized.height - 24) // 2
    expected = resized.crop((left, top, left + 24, top + 24))
    np.testing.assert_array_equal(made, np.asarray(expected))


def test_shorter_side_defaults_to_the_shorter_side_of_the_size() -> None:
    image = picture(80, 40)
    made = Preprocessor(task(size=(20, 30), resize="shorter")).picture(image)
    expected = image.resize((40, 20), Image.Resampling.BILINEAR).crop((5, 0, 35, 20))
    np.testing.assert_array_equal(made, np.asarray(expected))


@pytest.mark.parametrize(
    ("width", "height", "inner", "corner"),
    [(60, 30, (40, 20), (0, 10)), (30, 60, (20, 40), (10, 0)), (10, 10, (40, 40), (0, 0))],
)
def test_letterbox_keeps_the_shape_and_fills_the_rest(
    width: int, height: int, inner: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = picture(width, height)
    made = Preprocessor(task(size=(40, 40), resize="letterbox", fill=114)).picture(image)
    expected = np.full((40, 40, 3), 114, np.uint8)
    left, top = corner
    resized = image.resize(inner, Image.Resampling.BILINEAR)
    expected[top : top + inner[1], left : left + inner[0]] = np.asarray(resized)
    np.testing.assert_array_equal(made, expected)


@settings(max_examples=150, deadline=None)
@given(
    source=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resize=st.sampled_from(["squash", "shorter", "letterbox"]),
    shorter=st.none() | st.integers(1, 60),
)
def test_any_picture_comes_out_at_the_size_of_the_model(
    source: tuple[int, int], size: tuple[int, int], resize: str, shorter: int | None
) -> None:
    flat = Image.new("RGB", source, (10, 20, 30))
    made = Preprocessor(task(size=size, resize=resize, shorter=shorter, fill=0)).picture(flat)
    assert made.shape == (*size, 3)
    # Nothing but the letterbox's bars is made up: a crop never reaches beyond the picture.
    inside = (made == [10, 20, 30]).all(axis=2)
    assert inside.all() if resize != "letterbox" else inside.any()


def test_preprocessor_needs_a_size() -> None:
    with pytest.raises(TaskError, match="size is not known"):
        Preprocessor(task())
    with pytest.raises(TaskError, match="size is not known"):
        picture_spec(task())


# ------------------------------------------------------------------------------------------ numbers


def test_layouts_and_colour_orders() -> None:
    pixels = np.asarray(picture(5, 4))
    rgb = Preprocessor(task(size=(4, 5))).tensor(pixels)
    assert rgb.shape == (1, 3, 4, 5)
    assert rgb.dtype == np.float32
    for channel in range(3):
        np.testing.assert_array_equal(rgb[0, channel], pixels[:, :, channel])
    bgr = Preprocessor(task(size=(4, 5), colour="BGR")).tensor(pixels)
    np.testing.assert_array_equal(bgr[0], rgb[0, ::-1])
    last = Preprocessor(task(size=(4, 5), layout="NHWC")).tensor(pixels)
    np.testing.assert_array_equal(last[0], pixels)
    for made in (rgb, bgr, last):
        assert made.flags.c_contiguous


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (1, 1, 16, 16)), ("NHWC", (1, 16, 16, 1))])
def test_luma_is_that_of_bt601(layout: str, shape: tuple[int, ...]) -> None:
    image = picture(16, 16)
    made = Preprocessor(task(size=(16, 16), colour="Y", layout=layout)).tensor(np.asarray(image))
    assert made.shape == shape
    luma = made.reshape(16, 16)
    np.testing.assert_array_equal(luma, np.asarray(image.convert("YCbCr").getchannel("Y")))
    exact = np.asarray(image).astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(luma.astype(np.float64) - exact).max() <= 1.0


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_mean_and_std_stand_in_the_order_of_the_colours(colour: str, layout: str) -> None:
    pixels = np.asarray(picture(5, 4))
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    spec = task(size=(4, 5), colour=colour, layout=layout, mean=mean, std=std)
    made = Preprocessor(spec).tensor(pixels)[0]
    for at in range(3):
        plane = pixels[:, :, at if colour == "RGB" else 2 - at].astype(np.float32)
        got = made[at] if layout == "NCHW" else made[:, :, at]
        np.testing.assert_allclose(got.astype(np.float64), (plane - mean[at]) / std[at], rtol=1e-6)


def test_one_mean_and_std_hold_for_all_channels() -> None:
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    made = Preprocessor(task(size=(1, 1), mean=[127.5], std=[127.5])).tensor(pixels)
    np.testing.assert_allclose(made.reshape(-1).astype(np.float64), [-1, 1 / 255, 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_tensor_has_the_type_of_the_model(dtype: DType) -> None:
    pixels = np.asarray(picture(5, 4))
    made = Preprocessor(task(size=(4, 5)), dtype).tensor(pixels)
    assert made.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(made[0].transpose(1, 2, 0), pixels)


def test_picture_boundary_is_what_the_edge_normalises() -> None:
    spec = task(size=(20, 30), mean=[1.0])
    assert picture_spec(spec) == TensorSpec(PICTURE_CUT, "uint8", (20, 30, 3))
    assert picture_spec(spec).matches(Preprocessor(spec).picture(picture(40, 40)))


# -------------------------------------------------------------------------------------- description


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"mean": [1.0, 2.0]}, "mean has 2 values where RGB has 3"),
        ({"colour": "Y", "mean": [1.0, 2.0, 3.0]}, "mean has 3 values where Y has 1"),
        ({"std": []}, "std has 0 values where RGB has 3"),
        ({"std": [1.0, 0.0, 1.0]}, "std must not be zero"),
    ],
)
def test_description_that_contradicts_itself_is_refused(
    fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TaskError, match=sentence):
        task(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": "stretch"},
        {"top": 0},
        {"top": 101},
        {"fill": 256},
        {"size": [0, 5]},
        {"size": [5]},
        {"colour": "rgb"},
        {"mean": ["1"]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_description_is_strict(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        task(**fields)


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_description_holds_finite_numbers(name: str, value: str) -> None:
    table = tomllib.loads(f"{name} = [{value}]")
    with pytest.raises((TaskError, msgspec.ValidationError)):
        task(**table)


def test_fitting_takes_input_and_size_from_the_model() -> None:
    assert task().fitted([image_input(1, 3, 20, 30)]) == task(input="input", size=(20, 30))
    nhwc = task(layout="NHWC").fitted([image_input(1, 20, 30, 3)])
    assert nhwc.size == (20, 30)
    luma = task(colour="Y", size=(20, 30)).fitted([image_input(1, 1, 20, 30)])
    assert luma.size == (20, 30)


def test_a_model_that_needs_more_than_the_picture_is_refused() -> None:
    inputs = [image_input(1, 3, 8, 8, name="a"), image_input(1, 3, 20, 30, name="b")]
    assert task(input="b").fitted(inputs[1:]).size == (20, 30)
    with pytest.raises(TaskError, match="the model also needs a, which no picture gives: export"):
        task(input="b").fitted(inputs)
    with pytest.raises(TaskError, match=r"input '' is none of the model's inputs \(a, b\)"):
        task().fitted(inputs)
    with pytest.raises(TaskError, match="input 'c' is none of"):
        task(input="c").fitted(inputs)


@pytest.mark.parametrize(
    ("fields", "shape", "sentence"),
    [
        ({}, (1, 20, 30, 3), "a NCHW picture with 3 channels does not fit input 'input' of shape"),
        ({"layout": "NHWC"}, (1, 3, 20, 30), "a NHWC picture with 3 channels does not fit"),
        ({"colour": "Y"}, (1, 3, 20, 30), "with 1 channels does not fit"),
        ({}, (1, 1, 20, 30), "with 3 channels does not fit .* of shape 1x1x20x30"),
        ({}, (2, 3, 20, 30), "does not fit input"),
        ({}, (3, 20, 30), "does not fit input"),
        ({"size": (30, 20)}, (1, 3, 20, 30), r"size \(30, 20\) where the model's input has"),
    ],
)
def test_description_that_contradicts_the_model_is_refused(
    fields: dict[str, Any], shape: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(TaskError, match=sentence):
        task(**fields).fitted([image_input(*shape)])


def test_shapes_to_bind_follow_from_the_size() -> None:
    assert shapes_to_bind(None, {}) == {}
    assert shapes_to_bind(task(), {}) == {}
    assert shapes_to_bind(task(size=(20, 30)), {}) == {"": (1, 3, 20, 30)}
    nhwc = task(size=(20, 30), layout="NHWC", colour="Y", input="i")
    assert shapes_to_bind(nhwc, {}) == {"i": (1, 20, 30, 1)}
    given: dict[str, tuple[int, ...]] = {"x": (2, 3)}
    assert shapes_to_bind(nhwc, given) == given


def test_description_survives_the_wire() -> None:
    spec = task(size=(20, 30), resize="letterbox", mean=[1.5, 2.0, 3.0], std=[2.0], top=3)
    assert task_from_json(task_json(spec)) == spec
    assert task_json(task()) == "{}"
    for text in ("", "[]", '{"top": 0}', '{"other": 1}', '{"std": [0.0]}'):
        with pytest.raises(TaskError):
            task_from_json(text)


# ------------------------------------------------------------------------------------------ answers


def test_answer_lists_the_best_classes_in_order() -> None:
    answer = classifier(4, top=3).answer(scores(0.1, 0.7, 0.0, 0.2))
    assert answer["label"] == 1
    assert answer["top"] == [1, 3, 0]
    assert answer["score"] == pytest.approx(0.7)


def test_ties_go_to_the_lower_index() -> None:
    assert classifier(5, top=5).answer(scores(1, 2, 2, 0, 2))["top"] == [1, 2, 4, 0, 3]
    assert classifier(998, top=5).answer(scores(*[1, 2] * 499))["top"] == [1, 3, 5, 7, 9]


def test_label_offset_counts_from_the_first_class() -> None:
    answer = classifier(4, top=2, label_offset=1).answer(scores(0.1, 0.2, 0.6, 0.1))
    assert answer == {"label": 1, "score": pytest.approx(0.6), "top": [1, 0]}


def test_fewer_classes_than_asked_for() -> None:
    answerer = classifier(3, top=5)
    assert answerer.answer(scores(0.1, 0.3, 0.2))["top"] == [1, 2, 0]
    boundary = answerer.boundary(scores(0.1, 0.3, 0.2))
    (spec,) = result_boundary(task(top=5), [])
    assert spec.matches(boundary[RESULT_CUT])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float16"])
def test_scores_of_any_type_are_ranked(dtype: str) -> None:
    low = np.iinfo(dtype).min if dtype.endswith("int8") or dtype == "int64" else -7
    outputs: dict[str, Array] = {"scores": np.array([low, 5, 3], dtype)}
    assert classifier(3, top=3).answer(outputs)["top"] == [1, 2, 0]


def test_scores_are_the_named_output() -> None:
    outputs = [TensorSpec("boxes", "float32", (1, 4)), TensorSpec("scores", "float32", (1, 3))]
    found = Answerer(task(scores="scores"), outputs).answer(
        {"boxes": np.ones((1, 4)), **scores(1, 3, 2)}
    )
    assert found["label"] == 1
    with pytest.raises(TaskError, match=r"scores '' is none of .* \(boxes, scores\)"):
        Answerer(task(), outputs)
    with pytest.raises(TaskError, match="scores 'other' is none of"):
        Answerer(task(scores="other"), outputs)


@pytest.mark.parametrize("classes", [5, 20])
def test_result_boundary_round_trip(classes: int) -> None:
    values = np.random.default_rng(1).permutation(classes).astype(np.float32)
    answerer = classifier(classes, top=5, label_offset=1)
    answer = answerer.answer({"scores": values})
    read = answerer.answer_from_boundary(answerer.boundary({"scores": values}))
    assert read == {"label": answer["label"], "top": answer["top"]}


def test_result_boundary_round_trip_with_fewer_classes() -> None:
    answerer = classifier(3, top=5, label_offset=1)  # class -1 means background here
    answer = answerer.answer(scores(0.1, 0.3, 0.2))
    read = answerer.answer_from_boundary(answerer.boundary(scores(0.1, 0.3, 0.2)))
    assert read["top"] == answer["top"] == [0, 1, -1]


def test_raw_answer_and_boundary_are_the_outputs() -> None:
    specs = [TensorSpec("a", "float32", (2,)), TensorSpec("b", "float32", (0,))]
    outputs: dict[str, Array] = {
        "a": np.array([-3, 1], np.float32),
        "b": np.array([], np.float32),
    }
    answerer = Answerer(task(output="raw"), specs)
    expected = {"a": {"mean": -1.0, "max_abs": 3.0}, "b": {"mean": 0.0, "max_abs": 0.0}}
    assert answerer.answer(outputs) == {"outputs": expected}
    assert answerer.boundary(outputs) == outputs
    assert answerer.answer_from_boundary(outputs) == {"outputs": expected}
    assert result_boundary(task(output="raw"), specs) == tuple(specs)


def test_raw_answer_of_the_smallest_integer() -> None:
    answerer = Answerer(task(output="raw"), [])
    answer = answerer.answer({"a": np.array([-128, 1], np.int8)})
    assert answer["outputs"]["a"]["max_abs"] == 128


def test_agreement_by_hand() -> None:
    reference: dict[str, Array] = {
        "a": np.array([1.0, -4.0], np.float32),
        "b": np.array([10], np.int64),
        "none": np.array([], np.float32),
    }
    outputs: dict[str, Array] = {
        "a": np.array([3.0, -4.0], np.float32),
        "b": np.array([9], np.int64),
        "none": np.array([], np.float32),
    }
    assert agreement(outputs, reference) == {
        "max_abs": 2.0,
        "max_rel": pytest.approx(0.5),
        "nmse": pytest.approx((4.0 + 1.0) / (1 + 16 + 100)),
    }
    assert agreement(reference, reference) == {"max_abs": 0.0, "max_rel": 0.0, "nmse": 0.0}


def test_nan_never_agrees() -> None:
    bad = agreement({"a": np.array([np.nan, 1.0])}, {"a": np.array([1.0, 1.0])})
    assert not bad["max_abs"] <= 1e9
    assert not bad["max_rel"] <= 1e9


def test_agreement_with_the_smallest_integer() -> None:
    found = agreement({"a": np.array([-127, 1], np.int8)}, {"a": np.array([-128, 1], np.int8)})
    assert found["max_rel"] == pytest.approx(1 / 128)


# ----------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
def test_pictures_of_every_mode_are_read_as_rgb(mode: str, tmp_path: Path) -> None:
    image = picture(6, 4).convert(mode)
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    image.save(path)
    read = read_picture(path)
    assert (read.mode, read.size) == ("RGB", (6, 4))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image.convert("RGB")))


def test_sixteen_bit_picture_is_not_all_white(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    try:
        read = np.asarray(read_picture(tmp_path / "deep.png"))
    except PictureUnreadable:
        return  # to refuse it would be right as well
    assert len(np.unique(read)) > 32


def test_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(PictureUnreadable, match=r"absent\.png is not there"):
        read_picture(tmp_path / "absent.png")


@pytest.mark.parametrize("content", [b"", b"text, no picture", bytes(200)])
def test_file_that_is_no_picture(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureUnreadable, match=r"broken\.jpg cannot be read"):
        read_picture(path)
    with pytest.raises(PictureUnreadable):
        read_picture(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM"])
def test_truncated_picture_is_unreadable_or_whole(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    image = picture(17, 13)
    image.save(buffer, kind)
    content, path = buffer.getvalue(), tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(content)
    whole = np.asarray(read_picture(path))
    unreadable = 0
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, about what is missing
            try:
                read = np.asarray(read_picture(path))
            except PictureUnreadable:
                unreadable += 1
                continue
        np.testing.assert_array_equal(read, whole)
    assert unreadable > 0.9 * len(range(0, len(content), 7))


def test_decompression_bomb_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    picture(40, 40).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureUnreadable, match=r"bomb\.png cannot be read"):
        read_picture(path)


def test_picture_files_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", "labels.tsv", "png"):
        (tmp_path / name).touch()
    assert [path.name for path in picture_files(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]


def test_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no pictures"):
        picture_files(tmp_path)
    with pytest.raises(UsageError, match="is not there"):
        picture_files(tmp_path / "absent")


def test_folder_named_like_a_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "raw.png").mkdir()
    assert [path.name for path in picture_files(tmp_path)] == ["a.png"]


# ---------------------------------------------------------------------------------------- catalogue


def catalogue() -> dict[str, Any]:
    return tomllib.loads((models_folder() / "catalogue.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", catalogue())
def test_catalogue_entry_converts_and_is_found(name: str, tmp_path: Path) -> None:
    entry = catalogue()[name]
    assert entry["about"]
    assert find_task(tmp_path / f"{name}.onnx") == task(**entry["task"])


def test_description_beside_the_model_wins(tmp_path: Path) -> None:
    model = tmp_path / "gesture.onnx"
    assert written_task(model) == task(**catalogue()["gesture"]["task"])
    (tmp_path / "gesture.toml").write_text("[task]\nsize = [9, 7]\n", encoding="utf-8")
    assert find_task(model) == task(size=(9, 7))


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("size = [9, 7]\n", TaskError, r"has no \[task\] table; it should look like"),
        ("task = 1\n", TaskError, r"has no \[task\] table"),
        ("[task]\nrezise = 'squash'\n", TaskError, "rezise"),
        ("[task]\nmean = [1.0, 2.0]\n", TaskError, "mean has 2 values"),
        ("[task\n", UsageError, "is not valid TOML"),
    ],
)
def test_bad_description_beside_the_model(
    text: str, error: type[Exception], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "net.toml").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=sentence):
        find_task(tmp_path / "net.onnx")


def test_bad_description_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text("[task]\nmean = [1.0, 2.0]\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"net\.toml"):
        find_task(tmp_path / "net.onnx")


def test_missing_description_shows_one_that_works(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    assert written_task(model) is None
    with pytest.raises(TaskError, match=r"net\.onnx: write .*net\.toml, for instance") as caught:
        find_task(model)
    example = str(caught.value).partition("for instance")[2]
    (tmp_path / "net.toml").write_text(example, encoding="utf-8")
    assert find_task(model).shorter == 256
