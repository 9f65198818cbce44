"""What the kernel makes of a profile: rate, round trip and loss of at least twelve, both ways.

Prints the table. `-s` is not needed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import pytest

from experiments.children import end, ready_line, start_module
from netem.hosts_link import HostsLink
from netem.namespace import Namespace
from netem.probe import measure
from netem.profiles import find_profile
from splitbed.address import host_and_port
from splitbed.certificate import LinkMeasurement
from splitbed.link import PAYLOAD_SHARE, LinkProfile, Way
from tests.netem.conftest import EDGE, WIRE

SECONDS = 12.0
_MORE_TRIES = 3
LINKS = (
    "rate=1mbit",
    "rate=1mbit,delay=50ms",
    "up=1mbit,down=10mbit,delay=25ms,loss=2%",
    "rate=2mbit,delay=150ms",
    "up=5mbit,down=20mbit,delay=10ms",
    "rate=10mbit,delay=10ms,loss=1%",
    "rate=10mbit,delay=30ms,burst=1%/25%",
    "rate=20mbit,delay=20ms",
    "up=25mbit,down=50mbit,delay=10ms,jitter=2ms",
    "rate=50mbit,delay=20ms,up.loss=0.5%",
    "rate=50mbit,up.delay=75ms,down.delay=5ms,loss=5%",
    "rate=100mbit",
    "rate=100mbit,delay=20ms",
    "rate=100mbit,delay=5ms,loss=5%",
    "rate=200mbit",
    "rate=200mbit,delay=5ms,loss=0.1%",  # by datagrams: METHODOLOGY.md, "The link"
    "rate=200mbit,delay=150ms,loss=0.1%",
)
ONE_END = (
    "up=5mbit,down=20mbit,delay=10ms",
    "rate=50mbit,delay=20ms,up.loss=1%",
    "rate=100mbit,delay=5ms",
)
HEAD = (
    f"{'':49}   rate, off %      round trip, ms  lost of 1000\n"
    f"{'link':49}     up    down   median    off     up   down"
)


def strict(text: str) -> LinkProfile:
    """Round trips within 2 % or 1 ms, rates within 3 %, loss within chance."""
    return msgspec.structs.replace(find_profile(text), rtt_tolerance_ns=1_000_000)


def rate_bps(found: LinkMeasurement, way: Way) -> float:
    """Bits of IP packets per second: by datagrams where packets are lost, else by TCP."""
    counted = found.datagrams(way)
    if counted is not None and counted.rate_bps is not None:
        return counted.rate_bps
    return (found.up_goodput_bps if way == "up" else found.down_goodput_bps) / PAYLOAD_SHARE


def row(text: str, profile: LinkProfile, found: LinkMeasurement) -> str:
    ways: tuple[Way, ...] = ("up", "down")
    rates = [100 * (rate_bps(found, w) / (profile.direction(w).rate_bps or 1) - 1) for w in ways]
    lost = [(d.lost, d.sent) if (d := found.datagrams(w)) else (0, 1) for w in ways]
    off_ms = (found.rtt_median_ns - profile.rtt_ns) / 1e6
    shown = "  ".join(f"{1000 * count / sent:5.1f}" for count, sent in lost)
    return (
        f"{text:49} {rates[0]:+6.2f}  {rates[1]:+6.2f}  {found.rtt_median_ns / 1e6:7.2f} "
        f"{off_ms:+6.2f}  {shown}"
    )


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        print("", HEAD, *rows, sep="\n")


@contextmanager
def two_hosts(profile: LinkProfile, folder: Path) -> Iterator[HostsLink]:
    link = HostsLink(profile, folder / "log", start_module)
    try:
        yield link
    finally:
        link.close()


@pytest.mark.parametrize("text", LINKS)
def test_between_two_hosts(text: str, table: list[str], tmp_path: Path) -> None:
    profile = strict(text)
    with two_hosts(profile, tmp_path) as link:
        found = link.measure(SECONDS)
        # As before a run, which measures up to four times: this machine does other things as well.
        # Every measurement stands in the table.
        for _ in range(_MORE_TRIES):
            if not found.misses(profile):
                break
            table.append(row(f"{text} (again)", profile, found))
            found = link.measure(SECONDS)
    table.append(row(text, profile, found))
    assert found.misses(profile) == []


@pytest.mark.parametrize("text", ONE_END)
def test_at_the_edges_end_alone(
    text: str, table: list[str], tmp_path: Path, hosts: tuple[Namespace, Namespace]
) -> None:
    """The device does nothing for it, and keeps its segmentation offloads."""
    device, edge = hosts
    profile = strict(text)
    arguments = ["-m", "netem", "serve", "--profile", text, "--backend", "kernel"]
    arguments += ["--interface", WIRE, "--listen", f"{EDGE}:0", "--edge", f"{EDGE}:50051"]
    log = tmp_path / "log"
    with edge.entered(), log.open("wb") as errors:
        process: subprocess.Popen[bytes] = start_module(arguments, errors)
    try:
        address = host_and_port(ready_line(process, "link", log)["address"])
        with device.entered():
            found = measure(address, profile, SECONDS)
            if found.misses(profile):
                found = measure(address, profile, SECONDS)
    finally:
        end(process)
    table.append(row(f"{text} (edge alone)", profile, found))
    assert found.misses(profile) == []
    assert found.facts is not None
    assert (found.facts.kind, found.facts.port) == ("kernel", 50051)
