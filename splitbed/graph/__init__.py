"""An ONNX model as a thing to cut.

`load` reads a file, `canonicalise` cleans it and binds its shapes, `cut_points` lists every place
to cut with its complete boundary, `extract` makes the two parts, `verify` proves them equal to the
uncut model. This room and `zoo` are the only ones that import `onnx`; what it takes to run a model
is handed in (`Opener`).
"""

from splitbed.graph.canonical import CANONICALISER, CanonicalModel, canonicalise
from splitbed.graph.cuts import INPUT_CUT, OUTPUT_CUT, CutPoint, cut_points
from splitbed.graph.extract import Parts, extract
from splitbed.graph.naming import find_cut
from splitbed.graph.source import SourceModel, load
from splitbed.graph.verify import Opener, Verification, Verifier, verify

__all__ = [
    "CANONICALISER",
    "INPUT_CUT",
    "OUTPUT_CUT",
    "CanonicalModel",
    "CutPoint",
    "Opener",
    "Parts",
    "SourceModel",
    "Verification",
    "Verifier",
    "canonicalise",
    "cut_points",
    "extract",
    "find_cut",
    "load",
    "verify",
]
