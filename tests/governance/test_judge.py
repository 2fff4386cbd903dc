"""The judge: all metrics together, verdicts with their numbers, evidence that adds up."""

from math import log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.judge import Judge, Thresholds, weights


def _judge(**more):
    return Judge({"errors": 1.0, "latency_p99": 1.0}, {"predictions": 0.002}, **more)


def test_a_broken_candidate_is_taken_back_and_the_verdict_says_why():
    judge = _judge()
    for _ in range(4):
        judge.bad("errors", True, 0.05)
    verdict = judge.verdict()
    assert verdict.take_back
    assert verdict.strongest == "errors"
    assert verdict.sides["errors"][:2] == (4, 0)
    assert "errors: 4 against 0" in str(verdict)


def test_without_evidence_nothing_is_taken_back():
    verdict = _judge().verdict()
    assert not verdict.take_back
    assert verdict.against == pytest.approx(0.0)
    assert verdict.needed == pytest.approx(log(100))


def test_weak_evidence_of_several_metrics_adds_up():
    alone, both = _judge(), _judge()
    for judge in (alone, both):
        for _ in range(3):
            judge.bad("latency_p99", True, 0.05)
    for _ in range(3):
        both.bad("errors", True, 0.05)
    assert both.verdict().against > alone.verdict().against


def test_pairs_that_differ_speak_against_the_candidate():
    judge = _judge()
    for index in range(200):
        judge.pair("predictions", index % 20 == 0)
    verdict = judge.verdict()
    assert verdict.take_back
    assert verdict.strongest == "predictions"
    assert verdict.sides["predictions"][:2] == (10, 200)


events = st.lists(
    st.tuples(st.sampled_from(["errors", "latency_p99"]), st.booleans(), st.sampled_from([0.05, 0.5]))
)


@given(events, events)
def test_evidence_of_two_workers_adds_up_to_that_of_one(first, second):
    one, a, b = _judge(), _judge(), _judge()
    for judge, seen in ((a, first), (b, second)):
        for metric, candidate, share in seen:
            one.bad(metric, candidate, share)
            judge.bad(metric, candidate, share)
    a.add(b.state())
    assert a.verdict().against == pytest.approx(one.verdict().against, abs=1e-9)
    assert {name: side[:2] for name, side in a.verdict().sides.items()} == {
        name: side[:2] for name, side in one.verdict().sides.items()
    }


def test_evidence_on_metrics_that_are_judged_no_more_is_left_out():
    judge = Judge({"errors": 1.0})
    other = _judge()
    other.bad("latency_p99", True, 0.05)
    other.bad("errors", True, 0.05)
    judge.add(other.state())
    assert judge.verdict().sides["errors"][0] == 1


def test_errors_weigh_as_much_as_all_others():
    assert weights(("errors", "a", "b")) == [0.5, 0.25, 0.25]
    assert weights(("a", "b")) == [0.5, 0.5]
    assert weights(("errors",)) == [1.0]


@pytest.mark.parametrize("alarm", [0.0, 1.0, -0.1])
def test_a_false_alarm_is_a_probability(alarm):
    with pytest.raises(ValueError, match="false alarm"):
        _judge(false_alarm=alarm)


def test_a_judge_without_metrics_is_none():
    with pytest.raises(ValueError, match="metric"):
        Judge({})


# Thresholds


def _learnt():
    thresholds = Thresholds({"latency_p50": (0.5, 1.2), "latency_p99": (0.99, 1.2)}, answers=100)
    rng = Random(1)
    for _ in range(100):
        assert thresholds.slow(0.1 + rng.random() / 10, candidate=False) == ()
    return thresholds


def test_nothing_is_slow_before_stable_is_known():
    thresholds = Thresholds({"latency_p99": (0.99, 1.2)}, answers=2)
    assert thresholds.slow(9.0, candidate=True) == ()
    assert thresholds.bounds == {}


def test_the_candidate_may_be_slower_by_what_is_allowed():
    thresholds = _learnt()
    bound = thresholds.bounds["latency_p50"]
    assert thresholds.slow(bound * 1.1, candidate=False) == ["latency_p50"]
    assert thresholds.slow(bound * 1.1, candidate=True) == []
    assert thresholds.slow(9.0, candidate=True) == ["latency_p50", "latency_p99"]
    assert thresholds.slow(0.01, candidate=True) == ()


def test_thresholds_are_frozen():
    thresholds = _learnt()
    before = dict(thresholds.bounds)
    for _ in range(1000):
        thresholds.slow(5.0, candidate=False)
    assert thresholds.bounds == before


@pytest.mark.parametrize("quantile", [(0.0, 1.2), (1.0, 1.2), (0.99, 0.9)])
def test_odd_thresholds_are_refused(quantile):
    with pytest.raises(ValueError, match="quantile"):
        Thresholds({"latency": quantile})
