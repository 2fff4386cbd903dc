"""The windows of a stored answer follow one another and never back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.freshness import Freshness, State

ORDER = [State.FRESH, State.STALE_SERVE, State.STALE_ON_ERROR, State.GONE]


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (100, State.FRESH),
        (109.9, State.FRESH),
        (110, State.STALE_SERVE),
        (114.9, State.STALE_SERVE),
        (115, State.STALE_ON_ERROR),
        (169.9, State.STALE_ON_ERROR),
        (170, State.GONE),
    ],
)
def test_each_instant_falls_into_its_window(now, state):
    assert Freshness(100, 10, 5, 60).state(now) is state


def test_without_stale_windows_an_answer_is_gone_when_it_is_not_fresh():
    assert Freshness(0, 10).state(10) is State.GONE


def test_a_longer_time_to_serve_stale_outlives_that_for_errors():
    freshness = Freshness(0, 10, stale_while_revalidate=60, stale_if_error=5)
    assert freshness.state(69) is State.STALE_SERVE
    assert freshness.state(70) is State.GONE


durations = st.floats(0, 100)


@given(durations, durations, durations, st.lists(st.floats(0, 400), max_size=20))
def test_an_answer_never_gets_fresher(ttl, serve, error, instants):
    freshness = Freshness(0, ttl, serve, error)
    seen = [ORDER.index(freshness.state(now)) for now in sorted(instants)]
    assert seen == sorted(seen)


def test_age_is_never_negative():
    assert Freshness(10, 1).age(12.5) == 2.5
    assert Freshness(10, 1).age(9) == 0.0
