"""boards/termux.sh, with Termux's commands played by stubs: what it asks for, and what it says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "boards" / "termux.sh"

# Modules that are there are files in $STATE/modules; packages bring the modules of $STATE/PACKAGE.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-c import sys"*) exit "$(cat "$STATE/old" 2>/dev/null || echo 0)" ;;
    "-c import "*) [ -e "$STATE/modules/${2#import }" ] ;;
    "-m pip")
        shift 2
        echo "pip $*" >>"$STATE/log"
        for last; do :; done
        name=${last%%[<>=]*}
        [ "$name" = . ] && name=device_node
        [ "$name" = protobuf ] && name=google.protobuf
        [ ! -e "$STATE/broken-$name" ] || exit 1
        : >"$STATE/modules/$name" ;;
    "-m device_node") [ -e "$STATE/modules/device_node" ] ;;
    *) exit 99 ;;
esac
"""
PKG = """#!/bin/sh
echo "pkg $*" >>"$STATE/log"
[ ! -e "$STATE/broken-$3" ] || exit 100
case "$3" in
    python-numpy) : >"$STATE/modules/numpy" ;;
    python-onnxruntime) : >"$STATE/modules/onnxruntime" ;;
    python-grpcio) : >"$STATE/modules/grpc" ;;
    python-pillow) : >"$STATE/modules/PIL" ;;
    python-psutil) : >"$STATE/modules/psutil" ;;
    clang) cp "$STATE/bin/pkg" "$STATE/bin/clang" ;;
esac
"""


class Phone:
    """A folder of stubs in the place of Termux's commands."""

    def __init__(self, folder: Path) -> None:
        self.state = folder
        for name in ("bin", "modules"):
            (folder / name).mkdir()
        for name, text in (("python", PYTHON), ("pkg", PKG)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        # What the script itself may use, and no compiler of this machine.
        for tool in ("cat", "cp", "dirname", "head", "sed"):
            (folder / "bin" / tool).symlink_to(shutil.which(tool) or tool)
        (folder / "modules" / "pip").touch()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.state / "log").write_text("")
        return subprocess.run(
            ["/bin/sh", SCRIPT, *arguments],
            capture_output=True,
            text=True,
            env={
                "PATH": str(self.state / "bin"),
                "STATE": str(self.state),
                "PREFIX": "/data/data/com.termux/files/usr",
                **environment,
            },
            timeout=30,
            check=False,
        )

    def log(self) -> list[str]:
        return (self.state / "log").read_text().splitlines()


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path)


def test_a_bare_termux_becomes_a_device_and_stays_one(phone: Phone) -> None:
    done = phone.run()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "ready: python -m device_node" in done.stdout
    log = phone.log()
    assert [line for line in log if line.startswith("pkg")] == [
        "pkg install -y python-numpy",
        "pkg install -y python-onnxruntime",
        "pkg install -y python-grpcio",
        "pkg install -y python-pillow",
        "pkg install -y python-psutil",
        "pkg install -y clang",
    ]
    asked = [line for line in log if line.startswith("pip")]
    assert len(asked) == 4
    assert all(line.startswith("pip install --no-deps ") for line in asked)
    # The versions are pyproject's.
    project = (SCRIPT.parents[1] / "pyproject.toml").read_text()
    for line in asked[:3]:
        assert f'"{line.removeprefix("pip install --no-deps ")}"' in project
    assert asked[3].endswith(" .")

    again = phone.run()
    assert again.returncode == 0
    assert phone.log() == ["pip install --no-deps ."]  # the checkout may be another
    assert phone.run("--check").returncode == 0
    assert phone.log() == []


def test_check_says_one_sentence_for_each_and_changes_nothing(phone: Phone) -> None:
    done = phone.run("--check")
    assert done.returncode == 1
    assert phone.log() == []
    lines = done.stderr.splitlines()
    for name in ("python-numpy", "python-onnxruntime", "clang", "msgspec", "protobuf", "splitbed"):
        assert [line for line in lines if line.startswith(f"termux.sh: {name} is missing: ")]
    assert lines[-1] == "termux.sh: 10 missing: no device yet"


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("python-onnxruntime", "pkg could not install python-onnxruntime: try 'pkg update'"),
        ("zstandard", "pip could not install zstandard (it is compiled here and needs clang)"),
        ("device_node", "pip could not install splitbed: the lines above say why"),
    ],
)
def test_what_fails_is_named_and_the_rest_goes_on(phone: Phone, broken: str, sentence: str) -> None:
    (phone.state / f"broken-{broken}").touch()
    done = phone.run()
    assert done.returncode == 1
    assert f"termux.sh: {sentence}" in done.stderr
    assert done.stderr.splitlines()[-1] == "termux.sh: 1 missing: no device yet"
    assert "pip install --no-deps ." in phone.log()
    (phone.state / f"broken-{broken}").unlink()
    assert phone.run().returncode == 0


def test_an_old_python_and_other_places(phone: Phone) -> None:
    (phone.state / "old").write_text("1")
    done = phone.run()
    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr
    assert phone.log() == []
    done = phone.run(PREFIX="")
    assert done.returncode == 2
    assert "this is not Termux" in done.stderr
    assert phone.run("--force").returncode == 2
