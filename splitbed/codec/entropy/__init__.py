"""The entropy coder: symbols of a tensor to bytes and back, by tables of integers.

`model` says what is known of the symbols before a frame comes, `fitting` learns it from calibration
data, `native` and `vectorised` are the same coder in C and in numpy, byte for byte.
"""

from splitbed.codec.entropy.coder import ChannelCoder, ContextCoder, implementation
from splitbed.codec.entropy.fitting import fit_channels, fit_contexts
from splitbed.codec.entropy.model import ChannelModel, ContextModel
from splitbed.codec.entropy.tables import Tables

__all__ = [
    "ChannelCoder",
    "ChannelModel",
    "ContextCoder",
    "ContextModel",
    "Tables",
    "fit_channels",
    "fit_contexts",
    "implementation",
]
