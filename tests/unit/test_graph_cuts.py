"""Every place to cut: its boundary, its two parts, and the proof that they are the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from splitbed.errors import CutUnknown, VerificationError
from splitbed.graph import (
    INPUT_CUT,
    OUTPUT_CUT,
    CanonicalModel,
    Opener,
    Parts,
    Verifier,
    canonicalise,
    cut_points,
    extract,
    find_cut,
    load,
    verify,
)
from splitbed.runnable import Runnable, carry
from splitbed.tensor import Array
from tests import models
from tests.models import canonical, info, model, node, open_part, random_feed, saved, weights

Spoil = Callable[[Array], Array]


def boundaries(cleaned: CanonicalModel) -> dict[str, tuple[str, ...]]:
    return {point.name: point.tensors for point in cut_points(cleaned)}


def parts_at(cleaned: CanonicalModel, name: str) -> Parts:
    return extract(cleaned, find_cut(cleaned, cut_points(cleaned), name))


class Spoilt:
    """A part whose first output is changed on its way out."""

    def __init__(self, part: Runnable, spoil: Spoil) -> None:
        self.inputs, self.outputs = part.inputs, part.outputs
        self._part, self._spoil = part, spoil

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        first, *rest = self._part.run(feeds, wanted)
        return [self._spoil(first.copy()), *rest]


def spoiling(content: bytes, spoil: Spoil) -> Opener:
    """Opens parts as they are, but for the one with this content."""

    def opener(file: bytes | Path) -> Runnable:
        part = open_part(file)
        return Spoilt(part, spoil) if file == content else part

    return opener


def with_nan(array: Array) -> Array:
    array.reshape(-1)[1] = np.nan
    return array


# ------------------------------------------------------------------------------- exact at every cut


@pytest.mark.parametrize("name", models.ALL)
def test_every_cut_recombines_to_the_uncut_model(name: str, tmp_path: Path) -> None:
    cleaned = canonical(models.ALL[name](), tmp_path)
    feeds = [random_feed(cleaned, seed) for seed in range(4)]
    legal = models.assert_exact_at_every_cut(cleaned, feeds)
    assert legal[0].name == INPUT_CUT
    assert legal[-1].name == OUTPUT_CUT


def test_both_branches_of_an_if_are_taken(tmp_path: Path) -> None:
    # The test above would show little if all its inputs took the same branch.
    cleaned = canonical(models.branching(), tmp_path)
    engine = open_part(parts_at(cleaned, "above").first.content)  # type: ignore[union-attr]
    at = engine.outputs.index("above")
    taken = set()
    for seed in range(4):
        feed = random_feed(cleaned, seed)
        taken.add(bool(engine.run({name: feed[name] for name in engine.inputs})[at]))
    assert taken == {True, False}


@pytest.mark.parametrize("name", models.ALL)
def test_cuts_and_part_files_are_the_same_after_a_second_load(name: str, tmp_path: Path) -> None:
    path = saved(models.ALL[name](), tmp_path / "model.onnx")
    first, second = canonicalise(load(path)), canonicalise(load(path))
    assert cut_points(first) == cut_points(second)
    for one, other in zip(cut_points(first), cut_points(second), strict=True):
        if one.cut is not None:
            assert extract(first, one) == extract(second, other)


# --------------------------------------------------------------------------------------- boundaries


def test_boundary_of_a_chain_is_one_tensor(tmp_path: Path) -> None:
    assert boundaries(canonical(models.chain(), tmp_path)) == {
        INPUT_CUT: ("x",),
        "r": ("r",),
        "n": ("n",),
        OUTPUT_CUT: ("y",),
    }


def test_boundary_of_a_diamond_holds_both_branches(tmp_path: Path) -> None:
    found = boundaries(canonical(models.diamond(), tmp_path))
    assert found["top"] == ("top",)
    assert found["left"] == ("top", "left")
    assert found["right"] == ("left", "right")


def test_skip_connection_from_the_input_crosses_with_it(tmp_path: Path) -> None:
    found = boundaries(canonical(models.residual(), tmp_path))
    assert found["m"] == ("x", "m")
    assert found["r"] == ("x", "r")
    assert found["s"] == ("s",)


def test_late_input_and_early_output_cross_untouched(tmp_path: Path) -> None:
    cleaned = canonical(models.two_ended(), tmp_path)
    found = boundaries(cleaned)
    assert found[INPUT_CUT] == ("a", "b")
    assert found["early"] == ("b", "early")
    assert found["m"] == ("b", "early", "m")
    assert found[OUTPUT_CUT] == ("late", "early")
    parts = parts_at(cleaned, "m")
    assert parts.first is not None
    assert parts.second is not None
    assert [spec.name for spec in parts.first.partition.inputs] == ["a"]
    assert {spec.name for spec in parts.second.partition.inputs} == {"m", "b"}
    assert [spec.name for spec in parts.second.partition.outputs] == ["late"]


def test_values_captured_by_a_subgraph_cross(tmp_path: Path) -> None:
    found = boundaries(canonical(models.branching(), tmp_path))
    assert found["r"] == ("late", "captured", "r")
    assert found["above"] == ("late", "captured", "above")
    assert found["i"] == ("i",)


def test_output_that_nobody_reads_does_not_cross(tmp_path: Path) -> None:
    cleaned = canonical(models.splitting(), tmp_path)
    # Named after the first output that crosses, though the boundary holds them all.
    assert boundaries(cleaned)["p"] == ("p", "q")
    assert "unread" in cleaned.specs


def test_input_that_nobody_reads_does_not_cross(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.input.append(info("idle", [7]))
    cleaned = canonical(proto, tmp_path)
    assert [spec.name for spec in cleaned.inputs] == ["x", "idle"]
    assert boundaries(cleaned)[INPUT_CUT] == ("x",)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_constants_never_cross_and_each_part_has_its_own(tmp_path: Path) -> None:
    cleaned = canonical(models.shared_constants(), tmp_path)
    assert boundaries(cleaned) == {
        INPUT_CUT: ("x",),
        "r": ("r",),
        "first": ("first",),
        "t": ("t",),
        OUTPUT_CUT: ("y",),
    }
    parts = parts_at(cleaned, "t")
    for part in (parts.first, parts.second):
        assert part is not None
        made = {name for n in onnx.load_from_string(part.content).graph.node for name in n.output}
        assert "bias" in made


def test_part_holds_only_the_weights_that_it_reads(tmp_path: Path) -> None:
    parts = parts_at(canonical(models.residual(), tmp_path), "r")
    assert parts.first is not None
    assert parts.second is not None
    held = [
        [tensor.name for tensor in onnx.load_from_string(part.content).graph.initializer]
        for part in (parts.first, parts.second)
    ]
    assert held == [["w"], []]


def test_ends_have_one_part_that_is_whole(tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    before, after = parts_at(cleaned, INPUT_CUT), parts_at(cleaned, OUTPUT_CUT)
    assert before.first is None
    assert after.second is None
    assert before.second is not None
    assert after.first is not None
    assert before.second.partition.part == after.first.partition.part == "whole"
    middle = parts_at(cleaned, "r")
    assert middle.first is not None
    assert middle.second is not None
    assert (middle.first.partition.part, middle.second.partition.part) == ("first", "second")


@pytest.mark.parametrize("name", models.ALL)
def test_partition_says_what_its_file_is(name: str, tmp_path: Path) -> None:
    cleaned = canonical(models.ALL[name](), tmp_path)
    for point in cut_points(cleaned):
        if point.cut is None:
            continue
        parts = extract(cleaned, point)
        for part in (parts.first, parts.second):
            if part is None:
                continue
            partition, engine = part.partition, open_part(part.content)
            assert partition.model == cleaned.id
            assert partition.cut == parts.cut == point.cut
            assert partition.file_bytes == len(part.content)
            assert partition.sha256 == hashlib.sha256(part.content).hexdigest()
            assert tuple(spec.name for spec in partition.inputs) == engine.inputs
            assert tuple(spec.name for spec in partition.outputs) == engine.outputs
            onnx.checker.check_model(onnx.load_from_string(part.content), full_check=True)


def test_depth_is_the_share_of_nodes_upstream(tmp_path: Path) -> None:
    points = cut_points(canonical(models.diamond(), tmp_path))
    assert [point.depth_pct for point in points] == [0, 25, 50, 75, 100]
    assert [point.position for point in points] == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------- illegal cuts


def test_data_dependent_shapes_cannot_cross_and_say_why(tmp_path: Path) -> None:
    cleaned = canonical(models.data_dependent(), tmp_path)
    points = {point.name: point for point in cut_points(cleaned)}
    legal = [name for name, point in points.items() if point.cut is not None]
    assert legal == [INPUT_CUT, "r", OUTPUT_CUT]
    assert points["where"].why_not == "dimension 1 of 'where' depends on the data"
    with pytest.raises(CutUnknown, match="cannot be cut at 'where': dimension 1 of 'where'"):
        find_cut(cleaned, list(points.values()), "where", "model 'm'")
    with pytest.raises(CutUnknown, match="cannot be cut at 'where': dimension 1 of 'where'"):
        extract(cleaned, points["where"])


def test_sequence_cannot_cross(tmp_path: Path) -> None:
    proto = model(
        [
            node("SplitToSequence", ["x"], ["sequence"], axis=1),
            node("SequenceAt", ["sequence", "zero"], ["item"]),
            node("Reshape", ["item", "target"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
        weights(zero=np.array(0), target=np.array([1, 1])),
    )
    points = {point.name: point for point in cut_points(canonical(proto, tmp_path))}
    assert points["sequence"].cut is None
    assert "'sequence'" in points["sequence"].why_not


# ----------------------------------------------------------------------------------- handing values


def test_carry_computes_or_hands_through() -> None:
    class Repeater:
        inputs, outputs = ("x",), ("y",)

        def run(self, feeds: Mapping[str, Array], _: Sequence[str] | None = None) -> list[Array]:
            assert list(feeds) == ["x"]
            return [np.repeat(feeds["x"], 2)]

    values: dict[str, Array] = {"x": np.array([1, 2]), "z": np.array([7])}
    got = carry(Repeater(), values, ["z", "y"])
    assert list(got) == ["z", "y"]
    np.testing.assert_array_equal(got["y"], [1, 1, 2, 2])
    assert got["z"] is values["z"]
    assert carry(None, values, ["x"])["x"] is values["x"]


def test_what_a_part_makes_comes_before_what_it_was_given() -> None:
    class Replacer:
        inputs, outputs = ("x",), ("x",)

        def run(self, feeds: Mapping[str, Array], _: Sequence[str] | None = None) -> list[Array]:
            return [np.zeros(1)]

    np.testing.assert_array_equal(carry(Replacer(), {"x": np.ones(1)}, ["x"])["x"], [0])


def test_carry_refuses_a_value_that_did_not_cross() -> None:
    with pytest.raises(KeyError):
        carry(None, {}, ["missing"])


# ------------------------------------------------------------------------------------- verification


@pytest.mark.parametrize("name", models.ALL)
def test_verify_passes_every_cut(name: str, tmp_path: Path) -> None:
    cleaned = canonical(models.ALL[name](), tmp_path)
    feeds = [random_feed(cleaned, seed) for seed in range(2)]
    for point in cut_points(cleaned):
        if point.cut is not None:
            found = verify(cleaned, extract(cleaned, point), feeds, open_part)
            assert found.passed
            assert (found.cut, found.inputs, found.same_top1) == (point.name, 2, 2)
            assert found.max_abs <= 1e-6


def test_verification_has_the_figures_of_the_largest_difference(tmp_path: Path) -> None:
    cleaned = canonical(models.two_ended(), tmp_path)
    parts = parts_at(cleaned, "early")
    assert parts.second is not None
    ones = np.ones((1, 4), np.float32)
    feed: dict[str, Array] = {"a": ones, "b": ones}

    def off(array: Array) -> Array:
        array[0, 2] += 0.25
        return array

    found = verify(cleaned, parts, [feed], spoiling(parts.second.content, off), tolerance=1.0)
    late = np.tanh(-1.0)
    assert found.max_abs == pytest.approx(0.25, rel=1e-6)
    assert found.max_rel == pytest.approx(0.25 / abs(late), rel=1e-6)
    assert found.nmse == pytest.approx(0.25**2 / (4 * late**2 + 4), rel=1e-6)
    assert found.same_top1 == 0


@pytest.mark.parametrize(
    "spoil",
    [lambda a: a + 0.01, lambda a: a[:, ::-1], lambda a: a * 0, lambda a: a + np.inf],
    ids=["offset", "order", "zeros", "infinite"],
)
@pytest.mark.parametrize("which", ["first", "second"])
def test_wrong_part_does_not_verify(which: str, spoil: Spoil, tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    parts = parts_at(cleaned, "r")
    wrong = {"first": parts.first, "second": parts.second}[which]
    assert wrong is not None
    feed = {"x": np.array([[0.1, 0.5, 0.7, 0.9]], np.float32)}
    with pytest.raises(VerificationError, match="cut at 'r', "):
        verify(cleaned, parts, [feed], spoiling(wrong.content, spoil))


def test_wrong_on_one_of_several_inputs_does_not_verify(tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    parts = parts_at(cleaned, "r")
    assert parts.second is not None
    runs: list[int] = []

    def once(array: Array) -> Array:
        runs.append(1)
        return array + 1 if len(runs) == 2 else array

    feeds = [random_feed(cleaned, seed) for seed in range(3)]
    with pytest.raises(VerificationError):
        verify(cleaned, parts, feeds, spoiling(parts.second.content, once))
    assert len(runs) == 3


@pytest.mark.parametrize("which", ["first", "second"])
def test_nan_never_verifies(which: str, tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    parts = parts_at(cleaned, "r")
    wrong = {"first": parts.first, "second": parts.second}[which]
    assert wrong is not None
    with pytest.raises(VerificationError):
        verify(cleaned, parts, [random_feed(cleaned)], spoiling(wrong.content, with_nan))


def test_nan_after_a_good_input_never_verifies(tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    parts = parts_at(cleaned, "r")
    good, bad = random_feed(cleaned, 1), random_feed(cleaned, 2)
    with_nan(bad["x"])  # head, tail and the uncut model are all NaN alike: it proves nothing
    with pytest.raises(VerificationError):
        verify(cleaned, parts, [good, bad, good], open_part)


def test_infinite_outputs_never_verify(tmp_path: Path) -> None:
    proto = model(
        [node("Relu", ["x"], ["r"]), node("Log", ["r"], ["y"])],
        [info("x", [1, 2])],
        [info("y", [1, 2])],
    )
    cleaned = canonical(proto, tmp_path)
    feed: dict[str, Array] = {"x": np.array([[0.0, 1.0]], np.float32)}
    with pytest.raises(VerificationError):
        verify(cleaned, parts_at(cleaned, "r"), [feed], open_part)


def test_nothing_is_proved_without_inputs(tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    with pytest.raises(VerificationError):
        verify(cleaned, parts_at(cleaned, "r"), [], open_part)


def test_output_of_another_shape_never_verifies(tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    parts = parts_at(cleaned, "r")
    assert parts.second is not None
    feed: dict[str, Array] = {"x": np.full((1, 4), 0.5, np.float32)}
    with pytest.raises(VerificationError):
        verify(cleaned, parts, [feed], spoiling(parts.second.content, lambda array: array[:, :1]))


def test_difference_is_traced_to_the_tensor_where_it_starts(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("RandomNormalLike", ["r"], ["noise"], name="draw"),
            node("Add", ["r", "noise"], ["sum"]),
            node("Tanh", ["sum"], ["t"]),
            node("Neg", ["t"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )
    cleaned = canonical(proto, tmp_path)
    # The file and its canonical form draw the same numbers; a tail alone draws others.
    verifier = Verifier(cleaned, [random_feed(cleaned)], open_part)
    with pytest.raises(VerificationError) as caught:
        verifier.check(parts_at(cleaned, "r"))
    assert "starts at 'noise' in the tail, which node 'draw' (RandomNormalLike)" in str(
        caught.value
    )

    def wrong(file: bytes | Path) -> Runnable:
        return Spoilt(open_part(file), lambda array: array + 1)

    with pytest.raises(VerificationError, match=r"starts at 'r' in the head, which node 'r'"):
        verifier.check(parts_at(cleaned, "t"), head=wrong)


def test_canonical_form_that_differs_from_the_file_is_refused(tmp_path: Path) -> None:
    cleaned = canonical(models.chain(), tmp_path)
    saved(models.chain(), tmp_path / "model.onnx")
    proto = models.chain()
    proto.graph.node[1].op_type = "Abs"
    saved(proto, tmp_path / "model.onnx")
    with pytest.raises(VerificationError, match=r"canonical form of .* differs from the file by"):
        verify(cleaned, parts_at(cleaned, "r"), [random_feed(cleaned)], open_part)
