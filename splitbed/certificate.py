"""What was measured of a link, and how far that is from what it was asked to be."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from splitbed import chance
from splitbed.link import PAYLOAD_SHARE, Direction, LinkFacts, LinkKind, LinkProfile, Way

_PING_BYTES: Final = 9
"""Payload of the probe's ping, either way (`netem.answering`)."""

_HEADER_BYTES: Final = 52
"""20 bytes IPv4, 32 bytes TCP with time stamps."""


Count = Annotated[int, Meta(ge=0, le=10_000_000)]
"""Of packets. Measurements come from other machines as well, and intervals are reckoned from them.
"""


class DatagramMeasurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of the probe's own UDP datagrams in one direction.

    They are numbered, and each fills an IP packet. Loss is taken well below the rate, so that no
    queue drops anything; the rate is taken above it.
    """

    sent: Count
    """Well below the rate."""
    arrived: Count
    """Of those, each counted once."""
    duplicated: Count
    """Arrivals of a datagram that had arrived before."""
    reordered: Count
    """Arrivals after one with a higher number (RFC 4737, type-P-reordered)."""
    offered_bps: float
    """Bits of IP packets per second at which they were sent, by the sender's clock."""
    overflowed: Count = 0
    """Dropped by the receiving host's own socket: they had crossed the link."""
    rate_bps: float | None = None
    """Bits of IP packets per second that arrived while more were offered than the link takes."""
    rate_offered_bps: float | None = None

    @property
    def lost(self) -> int:
        """Sent, and missing at the receiver. A damaged packet is missing, too."""
        return self.sent - self.arrived

    @property
    def loss_pct(self) -> float:
        """Share of packets that were lost."""
        return 100 * self.lost / max(1, self.sent)

    def misses(self, word: str, direction: Direction) -> Iterator[str]:
        """Each way in which loss and duplication are not what chance makes of the profile."""
        # What the socket dropped did not stray on the link. With damaged packets, which the kernel
        # counts in the same place, it cannot be told apart.
        lost = self.lost if direction.corrupt_pct else max(0, self.lost - self.overflowed)
        for verb, count, asked_pct, (low, high) in (
            (
                "lost",
                lost,
                direction.mean_loss_pct + direction.corrupt_pct,
                chance.lost_between(self.sent, direction),
            ),
            (
                "duplicated",
                self.duplicated,
                direction.duplicate_pct,
                chance.duplicated_between(self.sent, direction),
            ),
        ):
            if not low <= count <= high:
                allowed = f"{low} to {high}" if high else "none"
                yield (
                    f"{word} {verb} {count} of {self.sent} packets "
                    f"({100 * count / max(1, self.sent):.3g} %, asked {asked_pct:g} %: {allowed})"
                )


class LinkMeasurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement of a link by the probe, raw samples kept."""

    rtt_ns: tuple[int, ...]
    """Every round trip of a nine-byte message on the link, in order."""
    up_goodput_bps: float
    """TCP payload bits per second towards the edge, timed at the receiver, once up to speed."""
    down_goodput_bps: float
    up_probe_bytes: int
    down_probe_bytes: int
    seconds: float
    """How long the measurement took."""
    at: str = ""
    """The address that was probed."""
    taken_utc: str = ""
    """When it was over, by the clock of the machine that probed."""
    facts: LinkFacts | None = None
    """What the link said of itself."""
    up_datagrams: DatagramMeasurement | None = None
    down_datagrams: DatagramMeasurement | None = None
    without_datagrams: str = ""
    """Why there is no measurement by datagrams, as a clause."""
    up_window_bytes: int = 0
    """Payload that TCP can have under way, for the socket buffers of both hosts; 0: not known."""
    down_window_bytes: int = 0
    hosts_ns: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """What each round trip took besides, in the two hosts: from a packet's coming to its process'
    having it. Zeros where a host cannot tell; there it is in `rtt_ns`."""

    @property
    def frames_at(self) -> str:
        """The address of frames over the same link: that of the probe, or what the link told."""
        port = 0 if self.facts is None else self.facts.port
        return f"{self.at.rpartition(':')[0]}:{port}" if port else self.at

    @property
    def rtt_median_ns(self) -> int:
        """Median round-trip time."""
        return sorted(self.rtt_ns)[len(self.rtt_ns) // 2]

    @property
    def hosts_median_ns(self) -> int:
        """What the hosts add to a round trip, at the median; 0: not known."""
        return sorted(self.hosts_ns)[len(self.hosts_ns) // 2] if self.hosts_ns else 0

    @property
    def rtt_p95_ns(self) -> int:
        """95th percentile of the round-trip time (nearest rank)."""
        return sorted(self.rtt_ns)[max(0, -(-len(self.rtt_ns) * 95 // 100) - 1)]

    @property
    def rtt_sd_ns(self) -> float:
        """Jitter: standard deviation of the round-trip time; 0 of a single one."""
        return statistics.stdev(self.rtt_ns) if len(self.rtt_ns) > 1 else 0.0

    @property
    def rtt_rise_ns(self) -> int:
        """Jitter as seen by who waits: 95th percentile less median."""
        return self.rtt_p95_ns - self.rtt_median_ns

    def payload_bps(self, way: Way) -> float:
        """Payload bits per second that one direction carries, whatever TCP makes of it.

        TCP's goodput; where packets are lost on purpose, what the rate by UDP leaves for payload.
        How TCP takes losses is not the link's doing, and another time it is luckier.
        """
        found = self.datagrams(way)
        if found is not None and found.rate_bps is not None:
            return found.rate_bps * PAYLOAD_SHARE
        return self.up_goodput_bps if way == "up" else self.down_goodput_bps

    def misses(self, profile: LinkProfile) -> list[str]:
        """Each way in which this measurement misses a profile, as a clause; [] if none."""
        ways: tuple[Way, ...] = ("up", "down")
        misses = [miss for way in ways for miss in self._rate_misses(way, profile)]
        if profile.is_shaped:
            misses += [*self._round_trip_misses(profile), *self._jitter_misses(profile)]
        for way in ways:
            found, direction = self.datagrams(way), profile.direction(way)
            if found is None:
                misses += [
                    f"{way}link {effect} not measured ({self.without_datagrams or 'no datagrams'})"
                    for effect in direction.packet_effects
                ]
            elif profile.is_shaped:
                misses += found.misses(f"{way}link", direction)
        return misses

    def datagrams(self, way: Way) -> DatagramMeasurement | None:
        """Those of one direction."""
        return self.up_datagrams if way == "up" else self.down_datagrams

    def wanted_rtt_ns(self, profile: LinkProfile) -> tuple[float, float]:
        """What the median of the pings should be: from, to.

        From: the two delays. To: with the time in which a ping leaves at the rate, 8 bytes / rate
        each way. A token bucket lets a single small packet pass at once, a wire does not, and the
        kernel has both. A ping is an IP packet of 61 bytes; the relay shapes its payload of 9,
        which there takes what 9 / `PAYLOAD_SHARE` bytes take.
        """
        is_relay = self.facts is None or self.facts.kind == "relay"
        size = _PING_BYTES / PAYLOAD_SHARE if is_relay else _PING_BYTES + _HEADER_BYTES
        rates = (profile.up.rate_bps, profile.down.rate_bps)
        sending_ns = sum(size * 8e9 / rate for rate in rates if rate is not None)
        return profile.rtt_ns, profile.rtt_ns + sending_ns

    def _rate_misses(self, way: Way, profile: LinkProfile) -> Iterator[str]:
        """The rate by TCP; by UDP where packets are touched, which TCP takes for congestion."""
        found, direction = self.datagrams(way), profile.direction(way)
        if direction.rate_bps is None or direction.payload_bps is None:
            return
        if not direction.packet_effects:
            is_up = way == "up"
            bps = self.up_goodput_bps if is_up else self.down_goodput_bps
            window = self.up_window_bytes if is_up else self.down_window_bytes
            off_pct = 100 * (bps / direction.payload_bps - 1)
            if abs(off_pct) > profile.rate_tolerance_pct:
                yield (
                    f"{way}link goodput {bps / 1e6:.3g} Mbit/s ({off_pct:+.1f} %)"
                    f"{self._excuse(window, direction.payload_bps) if off_pct < 0 else ''}"
                )
        elif found is not None and found.rate_bps is not None:
            # Damaged packets take their time on the link and are not seen behind it.
            wanted = direction.rate_bps * (1 - direction.corrupt_pct / 100)
            off_pct = 100 * (found.rate_bps / wanted - 1)
            if abs(off_pct) > profile.rate_tolerance_pct:
                offered = found.rate_offered_bps or 0
                slow = f"; only {offered / 1e6:.3g} were sent" if offered < wanted else ""
                yield f"{way}link rate {found.rate_bps / 1e6:.3g} Mbit/s ({off_pct:+.1f} %{slow})"

    def _excuse(self, window_bytes: int, wanted_bps: float) -> str:
        """That TCP could not fill the link, where the hosts' buffers are too small for it."""
        allowed_bps = window_bytes * 8e9 / max(1, self.rtt_median_ns)
        if not window_bytes or allowed_bps > wanted_bps:
            return ""
        return (
            f", where the hosts' TCP buffers allow about {allowed_bps / 1e6:.3g} over "
            f"{self.rtt_median_ns / 1e6:.0f} ms (net.ipv4.tcp_rmem, tcp_wmem)"
        )

    def _round_trip_misses(self, profile: LinkProfile) -> Iterator[str]:
        low, high = self.wanted_rtt_ns(profile)
        median = self.rtt_median_ns
        off_ns = median - min(max(median, low), high)
        allowed_ns = max(profile.rtt_tolerance_ns, profile.rtt_tolerance_pct / 100 * profile.rtt_ns)
        if abs(off_ns) > allowed_ns + chance.median_error_ns(len(self.rtt_ns), profile):
            yield f"round trip {median / 1e6:.2f} ms ({off_ns / 1e6:+.2f})"

    def _jitter_misses(self, profile: LinkProfile) -> Iterator[str]:
        """Where jitter is asked for: too little of it, or too much."""
        if not (profile.up.jitter_ns or profile.down.jitter_ns):
            return
        low, high = chance.spread_between(len(self.rtt_ns), profile)
        # One late answer of a busy machine, or of TCP after a loss, widens the deviation alone and
        # not the spread below the median, which is one deviation of a normal distribution.
        inner = self.rtt_median_ns - sorted(self.rtt_ns)[len(self.rtt_ns) * 16 // 100]
        if self.rtt_sd_ns < low or min(self.rtt_sd_ns, inner) > high:
            yield (
                f"jitter of the round trip {self.rtt_sd_ns / 1e6:.2f} ms (allowed "
                f"{low / 1e6:.2f} to {high / 1e6:.2f})"
            )


class LinkCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run is compared with: the link as measured, not as promised."""

    kind: LinkKind
    profile: LinkProfile
    before: LinkMeasurement
    after: LinkMeasurement | None = None
    """None while the run is going on, or when it was cut short before the second measurement."""
    before_attempts: int = 1
    """Measurements made before the run until one met the profile; the last of them is `before`."""
    users: int = 1
    """Devices that used the link at once during the run, at most; none did while it was measured.
    """

    def _measured(self) -> list[LinkMeasurement]:
        return [found for found in (self.before, self.after) if found is not None]

    def _mean(self, figure: str) -> float:
        return statistics.fmean(float(getattr(found, figure)) for found in self._measured())

    @property
    def up_goodput_bps(self) -> float:
        """Certified uplink goodput: mean of before and after, payload bits per second."""
        return self._mean("up_goodput_bps")

    @property
    def down_goodput_bps(self) -> float:
        """Certified downlink goodput, as `up_goodput_bps`."""
        return self._mean("down_goodput_bps")

    @property
    def rtt_ns(self) -> float:
        """Certified round-trip time: mean of the medians before and after."""
        return self._mean("rtt_median_ns")

    @property
    def rtt_sd_ns(self) -> float:
        """Certified jitter: mean of the round trip's standard deviations before and after."""
        return self._mean("rtt_sd_ns")

    def payload_bps(self, way: Way) -> float:
        """Certified payload rate of one direction: mean of before and after."""
        return statistics.fmean(found.payload_bps(way) for found in self._measured())

    def loss_pct(self, way: Way) -> float | None:
        """Certified loss of one direction, all packets together; None: not measured."""
        found = self._datagrams(way)
        sent = sum(counted.sent for counted in found)
        return 100 * sum(counted.lost for counted in found) / sent if sent else None

    def udp_bps(self, way: Way) -> float | None:
        """Certified rate of one direction by UDP, bits of IP packets; None: not measured."""
        rates = [found.rate_bps for found in self._datagrams(way) if found.rate_bps is not None]
        return statistics.fmean(rates) if rates else None

    def _datagrams(self, way: Way) -> list[DatagramMeasurement]:
        every = [measured.datagrams(way) for measured in self._measured()]
        return [found for found in every if found is not None]

    def violations(self) -> list[str]:
        """Each way in which the measured link misses its profile, as a clause; [] if none."""
        found: list[str] = []
        if self.after is None:
            found.append("not measured after the run")
        for when, measured in (("before", self.before), ("after", self.after)):
            if measured is not None:
                found += [f"{text} {when} the run" for text in measured.misses(self.profile)]
        return found
