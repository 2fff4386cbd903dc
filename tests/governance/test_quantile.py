"""The recent quantile: near the truth, silent while it knows too little, following a change."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.quantile import RecentQuantile


def observed(values, q=0.95, **options):
    quantile = RecentQuantile(q, **options)
    for i, value in enumerate(values):
        quantile.observe(value, i * 0.01)
    return quantile


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
def test_it_is_within_a_tenth_of_the_truth(q):
    rng = random.Random(1)
    values = [rng.lognormvariate(-4.0, 0.6) for _ in range(1500)]
    truth = sorted(values)[int(q * len(values))]
    assert observed(values, q).value() == pytest.approx(truth, rel=0.1)


def test_it_tells_nothing_while_too_little_is_known():
    quantile = observed([0.01] * 99, warm_up=100)
    assert quantile.value() is None
    quantile.observe(0.01, 1.0)
    assert quantile.value() == pytest.approx(0.01, rel=0.1)


def test_a_slower_pool_is_noticed_within_two_windows():
    quantile = RecentQuantile(0.95, warm_up=20, window=10.0)
    for i in range(1000):
        quantile.observe(0.010, i * 0.02)
    for i in range(1100):
        quantile.observe(0.200, 20.0 + i * 0.02)
    assert quantile.value() == pytest.approx(0.200, rel=0.1)


def test_a_quiet_pool_keeps_what_it_knew():
    quantile = observed([0.02] * 200, warm_up=100, window=10.0)
    for i in range(5):
        quantile.observe(0.02, 3600.0 * (i + 1))
    assert quantile.value() == pytest.approx(0.02, rel=0.1)


@given(st.lists(st.floats(0.0, 100.0), min_size=100, max_size=400))
def test_it_lies_between_nothing_and_the_largest_bucket(values):
    told = observed(values).value()
    assert told is not None
    assert 0.0 <= told <= max(0.00025, 1.1 * max(values))


@pytest.mark.parametrize("q", [0.0, 1.0, -1.0, 95.0])
def test_what_is_no_quantile_is_refused(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        RecentQuantile(q)
