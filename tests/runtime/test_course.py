"""One release's course by itself: what it makes of what it sees."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.units import Duration, Factor, Ratio
from gateway.filters.release_terms import JudgeBy
from gateway.governance.ramp import Act
from gateway.pipeline.releases import Arms, Gathered
from gateway.runtime.course import Course
from tests.filters.test_release_judged import Judged

BOTH = Arms("v1 1", "v2 2", "v1 1", (1, 1), (1, 1))


def seen(epoch: int, candidate: int = 5) -> Gathered:
    return Gathered("m", epoch, (20, candidate), (0, 1), 2, 3, {}, "", 0)


def counted(course: Course) -> tuple[list[int], list[int], int, int]:
    return course.requests, course.errors, course.pairs, course.fallbacks


NOTHING = ([0, 0], [0, 0], 0, 0)
FIVE = ([20, 5], [0, 1], 2, 3)


def test_evidence_of_before_it_started_anew_counts_no_more() -> None:
    course = Course(Judged(0.5).release, 0.0)
    course.gather(seen(0))
    assert counted(course) == FIVE
    course.forget()
    course.gather(seen(0))  # was on its way
    assert counted(course) == NOTHING
    course.gather(seen(1))
    assert counted(course) == FIVE


@pytest.mark.parametrize(
    ("judge", "is_kept"),
    [
        pytest.param(JudgeBy(errors=Factor(1.5)), True, id="as before"),
        pytest.param(JudgeBy(errors=Factor(2.0)), False, id="another tolerance"),
        pytest.param(JudgeBy(errors=Factor(1.5), false_alarm=Ratio(0.02)), False, id="another promise"),
        pytest.param(None, False, id="no judge"),
    ],
)
def test_evidence_is_kept_over_a_reload_unless_it_is_judged_otherwise(
    judge: JudgeBy | None, is_kept: bool
) -> None:
    before = Judged(0.5, judge=JudgeBy(errors=Factor(1.5))).release
    course = Course(before, 0.0)
    course.gather(seen(0))
    kept = course.state()
    course.follow(Judged(0.5, judge=judge).release)
    assert counted(course) == (FIVE if is_kept else NOTHING)
    assert course.epoch == (0 if is_kept else 1)
    again = Course(Judged(0.5, judge=judge).release, 0.0)  # as over a restart
    again.restore(kept, 0.0)
    assert counted(again) == (FIVE if is_kept else NOTHING)


def test_who_is_alone_takes_back_and_does_not_climb() -> None:
    settings: dict[str, Any] = {
        "ramp": (Ratio(0.1), Ratio(0.5), Ratio(1.0)),
        "pause": Duration(1.0),
        "requests": 3,
    }
    course = Course(Judged(None, **settings).release, 0.0)
    course.gather(seen(0))
    assert course.look(BOTH, 5.0, climbs=False) is None
    assert course.ramp.weight == 0.1
    change = course.look(BOTH, 5.0)
    assert change is not None
    assert (change.act, change.weight) == (Act.STEP, 0.5)
    assert course.judge is not None
    for _ in range(40):
        course.judge.bad("errors", True, 0.5)
    course.verdict = course.judge.verdict()
    condemned = course.look(BOTH, 5.1, climbs=False)
    assert condemned is not None
    assert (condemned.act, condemned.weight) == (Act.ROLL_BACK, 0.0)


def test_a_rolling_release_counts_by_the_instances_that_stable_had_at_first() -> None:
    filter = Judged(weight=None, kind="rolling", judge=None, pause=Duration(0.0)).release
    course = Course(filter, 0.0)
    weights = []
    for stable, candidate in [(3, 0), (3, 1), (2, 1), (2, 2), (1, 2), (1, 3), (0, 3)]:
        both = (stable, candidate)
        course.look(Arms("v1 1", "v2 2", "v1 1", both, both), 1.0)
        weights.append(round(course.ramp.weight, 2))
    assert weights == [0, 0.33, 0.33, 0.67, 0.67, 1, 1]


def test_a_rolling_release_is_everything_when_stable_has_nobody_left() -> None:
    course = Course(Judged(weight=None, kind="rolling", judge=None).release, 0.0)
    for both in [(3, 0), (0, 1)]:
        course.look(Arms("v1 1", "v2 2", "v1 1", both, both), 1.0)
    assert course.ramp.weight == 1.0
