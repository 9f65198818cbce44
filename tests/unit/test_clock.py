"""The offset between two clocks: always within its bound, whatever the path does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from splitbed.clock import ClockOffset, best_offset, offset_of
from splitbed.session import ClockExchange

durations = st.integers(0, 10**10)
offsets = st.integers(-(10**15), 10**15)


def exchange(
    there_ns: int, back_ns: int, offset_ns: int, start_ns: int = 0, work_ns: int = 0
) -> ClockExchange:
    """What two clocks show of one exchange: `peer clock = own clock + offset_ns`."""
    received = start_ns + there_ns
    answered = received + work_ns
    return ClockExchange(
        sent_ns=start_ns,
        peer_received_ns=received + offset_ns,
        peer_sent_ns=answered + offset_ns,
        received_ns=answered + back_ns,
    )


@given(there=durations, back=durations, offset=offsets, start=offsets, work=durations)
def test_true_offset_lies_within_the_bound(
    there: int, back: int, offset: int, start: int, work: int
) -> None:
    found = offset_of(exchange(there, back, offset, start, work))
    assert abs(found.offset_ns - offset) <= found.error_ns
    # Nor is the bound larger than half the path, but for its rounding.
    assert 0 < found.error_ns <= (there + back) / 2 + 1


@given(delay=durations, offset=offsets, start=offsets, work=durations)
def test_symmetric_paths_show_the_exact_offset(
    delay: int, offset: int, start: int, work: int
) -> None:
    found = offset_of(exchange(delay, delay, offset, start, work))
    assert found == ClockOffset(offset_ns=offset, error_ns=delay + 1)


def test_bound_is_tight_for_the_most_asymmetric_path() -> None:
    found = offset_of(exchange(there_ns=1000, back_ns=0, offset_ns=70))
    assert found == ClockOffset(offset_ns=570, error_ns=501)


@given(paths=st.lists(st.tuples(durations, durations), min_size=1, max_size=9), offset=offsets)
def test_best_offset_is_of_the_exchange_that_queued_least(
    paths: list[tuple[int, int]], offset: int
) -> None:
    found = best_offset(exchange(there, back, offset) for there, back in paths)
    assert found is not None
    assert found.error_ns == min(sum(path) for path in paths) // 2 + 1
    assert abs(found.offset_ns - offset) <= found.error_ns


def test_no_exchange_shows_no_offset() -> None:
    assert best_offset([]) is None


@given(there=durations, back=durations, offset=offsets, sent=durations, way=durations)
def test_one_way_time_is_within_the_bound(
    there: int, back: int, offset: int, sent: int, way: int
) -> None:
    found = offset_of(exchange(there, back, offset))
    shown = found.one_way_ns(sent, sent + way + offset)
    assert abs(shown - way) <= found.error_ns


def test_peer_that_claims_more_time_than_passed_is_not_believed() -> None:
    honest = exchange(there_ns=1000, back_ns=1000, offset_ns=70)
    # 500 ns passed here, and the peer says that it worked for 9000 of them.
    lie = ClockExchange(sent_ns=0, peer_received_ns=0, peer_sent_ns=9000, received_ns=500)
    assert best_offset([lie, honest]) == offset_of(honest)
