"""When to start again what ended."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.restart import Backoff


def test_the_first_death_is_answered_at_once_and_further_ones_ever_later() -> None:
    backoff = Backoff(first=0.2, longest=1.0)
    assert [backoff.pause(0.1) for _ in range(6)] == [0.0, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_who_served_for_long_starts_from_the_beginning() -> None:
    backoff = Backoff(calm=10.0)
    for _ in range(5):
        backoff.pause(0.0)
    assert backoff.pause(10.0) == 0.0
    assert backoff.pause(0.0) == 0.2


@given(st.lists(st.floats(0, 100), max_size=2000))
def test_no_pause_is_longer_than_the_longest(lives: list[float]) -> None:
    backoff = Backoff(longest=3.0)
    assert all(0.0 <= backoff.pause(served) <= 3.0 for served in lives)
