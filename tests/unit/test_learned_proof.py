"""The proof that what runs is the pair: it holds for the pair, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from experiments.learned import PairRunner, coded_cut, needs_calibration, verify_pair
from experiments.preparation import PreparedCut, PreparedModel, prepare_cut, prepare_model
from splitbed.errors import VerificationError
from splitbed.tensor import TensorSpec
from tests.models import info, model, node, open_part, weights
from tests.unit.edges import model_folder
from tests.unit.pairs import described, projections, untrained_pair, write_description


def prepared(folder: Path, cut: str = "sum") -> tuple[PreparedModel, PreparedCut]:
    found = prepare_model(folder / "tiny.onnx")
    return found, prepare_cut(found, cut)


@pytest.mark.parametrize("cut", ["left", "right", "sum"])
def test_it_holds_for_the_pair_alone(cut: str, pictures: list[Path], tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    for seed, name in enumerate(("pair", "other")):
        untrained_pair(folder / name, folder / "tiny.onnx", cut, 2, seed)
    found, plain = prepared(folder, cut)
    mine, other = (coded_cut(found, plain, f"learned:{name}") for name in ("pair", "other"))
    verify_pair(found, plain, mine, pictures, 1)
    verify_pair(found, plain, plain, pictures, 1)
    head = msgspec.structs.replace(mine.parts, first=other.parts.first)
    with pytest.raises(VerificationError, match=r"learned:pair: 'code' of 0.png differs by"):
        verify_pair(found, plain, msgspec.structs.replace(mine, parts=head), pictures, 1)
    tail = msgspec.structs.replace(mine.parts, second=other.parts.second)
    with pytest.raises(VerificationError, match="the tail with the decoder in it answers other"):
        verify_pair(found, plain, msgspec.structs.replace(mine, parts=tail), pictures, 1)
    assert coded_cut(found, plain, "quantize:4+zstd:3") is plain
    assert not needs_calibration("learned:pair+quantize:4", mine)
    assert needs_calibration("quantize:4", plain)


def rounding_pair(folder: Path, file: Path, spec: TensorSpec, shift: float) -> None:
    """A code of whole numbers, rounded in the encoder; `shift` moves some by a step."""
    code = TensorSpec("code", "uint8", spec.shape)
    ends = [info(s.name, s.shape, s.dtype) for s in (spec, code)]
    held = weights(scale=np.array(20.0), shift=np.array(shift))
    encoder = model(
        [
            node("Mul", [spec.name, "scale"], ["scaled"]),
            node("Add", ["scaled", "shift"], ["shifted"]),
            node("Round", ["shifted"], ["rounded"]),
            node("Cast", ["rounded"], ["code"], to=onnx.TensorProto.UINT8),
        ],
        *(ends[:1], ends[1:], held),
    )
    decoder = model(
        [
            node("Cast", ["code"], ["single"], to=onnx.TensorProto.FLOAT),
            node("Div", ["single", "scale"], [spec.name]),
        ],
        *(ends[1:], ends[:1], held),
    )
    networks = encoder, decoder, (code,)
    write_description(folder, described(folder, file, "sum", [spec], networks, None))


@pytest.mark.parametrize(("shift", "is_alike"), [(0.0, True), (1e-4, True), (0.4, False)])
def test_a_code_that_is_rounded_may_lie_a_step_away(
    shift: float, is_alike: bool, pictures: list[Path], tmp_path: Path
) -> None:
    folder = model_folder(tmp_path)
    found, plain = prepared(folder)
    (spec,) = plain.cut.boundary
    rounding_pair(folder / "pair", folder / "tiny.onnx", spec, 0.0)
    rounding_pair(folder / "shifted", folder / "tiny.onnx", spec, shift)
    mine, moved = (coded_cut(found, plain, f"learned:{name}") for name in ("pair", "shifted"))
    other = msgspec.structs.replace(
        mine, parts=msgspec.structs.replace(mine.parts, first=moved.parts.first)
    )
    if is_alike:
        verify_pair(found, plain, other, pictures, 1)
    else:
        with pytest.raises(VerificationError, match="'code'"):
            verify_pair(found, plain, other, pictures, 1)


def test_networks_by_themselves(pictures: list[Path], tmp_path: Path) -> None:
    """What is not coded goes beside the code, and comes back as it was."""
    folder = model_folder(tmp_path)
    found, plain = prepared(folder, "right")
    left, right = plain.cut.boundary
    networks = projections([right], 2)
    of = described(folder / "pair", folder / "tiny.onnx", "right", [right], networks)
    write_description(folder / "pair", of)
    coded = coded_cut(found, plain, "learned:pair+raw")
    assert [spec.name for spec in coded.cut.boundary] == ["code", left.name]
    verify_pair(found, plain, coded, pictures, 1)
    runner = PairRunner(coded, open_part)
    boundary = {
        spec.name: np.random.default_rng(1).normal(size=spec.shape).astype(np.float32)
        for spec in plain.cut.boundary
    }
    crossing = runner.encode(boundary)
    assert set(crossing) == {"code", left.name}
    again = runner.decode(crossing)
    assert set(again) == {left.name, right.name}
    np.testing.assert_array_equal(np.asarray(again[left.name]), boundary[left.name])
    # Half a range is known: what goes beside the code is not, and has to be seen.
    assert needs_calibration("learned:pair+quantize:4", coded)
