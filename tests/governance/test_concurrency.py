"""The adaptive limit finds the capacity of servers and of batches, within the target, whatever fails."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.concurrency import AdaptiveLimit


def closed(limit: AdaptiveLimit, latency_of, begin: float, seconds: float, failing: float = 0.0) -> float:
    """Keep the limit used up; a call of `load` under way takes latency_of(load). Returns the end, s."""
    now = begin
    chance = random.Random(7)
    while now < begin + seconds:
        load = max(1, int(limit.limit))
        latency = latency_of(load)
        now += latency / load
        failed = chance.random() < failing
        limit.record(0.001 if failed else latency, not failed, load, now)
    return now


def servers(count: int, seconds: float):
    """Latency of `load` calls at so many servers."""
    return lambda load: seconds * max(1.0, load / count)


def batches(load: int) -> float:
    """One device, t(n) = 20 + 2.5 n ms, at most 32 of them: with a batch under way another one waits."""
    size = min(32.0, load / 2)
    return load / size * (0.02 + 0.0025 * size)


@pytest.mark.parametrize(("target", "most"), [(None, 60), (0.4, 170)], ids=["auto", "half of 400 ms"])
def test_the_limit_finds_the_knee_of_plain_servers_and_stays_near_it(target, most):
    limit = AdaptiveLimit(target)
    end = closed(limit, servers(40, 0.05), 0.0, 30.0)
    seen = []
    for _ in range(40):
        end = closed(limit, servers(40, 0.05), end, 0.5)
        seen.append(limit.limit)
    assert 36 <= sum(seen) / len(seen) <= most


@pytest.mark.parametrize("target", [None, 0.4], ids=["auto", "400 ms"])
def test_in_front_of_batches_the_limit_keeps_the_throughput(target):
    limit = AdaptiveLimit(target)
    end = closed(limit, batches, 0.0, 30.0)
    done = 0.0
    for _ in range(40):
        end = closed(limit, batches, end, 0.5)
        done += limit.limit / batches(int(limit.limit)) / 40
    assert done > 0.95 * 32 / 0.1


def test_nine_of_ten_stay_under_the_target_however_much_more_would_bring():
    limit = AdaptiveLimit(0.2)
    end = closed(limit, batches, 0.0, 20.0)
    slowest = 0.0
    for _ in range(20):
        end = closed(limit, batches, end, 1.0)
        slowest = max(slowest, batches(int(limit.limit)))
    assert 0.15 < slowest < 0.23


@pytest.mark.parametrize(
    ("latency", "factor"), [(0.5, 0.97 * 0.8), (4.0, 0.7)], ids=["in proportion", "not too far"]
)
def test_a_limit_shrinks_when_the_target_is_missed(latency, factor):
    limit = AdaptiveLimit(0.4, initial=100)
    for i in range(26):
        limit.record(latency, True, 100, 10 + i * 0.01)
    assert limit.limit == pytest.approx(100 * factor)


def test_a_limit_that_was_not_reached_stays():
    limit = AdaptiveLimit(0.4, initial=16)
    for i in range(200):
        limit.record(0.05, True, 5, 1 + i * 0.01)
    assert limit.limit == 16


def test_calls_sent_before_the_last_change_say_nothing_of_it():
    limit = AdaptiveLimit(0.4, initial=100)
    for i in range(26):
        limit.record(1.0, True, 100, 10 + i * 0.01)
    before = limit.limit
    assert before < 100
    for i in range(70):
        limit.record(1.0, True, 100, 10.3 + i * 0.01)
    assert limit.limit == before


def test_a_window_lasts_until_it_has_both_time_and_answers():
    limit = AdaptiveLimit(0.4, initial=16)
    for i in range(19):
        limit.record(0.01, True, 16, 1 + i * 0.1)
    assert limit.limit == 16
    limit.record(0.01, True, 16, 3)
    assert limit.limit > 16


def test_what_fails_at_once_is_neither_slow_nor_good():
    limit = AdaptiveLimit(0.4, initial=50)
    for i in range(500):
        limit.record(0.001, False, 50, 1 + i * 0.01)
    assert limit.limit == 50


def test_a_limit_at_work_does_not_notice_a_share_of_fast_failures():
    steady, failing = AdaptiveLimit(0.4), AdaptiveLimit(0.4)
    closed(steady, servers(40, 0.05), 0.0, 30.0)
    closed(failing, servers(40, 0.05), 0.0, 30.0, failing=0.2)
    assert failing.limit >= 0.7 * steady.limit


def test_while_more_fail_than_succeed_the_limit_does_not_rise():
    limit = AdaptiveLimit(0.4)
    closed(limit, servers(1000, 0.05), 0.0, 20.0, failing=0.7)
    assert limit.limit <= 16


def test_what_fails_late_was_slow():
    limit = AdaptiveLimit(0.4, initial=50)
    for i in range(40):
        limit.record(0.5, False, 50, 1 + i * 0.01)
    assert limit.limit < 50


def test_without_a_target_clients_time_bounds_it():
    limit = AdaptiveLimit(None)
    for _ in range(200):
        limit.give(0.25)
    assert limit.target == pytest.approx(0.205)
    end = closed(limit, batches, 0.0, 20.0)
    closed(limit, batches, end, 1.0)
    assert batches(int(limit.limit)) < 0.23


def test_elasticity_tells_batches_from_a_queue():
    queued, batched = AdaptiveLimit(None, initial=80), AdaptiveLimit(None, initial=20)
    closed(queued, servers(16, 0.05), 0.0, 4.0)
    closed(batched, batches, 0.0, 2.0)
    assert queued.elasticity < 0.1
    assert batched.elasticity > 0.15


@pytest.mark.parametrize("target", [0.0, -1.0])
def test_a_target_is_positive(target):
    with pytest.raises(ValueError, match="positive"):
        AdaptiveLimit(target)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 2), st.booleans(), st.integers(0, 2000), st.floats(0, 0.1)), max_size=300
    ),
    st.sampled_from([None, 0.3]),
)
def test_the_limit_stays_within_its_bounds(answers, target):
    limit = AdaptiveLimit(target, minimum=2, maximum=50)
    now = 0.0
    for latency, ok, in_flight, gap in answers:
        now += gap
        limit.record(latency, ok, in_flight, now)
        assert 2 <= limit.limit <= 50
        assert limit.urgent <= 50
        assert math.isfinite(limit.elasticity)
