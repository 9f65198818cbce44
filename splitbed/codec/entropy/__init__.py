"""The entropy coder: symbols of a tensor to bytes and back, by tables of integers.

`model` says what is known of the symbols before a frame comes, `fitting` learns it from calibration
data, `native` and `vectorised` are the same coder in C and in numpy, byte for byte. `nesting`,
`layered`, `layer_fitting` and `layer_coder` do the same for symbols that go coarse to fine.
"""

from splitbed.codec.entropy.coder import ChannelCoder, ContextCoder, implementation
from splitbed.codec.entropy.fitting import fit_channels, fit_contexts
from splitbed.codec.entropy.layer_coder import LayeredCoder
from splitbed.codec.entropy.layer_fitting import fit_layers, layers_for, most_layers
from splitbed.codec.entropy.layered import LayeredModel
from splitbed.codec.entropy.model import ChannelModel, ContextModel
from splitbed.codec.entropy.tables import Tables

__all__ = [
    "ChannelCoder",
    "ChannelModel",
    "ContextCoder",
    "ContextModel",
    "LayeredCoder",
    "LayeredModel",
    "Tables",
    "fit_channels",
    "fit_contexts",
    "fit_layers",
    "implementation",
    "layers_for",
    "most_layers",
]
