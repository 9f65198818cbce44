"""Builds the entropy coder's C file beside it, where a C compiler is at hand.

Without one splitbed installs and works all the same: the coder in numpy makes the same bytes, more
slowly. `splitbed codec list` says which of the two it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("splitbed") / "codec" / "entropy"
SOURCE = FOLDER / "native.c"
LIBRARY = FOLDER / ("libentropy.dll" if sys.platform == "win32" else "libentropy.so")


class EntropyCoder(BuildHookInterface):  # type: ignore[type-arg]
    """Called for wheels and for editable installs."""

    _folder = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; tell hatch of the file, and that the wheel is this platform's."""
        if self.target_name != "wheel":
            return
        if version == "editable":
            if self.built(Path(self.root) / LIBRARY):
                build_data["artifacts"].append(str(LIBRARY))
                self.mark(build_data)
            return
        # Not in the tree: it may be in use there, and on another machine than the wheel is for.
        self._folder = tempfile.mkdtemp(prefix="splitbed-coder-")
        made = Path(self._folder) / LIBRARY.name
        if self.built(made):
            build_data["force_include"][str(made)] = LIBRARY.as_posix()
            self.mark(build_data)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take away what was compiled for the wheel."""
        del version, build_data, artifact_path
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def mark(self, build_data: dict[str, Any]) -> None:
        """Make it a wheel of this platform; through ctypes any Python of it will do."""
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def built(self, library: Path) -> bool:
        """Whether there is a library now."""
        library.unlink(missing_ok=True)
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "")
        if not compiler:
            self.app.display_warning("splitbed: no C compiler, so the entropy coder is numpy's")
            return False
        # No fused multiply-add: what an encoder rounds comes out the same everywhere.
        flags = ["-O3", "-std=c11", "-ffp-contract=off", "-fPIC", "-shared"]
        flags += ["-o", str(library), str(SOURCE)]
        try:
            subprocess.run([*shlex.split(compiler), *flags], cwd=self.root, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"splitbed: {error}, so the entropy coder is numpy's")
            return False
        return True
