"""Bandwidth that several processes count, each at once and together soon."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.meters import LAG, Meters

RATE, BURST = 1000.0, 100.0


def test_one_process_pays_and_waits() -> None:
    meters = Meters(lambda: 1)
    assert meters.pay(b"k", 100, RATE, BURST, 0.0) == 0.0
    assert meters.pay(b"k", 50, RATE, BURST, 0.0) == pytest.approx(0.05)
    assert meters.owed(b"k", RATE, BURST, 0.05) == pytest.approx(0.0)
    assert meters.told() == (), "there is nobody to tell"


def test_what_passes_elsewhere_is_waited_for_too() -> None:
    one, other = Meters(lambda: 2), Meters(lambda: 2)
    one.pay(b"k", 30, RATE, BURST, 0.0)
    one.pay(b"k", 40, RATE, BURST, 0.0)
    told = one.told()
    assert [tuple(each) for each in told] == [(b"k", 70.0, RATE)]
    assert one.told() == ()
    other.heard(told, 0.0)
    assert other.owed(b"k", RATE, BURST, 0.0) == one.owed(b"k", RATE, BURST, 0.0) == pytest.approx(0.02)


def play(processes: int, busy: int, piece: int, seconds: float) -> list[tuple[float, int]]:
    """`busy` of them send as fast as they may; returns when how many bytes passed."""
    meters = [Meters(lambda: processes) for _ in range(processes)]
    free_at, passed, now, tick = [0.0] * busy, [], 0.0, 0
    while now < seconds:
        for sender in range(busy):
            if now >= free_at[sender]:
                free_at[sender] = now + meters[sender].pay(b"k", piece, RATE, BURST, now)
                passed.append((now, piece))
        if tick % 50 == 0:
            for one in meters:
                told = one.told()
                for other in meters:
                    if other is not one:
                        other.heard(told, now)
        tick += 1
        now = tick * LAG / 50
    return passed


@given(processes=st.integers(1, 6), data=st.data(), piece=st.sampled_from([5, 20, 60]))
def test_no_window_sees_much_more_than_rate_and_burst(
    processes: int, data: st.DataObject, piece: int
) -> None:
    busy = data.draw(st.integers(1, processes))
    passed = play(processes, busy, piece, 3.0)
    spare = BURST + processes * (RATE * LAG + piece)
    for start in range(0, len(passed), max(1, len(passed) // 40)):
        total = 0
        for when, size in passed[start:]:
            total += size
            assert total <= RATE * (when - passed[start][0]) + spare


@pytest.mark.parametrize(("processes", "busy"), [(1, 1), (4, 1), (4, 4), (8, 3)])
def test_the_rate_is_used_whoever_asks_for_it(processes: int, busy: int) -> None:
    passed = play(processes, busy, 10, 10.0)
    assert 0.97 <= sum(size for _, size in passed) / (RATE * 10.0) <= 1.03
    assert max(later - when for (when, _), (later, _) in pairwise(passed)) <= 0.5
