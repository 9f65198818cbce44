"""Payloads that were written once decode to the same tensors for ever.

Every case of tests/golden/codec is three things: its specification in `cases.json` (tensor and
codec as they stand in a SessionSpec), a payload `NAME.bin`, the decoded tensor `NAME.npy`. Decoding
is pinned for every stage; encoding only where the encoder is ours, since a library may write other
bytes after an upgrade.

A new case is added to CASES and written, in tests/unit, by

    python -c "import test_golden as t; t.write('its-name')"

A file that is there already is changed only when decoding is meant to change, which breaks nodes of
different versions: that needs a new stage id instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from splitbed.codec import build, plan
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES
from splitbed.session import TensorCodec
from splitbed.tensor import Array, TensorSpec
from tests.unit.calibrations import calibration_of

GOLDEN: Final = Path(__file__).resolve().parents[1] / "golden" / "codec"

FLOATS: Final = TensorSpec("x", "float32", (2, 3, 5))
MAPS: Final = TensorSpec("x", "float32", (1, 9, 7, 5))
CASES: Final[dict[str, tuple[TensorSpec, str]]] = {
    "raw-float32": (FLOATS, "raw"),
    "raw-float64-scalar": (TensorSpec("x", "float64", ()), "raw"),
    "raw-int64": (TensorSpec("x", "int64", (7,)), "raw"),
    "raw-bool": (TensorSpec("x", "bool", (2, 4)), "raw"),
    "raw-empty": (TensorSpec("x", "float32", (2, 0)), "raw"),
    "cast-float32": (FLOATS, "cast"),
    "cast-float64": (TensorSpec("x", "float64", (11,)), "cast"),
    **{
        f"quantize-{bits}-bits": (FLOATS, f"quantize:bits={bits},low=-2.5,high=4.75")
        for bits in range(2, 9)
    },
    "quantize-6-bytes": (FLOATS, "quantize:bits=6,low=0,high=4.1,packing=bytes"),
    "quantize-5-float16": (
        TensorSpec("x", "float16", (13,)),
        "quantize:bits=5,low=-0.3,high=1.7",
    ),
    "quantize-4-channels": (
        TensorSpec("x", "float32", (2, 3, 4, 5)),
        "quantize:4,per=channel,clip=minmax",
    ),
    "quantize-3-channels-bytes": (
        TensorSpec("x", "float16", (1, 4, 6)),
        "quantize:3,per=channel,symmetric=yes,clip=p99,packing=bytes",
    ),
    "quantize-5-symmetric": (FLOATS, "quantize:5,symmetric=yes,low=-1.1,high=1.1"),
    "raw-zstd": (FLOATS, "raw+zstd"),
    "cast-zstd-zstd": (FLOATS, "cast+zstd:19+zstd:1"),
    "quantize-6-zstd": (FLOATS, "quantize:bits=6,low=-2.5,high=4.75+zstd"),
    "png": (TensorSpec("x", "uint8", (6, 9, 3)), "png"),
    "png-zstd": (TensorSpec("x", "uint8", (6, 9, 3)), "png+zstd"),
    "jpeg": (TensorSpec("x", "uint8", (16, 24, 3)), "jpeg:85"),
    "cast-bfloat16": (FLOATS, "cast:bfloat16"),
    "raw-shuffle": (FLOATS, "raw+shuffle"),
    "raw-shuffle-bits": (TensorSpec("x", "int64", (7,)), "raw+shuffle:bits"),
    "uniform": (FLOATS, "uniform:0.4"),
    "uniform-float16": (TensorSpec("x", "float16", (13,)), "uniform:0.1"),
    "shaped": (FLOATS, "shaped:0.4"),
    "shaped-rate": (TensorSpec("x", "float16", (1, 9, 4, 5)), "shaped:0.3,rate=0.2"),
    "shaped-ans": (TensorSpec("x", "float32", (1, 9, 7, 5)), "shaped:0.2+ans"),
    "ans-context": (TensorSpec("x", "float32", (1, 9, 7, 5)), "uniform:0.2+ans"),
    "ans-context-batch": (TensorSpec("x", "float32", (2, 3, 4, 6)), "quantize:5+ans"),
    "ans-context-vectors": (TensorSpec("x", "float64", (1, 11, 16)), "uniform:0.3,diffuse=0.5+ans"),
    "ans-context-dense": (TensorSpec("x", "float32", (1, 24, 7, 5)), "uniform:0.2+ans"),
    "ans-channel": (TensorSpec("x", "float32", (1, 9, 7, 5)), "uniform:0.2+ans:channel"),
    "ans-zstd": (FLOATS, "quantize:3+ans:channel+zstd"),
    "layers": (MAPS, "uniform:0.1+layers"),
    "layers-vectors": (TensorSpec("x", "float64", (1, 11, 16)), "quantize:6+layers:4"),
    "layers-budget": (MAPS, "uniform:0.1+layers:budget_bytes=140"),
    "layers-cut-off": (MAPS, "uniform:0.1+layers"),
    "layers-nothing": (MAPS, "uniform:0.1+layers"),
}
CUT_OFF: Final = {"layers-cut-off": 170, "layers-nothing": 0}
"""How many bytes there are of payloads that a link cut off."""
OURS: Final = ("raw", "cast", "quantize", "uniform", "shaped")


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What two nodes agreed on before the payload was sent."""

    tensor: TensorSpec
    codec: TensorCodec


def cases() -> dict[str, Case]:
    return msgspec.json.decode((GOLDEN / "cases.json").read_bytes(), type=dict[str, Case])


def source(spec: TensorSpec) -> Array:
    """A tensor from exact arithmetic only, so that it is the same on every machine."""
    index = np.arange(spec.elements, dtype=np.int64)
    values: Any = index * 37 % 101 - 30
    if spec.is_float:
        values = values / 16.0
    elif spec.dtype == "uint8":
        values = index % 60 * 4
    elif spec.dtype == "bool":
        values = index % 3 == 1
    return np.asarray(values).astype(spec.dtype).reshape(spec.shape)


def planned(spec: TensorSpec, text: str) -> TensorCodec:
    """Complete, where that takes frames with the source and a shifted and a halved one."""
    frame: Any = source(spec)
    frames = [np.asarray(f).astype(spec.dtype) for f in (frame, np.roll(frame, 3), frame / 2)]
    if spec.shape == (1, 24, 7, 5):  # enough of them to learn from all channels
        frames = [np.roll(frame, 3 * shift).astype(spec.dtype) for shift in range(12)]
    return plan(text, [spec], calibration_of(spec, *frames))[0]


def test_every_stage_has_a_golden_payload() -> None:
    stages = {stage.id for case in cases().values() for stage in case.codec.stages}
    assert stages == {*ARRAY_STAGES, *SYMBOL_STAGES, *BYTE_STAGES}
    assert set(cases()) == set(CASES)
    wanted = {"cases.json", *(f"{name}.{end}" for name in CASES for end in ("bin", "npy"))}
    assert {path.name for path in GOLDEN.iterdir()} == wanted


@pytest.mark.parametrize("name", CASES)
def test_decoding(name: str) -> None:
    case = cases()[name]
    wanted = np.load(GOLDEN / f"{name}.npy", allow_pickle=False)
    decoded: Any = build(case.codec, case.tensor).decode((GOLDEN / f"{name}.bin").read_bytes())
    assert decoded.dtype == wanted.dtype == np.dtype(case.tensor.dtype)
    assert decoded.shape == wanted.shape == case.tensor.shape
    if case.codec.stages[0].id == "jpeg":
        # Builds of libjpeg-turbo may round differently in the last step.
        assert np.abs(decoded.astype(int) - wanted).max() <= 2
    else:
        assert decoded.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (_, text) in CASES.items()
        if text.startswith(OURS) and "zstd" not in text and name not in CUT_OFF
    ],
)
def test_encoding_where_the_encoder_is_ours(name: str) -> None:
    case = cases()[name]
    payload = build(case.codec, case.tensor).encode(source(case.tensor))
    assert bytes(payload) == (GOLDEN / f"{name}.bin").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (_, text) in CASES.items()
        if not any(learnt in text for learnt in ("ans", "layers", "shaped"))
    ],
)
def test_a_written_form_still_means_the_same_specification(name: str) -> None:
    """But for what is learnt from frames, by sums that another machine may round otherwise."""
    spec, text = CASES[name]
    assert cases()[name] == Case(spec, planned(spec, text))


def write(*names: str) -> None:
    """Write the files of these cases, and `cases.json`."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    made = {name: Case(spec, planned(spec, text)) for name, (spec, text) in CASES.items()}
    made |= {name: case for name, case in cases().items() if name not in names}
    text = msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n"
    (GOLDEN / "cases.json").write_bytes(text)
    for name in names:
        working = build(made[name].codec, made[name].tensor)
        payload = bytes(working.encode(source(made[name].tensor)))[: CUT_OFF.get(name)]
        (GOLDEN / f"{name}.bin").write_bytes(payload)
        np.save(GOLDEN / f"{name}.npy", working.decode(payload), allow_pickle=False)
