"""A real link of the kernel's: two network namespaces, a veth pair, tbf and netem at both ends.

Made with the commands `ip` and `tc`, apart from anything that splitbed does.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from netem.probe import measure
from splitbed.address import host_and_port
from splitbed.certificate import LinkMeasurement
from splitbed.link import Direction, LinkProfile

ROOT = Path(__file__).resolve().parents[2]
CLONE_NEWNET = 0x40000000
ATTEMPTS = 4
"""A busy machine may be late, but not so many times in a row."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here carries the marker `netem`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.netem)


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def kernel() -> None:
    """Skips where there is no netem, by trying to have one."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux")
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            pytest.skip(f"needs the command {command} of iproute2")
    name = f"splitbed-try-{os.getpid()}"
    try:
        run(f"ip netns add {name}")
        try:
            run(f"ip -n {name} link add trial type veth peer name trial2")
            run(f"tc -n {name} qdisc add dev trial root netem delay 1ms")
        finally:
            run(f"ip netns del {name}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs a kernel with netem: {error.stderr.strip()}")


class Bed:
    """A device's and an edge's namespace, shaped as a profile says, a responder at the edge."""

    def __init__(self, profile: LinkProfile) -> None:
        self.profile = profile
        self.device, self.edge = (f"splitbed-test-{os.getpid()}-{end}" for end in "de")
        self._responder: subprocess.Popen[bytes] | None = None
        self.address = ""
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        for name in (self.device, self.edge):
            run(f"ip netns add {name}")
        run(f"ip -n {self.device} link add wire type veth peer name wire netns {self.edge}")
        for name, host, direction in (
            (self.device, "10.77.0.1", self.profile.up),
            (self.edge, "10.77.0.2", self.profile.down),
        ):
            run(f"ip -n {name} addr add {host}/24 dev wire")
            # Packets as they are on a wire: otherwise many at a time are lost or damaged together.
            run(f"ip -n {name} link set wire gso_max_segs 1 up")
            self._shape(name, direction)
        self._responder = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.edge, sys.executable, "-m", "netem", "responder"),
                *("--listen", "10.77.0.2:0"),
            ],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._responder.stdout is not None
        self.address = msgspec.json.decode(self._responder.stdout.readline())["address"]

    def _shape(self, name: str, direction: Direction) -> None:
        limit = 10_000
        parent = "root"
        if direction.rate_bps is not None:
            burst = max(3100, direction.rate_bps // 8 // 500)
            run(
                f"tc -n {name} qdisc add dev wire root handle 1: stab overhead -14 linklayer "
                f"ethernet tbf rate {direction.rate_bps} burst {burst} limit 100000000"
            )
            parent = "parent 1:1"
            waits_ns = self.profile.rtt_ns + max(self.profile.rtt_ns, 50_000_000)
            limit = 20 + int(direction.rate_bps * waits_ns / 1e9 / 12_000)
        words = f"limit {limit} delay {direction.delay_ns / 1e6}ms"
        if direction.jitter_ns:
            words += f" {direction.jitter_ns / 1e6}ms distribution normal"
        if direction.burst_loss is not None:
            burst_loss = direction.burst_loss
            words += f" loss gemodel {burst_loss.to_bad_pct}% {burst_loss.to_good_pct}%"
            words += f" {burst_loss.bad_loss_pct}% {burst_loss.good_loss_pct}%"
        for word, pct in (
            ("loss", direction.loss_pct),
            ("duplicate", direction.duplicate_pct),
            ("corrupt", direction.corrupt_pct),
            ("reorder", direction.reorder_pct),
        ):
            words += f" {word} {pct}%" if pct else ""
        run(f"tc -n {name} qdisc add dev wire {parent} netem {words}")

    def measure(self, profile: LinkProfile, seconds: float) -> LinkMeasurement:
        """From the device's namespace, by the function that runs use."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self._measured, profile, seconds).result()

    def _measured(self, profile: LinkProfile, seconds: float) -> LinkMeasurement:
        # Only this thread changes over.
        with open(f"/run/netns/{self.device}") as space:
            assert ctypes.CDLL(None).setns(space.fileno(), CLONE_NEWNET) == 0
        return measure(host_and_port(self.address), profile, seconds)

    def certify(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, from the device's namespace."""
        command = ["ip", "netns", "exec", self.device, sys.executable, "-m", "netem", "certify"]
        return subprocess.run(
            [*command, self.address, *arguments], capture_output=True, text=True, cwd=ROOT
        )

    def close(self) -> None:
        if self._responder is not None:
            self._responder.terminate()
            self._responder.wait()
            assert self._responder.stdout is not None
            self._responder.stdout.close()
        for name in (self.device, self.edge):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def make_bed(kernel: None) -> Iterator[Callable[[LinkProfile], Bed]]:
    """Makes a link; every one is taken away afterwards."""
    made: list[Bed] = []

    def make(profile: LinkProfile) -> Bed:
        for bed in made:
            bed.close()
        made.append(Bed(profile))
        return made[-1]

    yield make
    for bed in made:
        bed.close()


def certified(bed: Bed, seconds: float) -> LinkMeasurement:
    """A measurement without a miss, or the last of a few."""
    for _ in range(ATTEMPTS):
        found = bed.measure(bed.profile, seconds)
        if not found.misses(bed.profile):
            break
    return found
