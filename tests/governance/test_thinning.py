from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.thinning import Thinning

CRITICAL, NORMAL, SHEDDABLE = 0, 1, 2


def granted(demand: dict[int, float], rate: float = 10.0, seconds: float = 300.0) -> dict[int, float]:
    """Requests per second that each importance gets of what it asks for."""
    thinning, chance = Thinning(rate, 3.0), Random(7)
    arrivals = sorted(
        (chance.uniform(0.0, seconds), importance)
        for importance, wanted in demand.items()
        for _ in range(int(wanted * seconds))
    )
    got = dict.fromkeys(demand, 0)
    for now, importance in arrivals:
        got[importance] += thinning.take(importance, now)
    return {importance: number / seconds for importance, number in got.items()}


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        ({SHEDDABLE: 40.0}, {SHEDDABLE: 10.0}),
        ({CRITICAL: 4.0, SHEDDABLE: 40.0}, {CRITICAL: 4.0, SHEDDABLE: 6.0}),
        ({CRITICAL: 20.0, NORMAL: 20.0, SHEDDABLE: 20.0}, {CRITICAL: 10.0, NORMAL: 0.0, SHEDDABLE: 0.0}),
        ({CRITICAL: 3.0, NORMAL: 3.0, SHEDDABLE: 20.0}, {CRITICAL: 3.0, NORMAL: 3.0, SHEDDABLE: 4.0}),
        ({NORMAL: 2.0, SHEDDABLE: 3.0}, {NORMAL: 2.0, SHEDDABLE: 3.0}),
    ],
    ids=["alone", "beside critical", "only critical", "all three", "enough for all"],
)
def test_the_important_go_first_and_leave_the_rest(
    demand: dict[int, float], expected: dict[int, float]
) -> None:
    assert granted(demand) == pytest.approx(expected, abs=0.8)


@given(st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(0, 2)), max_size=200))
def test_never_more_than_the_rate_and_three_bursts_in_any_window(events: list[tuple[float, int]]) -> None:
    thinning, now, grants = Thinning(10.0, 2.0), 0.0, []
    for pause, importance in events:
        now += pause
        if thinning.take(importance, now):
            grants.append(now)
    for first, start in enumerate(grants):
        for last in range(first, len(grants)):
            assert last - first + 1 <= 10.0 * (grants[last] - start) + 3 * 2.0 + 1e-3


def test_asking_without_spending_changes_nothing() -> None:
    thinning = Thinning(1.0, 1.0)
    assert [thinning.take(SHEDDABLE, 0.0, spend=False) for _ in range(3)] == [True] * 3
    assert [thinning.take(SHEDDABLE, 0.0) for _ in range(2)] == [True, False]
    assert thinning.take(SHEDDABLE, 0.0, spend=False) is False
