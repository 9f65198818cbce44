"""`splitbed model cut`: the two parts of one cut, as ONNX files."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from experiments.cut_table import shape_text
from experiments.feeds import chosen
from experiments.files import refused
from experiments.models import MODEL_HELP, SHAPE_HELP, open_model
from experiments.terminal import printable
from splitbed import config
from splitbed.engine import Engine
from splitbed.errors import EngineError, UsageError, VerificationError
from splitbed.graph import CanonicalModel, Parts, cut_points, extract, find_cut, verify
from splitbed.progress import Progress

_NAMES: Final = ("head.onnx", "tail.onnx", "part1.data", "part2.data", "whole.data", "cut.json")


class CutOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Write the two parts of a cut as ONNX files: head.onnx, tail.onnx, and cut.json about both.

    The cut is a name of `splitbed model cuts`, another tensor or node of the file, before:NODE or
    after:NODE, or several tensors with commas between them. The parts are verified on pictures or
    arrays; on noise, which says less, where none are given.
    """

    model: Annotated[str, config.POSITIONAL, Meta(description=MODEL_HELP)]
    cut: Annotated[str, config.POSITIONAL, Meta(description="where to cut")]
    output: Annotated[
        Path | None, Meta(description="folder to write to; named after model and cut if not given")
    ] = None
    force: Annotated[bool, Meta(description="replace parts that are there already")] = False
    verify: Annotated[bool, Meta(description="run both parts against the uncut model")] = True
    images: Annotated[Path | None, Meta(description="a folder of pictures to verify on")] = None
    arrays: Annotated[
        Path | None, Meta(description="an .npz file with an array for each of the model's inputs")
    ] = None
    shape: Annotated[tuple[str, ...], Meta(description=SHAPE_HELP)] = ()


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(CutOptions, argv, command="splitbed model cut", table="cut")
    model = open_model(options.model, options.shape)
    parts = extract(model, find_cut(model, cut_points(model), options.cut, options.model))
    folder = options.output or Path(_name(model.source.path.stem, parts.cut.name))
    _check_room(folder, model, force=options.force)
    progress = Progress(f"cutting {model.source.path.name}", 3)
    progress.show()
    said = ["the parts were not verified"]
    if options.verify:
        feeds = chosen(model, options.images, options.arrays)
        try:
            found = verify(model, parts, feeds.arrays, partial(Engine, provider="cpu"))
        except (VerificationError, EngineError) as error:
            hint = "with --no-verify the parts are written all the same"
            raise type(error)(f"{error}; {hint}") from error
        said = [
            f"verified on {feeds.what}",
            f"difference from uncut: {found.max_rel:.1e} of the output's magnitude",
        ]
    progress.update(1)
    written = _write(parts, folder, model.source.sha256, progress)
    progress.close()
    for path in written:
        sys.stdout.write(f"{path}  {path.stat().st_size:,} bytes\n")
    for spec in parts.cut.boundary:
        sys.stdout.write(
            f"crosses: {printable(spec.name)}  {shape_text(spec)}  {spec.nbytes:,} bytes\n"
        )
    sys.stdout.write("".join(f"{line}\n" for line in said))
    return 0


def _check_room(folder: Path, model: CanonicalModel, *, force: bool) -> None:
    """Refuse earlier parts, unless told to replace them, and the place of the model itself."""
    old = [path for name in _NAMES if (path := folder / name).exists()]
    if old and not force:
        raise UsageError(
            f"{old[0]} is there already: give another folder with --output, or --force to replace "
            "what an earlier cut left"
        )
    model.source.check_apart(*(folder / name for name in _NAMES))


def _write(parts: Parts, folder: Path, source_sha256: str, progress: Progress) -> list[Path]:
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _NAMES:  # parts of another cut beside this one's would be taken for its own
            (folder / name).unlink(missing_ok=True)
        for part, name in ((parts.first, "head"), (parts.second, "tail")):
            if part is not None:
                written += part.file.write(folder / f"{name}.onnx")
            progress.update(2)
        about = {
            "source_sha256": source_sha256,
            "cut": parts.cut,
            "head": parts.first.partition if parts.first else None,
            "tail": parts.second.partition if parts.second else None,
        }
        text = msgspec.json.format(msgspec.json.encode(about), indent=2)
        (folder / "cut.json").write_bytes(text + b"\n")
        written.append(folder / "cut.json")
    except OSError as error:
        for path in written:  # half a cut is none
            path.unlink(missing_ok=True)
        raise refused(folder, error) from error
    return written


def _name(model: str, cut: str) -> str:
    """A folder's name of a model and a cut, which may hold any character."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{model}_at_{cut}").strip("_")
    return plain[:120]
