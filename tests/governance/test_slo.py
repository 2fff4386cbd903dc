from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.slo import Objective


def feed(objective: Objective, seconds: float, bad: float, start: float, rate: float = 20.0) -> float:
    """Feed a share of bad requests, evenly; returns the instant after the last."""
    due = 0.0
    count = int(seconds * rate)
    for index in range(count):
        due += bad
        is_bad = due >= 1.0 - 1e-9
        due -= is_bad
        objective.record(not is_bad, start + index / rate)
    return start + seconds


def test_exactly_the_allowed_share_burns_at_one() -> None:
    objective = Objective(0.99, 300.0)
    now = feed(objective, 300, 0.01, 1000.0)
    assert objective.rates(now - 0.01) == pytest.approx((1.0, 1.0), rel=0.1)


def test_an_outage_is_told_after_the_promised_time() -> None:
    objective = Objective(0.99, 300.0, burn=4.0)
    now = feed(objective, 300, 0.0, 0.0)
    told = now
    while objective.severity(told) < 1.0:
        told = feed(objective, 1, 1.0, told)
    assert told - now == pytest.approx(12.0, abs=2.0)


def test_the_short_window_ends_the_alarm_when_the_long_one_still_remembers() -> None:
    objective = Objective(0.99, 300.0)
    now = feed(objective, 60, 1.0, feed(objective, 240, 0.0, 0.0))
    assert objective.severity(now) > 1.0
    now = feed(objective, 30, 0.0, now)
    long, short = objective.rates(now)
    assert long > 4.0
    assert short == 0.0
    assert objective.severity(now) == 0.0


def test_one_bad_second_raises_no_alarm() -> None:
    objective = Objective(0.99, 300.0)
    now = feed(objective, 1, 1.0, feed(objective, 299, 0.0, 0.0))
    long, short = objective.rates(now)
    assert long < 1.0
    assert short > 3.0
    assert objective.severity(now) < 0.5


def test_few_requests_say_nothing() -> None:
    objective = Objective(0.99, 300.0, enough=10)
    for second in range(9):
        objective.record(False, 100.0 + second)
    assert objective.severity(109.0) == 0.0
    objective.record(False, 109.0)
    assert objective.severity(109.0) > 1.0


def test_a_clock_that_goes_back_counts_into_the_newest_slice() -> None:
    objective = Objective(0.9, 60.0)
    objective.record(False, 100.0)
    objective.record(False, 50.0)
    assert objective.rates(100.0) == pytest.approx((10.0, 10.0))


@given(st.lists(st.tuples(st.floats(0.0, 400.0), st.booleans()), max_size=60))
def test_the_running_sums_are_those_of_a_window_counted_anew(events: list[tuple[float, bool]]) -> None:
    objective = Objective(0.9, 60.0)
    events.sort(key=lambda event: event[0])
    for at, good in events:
        objective.record(good, at)
    last = events[-1][0] if events else 0.0
    expected = []
    for slices in (60, 5):
        seen = [good for at, good in events if int(last) - int(at) < slices]
        expected.append(seen.count(False) / len(seen) / 0.1 if seen else 0.0)
    assert objective.rates(last) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("wrong", [(1.0, 60.0, 1.0), (0.0, 60.0, 1.0), (0.9, 0.0, 1.0), (0.9, 60.0, 0.0)])
def test_what_is_no_objective_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        Objective(wrong[0], wrong[1], burn=wrong[2])


def test_it_shows_how_it_burns() -> None:
    objective = Objective(0.9, 60.0)
    objective.record(False, 1.0)
    assert repr(objective) == "<Objective | burns 10.0x, lately 10.0x, of 4x>"
