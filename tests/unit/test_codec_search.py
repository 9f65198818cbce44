"""`auto`: the smallest codec within a target, honestly judged, found once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import experiments.codec_search
from experiments import choice_cache, gestures
from experiments.choice_cache import ChoiceCache, choice_key
from experiments.codec_families import FEATURES, PICTURES, WHOLE_NUMBERS, Family, families_for
from experiments.codec_judge import Judgement
from experiments.codec_planning import plan_codec
from experiments.codec_search import CodecChoice, CodecSearch, Trial
from experiments.cut_runner import CutRunner
from experiments.pictures import PictureSet, digests, read_pictures
from experiments.preparation import PreparedModel, calibration_of, prepare_cut, prepare_model
from splitbed import codec
from splitbed.codec import Target
from splitbed.errors import UsageError
from splitbed.progress import Progress
from splitbed.task import read_picture
from splitbed.tensor import Array
from tests.integration.nodes import GESTURE

ONE_POINT = Target(1.0)


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return prepare_model(GESTURE)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    folder = tmp_path_factory.mktemp("pictures")
    gestures.write_folder(folder, gestures.HELD_OUT_SEED, 24)
    return read_pictures(folder, None)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "splitbed" / "auto"


def searched(
    model: PreparedModel, pictures: PictureSet, cut: str = "layer3", target: Target = ONE_POINT
) -> CodecChoice:
    return search_of(model, pictures, cut, target).found()


def search_of(
    model: PreparedModel, pictures: PictureSet, cut: str, target: Target = ONE_POINT
) -> CodecSearch:
    prepared = prepare_cut(model, cut)
    runner = CutRunner(model, prepared, 1)
    kept = [
        runner.boundary(model.preprocessor.picture(read_picture(path))) for path in pictures.paths
    ]
    return CodecSearch(model, prepared, runner, pictures, kept.__getitem__, target, 0)


def test_every_rung_is_a_codec_and_families_fit_their_cuts(model: PreparedModel) -> None:
    for family in (*FEATURES, *PICTURES, *WHOLE_NUMBERS):
        assert len(set(family.rungs)) == len(family.rungs)
        for text in family.rungs:
            codec.parse(text)
    assert families_for(prepare_cut(model, "@picture").cut) == PICTURES
    assert families_for(prepare_cut(model, "@result").cut) == WHOLE_NUMBERS
    assert families_for(prepare_cut(model, "layer3").cut) == FEATURES


def test_bytes_rise_along_a_family(model: PreparedModel, pictures: PictureSet) -> None:
    """What bisection relies on."""
    search = search_of(model, pictures, "layer3")
    for family in FEATURES[:3]:
        sizes = []
        for text in family.rungs[:: max(1, len(family.rungs) // 6)]:
            payloads, _ = search._coded(text, 0)
            sizes.append(sum(len(part) for one in payloads for part in one))
        assert sizes == sorted(sizes), family.name


class Scripted:
    """A judge that finds good what a test says."""

    def __init__(self, good: Callable[[str], bool], search: Tried) -> None:
        self._good, self._search = good, search
        self.asked: list[str] = []

    def anchor(self, place: int, outputs: Mapping[str, Array]) -> None:
        pass

    def judged(self, coded: Any) -> Judgement:
        assert len(list(coded)) == 24
        return Judgement(good=self._good(self._search.trying), pictures=24)

    def close(self) -> None:
        pass


class Tried(CodecSearch):
    trying = ""

    def _try(self, text: str, left: int) -> bool:
        self.trying = text
        return super()._try(text, left)

    def _coded(self, text: str, left: int) -> tuple[Any, Any]:
        """Sizes by the text alone: `3:120` is the codec 3 of 120 bytes."""
        size = int(text.partition(":")[2])
        return [[b"x" * size]] * 24, [[]] * 24

    def _decoded(self, payloads: Any, codecs: Any, left: int) -> Any:
        return iter(range(24))


@given(
    sizes=st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=25), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_bisection_finds_what_trying_all_of_them_finds(
    sizes: list[list[int]], data: st.DataObject
) -> None:
    """Where bytes rise and losses fall along each family, the smallest good codec is found."""
    families = tuple(
        Family(str(number), tuple(f"{number}.{i}:{size}" for i, size in enumerate(sorted(one))))
        for number, one in enumerate(sizes)
    )
    good: set[str] = set()
    for family in families:
        good |= set(family.rungs[data.draw(st.integers(0, len(family.rungs))) :])
    search = Tried.__new__(Tried)
    search._families = families
    search._pictures = PictureSet(tuple(map(Path, map(str, range(24)))), {})
    search._target, search._trials = ONE_POINT, []
    search._best = None
    search._wanted, search._anchored = 99, True
    search._progress = Progress("x", 1)
    search._judge = Scripted(good.__contains__, search)
    for family in families:
        search._descend(family, 0)
    wanted = min((int(text.partition(":")[2]) for text in good), default=None)
    best: tuple[float, str, Judgement] | None = search._best
    assert (best and best[0]) == wanted
    steps = sum(len(family.rungs).bit_length() for family in families)
    assert len(search._trials) <= steps


def test_what_is_found_keeps_within_its_target(model: PreparedModel, pictures: PictureSet) -> None:
    found = searched(model, pictures)
    assert found.asked == "auto:1pp,98%"
    assert found.judgement.good
    assert found.judgement.labelled == found.judgement.pictures == 24
    assert found.payload_bytes < prepare_cut(model, "layer3").cut.nbytes / 12
    smaller = [t for t in found.trials if t.payload_bytes and t.payload_bytes < found.payload_bytes]
    assert all(t.judgement is not None and not t.judgement.good for t in smaller)
    strict = searched(model, pictures, target=Target(0.0, 100.0))
    assert codec.is_lossless(strict.codec)
    assert strict.payload_bytes > found.payload_bytes
    assert found.sentence.startswith(f"auto:1pp,98% -> {found.codec}, ")
    assert "loss +0.0 points (24 labelled)" in found.sentence


def test_without_labels_answers_are_held_against_the_uncut_model(
    model: PreparedModel, pictures: PictureSet
) -> None:
    found = searched(model, PictureSet(pictures.paths, {}))
    assert found.judgement.labelled == 0
    assert found.judgement.expected_lost_points is None
    assert "labelled" not in found.sentence


def test_the_picture_and_whole_numbers(model: PreparedModel, pictures: PictureSet) -> None:
    assert searched(model, pictures, "@picture").codec.startswith(("jpeg:", "png"))
    assert codec.is_lossless(searched(model, pictures, "@result").codec)


def test_outputs_instead_of_classes(model: PreparedModel, pictures: PictureSet) -> None:
    found = searched(model, pictures, target=Target(nmse=0.02))
    assert found.judgement.nmse is not None
    assert 0 < found.judgement.nmse <= 0.02
    assert "nMSE" in found.sentence
    finer = searched(model, pictures, target=Target(nmse=0.0005))
    assert finer.payload_bytes > found.payload_bytes


def test_no_codec_is_judged_on_what_it_was_fitted_to(
    model: PreparedModel, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[Path]] = []

    def spied(model: Any, cut: Any, paths: Sequence[Path], boundaries: Any, tail: Any) -> Any:
        seen.append(set(paths))
        return calibration_of(model, cut, paths, boundaries, tail)

    monkeypatch.setattr(experiments.codec_search, "calibration_of", spied)
    search = search_of(model, pictures, "layer3")
    search.found()
    assert len(seen) == 3
    for fold, fitted in zip(search._folds, seen, strict=True):
        assert fitted == set(pictures.paths) - set(fold)


def test_refusals(model: PreparedModel, pictures: PictureSet) -> None:
    few = PictureSet(pictures.paths[:7], pictures.labels)
    with pytest.raises(UsageError, match="on 8 pictures at least, and there are 7"):
        searched(model, few)
    raw = PreparedModel(
        model.canonical, model.points, model.task.__class__(input=model.task.input, output="raw"),
        model.preprocessor,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"are no classes .* write auto:nmse=0\.01"):
        searched(raw, pictures)


# --------------------------------------------------------------------------------------- the cache


def test_a_search_is_made_once(
    model: PreparedModel, pictures: PictureSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = prepare_cut(model, "layer3")
    first = plan_codec(model, cut, "auto:1pp", lambda: pictures)
    assert first.choice is not None
    assert first.planned.codec == first.choice.codec
    assert set(first.planned.digests) == set(digests(pictures.paths).values())
    (kept,) = cache.iterdir()
    assert kept.suffix == ".json"

    def again(_: object) -> CodecChoice:
        raise AssertionError("searched again")

    monkeypatch.setattr(CodecSearch, "found", again)
    assert plan_codec(model, cut, "auto:1pp", lambda: pictures) == first
    for other in ("auto:2pp", "auto:1pp,97%"):
        with pytest.raises(AssertionError, match="searched again"):
            plan_codec(model, cut, other, lambda: pictures)
    with pytest.raises(AssertionError, match="searched again"):
        plan_codec(model, cut, "auto:1pp", lambda: pictures, cached=False)
    kept.write_bytes(kept.read_bytes()[:-9])  # a damaged file is none
    with pytest.raises(AssertionError, match="searched again"):
        plan_codec(model, cut, "auto:1pp", lambda: pictures)


def test_a_key_is_all_that_a_search_depends_on(
    model: PreparedModel, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = prepare_cut(model, "layer3")
    first = choice_key(model, cut, pictures, ONE_POINT, 0)
    assert choice_key(model, prepare_cut(model, "layer3"), pictures, Target(1.0), 0) == first
    name = pictures.paths[0].name
    others = [
        choice_key(model, prepare_cut(model, "layer4"), pictures, ONE_POINT, 0),
        choice_key(model, cut, PictureSet(pictures.paths[1:], pictures.labels), ONE_POINT, 0),
        choice_key(model, cut, PictureSet(pictures.paths, {name: 9}), ONE_POINT, 0),
        choice_key(model, cut, pictures, Target(1.5), 0),
        choice_key(model, cut, pictures, ONE_POINT, 1),
    ]
    monkeypatch.setattr(choice_cache, "VERSION", 99)
    others.append(choice_key(model, cut, pictures, ONE_POINT, 0))
    assert len({first, *others}) == 7


def test_a_cache_that_cannot_be_kept_is_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    found = CodecChoice("auto:1pp,98%", "raw", 1.0, Judgement(good=True, pictures=8), (Trial("x"),))
    assert ChoiceCache(tmp_path / "file" / "auto").choice("key", lambda: found) == found
    assert "not kept for the next time" in capsys.readouterr().err
    assert ChoiceCache(None).choice("key", lambda: found) == found


def test_ctrl_c_leaves_nothing(
    model: PreparedModel, pictures: PictureSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = CodecSearch._try
    calls = []

    def interrupted(search: CodecSearch, text: str, left: int) -> bool:
        calls.append(text)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tried(search, text, left)

    monkeypatch.setattr(CodecSearch, "_try", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan_codec(model, prepare_cut(model, "layer3"), "auto:1pp", lambda: pictures)
    assert not cache.exists()
