"""Runs in containers: they need a Docker engine, and skip with the reason where none answers."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _lacks() -> str:
    """What stands in the way, as a clause; "" for nothing."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command, what in (
        (("docker", "compose", "version"), "docker compose"),
        (("docker", "info"), "no Docker engine answers"),
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            return f"{what}: {(done.stderr or done.stdout).strip().splitlines()[-1]}"
    return ""


LACKS = _lacks()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.docker)
            if LACKS:
                item.add_marker(pytest.mark.skip(reason=LACKS))


class Project:
    """`docker compose` on this checkout's compose.yaml, under a project name of its own."""

    def __init__(self) -> None:
        self.name = f"splitbed-test-{secrets.token_hex(4)}"

    def compose(
        self,
        *arguments: object,
        files: Sequence[str] = ("compose.yaml",),
        settings: Mapping[str, object] = {},
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, without whatever this machine's environment sets."""
        given = {name: str(value) for name, value in settings.items()}
        kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "BASE_IMAGE")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        named = [word for file in files for word in ("--file", file)]
        return subprocess.run(
            ["docker", "compose", "--project-name", self.name, *named, *map(str, arguments)],
            cwd=ROOT,
            env=environment | given,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def run(self, *arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
        """The full run, few frames, on a link that a busy machine may disturb."""
        usual = {"FRAMES": 6, "CERTIFY_S": 0.6, "LINK": "rate=40mbit,delay=4ms"}
        return self.compose(
            *("up", "--build", "--exit-code-from", "device", *arguments),
            settings=usual | {"OPTIONS": "--accept-uncertified"} | settings,
        )

    def results(self, folder: Path) -> Path:
        """What the volume of results holds, copied out of the device's container."""
        done = self.compose("cp", "device:/runs", folder)
        assert done.returncode == 0, done.stderr
        return folder

    def container(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container, running or not."""
        found = self.compose("ps", "--all", "--quiet", service).stdout.split()
        done = subprocess.run(
            ["docker", "inspect", found[0]], capture_output=True, text=True, check=True
        )
        inspected: dict[str, Any] = json.loads(done.stdout)[0]
        return inspected

    def left(self) -> str:
        """Containers, volumes and networks of this project."""
        found = ""
        for kind, flags in (("container", ("--all",)), ("volume", ()), ("network", ())):
            label = f"label=com.docker.compose.project={self.name}"
            command = ["docker", kind, "ls", *flags, "--quiet", "--filter", label]
            found += subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return found

    def clear(self, *flags: str) -> None:
        """Take containers, networks and volumes away."""
        self.compose("down", "--volumes", "--timeout", 5, *flags)
        assert self.left() == ""


@pytest.fixture(scope="module")
def _images() -> Iterator[Project]:
    """One project for all tests, so that its images are built once."""
    project = Project()
    yield project
    project.clear("--rmi", "local")


@pytest.fixture
def project(_images: Project) -> Iterator[Project]:
    """A project without containers and volumes, before and after."""
    _images.clear()
    yield _images
    _images.clear()
