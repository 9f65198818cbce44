"""`splitbed model zoo`: reference networks, built as ONNX files without any framework."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from rich.table import Table

from experiments.files import written
from experiments.models import ZOO, open_model
from experiments.terminal import write
from splitbed import config, zoo
from splitbed.errors import UsageError
from splitbed.graph import list_cuts
from splitbed.progress import Progress


class ZooOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """List the reference networks of the source documents, or write one as an ONNX file.

    Their weights are random (He initialisation, seeded): right for sizes and times, never for
    accuracy. Other commands take zoo:NAME in place of a file.
    """

    network: Annotated[
        str | None, config.POSITIONAL, Meta(description="the network to write; all are listed else")
    ] = None
    output: Annotated[Path | None, Meta(description="file to write, NETWORK.onnx if not given")] = (
        None
    )
    force: Annotated[bool, Meta(description="replace a file that is there already")] = False
    batch: Annotated[int, Meta(ge=1, description="pictures at once")] = 1
    seed: Annotated[int, Meta(ge=0, description="of the random weights")] = 0
    batch_norm: Annotated[
        Literal["folded", "kept"],
        Meta(description="batch normalisations within the convolutions, or nodes of their own"),
    ] = "folded"
    json: Annotated[bool, Meta(description="print the list as JSON")] = False


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(ZooOptions, argv, command="splitbed model zoo", table="zoo")
    if options.network is None:
        _list(as_json=options.json)
        return 0
    if options.json:
        raise UsageError("--json prints the list of networks: leave it out to write one")
    name = options.network.removeprefix(ZOO)
    path = options.output or Path(f"{name}.onnx")
    if path.suffix != ".onnx":
        raise UsageError(f"--output {path}: the name of a model ends with .onnx")
    if path.exists() and not options.force:
        raise UsageError(
            f"{path} is there already, perhaps with trained weights: give another --output, or "
            "--force to replace it"
        )
    progress = Progress(f"building {name}", 2)
    progress.show()
    proto = zoo.build(name, batch=options.batch, seed=options.seed, batch_norm=options.batch_norm)
    progress.update(1)
    size = written(path, proto.SerializeToString(deterministic=True))
    progress.close()
    sys.stdout.write(f"{path}  {size:,} bytes, random weights\n")
    return 0


def _list(*, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for name in zoo.NAMES:
        model = open_model(ZOO + name, weights="hollow")
        listing = list_cuts(model)
        rows.append(
            {
                "network": name,
                "input": list(model.inputs[0].shape),
                "parameters_published": zoo.entry(name).parameters,
                "parameters_folded": listing.parameters,
                "macs": listing.macs,
                "file_bytes": model.source.file_bytes,
                "cuts": len(listing.legal),
                "about": zoo.entry(name).about,
            }
        )
    if as_json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("network", no_wrap=True)
    for heading in ("input", "parameters", "G MACs", "MB", "cuts"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["network"],
            "x".join(map(str, row["input"][2:])),
            f"{row['parameters_folded']:,}",
            f"{row['macs'] / 1e9:.2f}",
            f"{row['file_bytes'] / 1e6:.1f}",
            str(row["cuts"]),
        )
    write(
        table,
        "parameters as written, batch normalisations folded into the convolutions\n"
        "write one with `splitbed model zoo NETWORK`, or name it zoo:NETWORK in the\n"
        "other model commands",
    )
