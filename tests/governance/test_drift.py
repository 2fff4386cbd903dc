"""A watch over predictions: quiet while nothing changes, whatever the distribution."""

from __future__ import annotations

import random
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.governance.drift import ALLOWED, BINS, Drift, factors, no_number


def answers_until_alarm(watch: Drift, values: list[float], rng: random.Random) -> int | None:
    return next((n for n, value in enumerate(values, 1) if watch.observe(value, rng.random())), None)


def test_every_bet_is_fair() -> None:
    steps = 2000
    means = [
        sum(column) / steps
        for column in zip(*(factors((step + 0.5) / steps) for step in range(steps)), strict=True)
    ]
    assert means == pytest.approx([1.0] * len(means), abs=1e-3)
    for bad, good in zip(no_number(True), no_number(False), strict=True):
        assert ALLOWED * bad + (1 - ALLOWED) * good == pytest.approx(1.0)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), kinds=st.sampled_from([1, 2, 7, 10**6]))
def test_what_stays_the_same_raises_no_alarm(seed: int, kinds: int) -> None:
    rng = random.Random(seed)
    watch = Drift(1e-6)
    assert answers_until_alarm(watch, [float(rng.randrange(kinds)) for _ in range(1500)], rng) is None


@pytest.mark.parametrize(
    ("drifted", "within"),
    [
        pytest.param(lambda rng: rng.gauss(0.5, 1.0), 900, id="half a deviation higher"),
        pytest.param(lambda rng: rng.gauss(-1.0, 1.0), 300, id="a deviation lower"),
        pytest.param(lambda rng: rng.gauss(0.0, 2.0), 900, id="wider"),
        pytest.param(lambda rng: rng.gauss(0.0, 0.3), 900, id="narrower"),
        pytest.param(lambda rng: nan if rng.random() < 0.03 else rng.gauss(0.0, 1.0), 900, id="NaN"),
        pytest.param(lambda rng: inf, 50, id="infinite"),
    ],
)
def test_a_drift_that_begins_late_is_seen(drifted: object, within: int) -> None:
    assert callable(drifted)
    rng = random.Random(3)
    watch = Drift()
    assert answers_until_alarm(watch, [rng.gauss(0.0, 1.0) for _ in range(3000)], rng) is None
    found = answers_until_alarm(watch, [drifted(rng) for _ in range(within)], rng)
    assert found is not None
    assert watch.alarms == 1
    assert watch.evidence == 0.0  # it begins anew, and what is new is usual now
    assert answers_until_alarm(watch, [1.0] * 1000, rng) is None


def classes(rng: random.Random, count: int, first: float = 0.1, new: float = 0.0) -> list[float]:
    """Ten classes, of which one takes more than its part, and one that nobody knew."""
    weights = [first, *[(1.0 - first - new) / 9.0] * 9, new]
    return [float(one) for one in rng.choices(range(11), weights, k=count)]


@pytest.mark.parametrize(
    ("drifted", "why"),
    [
        pytest.param({"first": 0.25}, "0 is more frequent", id="one takes more"),
        pytest.param({"first": 0.0}, "0 is less frequent", id="one is gone"),
        pytest.param({"new": 0.05}, "what was rare is more frequent", id="one is new"),
    ],
)
def test_a_class_that_changes_its_share_is_seen_and_named(drifted: dict[str, float], why: str) -> None:
    rng = random.Random(7)
    watch = Drift()
    # A middle class: moved to the middle of the ranks, so that these alone say little.
    middle = [5.0, *range(5), *range(6, 11)]
    assert answers_until_alarm(watch, [middle[int(one)] for one in classes(rng, 5000)], rng) is None
    found = answers_until_alarm(watch, [middle[int(one)] for one in classes(rng, 1500, **drifted)], rng)
    assert found is not None
    assert watch.why == why.replace("0 is", "5 is")


@pytest.mark.parametrize("kinds", [2, 7, 40])
def test_many_unchanged_series_raise_no_more_alarms_than_was_said(kinds: int) -> None:
    rng = random.Random(11)
    alarms = 0
    for _ in range(40):
        values = [float(rng.randrange(kinds)) for _ in range(900)]
        alarms += answers_until_alarm(Drift(0.05, first=100), values, rng) is not None
    assert alarms <= 5  # of 40 at 5 %: more than that is one in a hundred where the promise just holds


def test_memory_stays_bounded() -> None:
    rng = random.Random(5)
    watch = Drift(1e-9, first=50)
    for _ in range(12_000):
        watch.observe(rng.random(), rng.random())
    assert len(watch._counts) + len(watch._learnt) < 2 * BINS
    assert "12000 seen" in repr(watch)


@pytest.mark.parametrize(("false_alarm", "first"), [(0.0, 100), (1.0, 100), (0.01, 1)])
def test_what_makes_no_sense_is_refused(false_alarm: float, first: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Drift(false_alarm, first)
