"""splitbed: a two-node testbed for split inference.

What both nodes share lives here; the nodes themselves are `device_node` and `edge_node`, the
link is `netem`, and what starts and compares runs is `experiments`.
"""

__version__ = "0.1.0"
