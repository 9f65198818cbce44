"""The link between the two nodes: profiles, the user-space relay, certification.

`python -m netem relay` runs a relay between two machines, `python -m netem certify` measures a
link, `python -m netem profiles` lists the profiles. Shaping by the kernel lives here too, behind
the same `splitbed.link.Link`.
"""
