"""The wire contract in Python: generated stubs, and conversion to and from splitbed's types.

`proto/README.md` is the byte-level specification. `split_pb2.py` is generated from
`proto/split.proto` (`make stubs`) and committed.
"""
