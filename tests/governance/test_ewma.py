"""Latency estimates: between the samples, never below a penalty, never stuck."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.ewma import Ewma

samples = st.lists(st.tuples(st.floats(0, 5), st.floats(1e-4, 10)), min_size=1, max_size=100)


@given(samples)
def test_the_estimate_stays_between_the_least_and_the_greatest_sample(samples):
    ewma = Ewma()
    now = 0.0
    for gap, latency in samples:
        now += gap
        ewma.record(latency, now)
    seen = [latency for _, latency in samples]
    assert min(seen) * (1 - 1e-9) <= ewma.value <= max(seen) * (1 + 1e-9)


def test_nothing_is_known_before_the_first_sample_which_counts_whole():
    ewma = Ewma()
    assert ewma.value == 0.0
    ewma.record(0.2, 5)
    assert ewma.value == 0.2


def test_a_quiet_instance_is_forgotten_by_time():
    ewma = Ewma(tau=10)
    ewma.record(1.0, 0)
    ewma.record(0.1, 10)
    assert ewma.value == pytest.approx(0.1 * 10 ** exp(-1))


def test_a_busy_instance_is_forgotten_by_calls():
    ewma = Ewma(tau=10)
    ewma.record(1.0, 0)
    for i in range(1, 21):
        ewma.record(0.1, i * 0.001)
    assert ewma.value == pytest.approx(0.1 * 10 ** (0.92**20))


def test_a_failure_counts_as_the_penalty_at_once_however_quick_it_was():
    ewma = Ewma(penalty=0.5)
    ewma.record(0.01, 0)
    ewma.record_error(0.002, 0.1)
    assert ewma.value == 0.5
    ewma.record_error(3.0, 0.2)
    assert ewma.value == 3.0


def test_an_instance_not_heard_of_drifts_to_what_the_others_have():
    ewma = Ewma(tau=10)
    ewma.record_error(0.002, 0)
    for second in range(1, 13):
        ewma.relax(0.01, second)
    assert ewma.value == pytest.approx(0.01, abs=0.001)


def test_relaxing_often_or_seldom_comes_to_the_same():
    often, seldom = Ewma(), Ewma()
    for ewma in (often, seldom):
        ewma.record_error(0, 0)
    for i in range(1, 101):
        often.relax(0.01, i * 0.1)
    seldom.relax(0.01, 10)
    assert often.value == pytest.approx(seldom.value)


def test_an_instance_that_came_back_is_unknown_again():
    ewma = Ewma()
    ewma.record_error(0.002, 0)
    ewma.forget()
    assert ewma.value == 0.0
    assert repr(ewma) == "<Ewma unknown>"


def test_what_is_unknown_stays_unknown():
    ewma = Ewma()
    ewma.relax(0.5, 100)
    assert ewma.value == 0.0
