"""A transfer over TCP: what is left out of it, how long it is, and what is read of a stranger."""

from __future__ import annotations

import socket
import threading
import time

import msgspec
import pytest

from netem.transfer import Transfer, TransferPlan, drain, planned, pour, window_bytes

MS = 1_000_000
S = 1_000 * MS


def moved(*megabits: float, window_ms: int = 100) -> Transfer:
    """Windows of these rates in Mbit/s."""
    marks, size = [], 0
    for number, rate in enumerate(megabits, 1):
        size += round(rate * 1e6 / 8 * window_ms / 1e3)
        marks.append((number * window_ms * MS, size))
    return Transfer(size, tuple(marks))


@pytest.mark.parametrize(
    ("windows", "mbps"),
    [
        ((10,) * 12, 10),
        ((0.1, 0.5, 1, 2, 4, 8, 10, 10, 10, 10, 10, 10), 10),  # slow start
        ((1, 2, 5, 10, 5, 10, 10, 10, 10, 10), 10),  # its last step leaves a window half empty
        ((5, 5, 10, 5, 10, 5, 10, 5, 10, 5), 55 / 7),  # never twice in a row
        ((40, 10, 10, 10, 10, 10, 10), 10),  # saved up in a bucket
        ((10, 10, 10, 10, 10, 10, 90), 10),  # the last window ends anywhere
        ((1, 5, 9, 9.9, 10, 10, 10, 10, 10), 9.98),
        ((10, 10, 10, 10, 2, 10, 10, 10, 10), 60 / 7 + 2 / 7),  # what stalls is not left out
        ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 8.5),  # never up to speed: the end of it
    ],
)
def test_what_came_before_the_speed_was_reached_is_left_out(
    windows: tuple[float, ...], mbps: float
) -> None:
    assert moved(*windows).bps / 1e6 == pytest.approx(mbps, rel=0.003)


def test_of_few_windows_all_count() -> None:
    assert moved(1, 2, 3).bps / 1e6 == pytest.approx(2)
    assert moved(5).bps / 1e6 == pytest.approx(5)
    assert Transfer(0, ()).bps == 0


@pytest.mark.parametrize(
    ("rate_bps", "rtt_ms", "seconds", "least_s", "most_s"),
    [
        (10e6, 0, 1.0, 1.0, 1.01),
        (10e6, 40, 1.0, 1.05, 1.3),
        (193e6, 300, 1.0, 4.2, 5.2),  # nine doublings and six round trips
        (1e6, 600, 0.1, 3.6, 6.6),
        (None, 300, 1.0, 4.2, 5.2),
        (10e6, 90_000, 1.0, 120, 120),
    ],
)
def test_a_transfer_is_as_long_as_tcp_needs(
    rate_bps: float | None, rtt_ms: int, seconds: float, least_s: float, most_s: float
) -> None:
    plan = planned(rate_bps, rtt_ms * MS, seconds, is_lossy=False)
    assert least_s * S <= plan.duration_ns <= most_s * S
    assert plan.window_ns >= max(100, rtt_ms) * MS
    assert plan.unsent_bytes == 0
    if rate_bps is not None:
        assert plan.most_bytes == int(rate_bps / 8 * plan.duration_ns / 1e9)


def test_a_short_transfer_has_short_windows() -> None:
    assert planned(None, MS, 0.1, is_lossy=False).window_ns == 12_500_000
    assert planned(None, MS, 0.01, is_lossy=False).window_ns == 10_000_000


def test_a_lossy_transfer_waits_for_no_speed_and_lets_little_wait() -> None:
    plan = planned(193e6, 300 * MS, 1.0, is_lossy=True)
    assert plan.duration_ns == 1.8 * S
    assert plan.unsent_bytes == 256 * 1024
    assert planned(1e6, 300 * MS, 1.0, is_lossy=True).unsent_bytes == 32 * 1024


@pytest.mark.parametrize(
    "fields",
    [
        {"duration_ns": 0},
        {"duration_ns": 121 * S},
        {"window_ns": 9 * MS},
        {"most_bytes": 0},
        {"unsent_bytes": 1 << 30},
        {"more": 1},
    ],
)
def test_plans_that_cannot_be_are_refused(fields: dict[str, int]) -> None:
    plan = {"duration_ns": S, "window_ns": 100 * MS, "most_bytes": 1000}
    msgspec.convert(plan, TransferPlan)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(plan | fields, TransferPlan)


def test_from_one_socket_to_another() -> None:
    plan = TransferPlan(duration_ns=150 * MS, window_ns=20 * MS, most_bytes=1 << 40)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=pour, args=(ours, plan))
        start = time.perf_counter()
        sender.start()
        found = drain(theirs, plan)
        sender.join()
    assert 0.1 < time.perf_counter() - start < 5
    assert found.bps > 10e6
    assert 2 <= len(found.marks) <= 9
    assert found.marks[-1][1] <= found.received_bytes
    assert list(found.marks) == sorted(found.marks)


def test_no_more_bytes_than_planned() -> None:
    plan = TransferPlan(duration_ns=10 * S, window_ns=20 * MS, most_bytes=100_001)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=pour, args=(ours, plan))
        start = time.perf_counter()
        sender.start()
        assert drain(theirs, plan).received_bytes == 100_001
        sender.join()
        assert time.perf_counter() - start < 5


def test_a_sender_that_sends_nothing() -> None:
    plan = TransferPlan(duration_ns=S, window_ns=20 * MS, most_bytes=1)
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        assert drain(theirs, plan) == Transfer(0, ())


def test_the_smaller_buffer_holds() -> None:
    assert window_bytes(3_000_000, 9_000_000) == 1_000_000
    assert window_bytes(9_000_000, 3_000_000) == 1_500_000
    assert window_bytes(9_000_000, 0) == 0
