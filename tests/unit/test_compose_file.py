"""What compose.yaml promises about itself; no engine is needed to see it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    header, body = text.split("\nservices:", 1) if "gpu" in name else text.split("\nx-build", 1)
    used = dict.fromkeys(re.findall(r"\$\{([A-Z_]+)", body), "")
    used |= dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)", body))
    documented = dict(re.findall(r"^#     ([A-Z_]+) +(\S*)", header, flags=re.MULTILINE))
    common = {"MODELS"} if "gpu" in name else set()
    assert set(used) - common == set(documented)
    for setting, default in used.items():
        if default and default != "nothing":
            assert documented[setting] == default


def test_an_image_installs_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for extra in ("device,experiments", "edge", "edge-gpu"):
        done = subprocess.run(
            [sys.executable, ROOT / "docker" / "requirements.py", extra, "one[more]"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        wanted = [*project["dependencies"], "one[more]"]
        wanted += [line for name in extra.split(",") for line in extras[name]]
        assert set(wanted) - set(lines) <= {"splitbed[link]"}
        assert not [line for line in lines if line.startswith("splitbed")]
        if "edge" in extra:
            assert set(extras["link"]) <= set(lines)
