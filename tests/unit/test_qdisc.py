"""The kernel's option bytes, queue lengths and distribution tables."""

from __future__ import annotations

import errno
import math
import struct
from statistics import fmean, pstdev

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem import qdisc_options
from netem.interface import refusal
from netem.qdisc import burst_bytes, queue_packets
from netem.tc import ROOT, TrafficControl, attribute
from splitbed.link import BurstLoss, Direction

MS = 1_000_000
ALL = 0xFFFFFFFF


def attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        size, number = struct.unpack_from("=HH", data, at)
        found[number] = data[at + 4 : at + size]
        at += size + -size % 4
    return found


def test_a_direction_in_the_kernels_bytes() -> None:
    asked = Direction(
        rate_bps=10_000_000,
        delay_ns=20 * MS,
        jitter_ns=2 * MS,
        jitter_correlation_pct=50,
        loss_pct=25,
        duplicate_pct=1,
        reorder_pct=10,
        corrupt_pct=5,
    )
    options = qdisc_options.netem(asked, 123, seed=7)
    head = struct.unpack_from("=IIIIII", options)
    assert head == (312_500, 123, round(0.25 * ALL), 1, round(0.01 * ALL), 31_250)
    found = attributes(options[24:])
    assert struct.unpack("=III", found[1]) == (round(0.5 * ALL), 0, 0)
    assert struct.unpack("=II", found[3]) == (round(0.1 * ALL), 0)
    assert struct.unpack("=II", found[4]) == (round(0.05 * ALL), 0)
    assert 5 not in found
    assert struct.unpack("=q", found[10]) == (20 * MS,)
    assert struct.unpack("=q", found[11]) == (2 * MS,)
    assert struct.unpack("=Q", found[14]) == (7,)


def test_bursts_are_p_r_h_and_one_minus_k() -> None:
    options = qdisc_options.netem(Direction(burst_loss=BurstLoss(1, 25, 90, 0.5)), 50, 0)
    model = attributes(attributes(options[24:])[5])[2]
    assert struct.unpack("=IIII", model) == tuple(round(s / 100 * ALL) for s in (1, 25, 10, 0.5))
    assert struct.unpack_from("=IIIIII", options)[2] == 0


@pytest.mark.parametrize(
    ("rate_bps", "short", "has_long"),
    [(8, 1, False), (100_000_000, 12_500_000, False), (400_000_000_000, ALL, True)],
)
def test_a_bucket_in_the_kernels_bytes(rate_bps: int, short: int, has_long: bool) -> None:
    found = attributes(qdisc_options.bucket(rate_bps, 3028))
    assert struct.unpack_from("=BBHhHI", found[1]) == (0, 1, 0, 0, 0, short)
    assert (4 in found) == has_long
    if has_long:
        assert struct.unpack("=Q", found[4]) == (rate_bps // 8,)
    assert struct.unpack("=I", found[6]) == (3028,)


@pytest.mark.parametrize("mtu_bytes", [576, 1500, 9000, 65_536])
@pytest.mark.parametrize("header_bytes", [0, 14])
def test_a_size_table_takes_the_header_off_in_proportion(header_bytes: int, mtu_bytes: int) -> None:
    found = attributes(qdisc_options.size_table(header_bytes, mtu_bytes))
    cell_log, size_log, align, overhead, _, _, _, cells = struct.unpack("=BBhiIIII", found[1])
    table = struct.unpack(f"={cells}H", found[2])
    assert (size_log, align, len(found[2]) < 65_000) == (0, 0, True)
    for ip_bytes in (28, 52, 128, 500, mtu_bytes):
        counted = table[(ip_bytes + header_bytes + overhead) >> cell_log]  # as the kernel does
        exact = ip_bytes * (mtu_bytes + header_bytes) / mtu_bytes
        assert abs(counted - exact) <= (0.5 if cell_log == 0 else 1 << cell_log)


@pytest.mark.parametrize("name", ["normal", "uniform", "pareto", "paretonormal"])
def test_distributions_have_mean_0_and_deviation_1(name: str) -> None:
    asked = msgspec.convert({"jitter_ns": MS, "jitter_distribution": name}, Direction)
    options = qdisc_options.netem(asked, 50, 0)
    table = [x / 8192 for (x,) in struct.iter_unpack("=h", attributes(options[24:])[2])]
    assert len(table) == 4096
    assert abs(fmean(table)) < 0.01
    assert abs(pstdev(table) - 1) < 0.02
    assert max(map(abs, table)) <= 4
    skew = fmean(x**3 for x in table)
    assert (skew > 0.8) == name.startswith("pareto")
    assert (max(table) < 1.8) == (name == "uniform")


@pytest.mark.parametrize(
    ("direction", "rtt_ms", "packets"),
    [
        # 50 Mbit/s x 20 ms travel = 83.3; 50 Mbit/s x 40 ms wait = 166.7
        (Direction(50_000_000, 20 * MS), 40, 250),
        (Direction(50_000_000, 20 * MS, 10 * MS), 40, 375),
        (Direction(1_000_000, 10 * MS), 20, 51),  # never fewer than 50 wait
        (Direction(1_000_000, 10 * MS, queue_ns=24 * MS), 20, 3),
        (Direction(1_000_000_000, 150 * MS), 300, 37_500),
        (Direction(delay_ns=1 * MS), 2, 2500),  # sized for 10 Gbit/s
        (Direction(), 0, 50),
    ],
)
def test_queue_lengths(direction: Direction, rtt_ms: int, packets: int) -> None:
    assert queue_packets(direction, rtt_ms * MS) == packets


@given(
    st.builds(
        Direction,
        rate_bps=st.integers(1000, 10**12),
        delay_ns=st.integers(0, 10**10),
        jitter_ns=st.integers(0, 2 * 10**9),
    ),
    st.integers(0, 10**11),
)
def test_a_queue_holds_what_travels_and_a_round_trip(direction: Direction, rtt_ns: int) -> None:
    rate = direction.rate_bps or 0
    found = queue_packets(direction, rtt_ns)
    assert 50 <= found <= 2_000_000_000
    if found < 2_000_000_000:
        assert found >= math.floor(rate * (direction.delay_ns + rtt_ns) / 1e9 / 12_000)


def test_a_bucket_is_a_packet_and_a_millisecond_deep() -> None:
    assert burst_bytes(100_000_000, 1500) == 14_014
    assert burst_bytes(1_000_000, 1500) == 1639
    assert burst_bytes(0, 9000) == 9014


def test_attributes_are_padded_to_four_bytes() -> None:
    assert attribute(1, b"abcde") == b"\x09\0\x01\0abcde\0\0\0"


def test_what_the_kernel_refuses_comes_in_its_own_words() -> None:
    with TrafficControl() as control, pytest.raises(OSError) as caught:  # noqa: PT011
        control.replace(10**6, ROOT, 0x10000, "tbf", b"")
    # Without the privilege it does not look at the interface.
    assert caught.value.errno in (errno.ENODEV, errno.EPERM)
    assert caught.value.strerror


def test_refusals_say_what_to_do() -> None:
    assert str(refusal("shape x", errno.EPERM)).endswith("that takes root (CAP_NET_ADMIN)")
    assert str(refusal("x", errno.EPERM, or_relay=True)).endswith(", or use --backend relay")
    assert str(refusal("shape x", errno.ENOENT)) == "cannot shape x: No such file or directory"
