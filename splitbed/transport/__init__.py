"""How frames reach the peer: one small face, in-process and over gRPC."""

from splitbed.transport.face import Peer, Session, Transport, Work
from splitbed.transport.fetch import FetchReport, fetch_part
from splitbed.transport.inprocess import InProcessTransport

__all__ = [
    "FetchReport",
    "InProcessTransport",
    "Peer",
    "Session",
    "Transport",
    "Work",
    "fetch_part",
]
