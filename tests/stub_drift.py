"""Fails when the committed stubs are not what proto/split.proto gives."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc"),
                *(f"-Isplitbed/wire={ROOT / 'proto'}", f"--python_out={scratch}"),
                *(f"--pyi_out={scratch}", "splitbed/wire/split.proto"),
            ],
            check=True,
        )
        for made in sorted(Path(scratch).rglob("*_pb2.py*")):
            committed = ROOT / made.relative_to(scratch)
            if not committed.is_file() or committed.read_bytes() != made.read_bytes():
                print(f"{committed.relative_to(ROOT)} is not what proto/ gives: run `make stubs`")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
