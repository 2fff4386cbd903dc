"""The course of a release: how much of the traffic the candidate gets, from its first request to all or none.

    ramping --the step's pause is over, enough was seen--> ramping (next step) --> promoted (at 100 %)
       |  ^                                                                          |
       |  '--resume-- paused, held                                                   |
       '------------------ roll back: by the judge, by hand ------> rolled_back <----'

Three kinds of release differ only in what moves them. A `canary` climbs its steps: each lasts at least
`pause` seconds and `least` requests of the candidate (or pairs, at a step of 0 %). A `blue_green` waits at
0 % until its candidate is ready, and then flips. A `rolling` one follows the instances: the candidate's share
is that of its ready instances, and it is over when they are all there. The judge's verdict counts in every
phase that is not an end; what happens then is `on_fail`: roll back, hold (stop at this weight until a person
decides), or alarm (say so and go on).

A table of transitions, no clock: `now` is seconds since the epoch, because a course outlives its process.
What a person does is not in dispute with the judge: promoting or resuming starts its evidence anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NamedTuple

Kind = Literal["canary", "blue_green", "rolling"]
OnFail = Literal["rollback", "hold", "alarm"]


class Phase(Enum):
    """Where a release stands."""

    RAMPING = "ramping"
    PAUSED = "paused"  # by hand: the weight stays
    HELD = "held"  # by the judge: the weight stays
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


class Act(Enum):
    """What moves it."""

    STEP = "step"
    PROMOTE = "promote"
    ROLL_BACK = "rollback"
    HOLD = "hold"
    ALARM = "alarm"
    PAUSE = "pause"
    RESUME = "resume"


TRANSITIONS: Final[Mapping[tuple[Phase, Act], Phase]] = {
    (Phase.RAMPING, Act.STEP): Phase.RAMPING,
    (Phase.RAMPING, Act.PROMOTE): Phase.PROMOTED,
    (Phase.RAMPING, Act.ROLL_BACK): Phase.ROLLED_BACK,
    (Phase.RAMPING, Act.HOLD): Phase.HELD,
    (Phase.RAMPING, Act.ALARM): Phase.RAMPING,
    (Phase.RAMPING, Act.PAUSE): Phase.PAUSED,
    (Phase.PAUSED, Act.PROMOTE): Phase.PROMOTED,
    (Phase.PAUSED, Act.ROLL_BACK): Phase.ROLLED_BACK,
    (Phase.PAUSED, Act.HOLD): Phase.HELD,
    (Phase.PAUSED, Act.ALARM): Phase.PAUSED,
    (Phase.PAUSED, Act.RESUME): Phase.RAMPING,
    (Phase.HELD, Act.PROMOTE): Phase.PROMOTED,
    (Phase.HELD, Act.ROLL_BACK): Phase.ROLLED_BACK,
    (Phase.HELD, Act.RESUME): Phase.RAMPING,
    (Phase.PROMOTED, Act.ROLL_BACK): Phase.ROLLED_BACK,
    (Phase.ROLLED_BACK, Act.PROMOTE): Phase.PROMOTED,
    (Phase.ROLLED_BACK, Act.RESUME): Phase.RAMPING,
}
"""Every move there is; whatever is not here is refused."""

OVER: Final = frozenset((Phase.PROMOTED, Phase.ROLLED_BACK))
BY_JUDGE: Final[Mapping[OnFail, Act]] = {"rollback": Act.ROLL_BACK, "hold": Act.HOLD, "alarm": Act.ALARM}


class Impossible(Exception):
    """This can't be done to a release that stands where it stands; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a release is to go.

    steps: the candidate's share of the requests, ascending, each in [0, 1]. One step below 1 is a fixed
    weight, which only a person moves. pause: s that a step lasts at least. least: requests of the candidate
    that a step takes at least.
    """

    kind: Kind = "canary"
    steps: tuple[float, ...] = (0.1,)
    pause: float = 300.0
    least: int = 100
    on_fail: OnFail = "rollback"

    def __post_init__(self) -> None:
        if not self.steps or any(not 0.0 <= step <= 1.0 for step in self.steps):
            raise ValueError(f"steps are shares between 0 and 1, found {self.steps}")
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"each step is larger than the one before, found {self.steps}")


class Facts(NamedTuple):
    """What a look at the release shows.

    condemned: the judge's evidence is as strong as was asked for. ready: the candidate could take all
    requests (blue_green). rolled: its ready instances as a share of all that are wanted (rolling).
    """

    condemned: bool = False
    ready: bool = False
    rolled: float = 0.0


class Change(NamedTuple):
    """One move. anew: what was gathered so far counts no more."""

    act: Act
    before: Phase
    after: Phase
    weight: float
    anew: bool


class Ramp:
    """One course. step: index into the plan's steps; since: s since the epoch, when it was reached; seen:
    requests of the candidate (pairs at a step of 0 %) since then; alarmed: the judge's alarm was given.
    """

    __slots__ = ("_rolled", "alarmed", "phase", "plan", "seen", "since", "step")

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan = plan
        self.phase = Phase.RAMPING
        self.step = 0
        self.since = now
        self.seen = 0
        self.alarmed = False
        self._rolled = 0.0

    @property
    def weight(self) -> float:
        """The candidate's share of the requests now."""
        if self.phase is Phase.PROMOTED:
            return 1.0
        if self.phase is Phase.ROLLED_BACK:
            return 0.0
        if self.plan.kind == "rolling":
            return self._rolled
        return 0.0 if self.plan.kind == "blue_green" else self.plan.steps[self.step]

    def look(self, facts: Facts, now: float) -> Change | None:
        """Move by itself, at most once per look."""
        if self.phase in OVER:
            return None
        act = BY_JUDGE[self.plan.on_fail]
        if facts.condemned and not self.alarmed and (self.phase, act) in TRANSITIONS:
            self.alarmed = True
            return self._move(act, now)
        if self.plan.kind == "rolling" and self.phase is Phase.RAMPING and facts.rolled != self._rolled:
            self._rolled = facts.rolled
            return self._move(Act.STEP, now)
        if self.phase is Phase.RAMPING and self._may_go_on(facts, now):
            last = self.plan.kind != "canary" or self.plan.steps[self.step + 1] >= 1.0
            return self._move(Act.PROMOTE if last else Act.STEP, now)
        return None

    def _may_go_on(self, facts: Facts, now: float) -> bool:
        match self.plan.kind:
            case "blue_green":
                return facts.ready
            case "rolling":
                return self._rolled >= 1.0 and now - self.since >= self.plan.pause
        is_last = self.step + 1 >= len(self.plan.steps)
        return not is_last and now - self.since >= self.plan.pause and self.seen >= self.plan.least

    def do(self, act: Act, now: float) -> Change:
        """Move by hand. Raises Impossible."""
        if (self.phase, act) not in TRANSITIONS or act in (Act.STEP, Act.HOLD, Act.ALARM):
            known = ", ".join(sorted(self.open_to())) or "nothing"
            raise Impossible(f"it is {self.phase.value}; what can be done: {known}")
        return self._move(act, now)

    def open_to(self) -> list[str]:
        """What a person can do now."""
        by_hand = (Act.PROMOTE, Act.ROLL_BACK, Act.PAUSE, Act.RESUME)
        return [act.value for act in by_hand if (self.phase, act) in TRANSITIONS]

    def _move(self, act: Act, now: float) -> Change:
        before, self.phase = self.phase, TRANSITIONS[self.phase, act]
        anew = act is Act.RESUME and before in (Phase.HELD, Phase.ROLLED_BACK)
        if before is Phase.ROLLED_BACK and act is Act.RESUME:
            self.step = 0
            self._rolled = 0.0
        elif act is Act.STEP and self.plan.kind == "canary":
            self.step += 1
        if anew:
            self.alarmed = False
        if act is not Act.ALARM:
            self.since, self.seen = now, 0
        return Change(act, before, self.phase, self.weight, anew)

    def replan(self, plan: Plan) -> None:
        """Go on by an edited plan: at the last of its steps that is not above the present weight."""
        weight = self.weight
        self.plan = plan
        self.step = max((i for i, step in enumerate(plan.steps) if step <= weight), default=0)

    def state(self) -> dict[str, object]:
        """Return what must outlive the process, as plain values."""
        return {
            "phase": self.phase.value,
            "step": self.step,
            "since": self.since,
            "seen": self.seen,
            "alarmed": self.alarmed,
            "rolled": self._rolled,
        }

    @classmethod
    def restored(cls, plan: Plan, state: Mapping[str, object], now: float) -> Ramp:
        """Go on where `state` was written down. Raises ValueError when it makes no sense."""
        ramp = cls(plan, now)
        match state:
            case {
                "phase": str(phase),
                "step": int(step),
                "since": int() | float() as since,
                "seen": int(seen),
                "alarmed": bool(alarmed),
                "rolled": int() | float() as rolled,
            }:
                ramp.phase = Phase(phase)
                ramp.step = min(max(step, 0), len(plan.steps) - 1)
                ramp.since = min(float(since), now)
                ramp.seen = max(seen, 0)
                ramp.alarmed = alarmed
                ramp._rolled = min(max(float(rolled), 0.0), 1.0)
            case _:
                raise ValueError(f"this is no course of a release: {state}")
        return ramp

    def __repr__(self) -> str:
        return f"<Ramp {self.plan.kind} {self.phase.value} at {self.weight:.0%} | {self.seen} seen>"
