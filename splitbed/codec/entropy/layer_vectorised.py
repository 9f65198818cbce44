"""Chunks of symbols that go coarse to fine in numpy: what `native` does of them in C."""

from __future__ import annotations

import numpy as np

from splitbed.codec.entropy.layered import Chunk
from splitbed.codec.entropy.nesting import NOTHING, Bins, Plane, Symbols
from splitbed.codec.entropy.vectorised import DAMAGED, Reader, assembled, put
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer


def encode_chunk(plane: Plane, chunk: Chunk, symbols: Symbols) -> bytes:
    """A group's symbols [channels, places], which go coarse to fine, to a stream."""
    even, odd = (symbols[:, places] for places in plane.at)
    near = plane.frame(symbols.shape[0])
    if chunk.coarse is None:
        near[:, plane.framed[0]] = chunk.fine[even]
        at_even = np.repeat(chunk.first[0], even.shape[1])
        table = np.concatenate([at_even, plane.coarsest_tables(near, chunk.first[1])])
    else:
        near[:, plane.framed[0]], near[:, plane.framed[1]] = chunk.coarse[even], chunk.coarse[odd]
        at_even = plane.finer_tables(near, False, chunk.first[0])
        near[:, plane.framed[0]] = chunk.fine[even]
        table = np.concatenate([at_even, plane.finer_tables(near, True, chunk.first[1])])
    entry = chunk.entry[np.concatenate([even.reshape(-1), odd.reshape(-1)])]
    coded = put(chunk.tables, table.astype(np.int64), entry.astype(np.int64), chunk.lanes)
    return assembled(b"", *coded)[1:]


def decode_chunk(plane: Plane, chunk: Chunk, stream: Buffer, coarse: Bins | None) -> Bins:
    """A group's bins, framed, from its coarser ones."""
    # A chunk has no escapes, and does not say so.
    reader = Reader(chunk.tables, b"\0" + bytes(stream), chunk.lanes, most_escapes=0)
    near = plane.frame(chunk.first.shape[1]) if coarse is None else coarse * np.int16(2)
    for odd, places in enumerate(plane.framed):
        if coarse is not None:
            table = plane.finer_tables(near, bool(odd), chunk.first[odd])
        elif odd:
            table = plane.coarsest_tables(near, chunk.first[1])
        else:
            table = np.repeat(chunk.first[0], places.size)
        entry = reader.take(table.astype(np.int64)).reshape(near.shape[0], -1)
        if coarse is not None:
            entry += (coarse[:, places].astype(np.int64) - chunk.low) * chunk.tables.entries
        found = chunk.bins[entry]
        if int(found.max(initial=0)) == NOTHING:
            raise PayloadInvalid(DAMAGED)
        near[:, places] = found
    reader.end()
    return near
