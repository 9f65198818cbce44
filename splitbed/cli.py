"""The `splitbed` command: the only module that may reach into every room.

Each command lives in its own room and is imported when it is asked for, so that a device without
plotting or `onnx` still has `splitbed device`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final

from splitbed import __version__, process
from splitbed.errors import UsageError

_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("experiments.commands.demo:main", "the three anchors and several cuts, and a report"),
    "run": ("experiments.commands.run:main", "one configuration, measured from end to end"),
    "report": ("experiments.commands.report:main", "figures and pictures of finished runs"),
    "calibrate": ("experiments.commands.calibrate:main", "statistics that a codec needs"),
    "model inspect": ("experiments.commands.model.inspect:main", "what a model is made of"),
    "model cuts": ("experiments.commands.model.cuts:main", "every place where it can be cut"),
    "model cut": ("experiments.commands.model.cut:main", "its two parts as ONNX files"),
    "model verify": ("experiments.commands.model.verify:main", "proof that cuts change nothing"),
    "model zoo": ("experiments.commands.model.zoo:main", "reference networks, built here"),
    "model published": (
        "experiments.commands.model.published:main",
        "the source documents' tables, computed",
    ),
    "codec bench": (
        "experiments.commands.codec_bench:main",
        "codecs at cuts, against each other and the picture",
    ),
    "codec check": (
        "experiments.commands.codec_check:main",
        "what every codec must do, tried on yours",
    ),
    "codec list": ("experiments.commands.codecs:main", "the codec stages and what each loses"),
    "edge": ("edge_node.__main__:serve", "serve models to devices"),
    "device": ("device_node.__main__:measure", "measure frames against an edge"),
    "link serve": ("netem.commands.serve:serve", "be the link before an edge"),
    "link apply": ("netem.commands.shape:apply", "shape an interface with the kernel's netem"),
    "link change": ("netem.commands.shape:change", "give a shaped interface another profile"),
    "link show": ("netem.commands.shape:show", "what is shaped here, by whom, and what passed"),
    "link clear": ("netem.commands.shape:clear", "take away what an earlier process left"),
    "link check": ("netem.commands.shape:check", "whether this machine's kernel can shape"),
    "link relay": ("netem.commands.servers:relay", "forward connections through a shaped link"),
    "link responder": (
        "netem.commands.servers:responder",
        "answer the probe where there is no relay",
    ),
    "link certify": (
        "netem.commands.certify:certify",
        "measure a link and compare it with a profile",
    ),
    "link trace": ("experiments.commands.link_trace:main", "what a link that changes is like"),
    "link profiles": ("netem.commands.profiles:list_profiles", "the link profiles"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `splitbed`; an exit code (see splitbed.errors)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return process.guarded(lambda: _dispatch(arguments), "splitbed")


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] in ([], ["-h"], ["--help"], ["help"]):
        sys.stdout.write(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"splitbed {__version__}\n")
        return 0
    for length in (2, 1):
        target = _COMMANDS.get(" ".join(arguments[:length]))
        if target is not None:
            return _load(target[0], " ".join(arguments[:length]))(arguments[length:])
    group = [name for name in _COMMANDS if name.startswith(f"{arguments[0]} ")]
    if group and arguments[1:2] in (["-h"], ["--help"]):
        sys.stdout.write(f"usage: splitbed {arguments[0]} COMMAND [--help]\n\n{_about(group)}")
        return 0
    if group:
        raise UsageError(f"'splitbed {arguments[0]}' is followed by one of: " + ", ".join(group))
    raise UsageError(f"there is no command '{arguments[0]}'; see splitbed --help")


def _load(target: str, command: str) -> Callable[[Sequence[str]], int]:
    module, _, name = target.partition(":")
    try:
        found: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), name)
        return found
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("splitbed", "device_node", "edge_node", "netem", "experiments"):
            raise
        extra = {"edge_node": "edge", "device_node": "device"}.get(module.partition(".")[0])
        raise UsageError(
            f"'splitbed {command}' needs the package {missing}: "
            f"pip install 'splitbed[{extra or 'demo'}]'"
        ) from error


def _about(names: Sequence[str]) -> str:
    return "".join(f"  {name:<17}{_COMMANDS[name][1]}\n" for name in names)


def _help() -> str:
    lines = [
        "splitbed: cut an ONNX model, code the cut, send it over a certified link, measure it.",
        "",
        "usage: splitbed COMMAND [--help]",
        "",
    ]
    lines += _about(list(_COMMANDS)).splitlines()
    lines += [
        "",
        "exit codes: 0 done, 2 a mistake in what was asked, 3 running or coding a model",
        "failed, 4 link, 5 connection, 6 disk, 7 a run that is not complete,",
        "130 interrupted",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
