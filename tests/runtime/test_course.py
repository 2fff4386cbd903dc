"""One release's course by itself: what it makes of what it sees."""

from __future__ import annotations

from gateway.config.units import Duration
from gateway.pipeline.releases import Arms
from gateway.runtime.course import Course
from tests.filters.test_release_judged import Judged


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
