"""Histograms lose no observation, merge by adding, and estimate quantiles within a bucket."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.histogram import BOUNDS, Histogram

values = st.lists(st.floats(0, 200), min_size=1, max_size=200)


def filled(numbers):
    histogram = Histogram()
    for number in numbers:
        histogram.observe(number)
    return histogram


@given(values)
def test_every_value_is_counted_once_at_the_first_bound_that_is_not_below_it(numbers):
    histogram = filled(numbers)
    assert histogram.count == len(numbers)
    assert histogram.total == pytest.approx(sum(numbers))
    for bound, count in histogram.cumulative():
        assert count == sum(number <= bound for number in numbers)


@given(values, values)
def test_merged_histograms_count_what_both_saw(one, other):
    merged = filled(one)
    merged.merge(filled(other))
    assert merged.counts == filled(one + other).counts


@given(values, st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_quantiles_rise_with_their_share(numbers, shares):
    histogram = filled(numbers)
    estimates = [histogram.quantile(q) for q in sorted(shares)]
    assert all(a <= b + 1e-12 for a, b in pairwise(estimates))


@given(st.lists(st.floats(0.001, 50), min_size=1, max_size=200), st.floats(0.01, 1))
def test_an_estimated_quantile_lies_in_the_bucket_of_the_true_one(numbers, q):
    rank = max(0, -(-int(q * len(numbers) * 1000) // 1000) - 1)
    truth = sorted(numbers)[min(rank, len(numbers) - 1)]
    estimate = filled(numbers).quantile(q)
    neighbours = [b for b in sorted(numbers) if b >= truth][:2]
    assert truth / 1.43 <= estimate <= max(neighbours) * 1.43


def test_an_empty_histogram_has_no_quantile_and_large_values_count_as_the_last_bound():
    assert Histogram().quantile(0.5) == 0.0
    assert filled([1e9]).quantile(0.5) == BOUNDS[-1]


def test_bounds_must_ascend_and_agree():
    for bounds in ((), (1, 1), (2, 1)):
        with pytest.raises(ValueError, match="ascend"):
            Histogram(bounds)
    with pytest.raises(ValueError, match="same bounds"):
        Histogram((1, 2)).merge(Histogram((1, 3)))
