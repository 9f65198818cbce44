"""What a node uses while it works: CPU, memory, clocks, heat, GPUs and energy.

One source a file, each with a root directory to read below. A reading's name ends with its unit:
`_w`, `_j`, `_pct`, `_bytes`, `_celsius`, `_hz`, `_count`, `_flags`. What cannot be read is
`unavailable`, with the reason, and never zero.
"""

from splitbed.resources.meters import borrow, give_back
from splitbed.resources.process import rss_bytes
from splitbed.resources.sampler import SOURCE, ResourceSampler

__all__ = ["SOURCE", "ResourceSampler", "borrow", "give_back", "rss_bytes"]
