"""Codec stages of other packages, as README.md says they are written, in real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitbed.codec.extensions import GROUP
from splitbed.run_folder import read_manifest
from tests.integration.nodes import GESTURE, ROOT, finish, one_sentence, ready, start, stop

Folder = dict[str, str]


def shown_in_the_readme() -> tuple[str, str]:
    """The module and the table of entry points of README's own example, to the letter."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("### Your own codec stage") :]
    section = section[: section.index("\n## ")]
    (module,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (table,) = re.findall(r"^```toml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return module, table


def install(target: Path, package: str, version: str, points: dict[str, str], module: str) -> None:
    """What `pip install --target` leaves of a package of one module."""
    name = package.replace("-", "_")
    target.mkdir(exist_ok=True)
    (target / f"{name}.py").write_text(module, encoding="utf-8")
    info = target / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


def install_whole(target: Path, version: str = "0.1.0") -> Folder:
    """The README's package, and the environment in which it is installed."""
    module, table = shown_in_the_readme()
    points = tomllib.loads(table)["project"]["entry-points"][GROUP]
    install(target, "splitbed-whole", version, points, module)
    return with_target(target)


def with_target(target: Path) -> Folder:
    return {"PYTHONPATH": os.pathsep.join([str(target), str(ROOT)])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return install_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def plain() -> Folder:
    """Without any package of others."""
    return {"PYTHONPATH": str(ROOT)}


def command(environment: Folder, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "splitbed.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def device_arguments(pictures: Path, tmp_path: Path) -> tuple[object, ...]:
    return (
        *("--model", "gesture", "--cut", "layer3", "--images", pictures, "--frames", 4),
        *("--warmup", 1, "--out", tmp_path / "runs"),
    )


EDGE = ("--models", GESTURE.parent, "--listen", "127.0.0.1:0", "--records", "")


def test_the_list_names_stage_and_package(whole: Folder, plain: Folder) -> None:
    done = command(whole, "codec", "list")
    assert done.returncode == 0, done.stderr
    assert "whole:STEP  (array stage, lossy; from splitbed-whole 0.1.0)" in done.stdout
    assert "Multiples of `step`, 16 bits each." in done.stdout
    assert "whole:STEP" not in command(plain, "codec", "list").stdout


@pytest.mark.parametrize("text", ["whole:0.01", "whole+shuffle+zstd:1"])
def test_the_example_passes_the_examination(whole: Folder, text: str) -> None:
    done = command(whole, "codec", "check", text, "--mutations", 500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whole is from splitbed-whole 0.1.0" in done.stdout
    assert "within the bound that it states" in done.stdout
    assert done.stdout.endswith("passes all 9 checks\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("self.step / 2", "self.step / 4"), "larger than the bound"),
        (("2 * spec.elements", "spec.elements"), "and says that they are at most"),
        ((" * self.step).astype", " * self.step + np.random.rand()).astype"), "something else"),
        (
            (
                'raw_array(payload, TensorSpec(spec.name, "int16", spec.shape))',
                "np.frombuffer(payload, np.int16).reshape(spec.shape)",
            ),
            "failed with ValueError",
        ),
        (('"int16", spec.shape', '"int16", (spec.elements,)'), "something else than"),
    ],
    ids=["bound", "most bytes", "chance", "another error", "shape"],
)
def test_what_a_stage_does_wrong_is_found(
    tmp_path: Path, damage: tuple[str, str], words: str
) -> None:
    module, _ = shown_in_the_readme()
    assert module.count(damage[0]) == 1
    points = {"whole": "splitbed_whole:Whole"}
    install(tmp_path / "t", "splitbed-whole", "9", points, module.replace(*damage))
    done = command(with_target(tmp_path / "t"), "codec", "check", "whole", "--mutations", 50)
    assert done.returncode == 3, done.stdout
    assert re.search(words, " ".join(done.stdout.split())), done.stdout
    assert "codec 'whole' fails" in one_sentence(done.stderr)


def test_a_session_between_two_nodes_that_have_it(
    whole: Folder, device_arguments: tuple[object, ...]
) -> None:
    edge = start("edge_node", *EDGE, "--status", "127.0.0.1:0", **whole)
    try:
        said = ready(edge)
        with urllib.request.urlopen(f"http://{said['status']}/", timeout=10) as reply:
            assert "<code>whole</code> of splitbed-whole 0.1.0" in reply.read().decode()
        device = start(
            *("device_node", "--edge", said["address"], "--codec", "whole:0.01+zstd"),
            *device_arguments,
            **whole,
        )
        code, _, err = finish(device)
        assert code == 0, err
    finally:
        assert stop(edge) == 0
    (folder,) = Path(str(device_arguments[-1])).iterdir()
    manifest = read_manifest(folder)
    ours, zstd = manifest.codecs[0]["stages"]
    assert ours == {"id": "whole", "config": {"step": 0.01}, "package": "splitbed-whole 0.1.0"}
    assert "package" not in zstd
    assert manifest.versions["splitbed-whole"] == "0.1.0"
    assert manifest.edge is not None
    assert manifest.edge["versions"]["splitbed-whole"] == "0.1.0"
    # Whoever reads the run elsewhere need not have the package.
    report = command({"PYTHONPATH": str(ROOT)}, "report", folder)
    assert "Traceback" not in report.stderr


@pytest.fixture(params=["not there", "another version"])
def other_edge(
    request: pytest.FixtureRequest, tmp_path: Path, plain: Folder
) -> Iterator[tuple[str, str]]:
    """Address of an edge that has not the device's package, and what it will say of that."""
    there = plain if request.param == "not there" else install_whole(tmp_path / "newer", "0.2.0")
    words = "not installed" if there is plain else "that of splitbed-whole 0.2.0"
    edge = start("edge_node", *EDGE, "--status", "", **there)
    try:
        yield ready(edge)["address"], words
    finally:
        assert stop(edge) == 0


def test_an_edge_without_it_refuses(
    whole: Folder, other_edge: tuple[str, str], device_arguments: tuple[object, ...]
) -> None:
    address, words = other_edge
    device = start(
        *("device_node", "--edge", address, "--codec", "whole:0.01"), *device_arguments, **whole
    )
    code, _, err = finish(device)
    assert code == 2, err
    sentence = one_sentence(err)
    assert "'whole' comes from the package splitbed-whole 0.1.0 in this session" in sentence
    assert f"here it is {words}: install the same package in the same version" in sentence


BROKEN = "raise ImportError('libwhole.so.3: no such file')\n"


def test_a_package_that_cannot_be_imported_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    target = tmp_path / "target"
    install_whole(target)
    install(target, "splitbed-torn", "3.1", {"torn": "splitbed_torn:Torn"}, BROKEN)
    odd = {"odd": "json:dumps", "zstd": "json:loads", "learned": "json:loads"}
    install(target, "splitbed-odd", "1", odd, "")
    environment = with_target(target)

    sentence = one_sentence(command(environment, "codec", "check", "torn").stderr)
    assert "codec stage 'torn' of the package splitbed-torn 3.1 cannot be imported" in sentence
    assert "libwhole.so.3: no such file" in sentence
    sentence = one_sentence(command(environment, "codec", "check", "odd").stderr)
    assert "of the package splitbed-odd 1 is no stage" in sentence
    listed = " ".join(command(environment, "codec", "list").stdout.split())
    assert "torn (cannot be used)" in listed
    assert "'zstd' of the package splitbed-odd 1 is not taken: splitbed has a stage" in listed
    assert "'learned' of the package splitbed-odd 1 is not taken: 'learned:...' means" in listed
    for text in ("zstd", "whole:0.1+zstd"):
        done = command(environment, "codec", "check", text, "--mutations", 20)
        assert done.returncode == 0, done.stderr


def test_two_packages_with_one_id_are_both_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    install_whole(target)
    install(target, "a-second", "2.0", {"whole": "splitbed_whole:Whole"}, "")
    done = command(with_target(target), "codec", "check", "whole:0.1")
    assert done.returncode == 2
    sentence = one_sentence(done.stderr)
    assert "offered by" in sentence
    assert "splitbed-whole 0.1.0" in sentence
    assert "a-second 2.0" in sentence


def test_the_table_of_the_check_is_for_any_codec(plain: Folder) -> None:
    done = command(plain, "codec", "check", "quantize:4+zstd:3", "--mutations", 100)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert rows[1].split() == ["check", "coded", "refused", "failed"]
    assert len(rows) == 2 + 9 + 1
    assert (
        done.stdout
        == command(plain, "codec", "check", "quantize:4+zstd:3", "--mutations", 100).stdout
    )
    assert command(plain, "codec", "check").returncode == 2
