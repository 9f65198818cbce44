"""A codec that travels planned: the same bytes as where it was fitted, and nothing else is read."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from device_node.__main__ import Device, main
from device_node.head import find_planned
from device_node.options import DeviceOptions
from splitbed import codec
from splitbed.codec import PLANNED_FORMAT, PlannedCodec, Target, find_target, read_planned
from splitbed.codec.planned import MOST_FILE_BYTES
from splitbed.errors import CodecUnknown, UsageError
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from splitbed.tensor import Cut, TensorSpec
from splitbed.transport import InProcessTransport
from tests.unit.calibrations import calibration_of, smooth
from tests.unit.edges import Edge, device_options

SPEC = TensorSpec("sum", "float32", (1, 3, 8, 8))
TEXT = "uniform:0.5+ans"
DIGEST = "a" * 64


def planned_for(spec: TensorSpec = SPEC, text: str = TEXT, **changes: Any) -> PlannedCodec:
    rng = np.random.default_rng(0)
    found = calibration_of(spec, *(smooth(rng, spec.shape) for _ in range(6)))
    made = PlannedCodec(
        format=PLANNED_FORMAT,
        model_digest=DIGEST,
        cut="sum",
        codec=text,
        boundary=(spec,),
        codecs=codec.plan(text, (spec,), found),
        digests=("b" * 64,),
    )
    return msgspec.structs.replace(made, **changes)


def kept(path: Path, planned: object) -> Path:
    path.write_bytes(msgspec.json.encode(planned))
    return path


@pytest.mark.parametrize(
    "text", ["raw", "cast+zstd:3", "quantize:4+zstd:3", TEXT,
             "uniform:0.5,diffuse=0.8+ans:channel", "quantize:4,where=graph+zstd:3"],
)  # fmt: skip
def test_a_file_codes_as_the_codec_that_it_was_made_of(text: str, tmp_path: Path) -> None:
    made = planned_for(text=text)
    again = read_planned(kept(tmp_path / "codec.json", made))
    assert again == made
    ours, theirs = (codec.build(codec.by_numpy(one.codecs)[0], SPEC) for one in (made, again))
    array = smooth(np.random.default_rng(1), SPEC.shape)
    assert bytes(ours.encode(array)) == bytes(theirs.encode(array))
    assert np.array_equal(ours.decode(ours.encode(array)), theirs.decode(ours.encode(array)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plain: plain.update(frames=1), "unknown field `frames`"),
        (lambda plain: plain.update(format="splitbed-codec-2"), "splitbed-codec-2"),
        (lambda plain: plain.pop("format"), "missing required field `format`"),
        (lambda plain: plain.update(model_digest="x"), "model_digest"),
        (lambda plain: plain.update(digests=["../etc"]), "digests"),
        (lambda plain: plain.update(codec="x" * 5000), "codec"),
        (lambda plain: plain.update(codec="learned:../x+raw"), "cannot be the name of a learned"),
        (lambda plain: plain.update(codec="learned:x+raw"), "learned codec is not the one"),
        (lambda plain: plain["codecs"][0].update(tensor="other"), "not those of its boundary"),
        (lambda plain: plain.update(codecs=plain["codecs"] * 2), "not those of its boundary"),
        (lambda plain: plain["boundary"][0].update(shape=[-1]), "negative dimension"),
        (lambda plain: plain["boundary"][0].update(dtype="object"), "dtype"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    plain = msgspec.to_builtins(planned_for())
    change(plain)
    with pytest.raises(UsageError, match=words) as refused:
        read_planned(kept(tmp_path / "codec.json", plain))
    assert "make one with `splitbed calibrate ... --codec TEXT`" in str(refused.value)


def test_a_file_is_bounded(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MOST_FILE_BYTES + 1)
    with pytest.raises(UsageError, match="has more than 16777216 bytes"):
        read_planned(large)
    (tmp_path / "deep").write_bytes(b"[" * 1_000_000)
    with pytest.raises(UsageError, match="is no planned codec"):
        read_planned(tmp_path / "deep")
    with pytest.raises(UsageError, match="cannot read the codec"):
        read_planned(tmp_path)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_ends_in_a_sentence(data: st.DataObject) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    DAMAGED.write_bytes(content)
    try:
        found = read_planned(DAMAGED)
        codecs = found.codecs_at(DIGEST, Cut("sum", (SPEC,)), None, "f")
        codec.quantisers(codecs, (SPEC,))
    except UsageError:
        pass


@pytest.fixture(scope="module", autouse=True)
def _damaged(tmp_path_factory: pytest.TempPathFactory) -> None:
    global GOOD, DAMAGED
    GOOD = msgspec.json.encode(planned_for())
    DAMAGED = tmp_path_factory.mktemp("damaged") / "codec.json"


GOOD: bytes
DAMAGED: Path


@pytest.mark.parametrize(
    ("digest", "cut", "words"),
    [
        ("c" * 64, Cut("sum", (SPEC,)), "planned for another model"),
        (DIGEST, Cut("left", (SPEC,)), "planned for the cut sum, and this is the cut left"),
        (DIGEST, Cut("sum", (TensorSpec("sum", "float16", SPEC.shape),)), "for other tensors"),
        (DIGEST, Cut("sum", (SPEC, SPEC)), "for other tensors"),
    ],
)
def test_a_plan_is_for_one_cut(digest: str, cut: Cut, words: str) -> None:
    made = planned_for()
    assert made.codecs_at(DIGEST, Cut("sum", (SPEC,)), None, "f") == made.codecs
    with pytest.raises(UsageError, match=words) as refused:
        made.codecs_at(digest, cut, None, "codec.json")
    assert f"--images PICTURES --codec {TEXT}" in str(refused.value)


# ------------------------------------------------------------------------------------ on a device


def options_for(folder: Path, **changes: Any) -> DeviceOptions:
    return device_options(folder, **{"cut": "sum", "warmup": 0, "frames": 3} | changes)


@pytest.mark.parametrize("text", [TEXT, "quantize:4,where=graph+zstd:3"])
def test_a_device_never_fits_anything(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    answer = edge.answer("sum")
    (spec,) = answer.cut.boundary
    path = kept(tmp_path / "codec.json", planned_for(spec, text, model_digest=answer.model_digest))

    def fitted(*_: object) -> None:
        raise AssertionError("a device planned a codec")

    monkeypatch.setattr(codec, "plan", fitted)
    picture = tmp_path / "0.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    device = Device(options_for(tmp_path, codec=f"@{path}"))
    assert device.run(InProcessTransport(edge.service), [picture], threading.Event()) == 0
    rows = list(read_rows(RunFolder(tmp_path / "runs" / "mine").frames("device"), FrameRecord))
    assert [row.status for row in rows] == ["ok"] * 3
    manifest = read_manifest(tmp_path / "runs" / "mine")
    assert manifest.codec == text
    assert manifest.config["codec"] == f"@{path}"


@pytest.mark.parametrize("text", [TEXT, "quantize:4+zstd:3", "auto:1pp"])
def test_a_codec_that_is_to_be_fitted_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--edge", "127.0.0.1:9", "--model", "m", "--cut", "a b", "--images", str(tmp_path)]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "0.png")
    assert main([*arguments, "--codec", text]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"splitbed calibrate MODEL.onnx --cut 'a b' --images PICTURES --codec {text}`" in err
    assert "--codec @codec.json" in err


def test_a_codec_that_is_whole_needs_no_file(tmp_path: Path) -> None:
    for text in ("raw", "cast+zstd:3", "quantize:bits=4,low=0,high=6+zstd:3", "jpeg:90"):
        assert find_planned(options_for(tmp_path, codec=text)) is None


# ------------------------------------------------------------------------------- auto, as written


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("auto:1pp", Target(1, 98)),
        ("auto:0.5pp,99.5%", Target(0.5, 99.5)),
        ("auto:95%,2pp", Target(2, 95)),
        ("auto:nmse=0.01", Target(nmse=0.01)),
        ("raw", None),
        ("automatic:1pp", None),
    ],
)
def test_targets(text: str, target: Target | None) -> None:
    assert find_target(text) == target
    if target is not None:
        assert find_target(target.text) == target


@pytest.mark.parametrize(
    "text",
    ["auto", "auto:", "auto:1", "auto:98%", "auto:1pp,2pp", "auto:-1pp", "auto:nanpp", "auto:101pp",
     "auto:1pp,nmse=0.1", "auto:nmse=0", "auto:nmse=x", "auto:1pp,", "auto:infpp", "auto:1pp+zstd"],
)  # fmt: skip
def test_targets_that_say_nothing(text: str) -> None:
    with pytest.raises(CodecUnknown, match=r"as in auto:1pp"):
        find_target(text)
