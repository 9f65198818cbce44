"""What two nodes agree on once, and what then travels for each frame."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from splitbed.errors import SplitbedError, UsageError
from splitbed.pair import PairId, Ranges
from splitbed.quantiser import Quantiser
from splitbed.tensor import Cut, Part, Partition, TensorSpec

Buffer = bytes | bytearray | memoryview
"""Anything bytes-like and contiguous; what is received is never copied into another type."""

Node = Literal["device", "edge"]
ReplyMode = Literal["full", "result"]
ProviderChoice = Literal["auto", "cpu", "cuda", "tensorrt"]

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"
"""What a run id may look like: it becomes a folder name on both nodes."""

RunId = Annotated[str, Meta(pattern=SAFE_NAME)]


class StageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One codec stage: its id and its complete JSON configuration, calibration included."""

    id: str
    config: dict[str, Any] = {}
    package: str | UnsetType = UNSET
    """Name and version of the package that brings the stage; nothing for splitbed's own."""

    @property
    def origin(self) -> str:
        """The package, "" for splitbed's own stages."""
        return self.package if isinstance(self.package, str) else ""


class TensorCodec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The codec of one boundary tensor: stages in the order of encoding."""

    tensor: str
    stages: tuple[StageSpec, ...]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node runs one part."""

    node: Node
    part: Part


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which node runs which part, in the order in which a frame passes them.

    The first step's node holds the source. Today's edge runs SPLIT, LOCAL and REMOTE; features
    sent down (edge first, device second) are the same type with the steps the other way round.
    """

    steps: tuple[Step, ...]


SPLIT = Placement((Step("device", "first"), Step("edge", "second")))
"""Head on the device, tail on the edge."""
LOCAL = Placement((Step("device", "whole"),))
"""Anchor: all on the device; the result still makes a round trip (S4-240785, 10.X.2)."""
REMOTE = Placement((Step("edge", "whole"),))
"""Anchor: all on the edge, fed with compressed media (or with the bare input)."""

PLACEMENTS = {"split": SPLIT, "local": LOCAL, "remote": REMOTE}


def placement_name(placement: Placement) -> str:
    """`split`, `local` or `remote`; UsageError for a placement that nobody runs yet."""
    for name, known in PLACEMENTS.items():
        if placement == known:
            return name
    raise UsageError(f"no node runs the placement {placement.steps} yet")


class CutQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks an edge what a cut of one of its models is made of.

    `input_shapes` binds the dimensions that the model leaves open; empty where it leaves none.
    `quantisers` asks for parts that quantise these boundary tensors themselves, `pair` for parts
    with the networks of that learned codec in them.
    """

    model: str
    cut: str
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    quantisers: tuple[Quantiser, ...] = ()
    pair: str = ""


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file that a model came from, as test material is listed."""

    name: str
    file_bytes: int
    """With its external data."""
    md5: str
    """Of the main file alone."""
    sha256: str
    """With external data, of the digests of all its files."""


class CutAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the edge knows of that cut: both parts and what the pictures mean to the model."""

    first: Partition | None
    """None where there is nothing to run before the cut (`@picture`, `@input`)."""
    second: Partition | None
    """None where there is nothing left to run after it (`@output`)."""
    cut: Cut
    model_digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task_json: str
    """The model's task description (`splitbed.task`), as JSON."""
    source: ModelFile | None = None
    """None where the edge does not say."""
    ranges: Ranges = ()
    """Of the code that crosses, where its learned codec knows them."""

    @property
    def pair(self) -> PairId | None:
        """The learned codec in both parts; None where there is none."""
        return None if self.first is None else self.first.pair


class SessionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a frame does not carry because it never changes within a session."""

    run_id: RunId
    model: str
    model_digest: str
    placement: Placement
    cut: Cut
    codecs: tuple[TensorCodec, ...]
    """One for each boundary tensor, in the boundary's order."""
    reply: ReplyMode
    task_json: str
    window: Annotated[int, Meta(ge=1, le=256)] = 1
    """Frames that may be in flight at once."""
    provider: ProviderChoice = "auto"
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    pair: PairId | None = None
    """The learned codec whose code crosses."""


class SessionAgreed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The edge's answer to a SessionSpec that it accepts."""

    session_id: int
    provider: str
    """The execution provider that the edge took (ONNX Runtime's name), "" if it runs nothing."""
    outputs: tuple[TensorSpec, ...]
    """What a `full` reply holds, in order."""
    init_ns: int
    """Time to create the edge's ONNX Runtime session; 0 when it was warm."""
    first_inference_ns: int
    """Time of its first inference; 0 when it was warm."""
    node: dict[str, Any] = {}
    """What the edge says of itself: `versions`, `host`, `threads`. For the record only."""


class EdgeTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Durations measured by the edge's monotonic clock while it worked on one frame."""

    received_ns: int = 0
    """The edge's clock when the request was complete. Not comparable without a clock offset."""
    edge_ns: int = 0
    """Request complete until the reply was handed over; the next four are parts of it."""
    queue_ns: int = 0
    decode_ns: int = 0
    tail_ns: int = 0
    encode_ns: int = 0
    batch: int = 1
    """Frames that shared the tail's run."""


class Frame(msgspec.Struct, frozen=True):
    """One frame on its way to the peer: one payload for each boundary tensor, in order."""

    session_id: int
    frame_id: int
    payloads: tuple[Buffer, ...]


class Reply(msgspec.Struct, frozen=True):
    """One frame's way back.

    Either `payloads` (raw little-endian output tensors, reply mode `full`), or `result_json` (the
    task's answer, mode `result`), or `error`: this frame failed at the edge, the session goes on.
    """

    session_id: int
    frame_id: int
    times: EdgeTimes
    payloads: tuple[Buffer, ...] = ()
    result_json: str = ""
    error: SplitbedError | None = None
    request_bytes: int = 0
    """Size of the request as sent, filled in by the transport."""
    reply_bytes: int = 0
    submitted_ns: int = 0
    """The device's clock when the request was handed to the transport."""
    complete_ns: int = 0
    """The device's clock when the reply was complete."""


class ClockExchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Four time stamps of one exchange: two of the asking node's clock, two of the peer's.

    A row, too: a run keeps every exchange, and offsets are made of them when they are read.
    """

    sent_ns: int
    peer_received_ns: int
    peer_sent_ns: int
    received_ns: int
