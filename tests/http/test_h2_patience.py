from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.http.h2_patience import Patience


def test_a_burst_passes_and_the_next_one_does_not():
    patience = Patience(10.0, 1.0, now=0.0)
    assert all(patience.spend(1.0, 0.0) for _ in range(10))
    assert not patience.spend(1.0, 0.0)


def test_time_brings_some_back_and_never_more_than_the_burst():
    patience = Patience(10.0, 1.0, now=0.0)
    assert all(patience.spend(1.0, 0.0) for _ in range(10))
    assert [patience.spend(1.0, 5.0) for _ in range(6)] == [True] * 5 + [False]
    assert sum(patience.spend(1.0, 1000.0) for _ in range(50)) <= 11


def test_useful_work_earns_but_nothing_is_saved_up():
    patience = Patience(10.0, 0.0, now=0.0)
    patience.earn(1000.0)
    assert all(patience.spend(1.0, 0.0) for _ in range(10))
    assert not patience.spend(1.0, 0.0)


@given(st.lists(st.floats(0.0, 0.2), max_size=300))
def test_in_no_window_is_more_let_through_than_two_bursts_and_the_rate(pauses):
    patience = Patience(20.0, 10.0, now=0.0)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        passed += patience.spend(1.0, now)
    assert passed <= 2 * 20.0 + 10.0 * now
