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
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("splitbed") / "codec" / "entropy"
SOURCE = FOLDER / "native.c"
LIBRARY = FOLDER / ("libentropy.dll" if sys.platform == "win32" else "libentropy.so")


class EntropyCoder(BuildHookInterface):  # type: ignore[type-arg]
    """Called for wheels and for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; tell hatch of the file, and that the wheel is this platform's."""
        del version
        if self.target_name != "wheel" or not self.built():
            return
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        # Called through ctypes, so any Python of this platform will do.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def built(self) -> bool:
        """Whether there is a library now."""
        root = Path(self.root)
        (root / LIBRARY).unlink(missing_ok=True)
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "")
        if not compiler:
            self.app.display_warning("splitbed: no C compiler, so the entropy coder is numpy's")
            return False
        # No fused multiply-add: what an encoder rounds comes out the same everywhere.
        flags = ["-O3", "-std=c11", "-ffp-contract=off", "-fPIC", "-shared"]
        flags += ["-o", str(LIBRARY), str(SOURCE)]
        try:
            subprocess.run([*shlex.split(compiler), *flags], cwd=root, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"splitbed: {error}, so the entropy coder is numpy's")
            return False
        return True
