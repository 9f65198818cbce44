"""What a person writes: flags and TOML, both from one frozen structure.

A command's options are the fields of one `msgspec.Struct`. Field `timeout_s` is the flag
`--timeout-s` and the TOML key `timeout_s`; its `Meta(description=...)` is the help text. Flags win
over the file. Unknown keys and wrong types are refused with the place named.

One TOML file may serve several commands: each reads its own table (`[edge]`, `[device]`, ...).
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import textwrap
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, get_type_hints

import msgspec
from msgspec import Meta
from msgspec.inspect import BoolType, CollectionType, LiteralType, NoneType, StructType, UnionType

from splitbed.errors import UsageError

T = TypeVar("T", bound=msgspec.Struct)

TABLES: Final = (
    *("edge", "device", "relay", "responder", "certify", "profiles", "hosts", "trace"),
    *("serve", "apply", "change", "show", "clear", "check"),
    *("run", "demo", "report", "calibrate", "bench", "network_sweep", "codec_check"),
    *("inspect", "cuts", "cut", "verify", "zoo", "published"),
)
"""The tables that one configuration file may hold."""

POSITIONAL: Final = Meta(extra={"positional": True})
"""Marks a field that is written without its flag."""


def from_command_line(
    kind: type[T], argv: Sequence[str], *, command: str, table: str, epilog: str = ""
) -> T:
    """The options of `command`, from `argv` over the `[table]` of `--config FILE`.

    `kind`'s docstring is the description. Raises UsageError (SystemExit for `--help`).
    """
    parser = _Parser(
        prog=command,
        description=textwrap.fill(_first_paragraph(kind.__doc__ or ""), 79),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"TOML file; its [{table}] table is read")
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, StructType)
    hints = get_type_hints(kind, include_extras=True)
    for field in info.fields:
        _add(parser, field)
    given = vars(parser.parse_args(list(argv)))
    file = given.pop("config", None)
    values = {} if file is None else _table(Path(file), table, kind)
    written = {field.name: _written(field) for field in info.fields}
    for name, text in given.items():
        values[name] = _from_text(text, hints[name], written[name])
    missing = [f for f in info.fields if f.required and f.name not in values]
    if missing:
        wanted = ", ".join(_written(field) for field in missing)
        raise UsageError(f"{command} needs {wanted}; see {command} --help")
    return _convert(values, kind, f"the options of {command}")


def command_line(options: msgspec.Struct, command: str) -> str:
    """The command that gives these options again: what differs from the defaults, shell-quoted."""
    info = msgspec.inspect.type_info(type(options))
    assert isinstance(info, StructType)
    words = command.split()
    for field in info.fields:
        value = getattr(options, field.name)
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if not field.required and value == default:
            continue
        written = _written(field)
        if isinstance(value, bool):
            words.append(written if value else f"--no-{written.removeprefix('--')}")
        elif not written.startswith("--"):
            words += map(str, value if isinstance(value, tuple) else (value,))
        else:
            for item in value if isinstance(value, tuple) else (value,):
                words += [written, str(item)]
    return shlex.join(words)


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a plain dictionary."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _add(parser: argparse.ArgumentParser, field: msgspec.inspect.Field) -> None:
    description, positional, kind = "", False, field.type
    while isinstance(kind, msgspec.inspect.Metadata):
        extra = kind.extra or {}
        positional = positional or bool(extra.get("positional"))
        description = (kind.extra_json_schema or {}).get("description", description)
        kind = kind.type
    if isinstance(kind, UnionType):
        kind = next(t for t in kind.types if not isinstance(t, NoneType))
    while isinstance(kind, msgspec.inspect.Metadata):
        description = description or (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    # By identity: 0 is a default to be told, and equals False.
    silent = field.required or default is None or default is False or default in ("", ())
    shown = "" if silent else f" (default {default})"
    options: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": (description + shown).replace("%", "%%"),
    }
    if isinstance(kind, BoolType):
        options["action"] = argparse.BooleanOptionalAction
    else:
        if isinstance(kind, LiteralType):
            options["metavar"] = "|".join(map(str, kind.values))
        else:
            options["metavar"] = field.name.rsplit("_", 1)[-1].upper()
        if isinstance(kind, CollectionType) and not positional:
            options["action"] = "append"
    if positional:
        options |= {"metavar": field.name.upper()}
        many = isinstance(kind, CollectionType)
        parser.add_argument(field.name, nargs="*" if many else "?", **options)
    else:
        parser.add_argument(f"--{_flag(field.name)}", dest=field.name, **options)


def _table(path: Path, table: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    content = load_toml(path)
    for name, value in content.items():
        if name not in TABLES or not isinstance(value, dict):
            raise UsageError(
                f"{path} has '{name}' at the top: everything goes into one of the tables "
                + ", ".join(f"[{known}]" for known in TABLES)
            )
    # A key may be written like the flag.
    values = {name.replace("-", "_"): value for name, value in content.get(table, {}).items()}
    known = kind.__struct_fields__
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"unknown key '{name}' in [{table}] of {path}{hint}")
    _convert_partly(values, kind, f"[{table}] of {path}")
    return dict(values)


def _convert_partly(values: dict[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    hints = get_type_hints(kind, include_extras=True)
    for name, value in values.items():
        try:
            msgspec.convert(value, hints[name], strict=True, dec_hook=_decode)
        except msgspec.ValidationError as error:
            raise UsageError(f"'{name}' in {where}: {_clause(error)}") from error


def _from_text(text: object, hint: Any, flag: str) -> Any:
    try:
        return msgspec.convert(text, hint, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        shown = " ".join(map(str, text)) if isinstance(text, list) else text
        choices = _choices(hint)
        if choices and "enum" in str(error):
            raise UsageError(f"{flag} {shown}: choose from {', '.join(choices)}") from error
        clause = _clause(error).partition(" - at `$[")[0]  # the place is the flag
        raise UsageError(f"{flag} {shown}: {clause}") from error


def _choices(hint: Any) -> list[str]:
    """What a field of fixed words may be, through everything that is around them."""
    kind = msgspec.inspect.type_info(hint)
    while not isinstance(kind, LiteralType):
        if isinstance(kind, msgspec.inspect.Metadata):
            kind = kind.type
        elif isinstance(kind, UnionType):
            kind = next(t for t in kind.types if not isinstance(t, NoneType))
        elif isinstance(kind, CollectionType | msgspec.inspect.VarTupleType):
            kind = kind.item_type
        else:
            return []
    return [str(value) for value in kind.values]


def _convert(values: dict[str, Any], kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(values, kind, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {_clause(error)}") from error


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        if isinstance(value, str):
            return Path(value).expanduser()
        if isinstance(value, Path):
            return value
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


_TYPE_NAMES: Final = {
    " | null`": "`",
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "text",
    "`bool`": "true or false",
    "`Path`": "a path",
}


def _clause(error: msgspec.ValidationError) -> str:
    text = str(error)
    for ours, plain in _TYPE_NAMES.items():
        text = text.replace(ours, plain)
    return text[:1].lower() + text[1:]


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _written(field: msgspec.inspect.Field) -> str:
    kind = field.type
    while isinstance(kind, msgspec.inspect.Metadata):
        if (kind.extra or {}).get("positional"):
            return field.name.upper()
        kind = kind.type
    return f"--{_flag(field.name)}"


def _first_paragraph(doc: str) -> str:
    return " ".join(doc.split("\n\n")[0].split())


def read_token(path: Path | None) -> str:
    """The token in a file, without the white space around it; "" without a file."""
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the token in {path}: {error}") from error
    if not token:
        raise UsageError(f"the token file {path} is empty")
    return token
