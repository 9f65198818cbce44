"""The import order of the house, read off the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("splitbed", "device_node", "edge_node", "netem", "experiments")

# Inside `splitbed`, by module or sub-package: what each may import of the house. Strictly downward.
BASE = {
    "errors",
    "address",
    "quantiser",
    "pair",
    "tensor",
    "link",
    "chance",
    "certificate",
    "session",
    "runnable",
}
MIDDLE = {
    *(
        "record",
        "config",
        "codec",
        "task",
        "engine",
        "clock",
        "clock_model",
        "clock_frames",
        "resources",
    ),
    *(
        "host",
        "progress",
        "process",
        "run_folder",
        "load",
        "percentile",
        "dependence",
        "latency",
        "student",
        "flags",
    ),
    *("processor", "engine_probe", "limits"),
}
ALLOWED_INSIDE: dict[str, set[str]] = {
    "errors": set(),
    "address": {"errors"},
    "quantiser": {"errors"},
    "pair": {"errors"},
    "tensor": {"errors", "quantiser", "pair"},
    "link": {"errors"},
    "chance": {"link"},
    "certificate": {"errors", "link", "chance"},
    "runnable": {"tensor"},
    "session": {"errors", "quantiser", "pair", "tensor", "link"},
    "process": {"errors"},
    "progress": set(),
    "load": {"errors"},
    "flags": {"session"},
    "percentile": set(),
    "student": set(),
    "dependence": {"percentile", "student"},
    "latency": {"percentile", "dependence", "load", "record"},
    "config": {"errors"},
    "clock_model": set(),
    "clock": {"session", "clock_model"},
    "clock_frames": {"session", "clock"},
    "record": {"errors", "tensor", "link", "certificate", "session"},
    "run_folder": {"errors", "certificate", "session", "record"},
    "limits": {"errors"},
    "resources": {"errors", "session", "record"},
    "codec": {"errors", "quantiser", "pair", "tensor", "session"},
    "task": {"errors", "tensor", "config"},
    "engine": {"errors", "tensor", "session"},
    "processor": set(),
    "engine_probe": {"errors", "processor"},
    "host": {"engine", "codec", "processor"},
    "wire": {"errors", "quantiser", "pair", "tensor", "link", "session"},
    "transport": BASE | {"wire"},
    "graph": {"errors", "quantiser", "pair", "tensor", "runnable"},
    "zoo": {"errors", "tensor"},
    "cli": BASE | MIDDLE | {"wire", "transport", "graph", "zoo"},
}
# What the rooms beside `splitbed` may import of it; None: all of it but the command line.
ALLOWED_FROM_ROOMS: dict[str, set[str] | None] = {
    "netem": {"errors", "address", "link", "chance", "certificate", "config", "process"},
    "device_node": BASE | MIDDLE | {"wire", "transport"},
    "edge_node": None,
    "experiments": None,
}
ROOMS_BESIDE: dict[str, set[str]] = {
    "splitbed": set(),
    "device_node": set(),
    "edge_node": set(),
    "netem": set(),
    "experiments": {"netem"},
}
LIGHT = {
    *("onnxruntime", "numpy", "grpc", "google", "zstandard", "psutil", "PIL", "msgspec"),
    # Brought by onnxruntime, and by grpc where it happens to be installed.
    *("flatbuffers", "coloredlogs", "packaging", "typing_extensions", "grpc_tools"),
}
"""Third-party packages that a device may have loaded."""


def modules() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute import in a file, function bodies included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            yield node.module, node.lineno
            for alias in node.names:
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}", node.lineno


@pytest.mark.parametrize("path", list(modules()), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    room, inside = parts[0], parts[1] if len(parts) > 1 else ""
    for name, line in imports(path):
        target = name.split(".")
        if target[0] not in ROOMS or target == ["splitbed"]:
            continue
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if target[0] == "splitbed":
            goal = target[1]
            if room == "splitbed":
                if inside in (goal, "__init__"):
                    continue
                assert goal in ALLOWED_INSIDE[inside], where
            else:
                allowed = ALLOWED_FROM_ROOMS[room]
                assert goal != "cli", where
                assert allowed is None or goal in allowed, where
        elif target[0] != room:
            assert target[0] in ROOMS_BESIDE[room], where


def test_only_graph_and_zoo_import_onnx() -> None:
    for path in modules():
        if path.relative_to(ROOT).parts[:2] in (("splitbed", "graph"), ("splitbed", "zoo")):
            continue
        found = [name for name, _ in imports(path) if name.split(".")[0] == "onnx"]
        assert not found, f"{path} imports onnx"


def test_every_part_of_splitbed_has_its_place() -> None:
    files = {path.stem for path in (ROOT / "splitbed").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "splitbed").glob("*/__init__.py")}
    assert files | packages == set(ALLOWED_INSIDE)


def test_the_device_is_light() -> None:
    """Importing the device and the relay's commands loads nothing beyond the light list."""
    code = (
        "import sys\n"
        "import device_node.__main__, netem.commands, splitbed.cli, onnxruntime\n"
        "import sysconfig, pathlib\n"
        "places = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}\n"
        "for name, module in list(sys.modules.items()):\n"
        "    file = getattr(module, '__file__', None)\n"
        "    if file and any(file.startswith(place) for place in places):\n"
        "        print(name.split('.')[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("_")}
    assert loaded - set(ROOMS) <= LIGHT, f"a device would load {sorted(loaded - LIGHT)}"


def test_modules_are_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules()
        if "_pb2" not in path.name
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > 330
    }
    assert not long
