"""The gateway keeps what a pool can do, over real sockets: the quick form of `make govern`, and its parts."""

import json
from random import Random

import pytest

from loadtests.govern.__main__ import IMPORTANCES, QUICK, Scene, judge, measure, report
from loadtests.govern.backends import KINDS
from loadtests.govern.generator import TENANTS, Plan, Sent, schedule


@pytest.mark.slow
def test_at_five_times_the_capacity_the_backend_stays_useful_and_the_critical_in_time(tmp_path):
    outcomes = measure(QUICK, calm=1.0, surge=4.0)
    made = report(outcomes)
    made.save(tmp_path, "govern")
    assert [str(target) for target in made.targets if not target.holds] == []
    for one in outcomes.values():
        assert one.by_importance["critical"] > one.by_importance["normal"] > one.by_importance["sheddable"]
    assert len(json.loads((tmp_path / "govern.json").read_text())["rows"]) == len(QUICK)


def test_calls_are_due_at_the_rate_that_the_plan_says():
    calls = schedule(Plan(100.0, 5.0, 2.0, 4.0), Random(1))
    calm = [at for at, _, _ in calls if at < 2.0]
    assert len(calm) == pytest.approx(120, rel=0.3)
    assert len(calls) - len(calm) == pytest.approx(2000, rel=0.1)
    critical = sum(name == "critical" for at, name, _ in calls if at >= 2.0)
    assert critical == pytest.approx(200, rel=0.3)
    assert {name for _, name, _ in calls} == set(IMPORTANCES)


def test_in_a_flood_the_others_ask_for_half_of_the_capacity():
    calls = schedule(Plan(100.0, 10.0, 0.0, 4.0, flood=True), Random(1))
    others = sum(tenant < TENANTS - 1 for _, _, tenant in calls)
    assert others == pytest.approx(200, rel=0.3)
    assert len(calls) == pytest.approx(4000, rel=0.1)


def test_late_answers_and_refusals_are_not_good():
    sent = [
        Sent("critical", 0, 1.0, 0.1, 200),
        Sent("normal", 1, 1.5, 0.6, 200),
        Sent("normal", 4, 1.6, 0.01, 503),
        Sent("sheddable", 4, 9.0, 0.1, 200),
    ]
    one = judge(Scene("fixed", 2.0, flood=True), KINDS["fixed"], sent, 1.0, 2.0)
    assert one.goodput == 0.01
    assert one.by_importance == {"critical": 1.0, "normal": 0.0, "sheddable": 1.0}
    assert one.others == 0.5
    assert one.unanswered == 0
