"""The exception tree: what its docstring draws is what the classes say."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from splitbed import errors
from splitbed.errors import SplitbedError, TransportError, from_exit_code, from_kind


def every_class(root: type[SplitbedError] = SplitbedError) -> list[type[SplitbedError]]:
    """The root and all that is below it, defined in splitbed.errors."""
    return [root, *(c for child in root.__subclasses__() for c in every_class(child))]


def drawn() -> list[tuple[int, str, int]]:
    """Depth, name and exit code of every line of the tree in the module's docstring."""
    assert errors.__doc__ is not None
    block = errors.__doc__.split("```")[1]
    rows = []
    for line in block.strip().splitlines():
        match = re.fullmatch(r"([│├└─ ]*)(\w+) +(\d+)  \S.*", line)
        assert match is not None, line
        rows.append((len(match[1]) // 4, match[2], int(match[3])))
    return rows


CLASSES = every_class()
DRAWN = drawn()


def test_the_drawing_names_every_class_once() -> None:
    names = [name for _, name, _ in DRAWN]
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(c.__name__ for c in CLASSES)


def test_the_drawing_shows_the_real_exit_codes() -> None:
    assert {name: code for _, name, code in DRAWN} == {c.__name__: c.exit_code for c in CLASSES}


def test_the_drawing_shows_the_real_parents() -> None:
    path: list[str] = []
    for depth, name, _ in DRAWN:
        path[depth:] = [name]
        parents = [c.__name__ for c in getattr(errors, name).__mro__ if c in CLASSES]
        assert parents == path[::-1], name


def test_the_drawing_indents_by_one_level_at_a_time() -> None:
    depths = [depth for depth, _, _ in DRAWN]
    assert depths[0] == 0
    assert all(after <= before + 1 for before, after in pairwise(depths))


def test_kinds_are_unique_words() -> None:
    kinds = [c.kind for c in CLASSES]
    assert len(kinds) == len(set(kinds))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", kind) for kind in kinds)


def test_every_class_has_its_own_kind_and_a_docstring() -> None:
    for c in CLASSES:
        assert "kind" in vars(c), c.__name__
        assert c.__doc__, c.__name__


def test_exit_codes_are_none_that_python_or_a_shell_gives() -> None:
    # 0 is success, 126 and above are the shell's; 1 is left to the base alone.
    assert [c for c in CLASSES if c.exit_code == 1] == [SplitbedError]
    assert all(1 <= c.exit_code < 126 for c in CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.kind)
def test_every_class_comes_back_from_its_kind(kind: type[SplitbedError]) -> None:
    error = from_kind(kind.kind, "what happened: do this")
    assert type(error) is kind
    assert str(error) == "what happened: do this"


@pytest.mark.parametrize("kind", ["", "no-such-kind", "USAGE", "usage ", "\x00", "CodecError"])
def test_an_unknown_kind_is_a_transport_error(kind: str) -> None:
    error = from_kind(kind, "a sentence")
    assert type(error) is TransportError
    assert str(error) == "a sentence"


@pytest.mark.parametrize("code", sorted({c.exit_code for c in CLASSES} - {1}))
def test_an_exit_code_gives_an_error_that_ends_with_the_same_code(code: int) -> None:
    error = from_exit_code(code, "a sentence")
    assert error.exit_code == code
    assert str(error) == "a sentence"


@pytest.mark.parametrize("code", [-9, 0, 1, 8, 127, 130])
def test_an_exit_code_that_none_of_ours_has_is_a_transport_error(code: int) -> None:
    assert type(from_exit_code(code, "a sentence")) is TransportError
