"""What was measured of a link, and how far that is from what it was asked to be. Types only."""

from __future__ import annotations

import msgspec

from splitbed.link import LinkKind, LinkProfile


class LinkMeasurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement of a link by the probe, raw samples kept."""

    rtt_ns: tuple[int, ...]
    """Every round trip of a one-byte message, in order."""
    up_goodput_bps: float
    """TCP payload bits per second towards the edge, timed at the receiver."""
    down_goodput_bps: float
    up_probe_bytes: int
    down_probe_bytes: int
    seconds: float
    """How long the measurement took."""
    at: str = ""
    """The address that was probed."""
    taken_utc: str = ""
    """When it was over, by the clock of the machine that probed."""

    @property
    def rtt_median_ns(self) -> int:
        """Median round-trip time."""
        return sorted(self.rtt_ns)[len(self.rtt_ns) // 2]

    @property
    def rtt_p95_ns(self) -> int:
        """95th percentile of the round-trip time (nearest rank)."""
        return sorted(self.rtt_ns)[max(0, -(-len(self.rtt_ns) * 95 // 100) - 1)]

    def misses(self, profile: LinkProfile) -> list[str]:
        """Each way in which this measurement misses a profile, as a clause; [] if none."""
        misses: list[str] = []
        for word, direction, goodput_bps in (
            ("uplink", profile.up, self.up_goodput_bps),
            ("downlink", profile.down, self.down_goodput_bps),
        ):
            wanted = direction.payload_bps
            if wanted is None:
                continue
            off_pct = 100 * (goodput_bps / wanted - 1)
            if abs(off_pct) > profile.rate_tolerance_pct:
                misses.append(f"{word} goodput {goodput_bps / 1e6:.3g} Mbit/s ({off_pct:+.1f} %)")
        # Two directions of jitter add in quadrature; the median of n round trips still strays by
        # about 1.25 sigma / sqrt(n). Three of those are no fault of the link.
        sigma_ns = (profile.up.jitter_ns**2 + profile.down.jitter_ns**2) ** 0.5
        noise_ns = 1.25 * sigma_ns / len(self.rtt_ns) ** 0.5
        allowed_ns = profile.rtt_tolerance_ns + 3 * noise_ns
        off_ns = self.rtt_median_ns - profile.rtt_ns
        if profile.is_shaped and abs(off_ns) > allowed_ns:
            misses.append(f"round trip {self.rtt_median_ns / 1e6:.2f} ms ({off_ns / 1e6:+.2f})")
        return misses


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

    def _mean(self, figure: str) -> float:
        measured = [m for m in (self.before, self.after) if m is not None]
        return sum(float(getattr(m, figure)) for m in measured) / len(measured)

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

    def violations(self) -> list[str]:
        """Each way in which the measured link misses its profile, as a clause; [] if none."""
        found: list[str] = []
        if self.after is None:
            found.append("not measured after the run")
        for when, measured in (("before", self.before), ("after", self.after)):
            if measured is not None:
                found += [f"{text} {when} the run" for text in measured.misses(self.profile)]
        return found
