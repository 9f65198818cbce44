"""An ONNX model as a thing to cut.

`load` reads a file, `canonicalise` cleans it and binds its shapes, `cut_points` finds every place
to cut with its complete boundary, `list_cuts` tells what each costs and is good for, `find_cut` is
for names, `extract` makes the two parts, `with_pair` puts a learned codec into them, `quantising`
has them quantise what crosses, `verify` proves them equal to the uncut model,
`stackable` opens a part's batch. This room and `zoo`
are the only ones that import `onnx`; what it takes to run a model is handed in (`Opener`).
"""

from splitbed.graph.canonical import CANONICALISER, CanonicalModel, Observer, canonicalise
from splitbed.graph.cost import PartCost, operator_costs, parameter_count, uncounted
from splitbed.graph.cuts import INPUT_CUT, OUTPUT_CUT, CutPoint, cut_points
from splitbed.graph.extract import ExtractedPart, Parts, extract
from splitbed.graph.file import Replacing
from splitbed.graph.halves import LearnedPair, load_pair
from splitbed.graph.learned import Coded, with_pair
from splitbed.graph.listing import ListedCut, Listing, list_cuts
from splitbed.graph.naming import find_cut
from splitbed.graph.opening import stackable
from splitbed.graph.quantising import quantising
from splitbed.graph.saturation import seen_range
from splitbed.graph.source import SourceModel, built, load
from splitbed.graph.verify import Opener, Verification, Verifier, verify
from splitbed.graph.weights import write_all

__all__ = [
    "CANONICALISER",
    "INPUT_CUT",
    "OUTPUT_CUT",
    "CanonicalModel",
    "Coded",
    "CutPoint",
    "ExtractedPart",
    "LearnedPair",
    "ListedCut",
    "Listing",
    "Observer",
    "Opener",
    "PartCost",
    "Parts",
    "Replacing",
    "SourceModel",
    "Verification",
    "Verifier",
    "built",
    "canonicalise",
    "cut_points",
    "extract",
    "find_cut",
    "list_cuts",
    "load",
    "load_pair",
    "operator_costs",
    "parameter_count",
    "quantising",
    "seen_range",
    "stackable",
    "uncounted",
    "verify",
    "with_pair",
    "write_all",
]
