"""What a person writes: flags, TOML, and the sentences that answer mistakes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from splitbed import config
from splitbed.errors import UsageError


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table within a table."""

    rate: int


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Does a thing
    on two lines.

    Details that --help leaves out.
    """

    model: Annotated[Path, config.POSITIONAL, Meta(description="an ONNX file")]
    device_address: Annotated[str, Meta(description="where it listens")]
    timeout_s: Annotated[float, Meta(description="how long to wait, at 100 % load", gt=0)] = 2.5
    window: Annotated[int, Meta(description="frames in flight", ge=1, le=256)] = 1
    codec: Annotated[tuple[str, ...], Meta(description="one for each tensor")] = ()
    provider: Annotated[Literal["auto", "cpu"], Meta(description="where it runs")] = "auto"
    keep: Annotated[bool, Meta(description="leave the files")] = False
    warm: Annotated[bool, Meta(description="warm up first")] = True
    out: Annotated[Path | None, Meta(description="folder of results")] = None
    seed: Annotated[int | None, Meta(description="of all that is random")] = None
    again: Annotated[int, Meta(description="how often more", ge=0)] = 0


class Many(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Takes several."""

    folders: Annotated[tuple[Path, ...], config.POSITIONAL, Meta(description="folders")]
    name: str = ""


def options(*argv: str) -> Options:
    return config.from_command_line(Options, argv, command="splitbed thing", table="run")


def many(*argv: str) -> Many:
    return config.from_command_line(Many, argv, command="splitbed many", table="run")


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    """Writes a file of that text and gives its path as `--config` takes it."""

    def write(text: str) -> str:
        path = tmp_path / "settings.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def refused(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        options(*argv)
    return str(caught.value)


def test_defaults_and_required() -> None:
    assert options("m.onnx", "--device-address", "a:1") == Options(Path("m.onnx"), "a:1")


def test_every_kind_of_flag() -> None:
    given = options(
        *["m.onnx", "--device-address", "a:1", "--timeout-s", "3", "--window", "4"],
        *["--codec", "raw", "--codec", "quantize:4+zstd", "--provider", "cpu", "--keep"],
        *["--no-warm", "--out", "results", "--seed", "-7"],
    )
    assert given == Options(
        model=Path("m.onnx"),
        device_address="a:1",
        timeout_s=3.0,
        window=4,
        codec=("raw", "quantize:4+zstd"),
        provider="cpu",
        keep=True,
        warm=False,
        out=Path("results"),
        seed=-7,
    )


def test_flags_win_over_the_file_and_the_file_over_defaults(toml: Any) -> None:
    file = toml('[run]\ndevice_address = "f:1"\nwindow = 8\nkeep = true\nmodel = "f.onnx"\n')
    given = options("--config", file, "--window", "2", "--no-keep")
    assert given == Options(Path("f.onnx"), "f:1", window=2, keep=False)
    assert options("g.onnx", "--config", file).model == Path("g.onnx")


def test_a_list_of_flags_replaces_the_list_in_the_file(toml: Any) -> None:
    file = toml('[run]\nmodel = "m"\ndevice_address = "a:1"\ncodec = ["raw", "cast"]\n')
    assert options("--config", file).codec == ("raw", "cast")
    assert options("--config", file, "--codec", "zstd").codec == ("zstd",)


def test_an_integer_serves_as_a_float_in_the_file(toml: Any) -> None:
    file = toml('[run]\nmodel = "m"\ndevice_address = "a:1"\ntimeout_s = 3\nout = "~/x"\n')
    given = options("--config", file)
    assert given.timeout_s == 3.0
    assert isinstance(given.timeout_s, float)
    assert given.out == Path.home() / "x"


def test_each_command_reads_its_own_table(toml: Any) -> None:
    file = toml('[edge]\nanything = 1\n[run]\nmodel = "m"\ndevice_address = "a:1"\n[demo]\n')
    assert options("--config", file) == Options(Path("m"), "a:1")
    assert many("a", "--config", toml("[edge]\nport = 1\n")) == Many((Path("a"),))


def test_positional_lists(toml: Any) -> None:
    assert many("a", "b", "--name", "n") == Many((Path("a"), Path("b")), "n")
    file = toml('[run]\nfolders = ["c"]\n')
    assert many("--config", file) == Many((Path("c"),))
    assert many("a", "--config", file) == Many((Path("a"),))
    with pytest.raises(UsageError, match="splitbed many needs FOLDERS; see splitbed many --help"):
        many("--name", "n")


def test_missing_options_are_named_as_they_are_written() -> None:
    assert refused() == (
        "splitbed thing needs MODEL, --device-address; see splitbed thing --help"
    )  # fmt: skip
    assert refused("m") == "splitbed thing needs --device-address; see splitbed thing --help"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--window", "many"], "--window many: expected"),
        (["--window", "0"], "--window 0: expected a whole number >= 1"),
        (["--window", "1.5"], "--window 1.5: expected"),
        (["--timeout-s", "0"], "--timeout-s 0: expected a number > 0"),
        (["--provider", "tpu"], "--provider tpu: choose from auto, cpu"),
        (["--wndow", "1"], "unrecognized arguments: --wndow 1; see splitbed thing --help"),
        (["--win", "1"], "unrecognized arguments: --win 1"),  # no abbreviations
        (["--keep=yes"], "ignored explicit argument 'yes'"),
        (["--window"], "argument --window: expected one argument"),
        (["two"], "unrecognized arguments: two"),
    ],
)
def test_a_wrong_flag_is_named(argv: list[str], sentence: str) -> None:
    assert sentence in refused("m", "--device-address", "a:1", *argv)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[run]\nwindw = 2\n", "unknown key 'windw' in [run] of {file}; did you mean 'window'?"),
        ("[run]\nzzzzzz = 2\n", "unknown key 'zzzzzz' in [run] of {file}"),
        ('[run]\nwindow = "2"\n', "'window' in [run] of {file}: expected a whole number, got text"),
        (
            "[run]\nwindow = 2.5\n",
            "'window' in [run] of {file}: expected a whole number, got a number",
        ),
        ("[run]\nwindow = 999\n", "'window' in [run] of {file}: expected a whole number <= 256"),
        (
            "[run]\nkeep = 1\n",
            "'keep' in [run] of {file}: expected true or false, got a whole number",
        ),
        ("[run]\ncodec = 'raw'\n", "'codec' in [run] of {file}: expected `array`, got text"),
        ("[run]\ncodec = ['raw', 1]\n", "expected text, got a whole number - at `$[1]`"),
        ("[run]\nout = 1\n", "'out' in [run] of {file}: expected"),
        ("[run.more]\na = 1\n", "unknown key 'more' in [run] of {file}"),
        ("window = 2\n", "{file} has 'window' at the top: everything goes into one of"),
        ("[rum]\nwindow = 2\n", "{file} has 'rum' at the top"),
        ("run = 3\n", "{file} has 'run' at the top"),
        ("[run\n", "{file} is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(toml: Any, text: str, sentence: str) -> None:
    file = toml(text)
    assert sentence.format(file=file) in refused("m", "--device-address", "a:1", "--config", file)


def test_a_wrong_key_is_refused_although_a_flag_overrides_it(toml: Any) -> None:
    file = toml('[run]\nwindow = "2"\n')
    assert "'window' in [run]" in refused("m", "--window", "2", "--config", file)


def test_every_table_is_listed_where_none_fits(toml: Any) -> None:
    sentence = refused("--config", toml("x = 1\n"))
    assert all(f"[{table}]" in sentence for table in config.TABLES)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot read" in refused("--config", str(tmp_path / "none.toml"))
    assert "cannot read" in refused("--config", str(tmp_path))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe[run]")
    assert "is not a text file in UTF-8" in refused("--config", str(binary))


def test_help_shows_every_description_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        options("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Does a thing on two lines." in text
    assert "Details that --help leaves out" not in text
    for field in msgspec.inspect.type_info(Options).fields:  # type: ignore[attr-defined]
        flag = field.name.upper() if field.name == "model" else f"--{field.name}".replace("_", "-")
        assert flag in text
        described = field.type
        while not getattr(described, "extra_json_schema", None):
            described = described.type
        assert described.extra_json_schema["description"] in text
    assert "(default 2.5)" in text
    assert "(default 0)" in text
    assert "auto|cpu" in text
    assert "--no-warm" in text
    assert "--config FILE TOML file; its [run] table is read" in text


def test_help_ends_with_the_epilog(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config.from_command_line(
            Many, ["--help"], command="splitbed many", table="run", epilog="for example:\n  x  y"
        )
    assert capsys.readouterr().out.endswith("for example:\n  x  y\n")


def test_read_token(tmp_path: Path) -> None:
    assert config.read_token(None) == ""
    path = tmp_path / "token"
    path.write_text("  secret \n", encoding="utf-8")
    assert config.read_token(path) == "secret"
    path.write_text(" \n", encoding="utf-8")
    with pytest.raises(UsageError, match="is empty"):
        config.read_token(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read the token"):
        config.read_token(path)
    with pytest.raises(UsageError, match="cannot read the token"):
        config.read_token(tmp_path / "none")


def test_the_command_line_says_what_differs_from_the_defaults() -> None:
    plain = Options(Path("m.onnx"), "a:1")
    assert config.command_line(plain, "splitbed thing") == (
        "splitbed thing m.onnx --device-address a:1"
    )
    assert config.command_line(many("a b", "c"), "splitbed many") == "splitbed many 'a b' c"


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("--timeout-s", "7", "--window", "4", "--keep", "--no-warm", "--seed", "0"),
        ("--codec", "raw", "--codec", "quantize:4+zstd:3", "--out", "a folder/$x"),
    ],
)
def test_the_command_line_gives_the_same_options_again(argv: tuple[str, ...]) -> None:
    found = options("it's one.onnx", "--device-address", "a:1", *argv)
    text = config.command_line(found, "splitbed thing")
    assert options(*shlex.split(text)[2:]) == found


def test_a_key_may_be_written_like_its_flag(toml: Any) -> None:
    file = toml("[run]\ntimeout-s = 2.0\n")
    assert options("m", "--device-address", "a:1", "--config", file).timeout_s == 2.0
