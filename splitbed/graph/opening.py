"""A part that takes several frames at once, stacked along the first axis."""

from __future__ import annotations

import onnx

from splitbed.errors import ModelError
from splitbed.graph.batch import keep_batch
from splitbed.graph.canonical import CanonicalModel, Observer, canonicalise
from splitbed.graph.cuts import cut_points
from splitbed.graph.extract import ExtractedPart, extract
from splitbed.graph.naming import find_cut


def stackable(part: ExtractedPart, observer: Observer | None = None) -> ExtractedPart:
    """The same part with the batch of everything that goes in and out left open.

    That is the part itself where its model left the batch open. Where the model fixed it, the batch
    is opened in a copy of the graph, which must then serve every batch (`batch_is_free`) and have
    the same ends at the same cut. Raises ModelError, with the reason, where there is no such part.
    """
    what = part.partition
    where = f"the {what.part} part at '{what.cut.name}'"
    if what.quantisers:
        raise ModelError(f"{where} quantises in the graph, in shapes of one frame")
    if what.pair is not None:
        raise ModelError(f"{where} holds a learned codec, in shapes of one frame")
    ends = (*what.inputs, *what.outputs)
    if len(ends) != len(part.inputs) + len(part.outputs) or not all(e.shape for e in ends):
        raise ModelError(f"{where} has an end without a fixed shape")
    if len({spec.shape[0] for spec in ends}) != 1:
        raise ModelError(f"what goes into {where} and out of it differs in its first dimension")
    if part.model.batch_free:
        return part
    model = _opened(part.model, observer)
    parts = extract(model, find_cut(model, cut_points(model), what.cut.name, "the opened model"))
    made = parts.first if what.part == "first" else parts.second
    if what.part == "whole":
        made = parts.first or parts.second
    if made is None or (made.partition.inputs, made.partition.outputs) != ends_of(part):
        raise ModelError(f"{where} is another one where the batch is open")
    return made


def ends_of(part: ExtractedPart) -> tuple[object, object]:
    """Specifications of what goes in and what comes out."""
    return part.partition.inputs, part.partition.outputs


def _opened(model: CanonicalModel, observer: Observer | None) -> CanonicalModel:
    """The model as its file would be with an open batch; shapes are bound as before.

    Tried with the cleaned graph, whose reshapes to a size of one can take the batch from their
    input, and with the file's own, which may compute its sizes.
    """
    for proto in (model.proto, model.source.proto):
        graph = _with_open_batch(proto, model)
        opened = canonicalise(model.source.with_graph(graph), dict(model.input_shapes), observer)
        if opened.batch_free:
            return opened
    raise ModelError(f"{model.source.path} does not serve every batch with one graph")


def _with_open_batch(original: onnx.ModelProto, model: CanonicalModel) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    graph = proto.graph
    keep_batch(graph, model.specs)
    held = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        shape = value.type.tensor_type.shape
        if value.name in held:
            continue
        if not shape.dim:
            raise ModelError(f"input '{value.name}' of {model.source.path} has no dimensions")
        shape.dim[0].Clear()
        shape.dim[0].dim_param = "batch"
    # What the file states of other values holds for its own batch only.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return proto
