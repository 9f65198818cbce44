"""The packages that extras of pyproject.toml need, and others beside them, one a line.

    python requirements.py EXTRA,EXTRA [PACKAGE ...]

An image installs these before it sees a source file, so that a change there costs no download.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def needed(project: dict[str, Any], requirements: list[str]) -> Iterator[str]:
    """`requirements`, with the project's own extras replaced by what is in them."""
    for requirement in requirements:
        own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
        if own is None:
            yield requirement
            continue
        for extra in own[1].split(","):
            yield from needed(project, project["optional-dependencies"][extra])


def main() -> None:
    """Print them for the extras of the command line, and the packages beside them."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], f"{project['name']}[{sys.argv[1]}]", *sys.argv[2:]]
    sys.stdout.write("\n".join(dict.fromkeys(needed(project, wanted))) + "\n")


if __name__ == "__main__":
    main()
