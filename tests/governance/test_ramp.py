from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.governance.ramp import OVER, TRANSITIONS, Act, Facts, Impossible, Phase, Plan, Ramp

CLIMB = Plan(steps=(0.05, 0.25, 1.0), pause=60.0, least=10)
NOTHING = Facts()
BAD = Facts(condemned=True)


def test_a_step_takes_its_pause_and_its_requests() -> None:
    ramp = Ramp(CLIMB, 0.0)
    ramp.seen = 100
    assert ramp.look(NOTHING, 59.0) is None
    ramp.seen = 9
    assert ramp.look(NOTHING, 600.0) is None
    ramp.seen = 10
    change = ramp.look(NOTHING, 600.0)
    assert change is not None
    assert (change.act, change.weight, ramp.seen) == (Act.STEP, 0.25, 0)


def test_the_step_to_everything_is_the_promotion() -> None:
    ramp = Ramp(CLIMB, 0.0)
    for now in (60.0, 120.0):
        ramp.seen = 10
        ramp.look(NOTHING, now)
    assert (ramp.phase, ramp.weight) == (Phase.PROMOTED, 1.0)
    assert ramp.look(BAD, 999.0) is None


def test_a_ramp_that_ends_below_everything_waits_for_a_person() -> None:
    ramp = Ramp(Plan(steps=(0.1,), pause=0.0, least=0), 0.0)
    ramp.seen = 10**6
    assert ramp.look(NOTHING, 1e9) is None
    assert ramp.do(Act.PROMOTE, 1e9).weight == 1.0


@pytest.mark.parametrize(
    ("on_fail", "phase", "weight"),
    [("rollback", Phase.ROLLED_BACK, 0.0), ("hold", Phase.HELD, 0.05), ("alarm", Phase.RAMPING, 0.05)],
)
def test_what_a_verdict_does(on_fail: str, phase: Phase, weight: float) -> None:
    ramp = Ramp(Plan(steps=(0.05, 1.0), on_fail=on_fail), 0.0)  # type: ignore[arg-type]
    assert ramp.look(BAD, 1.0) is not None
    assert (ramp.phase, ramp.weight) == (phase, weight)
    assert ramp.look(BAD, 2.0) is None, "it is said once"


def test_an_alarm_does_not_stop_the_ramp() -> None:
    ramp = Ramp(Plan(steps=(0.05, 0.5, 1.0), pause=10.0, least=0, on_fail="alarm"), 0.0)
    ramp.look(BAD, 1.0)
    change = ramp.look(BAD, 10.0)
    assert change is not None
    assert change.weight == 0.5


def test_a_person_who_resumes_overrules_the_judge_and_the_evidence_starts_anew() -> None:
    ramp = Ramp(CLIMB, 0.0)
    ramp.look(BAD, 1.0)
    assert ramp.do(Act.RESUME, 2.0).anew
    assert (ramp.phase, ramp.step) == (Phase.RAMPING, 0)
    assert ramp.look(BAD, 3.0) is not None


def test_pausing_stops_the_steps_and_not_the_judge() -> None:
    ramp = Ramp(CLIMB, 0.0)
    ramp.do(Act.PAUSE, 1.0)
    ramp.seen = 100
    assert ramp.look(NOTHING, 1e6) is None
    change = ramp.look(BAD, 1e6)
    assert change is not None
    assert change.after is Phase.ROLLED_BACK


def test_blue_green_gives_nothing_until_it_is_ready_and_then_everything() -> None:
    ramp = Ramp(Plan("blue_green"), 0.0)
    assert ramp.look(NOTHING, 1e6) is None
    assert ramp.weight == 0.0
    change = ramp.look(Facts(ready=True), 1.0)
    assert change is not None
    assert (change.after, change.weight) == (Phase.PROMOTED, 1.0)
    assert ramp.do(Act.ROLL_BACK, 2.0).weight == 0.0


def test_rolling_follows_the_instances_both_ways() -> None:
    ramp = Ramp(Plan("rolling", pause=5.0), 0.0)
    weights = []
    for now, rolled in enumerate((0.0, 0.5, 0.25, 1.0)):
        ramp.look(Facts(rolled=rolled), float(now))
        weights.append(ramp.weight)
    assert weights == [0.0, 0.5, 0.25, 1.0]
    assert ramp.phase is Phase.RAMPING
    assert ramp.look(Facts(rolled=1.0), 7.9) is None
    ramp.look(Facts(rolled=1.0), 8.0)
    assert ramp.phase is Phase.PROMOTED


def test_what_is_not_in_the_table_is_refused_in_words() -> None:
    ramp = Ramp(CLIMB, 0.0)
    ramp.do(Act.PROMOTE, 1.0)
    with pytest.raises(Impossible, match="it is promoted; what can be done: rollback"):
        ramp.do(Act.PAUSE, 2.0)


def test_an_edited_plan_goes_on_at_the_weight_that_was_reached() -> None:
    ramp = Ramp(CLIMB, 0.0)
    ramp.seen = 10
    ramp.look(NOTHING, 60.0)
    ramp.replan(Plan(steps=(0.1, 0.2, 0.4, 1.0)))
    assert ramp.weight == 0.2


@pytest.mark.parametrize("steps", [(), (0.5, 0.5), (0.5, 0.1), (1.5,), (-0.1,)])
def test_steps_ascend_between_nothing_and_everything(steps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="step"):
        Plan(steps=steps)


@pytest.mark.parametrize("state", [{}, {"phase": "gone"}, {"phase": 1}])
def test_a_state_that_makes_no_sense_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # an enum's words differ by version of Python
        Ramp.restored(CLIMB, state, 0.0)


class Course(RuleBasedStateMachine):
    """Whatever happens in whatever order: the table holds, and the weight is one that the plan knows."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ramp = Ramp(CLIMB, 0.0)
        self.weight = self.ramp.weight
        self.by_hand = False

    @rule(seconds=st.floats(0, 100), seen=st.integers(0, 20), condemned=st.booleans())
    def look(self, seconds: float, seen: int, condemned: bool) -> None:
        self.now += seconds
        self.ramp.seen += seen
        before, since, had = self.ramp.phase, self.ramp.since, self.ramp.seen
        change = self.ramp.look(Facts(condemned=condemned), self.now)
        if change is None:
            assert self.ramp.phase is before
            return
        assert TRANSITIONS[change.before, change.act] is change.after
        if change.act in (Act.STEP, Act.PROMOTE):
            assert not (condemned and not self.ramp.alarmed)
            assert self.now - since >= CLIMB.pause
            assert had >= CLIMB.least
            assert change.weight > self.weight
        else:
            assert condemned

    @rule(act=st.sampled_from(Act))
    def by_a_person(self, act: Act) -> None:
        before = self.ramp.phase
        if act.value in self.ramp.open_to():
            assert self.ramp.do(act, self.now).after is TRANSITIONS[before, act]
        else:
            with pytest.raises(Impossible):
                self.ramp.do(act, self.now)
            assert self.ramp.phase is before

    @rule()
    def restart(self) -> None:
        kept = json.loads(json.dumps(self.ramp.state()))
        again = Ramp.restored(CLIMB, kept, self.now)
        assert again.state() == self.ramp.state()
        self.ramp = again

    @precondition(lambda self: self.ramp.phase in OVER)
    @rule(condemned=st.booleans())
    def nothing_moves_by_itself_at_an_end(self, condemned: bool) -> None:
        assert self.ramp.look(Facts(condemned, ready=True, rolled=1.0), self.now + 1e6) is None

    @invariant()
    def the_weight_is_of_the_plan(self) -> None:
        self.weight = self.ramp.weight
        assert self.weight in {0.0, *CLIMB.steps}
        assert (self.weight == 1.0) == (self.ramp.phase is Phase.PROMOTED)
        assert (self.weight == 0.0) == (self.ramp.phase is Phase.ROLLED_BACK)


TestCourse = Course.TestCase
