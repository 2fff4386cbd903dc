"""Overload: the limit finds the capacity, the least important go first, the critical never."""

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.overload import AdaptiveLimit, Gauge, Importance, Shedder


def window(limit: AdaptiveLimit, start: float, latency: float, in_flight: int, count: int = 40) -> float:
    """Feed one window's worth of answers to calls sent after the last change; returns its end."""
    start += latency + 0.001
    for i in range(count):
        limit.record(latency, True, in_flight, start + i * 0.01)
    return start + count * 0.01


def test_a_limit_that_was_reached_grows_while_latency_is_far_below_the_target():
    limit = AdaptiveLimit(0.3, initial=16)
    window(limit, 0, latency=0.05, in_flight=16)
    assert limit.limit == 20


def test_a_limit_that_was_not_reached_stays():
    limit = AdaptiveLimit(0.3, initial=16)
    window(limit, 0, latency=0.05, in_flight=5)
    assert limit.limit == 16


@pytest.mark.parametrize(
    ("latency", "factor"), [(0.375, 0.8), (3.0, 0.7)], ids=["in proportion", "not too far"]
)
def test_a_limit_shrinks_when_the_target_is_missed(latency, factor):
    limit = AdaptiveLimit(0.3, initial=100)
    window(limit, 0, latency=latency, in_flight=100)
    assert limit.limit == pytest.approx(100 * factor)


def test_calls_sent_before_the_last_change_say_nothing_of_it():
    limit = AdaptiveLimit(0.3, initial=100)
    end = window(limit, 0, latency=1.0, in_flight=100)
    before = limit.limit
    for i in range(100):
        limit.record(1.0, True, 100, end + i * 0.005)
    assert limit.limit == before


def test_a_window_lasts_until_it_has_both_time_and_answers():
    limit = AdaptiveLimit(0.3, initial=16)
    for i in range(19):
        limit.record(0.01, True, 16, 1 + i * 0.1)
    assert limit.limit == 16
    limit.record(0.01, True, 16, 3)
    assert limit.limit > 16


def test_failures_count_as_missed_targets():
    limit = AdaptiveLimit(0.3, initial=100)
    for i in range(40):
        limit.record(0.001, False, 100, 1 + i * 0.01)
    assert limit.limit < 100


@given(
    st.lists(
        st.tuples(st.floats(0.001, 2), st.booleans(), st.integers(0, 2000), st.floats(0, 0.1)), max_size=300
    )
)
def test_the_limit_stays_within_its_bounds(answers):
    limit = AdaptiveLimit(0.3, minimum=2, maximum=50)
    now = 0.0
    for latency, ok, in_flight, gap in answers:
        now += gap
        limit.record(latency, ok, in_flight, now)
        assert 2 <= limit.limit <= 50


def serve_batches(limit: AdaptiveLimit, seconds: float, offered: float) -> float:
    """Simulate a batching server, t(n) = 20 + 2.5 n ms, at most 32: answers per second in the last
    half."""
    now, credit, answered, in_flight = 0.0, 0.0, 0, 0
    queue: deque[float] = deque()
    while now < seconds:
        batch = [queue.popleft() for _ in range(min(32, len(queue)))]
        took = 0.02 + 0.0025 * len(batch) if batch else 0.005
        for step in range(10):  # arrivals while the batch runs
            credit += offered * took / 10
            while credit >= 1:
                credit -= 1
                if in_flight < limit.limit:
                    in_flight += 1
                    queue.append(now + took * step / 10)
        now += took
        for sent in batch:
            limit.record(now - sent, True, in_flight, now)
            in_flight -= 1
            answered += now > seconds / 2
    return answered / (seconds / 2)


@pytest.mark.parametrize("overload", [2, 10])
def test_in_front_of_a_batching_server_the_limit_keeps_the_throughput(overload):
    limit = AdaptiveLimit(0.3, initial=16)
    assert serve_batches(limit, 60, offered=320 * overload) > 0.95 * 320


# Who goes first


def share_shed(shedder: Shedder, level: float, mix: dict[Importance, float], requests: int = 6000) -> dict:
    chance = random.Random(5)
    seen = dict.fromkeys(mix, 0)
    shed = dict.fromkeys(mix, 0)
    for i in range(requests):
        importance = chance.choices(list(mix), list(mix.values()))[0]
        gone = shedder.sheds(importance, level)
        if i >= 1000:
            seen[importance] += 1
            shed[importance] += gone
    return {importance: shed[importance] / seen[importance] for importance in mix}


@pytest.mark.parametrize(
    ("level", "normal", "sheddable"),
    [(0.0, 0.0, 0.0), (0.2, 0.0, 0.5), (0.4, 0.0, 1.0), (0.7, 0.5, 1.0), (1.0, 1.0, 1.0)],
)
def test_the_least_important_go_first_and_the_critical_never(level, normal, sheddable):
    shedder = Shedder(random.Random(2).random)
    mix = {Importance.CRITICAL: 0.2, Importance.NORMAL: 0.48, Importance.SHEDDABLE: 0.32}
    share = share_shed(shedder, level, mix)
    assert share[Importance.CRITICAL] == 0
    assert share[Importance.NORMAL] == pytest.approx(normal, abs=0.06)
    assert share[Importance.SHEDDABLE] == pytest.approx(sheddable, abs=0.06)


def test_when_nobody_is_sheddable_normal_requests_carry_the_whole_share():
    share = share_shed(Shedder(random.Random(2).random), 0.3, {Importance.NORMAL: 1.0})
    assert share[Importance.NORMAL] == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    ("lag", "in_flight", "pool", "level"),
    [
        (0, 0, 0, 0.0),
        (0.016, 0, 0, 0.0),
        (0.028, 0, 0, 0.5),
        (0, 200, 0, 1.0),
        (0, 0, 1.4, 0.5),
        (9, 0, 0, 1.0),
    ],
)
def test_the_worst_load_sets_the_level(lag, in_flight, pool, level):
    assert Gauge().sense(lag, in_flight, 100, 0.0, pool) == pytest.approx(level)


def test_the_level_rises_at_once_and_falls_slowly():
    gauge = Gauge(relief=0.2)
    assert gauge.sense(1.0, 0, 100, 0.0) == 1.0
    assert gauge.sense(0.0, 0, 100, 1.0) == pytest.approx(0.8)
    assert gauge.sense(0.028, 0, 100, 2.0) == pytest.approx(0.6)
    assert gauge.sense(0.028, 0, 100, 9.0) == pytest.approx(0.5)
    assert gauge.sense(0.0, 0, 100, 99.0) == 0.0
    assert repr(gauge) == "<Gauge load 0.00 | level 0.00>"


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="positive"):
        AdaptiveLimit(0)
    with pytest.raises(ValueError, match="begin"):
        Gauge(begins=2, full=1)
