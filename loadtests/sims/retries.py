"""A brownout under retries: does the service come back when its capacity does?

A backend of 16 slots works at 0.9 of its capacity. For ten seconds it keeps 30 % of it. Clients give a
request half a second, and do not come again by themselves. A gateway gives each try 0.25 s and may try again:

    no retries           one try, which the backend works on though nobody waits any more
    three retries        at once, without a budget: what many libraries do
    three, cut off       the same, but a try that timed out is cancelled and leaves the backend's queue
    budget               retries as a share of the successes; what timed out stays in the queue
    budget, cut off      both
    ours                 the gateway's RetryBudget and its FairQueue before the backend, which lets no more in
                         than it works on and drops what would come too late by the tail of recent calls

The deadlines are kept in the gateway's own wheel (governance/deadlines.py). A backend's own queue serves what
waits longest: the worst order for deadlines, and the usual one.

Source: Bronson et al., Metastable Failures in Distributed Systems (HotOS 2021).
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf, log
from random import Random
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from gateway.governance.deadlines import Deadlines
from gateway.governance.fair_queue import FairQueue
from gateway.governance.quantile import RecentQuantile
from gateway.governance.retry_budget import RetryBudget
from loadtests.sims.report import Cell, Report, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLOTS = 16
BEGAN, ENDED, OVER = 20.0, 30.0, 60.0  # s: of the brownout, and of the run
WITHIN = 0.5  # s that a client waits
TRY = 0.25  # s for one try
SEEDS = (1, 2, 3)
FRESH = tuple(range(41, 50))
"""At a load of 0.9 a second in fifty answers less than 96 % by chance, brownout or not, and one such second
puts off five of 99 %. So each of these seeds is judged against itself without a brownout, and only the time
until 99 % by the median."""


class Law(NamedTuple):
    """retries: most of them. budget: spend one for each. cuts_off: what timed out leaves the queue."""

    retries: int
    budget: bool
    cuts_off: bool
    queues: bool = False  # in the gateway


LAWS = {
    "ours": Law(3, True, True, queues=True),
    "budget, cut off": Law(3, True, True),
    "budget": Law(3, True, False),
    "three, cut off": Law(3, False, True),
    "three retries": Law(3, False, False),
    "no retries": Law(0, False, False),
}


class Scenario(NamedTuple):
    """load: of the capacity. left: of it, in the brownout. mean: s of work, sigma of its logarithm."""

    load: float
    left: float
    mean: float = 0.05
    sigma: float = 0.6


TUNED = {"0.9 load, 30 % left": Scenario(0.9, 0.3)}
HELD_OUT = {
    "once held out: 0.8 load, a twentieth left": Scenario(0.8, 0.05),
    "once held out: 0.95 load, half left": Scenario(0.95, 0.5),
    "once held out: 0.9 load, 30 % left, heavy tail": Scenario(0.9, 0.3, 0.03, 1.0),
    "held out: 0.9 load, a fifth left, short calls": Scenario(0.9, 0.2, 0.01, 0.8),
}


class Try:
    """One try. over: it was answered, or given up."""

    __slots__ = ("made", "over", "request", "started")

    def __init__(self, request: int, made: int) -> None:
        self.request = request
        self.started = 0.0
        self.made = made
        self.over = False


class Result(NamedTuple):
    """recovered: s from the brownout's end to five seconds of 99 % success. after: from 5 s after it."""

    during: float
    after: float
    recovered: float
    attempts: float
    by_second: list[float]


def simulate(scenario: Scenario, law: Law, seed: int) -> Result:
    """One run: answered or not, by request."""
    rng = Random(seed)
    rate = scenario.load * SLOTS / scenario.mean
    mu = log(scenario.mean) - scenario.sigma**2 / 2
    arrivals: list[float] = []
    at = rng.expovariate(rate)
    while at < OVER:
        arrivals.append(at)
        at += rng.expovariate(rate)
    answered = [False] * len(arrivals)
    budget = RetryBudget()
    deadlines: Deadlines[Try] = Deadlines(tick=0.005)
    waiting: deque[Try] = deque()
    fair: FairQueue[Try] = FairQueue(1024, lambda one, why: None)
    tail = RecentQuantile(0.9, warm_up=20, window=2.0)
    done: list[tuple[float, int, Try]] = []
    busy = attempts = upcoming = 0
    swept = 0.0

    def start(one: Try, now: float) -> None:
        nonlocal busy
        busy += 1
        one.started = now
        speed = scenario.left if BEGAN <= now < ENDED else 1.0
        heappush(done, (now + rng.lognormvariate(mu, scenario.sigma) / speed, attempts, one))

    def send(request: int, now: float, made: int) -> None:
        nonlocal attempts
        attempts += 1
        one = Try(request, made)
        deadline = min(now + TRY, arrivals[request] + WITHIN)
        deadlines.add(deadline, one)
        if busy < SLOTS:
            start(one, now)
        elif law.queues:
            fair.push(one, now, deadline)
        else:
            waiting.append(one)

    def next_of(line: deque[Try]) -> Try | None:
        while line:
            if not ((first := line.popleft()).over and law.cuts_off):
                return first
        return None

    def time_out(one: Try, now: float) -> None:
        one.over = True
        if one.made > law.retries or now >= arrivals[one.request] + WITHIN:
            return
        if not law.budget or budget.spend(now):
            send(one.request, now, one.made + 1)

    while upcoming < len(arrivals) or done:
        next_arrival = arrivals[upcoming] if upcoming < len(arrivals) else inf
        next_done = done[0][0] if done else inf
        if min(next_arrival, next_done) >= swept + 0.005:  # the sweep comes first
            swept += 0.005
            for late in deadlines.expire(swept):
                if not late.over:
                    time_out(late, swept)
        elif next_arrival <= next_done:
            send(upcoming, next_arrival, 1)
            upcoming += 1
        else:
            now, _, one = heappop(done)
            busy -= 1
            tail.observe(now - one.started, now)
            if not one.over:
                one.over = answered[one.request] = True
                budget.earn()
            following = fair.pop(now, tail.value() or 0.0) if law.queues else next_of(waiting)
            if following is not None:
                start(following, now)
    return _judge(arrivals, answered, attempts)


def _judge(arrivals: list[float], answered: list[bool], attempts: int) -> Result:
    counts = [[0, 0] for _ in range(int(OVER) + 1)]
    for at, good in zip(arrivals, answered, strict=True):
        counts[int(at)][0] += good
        counts[int(at)][1] += 1
    by_second = [good / max(1, total) for good, total in counts[: int(OVER)]]
    later = range(int(ENDED), int(OVER) - 4)
    back = (second - ENDED for second in later if sum(by_second[second : second + 5]) >= 0.99 * 5)
    return Result(
        sum(by_second[int(BEGAN) : int(ENDED)]) / (ENDED - BEGAN),
        sum(by_second[int(ENDED) + 5 :]) / (OVER - ENDED - 5),
        next(back, inf),
        attempts / len(arrivals),
        by_second,
    )


def run() -> Report:
    """Every law in every scenario; the worst of the seeds where it is a target."""
    rows: list[list[Cell]] = []
    lines: dict[str, list[float]] = {}
    ours: dict[str, list[Result]] = {}
    for name, scenario in {**TUNED, **HELD_OUT}.items():
        for who, law in LAWS.items():
            seeds = SEEDS + FRESH if who == "ours" else SEEDS
            results = [simulate(scenario, law, seed) for seed in seeds]
            during, after, recovered, attempts = (
                median(values) for values in list(zip(*results, strict=True))[:4]
            )
            back = None if recovered == inf else recovered
            rows.append([name, who, during, after, back, attempts])
            if name in TUNED:
                lines[who] = results[0].by_second
            if who == "ours":
                ours[name] = results
    tuned = ours[next(iter(TUNED))]
    held_out = [result for name in HELD_OUT for result in ours[name]]
    first, fresh = slice(len(SEEDS)), slice(len(SEEDS), None)
    worst = min(one.after for name in HELD_OUT for one in ours[name][first])
    lost = max(
        simulate(scenario._replace(left=1.0), LAWS["ours"], seed).after - one.after
        for name, scenario in {**TUNED, **HELD_OUT}.items()
        for seed, one in zip(FRESH, ours[name][fresh], strict=True)
    )
    return Report(
        "A brownout under retries: coming back from it",
        "Medians. Timeouts and shares are the gateway's defaults; all but the first were only judged.",
        ("scenario", "law", "success during", "from 5 s after", "back after s", "attempts per request"),
        rows,
        (
            Target("s until 99 % succeed again", max(one.recovered for one in tuned[first]), "<=", 5.0),
            Target(
                "the same on fresh seeds, median", median(one.recovered for one in tuned[fresh]), "<=", 5.0
            ),
            Target("success from 5 s after", min(one.after for one in tuned), ">=", 0.99),
            Target("attempts per request", max(one.attempts for one in tuned), "<=", 1.1),
            Target("held out: attempts per request", max(one.attempts for one in held_out), "<=", 1.1),
            Target("held out: success from 5 s after", worst, ">=", 0.99),
            Target("fresh seeds: less success than without a brownout, at worst", lost, "<=", 0.01),
        ),
        lambda axes: _draw(axes, lines),
    )


def _draw(axes: Axes, lines: dict[str, list[float]]) -> None:
    for who, values in lines.items():
        axes.plot(range(len(values)), values, label=who)
    axes.axvspan(BEGAN, ENDED, alpha=0.15)
    axes.set_xlabel("s")
    axes.set_ylabel("share of a second's requests that succeed")
    axes.legend(frameon=False, fontsize=8)
