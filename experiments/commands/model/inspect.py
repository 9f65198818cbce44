"""`splitbed model inspect`: what a model is made of, and what cleaning it changed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from rich.table import Table
from rich.text import Text

from experiments.cut_table import shape_text
from experiments.models import MODEL_HELP, SHAPE_HELP, ZOO, open_model
from experiments.terminal import printable, write
from splitbed import config
from splitbed.graph import CanonicalModel, Listing, list_cuts, operator_costs, uncounted


class InspectOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tell what a model is made of: inputs, weights, work, operators, and how it can be cut."""

    model: Annotated[str, config.POSITIONAL, Meta(description=MODEL_HELP)]
    shape: Annotated[tuple[str, ...], Meta(description=SHAPE_HELP)] = ()
    json: Annotated[bool, Meta(description="print it as JSON")] = False


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        InspectOptions, argv, command="splitbed model inspect", table="inspect"
    )
    model = open_model(options.model, options.shape, weights="hollow")
    facts = inspected(model, list_cuts(model))
    if options.json:
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    else:
        _print(facts, model)
    return 0


def inspected(model: CanonicalModel, listing: Listing) -> dict[str, Any]:
    """Everything that the command tells, ready for JSON."""
    source, given = model.source, model.source.proto
    before = Counter(node.op_type for node in given.graph.node)
    after = Counter(node.op_type for node in model.proto.graph.node)
    held = {tensor.name for tensor in given.graph.initializer}
    legal = listing.legal
    facts_only = source.path.name.startswith(ZOO)  # nothing was written that could have a digest
    return {
        "file": source.path.name,
        "file_bytes": source.file_bytes,
        "data_files": [path.name for path in source.data_files],
        "sha256": "" if facts_only else source.sha256,
        "md5": "" if facts_only else source.md5,
        "model_digest": model.id.digest,
        "ir_version": given.ir_version,
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in given.opset_import},
        "producer": f"{given.producer_name} {given.producer_version}".strip(),
        "inputs": msgspec.to_builtins(model.inputs),
        "outputs": msgspec.to_builtins(model.outputs),
        "parameters": listing.parameters,
        "parameter_bytes": listing.parameter_bytes,
        "macs": listing.macs,
        "macs_not_counted": uncounted(model, listing.node_macs),
        "nodes_in_file": len(given.graph.node),
        "nodes": len(model.proto.graph.node),
        "nodes_removed": dict((before - after).most_common()),
        "weights_listed_as_inputs": sum(value.name in held for value in given.graph.input),
        "batch_left_open": model.batch_free,
        "cuts": len(legal),
        "cuts_of_one_tensor": sum(cut.marks.single for cut in legal),
        "cuts_beaten_by_none": sum(not cut.marks.dominated_by for cut in legal),
        "stage_ends": [cut.point.name for cut in legal if cut.marks.stage],
        "layers": max(
            (c.marks.layer for c in listing.cuts if c.marks.layer is not None), default=0
        ),
        "cannot_be_cut": {
            cut.point.name: cut.point.why_not for cut in listing.cuts if cut.cost is None
        },
        "operators": operator_costs(model, listing.node_macs),
    }


def _print(facts: dict[str, Any], model: CanonicalModel) -> None:
    def line(name: str, text: str) -> None:
        write(Text(f"{name:<11}{printable(text)}"))

    line("file", f"{facts['file']}, {facts['file_bytes']:,} bytes")
    if facts["md5"]:
        line("md5", facts["md5"])
    if facts["data_files"]:
        line("", "weights in " + ", ".join(facts["data_files"]))
    opsets = ", ".join(f"{domain} {version}" for domain, version in facts["opsets"].items())
    line(
        "format", f"IR {facts['ir_version']}, {opsets}; {facts['producer'] or 'no producer named'}"
    )
    for name, specs in (("inputs", model.inputs), ("outputs", model.outputs)):
        for spec in specs:
            line(name, f"{spec.name}  {shape_text(spec)}  {spec.nbytes:,} bytes")
            name = ""
    line(
        "weights",
        f"{facts['parameters']:,} parameters in {facts['parameter_bytes'] / 1e6:,.2f} MB; "
        f"{facts['macs'] / 1e6:,.1f} M MACs",
    )
    removed = ", ".join(f"{count} {name}" for name, count in facts["nodes_removed"].items())
    line(
        "canonical",
        f"{facts['nodes']} of the file's {facts['nodes_in_file']} nodes"
        + (f"; gone: {removed}" if removed else ""),
    )
    if facts["weights_listed_as_inputs"]:
        line("", f"{facts['weights_listed_as_inputs']} weights are no longer inputs")
    line("batch", "left open in the parts" if facts["batch_left_open"] else "fixed in the parts")
    line(
        "cuts",
        f"{facts['cuts']}: {facts['cuts_of_one_tensor']} with one tensor, "
        f"{len(facts['stage_ends'])} stage ends, {facts['layers']} layers, "
        f"{facts['cuts_beaten_by_none']} that no other beats",
    )
    if facts["macs_not_counted"]:
        names = ", ".join(f"{n} {name}" for name, n in facts["macs_not_counted"].items())
        line("not counted", f" in the MACs: {names}")
    refused = list(facts["cannot_be_cut"].items())
    for name, why in refused[:3]:
        line("not cut", f"{name}: {why}")
    if len(refused) > 3:
        line("", f"and {len(refused) - 3} more: `splitbed model cuts` says why")
    table = Table(box=None, pad_edge=False)
    for heading in ("operator", "nodes", "parameters", "M MACs", "of all"):
        table.add_column(heading, justify="left" if heading == "operator" else "right")
    for row in facts["operators"]:
        share = 100 * row["macs"] / max(1, facts["macs"])
        table.add_row(
            printable(row["operator"]),
            str(row["nodes"]),
            f"{row['parameters']:,}" if row["parameters"] else "",
            f"{row['macs'] / 1e6:,.1f}" if row["macs"] else "",
            f"{share:.1f} %" if row["macs"] else "",
        )
    write(table)
