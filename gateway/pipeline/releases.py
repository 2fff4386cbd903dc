"""A release as the requests of one process see it: which share the candidate gets, and what came of it.

`Live` is on the request path: it holds the weight that was told, and gathers evidence (governance/judge.py)
and counts. It decides nothing. Who decides (runtime/releasing.py, once per host) takes what was gathered,
some times a second, and tells the weight back. `epoch` numbers the evidence: what was gathered for an older
one is left out, so that a release that starts anew owes nothing to its past.

One Live per release, kept over reloads while its settings are equal. A new one begins where the last one
that was told of that name stands, so that no reload serves a candidate that was rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.governance.judge import ERRORS, Judge, Thresholds
from gateway.governance.ramp import Plan
from gateway.pipeline.promise import Promise

PREDICTIONS = "predictions"
FLIPS = "flips"
ALARMS = 64
"""Of `drift` that wait to be told of, at most."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a release is judged by.

    comparisons: metric -> how many times as frequent its bad events may be. quantiles: metric -> (quantile,
    factor). rates: metric of pairs -> share that may differ. sample: share of stable's requests that are put
    to the candidate, too.
    """

    comparisons: Mapping[str, float] = field(default_factory=dict)
    quantiles: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    false_alarm: float = 0.01
    sample: float = 0.0

    @property
    def exist(self) -> bool:
        """Whether anything is judged."""
        return bool(self.comparisons or self.quantiles or self.rates)

    def judge(self) -> Judge:
        """Make a judge without evidence."""
        return Judge({**self.comparisons, **dict.fromkeys(self.quantiles, 1.0)}, self.rates, self.false_alarm)


class Told(NamedTuple):
    """What the one who decides tells every process.

    key: see Live. base: the target that stable means now, "" = as written.
    holding: requests wait, for the moment of a flip. over: nothing more is to be learnt. revision: counts
    what was told, so that it can be seen who has heard it.
    """

    name: str
    key: tuple[str, str, str]
    epoch: int
    weight: float
    base: str = ""
    holding: bool = False
    over: bool = False
    revision: int = 0


class Gathered(NamedTuple):
    """What one process gathered since it was last asked.

    requests, errors: of stable, of the candidate. pairs: compared. fallbacks: candidate's requests that
    stable served. judged: a judge's state. last: what the last pair that differed did. heard: revision.
    """

    name: str
    epoch: int
    requests: tuple[int, int]
    errors: tuple[int, int]
    pairs: int
    fallbacks: int
    judged: dict[str, tuple[int, int, list[float]]]
    last: str
    heard: int


class Drifted(NamedTuple):
    """One alarm of `drift`. of: class or score. why: what the bet says that won. seen: answers until then."""

    endpoint: str
    version: str
    of: str
    why: str
    seen: int


class Arms(NamedTuple):
    """What the words of a release mean now. stable, candidate: `pool version`; equal: nothing is released.

    written: what stable means as the policies have it. usable, members: instances of stable and candidate.
    """

    stable: str
    candidate: str
    written: str
    usable: tuple[int, int]
    members: tuple[int, int]


class Live:
    """One release in one process. arms: set by the filter that acts."""

    __slots__ = (
        "_errors",
        "_fallbacks",
        "_judge",
        "_last",
        "_pairs",
        "_requests",
        "_thresholds",
        "_waiting",
        "arms",
        "criteria",
        "endpoint",
        "key",
        "name",
        "plan",
        "told",
    )

    def __init__(
        self, name: str, endpoint: str, key: tuple[str, str, str], plan: Plan, criteria: Criteria
    ) -> None:
        """key: kind, stable and candidate as written; another key is another release."""
        self.name = name
        self.endpoint = endpoint
        self.key = key
        self.plan = plan
        self.criteria = criteria
        first = plan.steps[0] if plan.kind == "canary" else 0.0
        self.told = Told(name, key, 0, first)
        self.arms: Callable[[float], Arms] = _nowhere
        self._thresholds = Thresholds(criteria.quantiles)
        self._waiting: list[Promise[None]] = []
        self._clear()

    def _clear(self) -> None:
        self._judge = self.criteria.judge() if self.criteria.exist else None
        self._requests = [0, 0]
        self._errors = [0, 0]
        self._pairs = 0
        self._fallbacks = 0
        self._last = ""

    # On the request path

    @property
    def counts(self) -> bool:
        """Whether what requests come to is looked at."""
        return not self.told.over and (self._judge is not None or len(self.plan.steps) > 1)

    @property
    def pairs(self) -> bool:
        """Whether stable's requests are put to the candidate, too."""
        return self.criteria.sample > 0 and not self.told.over

    def wait(self) -> Promise[None] | None:
        """Return what to wait for while a flip is on its way; None: go on."""
        if not self.told.holding:
            return None
        waiting: Promise[None] = Promise()
        self._waiting.append(waiting)
        return waiting

    def fell_back(self) -> None:
        """The candidate could not take a request that was its own."""
        self._fallbacks += 1

    def record(self, candidate: bool, share: float, bad: Sequence[str], latency: float) -> None:
        """Take in one request. share: the candidate's when the arm was chosen. bad: metrics it failed in.

        latency: s, of a good answer; 0.0: there is none to compare.
        """
        self._requests[candidate] += 1
        self._errors[candidate] += ERRORS in bad
        judge = self._judge
        if judge is None:
            return
        for metric in bad:
            if metric in judge.comparisons:
                judge.bad(metric, candidate, share)
        if latency and self.criteria.quantiles:
            for metric in self._thresholds.slow(latency, candidate):
                judge.bad(metric, candidate, share)

    def pair(self, differs: str, flips: bool) -> None:
        """Take in one pair of answers. differs: why, empty where they don't."""
        self._pairs += 1
        if differs:
            self._last = differs
        judge = self._judge
        if judge is not None:
            if PREDICTIONS in judge.rates:
                judge.pair(PREDICTIONS, bool(differs))
            if FLIPS in judge.rates:
                judge.pair(FLIPS, flips)

    # Between this process and the one who decides

    def take(self) -> Gathered | None:
        """Return what was gathered since the last call; None: nothing."""
        judge = self._judge
        if not (self._requests[0] or self._requests[1] or self._pairs or self._fallbacks):
            return None
        judged = {} if judge is None else {k: (a, b, list(w)) for k, (a, b, w) in judge.state().items()}
        gathered = Gathered(
            self.name,
            self.told.epoch,
            (self._requests[0], self._requests[1]),
            (self._errors[0], self._errors[1]),
            self._pairs,
            self._fallbacks,
            judged,
            self._last,
            self.told.revision,
        )
        self._clear()
        return gathered

    def heed(self, told: Told) -> None:
        """Do as told, from the next request on; who waited for a flip goes on when it is done."""
        if told.epoch != self.told.epoch:
            self._clear()
        self.told = told
        if not told.holding and self._waiting:
            waiting, self._waiting = self._waiting, []
            for promise in waiting:
                promise.resolve(None)

    def __repr__(self) -> str:
        return f"<Live {self.name} at {self.told.weight:.0%} | {self._requests[1]} of the candidate>"


class Releases:
    """The releases of one process. aside: runs a comparison of large answers where it holds up nobody."""

    def __init__(self, aside: Callable[[Callable[[], None]], None] | None = None) -> None:
        self.aside = _at_once if aside is None else aside
        self.told: dict[str, Told] = {}
        self._drifted: list[Drifted] = []
        self._lives: dict[str, Live] = {}

    def live(
        self, name: str, endpoint: str, key: tuple[str, str, str], plan: Plan, criteria: Criteria
    ) -> Live:
        """Return the release of that name: the one that runs where its settings are equal, else a new one."""
        known = self._lives.get(name)
        if known is not None and (known.key, known.plan, known.criteria) == (key, plan, criteria):
            return known
        made = Live(name, endpoint, key, plan, criteria)
        told = self.told.get(name)
        if told is not None and told.key == key:
            made.heed(told)
        self._lives[name] = made
        return made

    def drifted(self, alarm: Drifted) -> None:
        """Keep an alarm until whoever writes the event log takes it."""
        if len(self._drifted) < ALARMS:
            self._drifted.append(alarm)

    def take_drifted(self) -> Sequence[Drifted]:
        """Return the alarms since the last call."""
        if not self._drifted:
            return ()
        taken, self._drifted = self._drifted, []
        return taken

    def heed(self, told: Told, live: Live | None) -> None:
        """Keep what was told, for the next one of that name, and pass it on. live: the one that runs."""
        self.told[told.name] = told
        if live is not None:
            live.heed(told)


def _at_once(work: Callable[[], None]) -> None:
    work()


def _nowhere(now: float) -> Arms:
    return Arms("", "", "", (0, 0), (0, 0))
