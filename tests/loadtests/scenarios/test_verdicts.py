"""The mathematics of the load test's assertions."""

from __future__ import annotations

from math import comb, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.token_bucket import Bucket
from loadtests.scenarios.verdicts import (
    NEVER,
    Between,
    binomial_interval,
    first,
    granted_bounds,
    percentile,
    replay,
)

Look = tuple[float, float, bool]  # asked, seen, is it so


# Shares


def below(n: int, p: float, k: int) -> float:
    """P(X < k), term by term."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k))


@given(st.integers(1, 200), st.floats(0.01, 0.99), st.sampled_from([0.9, 0.99, 0.999]))
def test_outside_of_the_interval_lies_no_more_than_it_says_and_one_step_inside_lies_more(
    n: int, p: float, confidence: float
) -> None:
    low, high = binomial_interval(n, p, confidence)
    tail = (1 - confidence) / 2
    assert below(n, p, low) <= tail + 1e-12
    assert below(n, p, low + 1) > tail - 1e-12
    assert 1 - below(n, p, high + 1) <= tail + 1e-9
    assert 1 - below(n, p, high) > tail - 1e-9


def test_the_interval_of_many_choices_is_the_normal_one() -> None:
    low, high = binomial_interval(10_000, 0.1, 0.999)
    deviation = (10_000 * 0.1 * 0.9) ** 0.5
    assert low == pytest.approx(1000 - 3.29 * deviation, abs=3)
    assert high == pytest.approx(1000 + 3.29 * deviation, abs=3)


@pytest.mark.parametrize(
    ("n", "p", "expected"),
    [
        pytest.param(0, 0.1, (0, 0), id="no choices"),
        pytest.param(50, 0.0, (0, 0), id="never"),
        pytest.param(50, 1.0, (50, 50), id="always"),
        pytest.param(1, 0.5, (0, 1), id="a coin"),
    ],
)
def test_intervals_at_the_edges(n: int, p: float, expected: tuple[int, int]) -> None:
    assert binomial_interval(n, p, 0.999) == expected


@pytest.mark.parametrize(
    ("n", "p", "confidence"),
    [(-1, 0.5, 0.9), (10, 1.5, 0.9), (10, 0.5, 1.0)],
    ids=["fewer than none", "more than all", "certainty"],
)
def test_nonsense_has_no_interval(n: int, p: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="no binomial interval"):
        binomial_interval(n, p, confidence)


# Throttles

arrivals = st.lists(st.floats(0, 60), min_size=1, max_size=200).map(sorted)


@given(arrivals, st.integers(1, 50), st.integers(1, 20))
def test_the_replay_agrees_with_the_gateways_own_bucket(times: list[float], rate: int, burst: int) -> None:
    bucket = Bucket(float(rate), float(burst))
    granted = sum(1 for time in times if bucket.take(1.0, time) == 0.0)
    assert abs(replay(times, rate, burst, burst) - granted) <= 1  # they may differ by a rounding


@given(arrivals, st.integers(1, 50), st.integers(1, 20))
def test_no_replay_grants_more_than_rate_times_time_and_burst(
    times: list[float], rate: int, burst: int
) -> None:
    assert replay(times, rate, burst, burst) <= rate * (times[-1] - times[0]) + burst + 1e-6


@given(arrivals, st.integers(1, 50), st.integers(1, 20), st.floats(0, 20), st.floats(0, 0.5))
def test_whatever_the_bucket_held_its_grants_lie_within_the_bounds(
    times: list[float], rate: int, burst: int, held: float, jitter: float
) -> None:
    low, high = granted_bounds(times, rate, burst, empty=True, jitter=jitter)
    assert low <= replay(times, rate, burst, min(held, burst)) <= high <= len(times)


def test_a_steady_stream_past_its_plan_is_cut_to_rate_and_burst() -> None:
    times = [i / 20 for i in range(400)]  # 20/s for 20 s
    low, high = granted_bounds(times, 5, 5, empty=True, jitter=0.0)
    assert (low, high) == (98, 105)
    assert granted_bounds(times, 5, 5, empty=False, jitter=0.0)[0] > low


# Instants


def seen(looks: list[Look], since: float = -inf) -> Between:
    return first(looks, lambda one: one[2], lambda one: one[0], lambda one: one[1], since)


@pytest.mark.parametrize(
    ("looks", "since", "expected"),
    [
        pytest.param([], 0.0, NEVER, id="nobody looked"),
        pytest.param([(1.0, 1.1, False), (2.0, 2.1, False)], 0.0, NEVER, id="it never was"),
        pytest.param([(1.0, 1.1, False), (2.0, 2.2, True)], 0.0, Between(1.0, 2.2), id="between two looks"),
        pytest.param([(2.0, 2.2, True)], 1.5, Between(1.5, 2.2), id="after the event at the earliest"),
        pytest.param(
            [(1.0, 1.2, True), (2.0, 2.2, True)], 1.5, Between(1.5, 2.2), id="earlier looks don't count"
        ),
    ],
)
def test_an_instant_lies_between_the_looks_around_it(
    looks: list[Look], since: float, expected: Between
) -> None:
    assert seen(looks, since) == expected


def test_the_difference_of_two_instants_is_as_unsure_as_both() -> None:
    took = Between(4.0, 4.5).minus(Between(1.0, 1.25))
    assert took == Between(2.75, 3.5)
    assert took.may_be_within(3.4, 9.0)
    assert not took.may_be_within(3.6, 9.0)
    assert not took.may_be_within(0.0, 2.7)


def test_what_never_came_is_within_nothing() -> None:
    assert not NEVER.may_be_within(0.0, inf)
    assert NEVER.minus(Between(1.0, 1.0)) == NEVER
    assert Between(1.0, 1.0).minus(NEVER) == NEVER
    assert str(NEVER) == "never"


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert percentile([], 0.5) != percentile([], 0.5)  # not a number
