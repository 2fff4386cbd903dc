"""Bets against `nothing is wrong`: fair while nothing is, won soon when something is."""

from math import exp, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.evidence import TIMES, WORSE, Comparison, Rate, mixed, steps

shares = st.integers(1, 99).map(lambda percent: percent / 100)


@given(shares, st.sampled_from([1.0, 1.25, 2.0]))
def test_every_bet_is_fair_where_the_candidate_is_as_bad_as_tolerated(share, tolerance):
    q = tolerance * share / (tolerance * share + 1 - share)
    for up, down in zip(*steps(tolerance, share), strict=True):
        assert q * exp(up) + (1 - q) * exp(down) == pytest.approx(1.0)


@given(shares, st.floats(0, 1))
def test_no_bet_gains_on_average_while_the_candidate_is_better(share, better):
    q = share * better
    for up, down in zip(*steps(1.0, share), strict=True):
        assert q * exp(up) + (1 - q) * exp(down) <= 1.0 + 1e-9


@given(st.floats(0.0005, 0.4))
def test_the_bets_on_a_rate_are_fair_at_the_allowed_rate(allowed):
    good, bad = Rate(allowed), Rate(allowed)
    good.record(False)
    bad.record(True)
    for up, down in zip(bad.wealth, good.wealth, strict=True):
        assert allowed * exp(up) + (1 - allowed) * exp(down) == pytest.approx(1.0)


def test_equal_arms_win_a_bet_of_a_hundred_in_less_than_one_run_of_a_hundred():
    rng = Random(4)
    won = 0
    for _ in range(400):
        comparison = Comparison()
        for _ in range(300):
            comparison.record(rng.random() < 0.1, 0.1)
            if comparison.value() >= log(100):
                won += 1
                break
    assert won <= 4


def test_a_broken_candidate_is_known_after_a_handful_of_errors():
    comparison = Comparison()
    errors = 0
    while comparison.value() < log(100):
        comparison.record(True, 0.05)
        errors += 1
    assert errors == 3


def test_errors_of_stable_speak_for_the_candidate():
    comparison = Comparison()
    for _ in range(10):
        comparison.record(False, 0.5)
    assert comparison.value() < 0
    assert (comparison.candidate, comparison.stable) == (0, 10)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["no candidate", "nothing but the candidate"])
def test_one_arm_alone_compares_nothing(share):
    comparison = Comparison()
    comparison.record(True, share)
    assert comparison.value() == 0.0
    assert comparison.candidate == 1


@pytest.mark.parametrize("tolerance", [0.5, 0.0, -1.0])
def test_a_tolerance_below_equal_is_none(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        Comparison(tolerance)


@pytest.mark.parametrize("allowed", [0.0, 0.5, 1.0])
def test_an_allowed_share_must_leave_something_to_bet_on(allowed):
    with pytest.raises(ValueError, match="allowed"):
        Rate(allowed)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_the_mixture_lies_between_the_least_and_the_greatest(wealth):
    assert min(wealth) - 1e-9 <= mixed(wealth) <= max(wealth) + 1e-9
    assert mixed(wealth, [1.0] * len(wealth)) == pytest.approx(mixed(wealth))


def test_the_mixture_does_not_overflow():
    assert mixed([5000.0, -5000.0]) == pytest.approx(5000.0 - log(2))


def test_there_is_a_bet_on_little_and_on_broken():
    assert min(TIMES) < 2 < 100 < max(TIMES)
    assert min(WORSE) <= 2 < 100 < max(WORSE)
