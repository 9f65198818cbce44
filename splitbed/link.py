"""What a link is: its profile, what changes it with time, and what it says of itself.

Types only. `netem` holds the backends and the probe that measures; what it measured is in
`splitbed.certificate`.

**Rate means bits of IP packets per second, in every backend.** A full TCP segment carries 1448
bytes of payload in a packet of 1500 (20 bytes IPv4, 32 bytes TCP with time stamps), so a payload
stream sees `PAYLOAD_SHARE` of the rate. Delay is one way.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

PAYLOAD_SHARE: Final = 1448 / 1500
"""Share of an IP packet that is TCP payload, for packets of 1500 bytes with time stamps."""

LinkKind = Literal["direct", "relay", "kernel"]
"""`direct`: nothing shapes; `relay`: the user-space relay, an ideal pipe; `kernel`: netem."""

Way = Literal["up", "down"]
"""`up`: from the device to the edge."""


class BurstLoss(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Loss in bursts: the Gilbert-Elliott model, a good and a bad state, stepped once a packet.

    E. O. Elliott, "Estimates of error rates for codes on burst-noise channels", BSTJ 42 (1963); in
    netem the parameters are p, r, 1-h and 1-k.
    """

    to_bad_pct: Annotated[float, Meta(gt=0, le=100)]
    """p: chance that a packet finds the channel turned from good to bad."""
    to_good_pct: Annotated[float, Meta(gt=0, le=100)]
    """r: chance of the way back; a bad spell lasts 100 / r packets on average."""
    bad_loss_pct: Annotated[float, Meta(ge=0, le=100)] = 100.0
    """1-h: share of packets lost in the bad state."""
    good_loss_pct: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """1-k: share of packets lost in the good state."""

    @property
    def mean_pct(self) -> float:
        """Share of packets lost in the long run."""
        bad = self.to_bad_pct / (self.to_bad_pct + self.to_good_pct)
        return bad * self.bad_loss_pct + (1 - bad) * self.good_loss_pct


class Direction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One direction of a link."""

    rate_bps: Annotated[int, Meta(ge=1000)] | None = None
    """Bits of IP packets per second; None leaves the rate alone."""
    delay_ns: Annotated[int, Meta(ge=0, le=60_000_000_000)] = 0
    jitter_ns: Annotated[int, Meta(ge=0, le=2_000_000_000)] = 0
    """Standard deviation of the delay (cut at zero, order kept)."""
    jitter_distribution: Literal["normal", "uniform", "pareto", "paretonormal"] = "normal"
    jitter_correlation_pct: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """How much of a packet's jitter is that of the packet before it."""
    loss_pct: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Packets lost, each on its own."""
    burst_loss: BurstLoss | None = None
    """Packets lost in bursts, instead of `loss_pct`."""
    duplicate_pct: Annotated[float, Meta(ge=0, le=100)] = 0.0
    reorder_pct: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Packets that skip the delay and overtake those before them."""
    corrupt_pct: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Packets with one bit flipped; TCP and UDP drop what their checksums find."""
    queue_ns: Annotated[int, Meta(gt=0, le=60_000_000_000)] | None = None
    """Longest wait for the rate, beyond which packets are dropped; None: one round trip, as
    `netem.qdisc.queue_packets` has it. A relay drops nothing and leaves it out."""

    def __post_init__(self) -> None:
        if self.burst_loss is not None and self.loss_pct:
            raise ValueError("loss is either random (loss_pct) or in bursts (burst_loss), not both")
        if self.reorder_pct and not self.delay_ns:
            raise ValueError("reorder_pct needs a delay, which the reordered packets skip")
        if self.jitter_correlation_pct and not self.jitter_ns:
            raise ValueError("jitter_correlation_pct needs jitter_ns")

    @property
    def payload_bps(self) -> float | None:
        """TCP payload bits per second that the rate leaves; None without a rate."""
        return None if self.rate_bps is None else self.rate_bps * PAYLOAD_SHARE

    @property
    def mean_loss_pct(self) -> float:
        """Share of packets lost in the long run, at random or in bursts."""
        return self.loss_pct if self.burst_loss is None else self.burst_loss.mean_pct

    @property
    def packet_effects(self) -> tuple[str, ...]:
        """What happens to single packets, which only a kernel can do to TCP."""
        asked = {
            "loss": self.mean_loss_pct,
            "duplication": self.duplicate_pct,
            "reordering": self.reorder_pct,
            "corruption": self.corrupt_pct,
        }
        return tuple(word for word, pct in asked.items() if pct)

    @property
    def is_shaped(self) -> bool:
        """Whether anything at all is asked of this direction."""
        return bool(
            self.rate_bps is not None or self.delay_ns or self.jitter_ns or self.packet_effects
        )


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named link: uplink (device to edge), downlink, and how exactly it must be met."""

    name: str
    up: Direction
    down: Direction
    source: str = ""
    """Where the figures come from."""
    rate_tolerance_pct: Annotated[float, Meta(gt=0, le=100)] = 3.0
    rtt_tolerance_ns: Annotated[int, Meta(gt=0)] = 2_000_000
    rtt_tolerance_pct: Annotated[float, Meta(ge=0, le=100)] = 2.0
    """The larger of the two tolerances of the round trip holds."""

    @property
    def is_shaped(self) -> bool:
        """Whether anything at all is asked of the link."""
        return self.up.is_shaped or self.down.is_shaped

    def direction(self, way: Way) -> Direction:
        """One of the two."""
        return self.up if way == "up" else self.down

    @property
    def rtt_ns(self) -> int:
        """Nominal round-trip time of a packet that takes no time to send."""
        return self.up.delay_ns + self.down.delay_ns


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a trace makes of one direction from some instant on; None leaves it to the profile."""

    rate_bps: Annotated[int, Meta(ge=0)] | None = None
    """0: nothing passes."""
    delay_ns: Annotated[int, Meta(ge=0, le=60_000_000_000)] | None = None
    loss_pct: Annotated[float, Meta(ge=0, le=100)] | None = None


def changed(direction: Direction, change: Change) -> Direction:
    """A direction after a change. A trace's loss is random, and replaces loss in bursts."""
    found = direction
    if change.rate_bps is not None:
        found = msgspec.structs.replace(found, rate_bps=change.rate_bps)
    if change.delay_ns is not None:
        found = msgspec.structs.replace(found, delay_ns=change.delay_ns)
    if change.loss_pct is not None:
        found = msgspec.structs.replace(found, loss_pct=change.loss_pct, burst_loss=None)
    return found


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One instant of a trace: what holds from then on."""

    at_ns: Annotated[int, Meta(ge=0)]
    """Since the start of the trace."""
    up: Change = Change()
    down: Change = Change()


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link that changes with time: steps over a profile. It begins anew where it ends."""

    name: str
    steps: tuple[Step, ...]
    """By rising time, the first at 0."""
    duration_ns: Annotated[int, Meta(gt=0)]
    source: str = ""
    """File or generator that it comes from, with how it was binned."""

    def __post_init__(self) -> None:
        times = [step.at_ns for step in self.steps]
        if not times or times[0] != 0 or any(b <= a for a, b in pairwise(times)):
            raise ValueError("a trace has a step at 0, and steps of rising time after it")
        if times[-1] >= self.duration_ns:
            raise ValueError("a trace lasts longer than its last step's beginning")

    @property
    def digest(self) -> str:
        """SHA-256 of its steps and duration, however it came to be."""
        return hashlib.sha256(msgspec.json.encode((self.steps, self.duration_ns))).hexdigest()


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a trace while it was replayed."""

    trace: str
    """Its name."""
    digest: str
    elapsed_ns: int
    """Since its start; beyond `Trace.duration_ns` it was begun again."""
    changes: int
    """Steps that were put into effect, repeated ones included."""
    drift_p50_ns: int
    """How late after their instant: median."""
    drift_max_ns: int


class LinkFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a link says of itself, through the port of its probe."""

    kind: LinkKind
    profile: LinkProfile
    port: int = 0
    """Where frames go on the same host; 0: to the port that was asked."""
    trace: str = ""
    """Name of the trace that it can replay; "" for none."""
    settings: dict[str, str] = {}
    """What else was set or found, for the record: offloads, queue lengths, priority."""


class LinkCounters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What passed since the link was made."""

    up_bytes: int
    """Over a relay, payload, without the probe's; over the kernel, whole packets with their link
    headers, the probe's too."""
    down_bytes: int
    """Likewise."""
    connections: int
    """That a relay forwarded; 0 over the kernel, which does not count them."""
