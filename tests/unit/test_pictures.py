"""Sets of pictures, their labels, and what is held out of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from experiments.pictures import PictureSet, digests, folds, hold_out, read_pictures
from splitbed.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png", "c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def label_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbered(count: int) -> PictureSet:
    return PictureSet(tuple(Path(f"{number:03}.png") for number in range(count)), {})


def test_pictures_come_by_name(folder: Path) -> None:
    found = read_pictures(folder, None)
    assert [path.name for path in found.paths] == ["a.png", "b.png", "c.jpg"]
    assert found.labels == {}


def test_labels_beside_the_pictures_are_read(folder: Path) -> None:
    label_file(folder / "labels.tsv", "name\tclass\tmore", "a.png\t3\tx", "b.png\t-1")
    assert read_pictures(folder, None).labels == {"a.png": 3, "b.png": -1}


def test_label_file_that_was_named_wins(folder: Path, tmp_path: Path) -> None:
    label_file(folder / "labels.tsv", "name\tclass", "a.png\t3")
    other = label_file(tmp_path / "other.txt", "name\tclass", "a.png\t7")
    assert read_pictures(folder, other).labels == {"a.png": 7}
    with pytest.raises(UsageError, match=r"cannot read the labels .*absent\.tsv"):
        read_pictures(folder, folder / "absent.tsv")


def test_header_alone_labels_nothing(folder: Path) -> None:
    label_file(folder / "labels.tsv", "name\tclass")
    assert read_pictures(folder, None).labels == {}


@pytest.mark.parametrize("line", ["a.png", "a.png 3", "a.png\tcat", "a.png\t", "a.png\t-", ""])
def test_bad_line_is_named(line: str, folder: Path) -> None:
    label_file(folder / "labels.tsv", "name\tclass", "a.png\t3", line, "b.png\t1")
    with pytest.raises(UsageError, match=r"line 3 of .*labels\.tsv should hold a file name"):
        read_pictures(folder, None)


def test_two_signs_are_a_bad_line(folder: Path) -> None:
    label_file(folder / "labels.tsv", "name\tclass", "a.png\t--3")
    with pytest.raises(UsageError, match="line 2 of"):
        read_pictures(folder, None)


def test_label_file_that_is_no_text(folder: Path) -> None:
    (folder / "labels.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read the labels"):
        read_pictures(folder, None)


@pytest.mark.parametrize(
    ("size", "count", "names"),
    [(9, 3, "036"), (10, 4, "0257"), (3, 3, "012"), (3, 9, "012"), (5, 1, "0"), (0, 3, "")],
)
def test_spread_is_even(size: int, count: int, names: str) -> None:
    assert "".join(str(int(path.stem)) for path in numbered(size).spread(count)) == names


def test_hold_out_is_drawn_by_the_seed() -> None:
    pictures = numbered(30)
    first = hold_out(pictures, 8, seed=1)
    assert first == hold_out(pictures, 8, seed=1)
    assert first != hold_out(pictures, 8, seed=2)
    assert len(set(first)) == 8
    assert set(first) <= set(pictures.paths)


@pytest.mark.parametrize(("count", "wanted", "taken"), [(30, 99, 10), (3, 8, 1), (30, 4, 4)])
def test_at_most_a_third_is_held_out(count: int, wanted: int, taken: int) -> None:
    assert len(hold_out(numbered(count), wanted, seed=0)) == taken


def test_too_few_to_hold_out() -> None:
    with pytest.raises(UsageError, match="2 pictures are too few"):
        hold_out(numbered(2), 8, seed=0)


def test_rest_of_a_set_keeps_order_and_labels() -> None:
    pictures = PictureSet(numbered(9).paths, {"000.png": 4})
    held = hold_out(pictures, 3, seed=0)
    rest = pictures.without(held)
    assert set(rest.paths) | set(held) == set(pictures.paths)
    assert not set(rest.paths) & set(held)
    assert list(rest.paths) == sorted(rest.paths)
    assert rest.labels == pictures.labels


def test_labels_without_a_header_lose_none(folder: Path) -> None:
    label_file(folder / "labels.tsv", "a.png\t3", "b.png\t-1")
    assert read_pictures(folder, None).labels == {"a.png": 3, "b.png": -1}


def test_digests_are_of_the_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.png", "same.png", "other.png"))
    one.write_bytes(b"picture")
    same.write_bytes(b"picture")
    other.write_bytes(b"another")
    found = digests([one, same, other])
    assert found[one] == found[same] != found[other]
    with pytest.raises(UsageError, match=r"cannot read the picture .*gone\.png"):
        digests([tmp_path / "gone.png"])


@pytest.mark.parametrize(("pictures", "count"), [(124, 3), (7, 2), (5, 5)])
def test_folds_are_disjoint_and_hold_every_picture(pictures: int, count: int) -> None:
    whole = numbered(pictures)
    found = folds(whole, count, seed=1)
    assert sorted(path for fold in found for path in fold) == list(whole.paths)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert found == folds(whole, count, seed=1)
    assert pictures == count or found != folds(whole, count, seed=2)


def test_folds_are_mixed() -> None:
    """Sets are often sorted by class: no fold is a stretch of the list, or every third of it."""
    whole = numbered(90)
    for fold in folds(whole, 3, seed=0):
        places = sorted(whole.paths.index(path) for path in fold)
        assert len({b - a for a, b in pairwise(places)}) > 2


def test_more_folds_than_pictures() -> None:
    with pytest.raises(UsageError, match=r"2 pictures are too few for 3 folds.*--folds"):
        folds(numbered(2), 3, seed=0)
