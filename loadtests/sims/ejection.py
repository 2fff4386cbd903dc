"""How soon is a sick instance found, and how often a well one blamed? Beside what others do.

A pool of instances with traffic by chance; one of them fails a share of its calls, or all. Time until it is
found: doubted (a tenth of the traffic) or out. Then hours in which nobody is sick, with an incident of a
minute in each that hits everybody alike. Beside the gateway's own Ejector, written anew:

    five in a row    out after five failures in a row (Envoy's and NGINX's first rule)
    success rate     every 10 s: out who has 100 calls and a success rate 1.9 standard deviations below the
                     mean of at least 5 such hosts (Envoy's second)

Between failures an instance only succeeds, and a run of successes is one event: `Ejector.passed`. So a
thousand hours are some 100,000 events.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heapreplace
from math import exp, inf
from random import Random
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gateway.governance.ejection import Ejector
from loadtests.sims.report import Cell, Report, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SICK_AT = 60.0  # s of health before one falls ill
PATIENCE = 240.0  # s after that until nobody looks any more
TRIALS = 41  # five times as many of ours where it was tuned
FIRST_SEED = 7000  # fresh: bounds were chosen on those below
CALM_HOURS = 50  # of a pool of 20: 1,000 instance-hours
INCIDENT = 60.0  # s in every hour


class Detector(Protocol):
    """Told of the failure of an instance and the successes since its last one; says who is found."""

    def told(self, index: int, successes: int, failed: bool, now: float) -> bool: ...

    def found(self) -> tuple[int, int]:
        """Times that somebody was doubted, and was out."""
        ...


class Ours:
    """The gateway's own."""

    def __init__(self, hosts: int) -> None:
        self.hosts = hosts
        self.keys = [str(index) for index in range(hosts)]
        self.ejector = Ejector()

    def told(self, index: int, successes: int, failed: bool, now: float) -> bool:
        self.ejector.passed(self.keys[index], successes, now)
        if not failed:
            return False
        until = self.ejector.record(self.keys[index], False, now, self.hosts)
        return until is not None or self.ejector.doubted_until(self.keys[index]) > now

    def found(self) -> tuple[int, int]:
        return self.ejector.doubts, self.ejector.ejections


class InARow:
    """Five failures in a row."""

    def __init__(self, hosts: int) -> None:
        self.row = [0] * hosts
        self.out = 0

    def told(self, index: int, successes: int, failed: bool, now: float) -> bool:
        if successes:
            self.row[index] = 0
        self.row[index] += failed
        if self.row[index] < 5:
            return False
        self.row[index] = 0
        self.out += 1
        return True

    def found(self) -> tuple[int, int]:
        return 0, self.out


class SuccessRate:
    """1.9 standard deviations below the mean of the pool, every ten seconds."""

    def __init__(self, hosts: int) -> None:
        self.calls = [0] * hosts
        self.failures = [0] * hosts
        self.sweep_at = 10.0
        self.out: set[int] = set()
        self.ejections = 0

    def told(self, index: int, successes: int, failed: bool, now: float) -> bool:
        self.calls[index] += successes + failed
        self.failures[index] += failed
        if now >= self.sweep_at:
            self.sweep_at += 10.0
            self._sweep()
        return index in self.out

    def _sweep(self) -> None:
        rates = {i: 1 - self.failures[i] / n for i, n in enumerate(self.calls) if n >= 100}
        self.out = set()
        if len(rates) >= 5:
            bound = fmean(rates.values()) - 1.9 * pstdev(rates.values())
            self.out = {i for i, rate in rates.items() if rate < bound}
            self.ejections += len(self.out)
        self.calls = [0] * len(self.calls)
        self.failures = [0] * len(self.failures)

    def found(self) -> tuple[int, int]:
        return 0, self.ejections


DETECTORS: dict[str, Callable[[int], Detector]] = {
    "ours": Ours,
    "five in a row": InARow,
    "success rate": SuccessRate,
}


OURS: dict[str, Callable[[int], Detector]] = {"ours": Ours}


class Scenario(NamedTuple):
    """hosts of `rate` calls/s each that fail a share `base`; one of them `sick`."""

    hosts: int
    rate: float
    base: float
    sick: float


TUNED = {
    "20 at 5/s, one fails 5 %": Scenario(20, 5.0, 0.002, 0.05),
    "20 at 5/s, one fails all": Scenario(20, 5.0, 0.002, 1.0),
    "20 at 50/s, one fails 5 %": Scenario(20, 50.0, 0.002, 0.05),
}
SEEN = {
    "20 at 5/s, one fails 20 %": Scenario(20, 5.0, 0.002, 0.2),
    "6 at 20/s, one fails 5 %": Scenario(6, 20.0, 0.001, 0.05),
    "3 at 5/s, one fails all": Scenario(3, 5.0, 0.005, 1.0),
    "40 at 10/s that fail 2 %, one 20 %": Scenario(40, 10.0, 0.02, 0.2),
    "8 at 12/s that fail 1 %, one 10 %": Scenario(8, 12.0, 0.01, 0.1),
    "2 at 10/s, one fails all": Scenario(2, 10.0, 0.005, 1.0),
    "60 at 2/s, one fails all": Scenario(60, 2.0, 0.001, 1.0),
    "5 at 40/s that fail 1 %, one 5 %": Scenario(5, 40.0, 0.01, 0.05),
}
"""Held out at first; looked at since."""
HELD_OUT = {
    "held out: 12 at 8/s that fail 0.5 %, one 8 %": Scenario(12, 8.0, 0.005, 0.08),
    "held out: 4 at 3/s, one fails all": Scenario(4, 3.0, 0.005, 1.0),
    "held out: 30 at 100/s, one fails 3 %": Scenario(30, 100.0, 0.002, 0.03),
}
"""Written down before they ran for the first time."""


def play(
    detector: Detector,
    hosts: int,
    rate: float,
    share: Callable[[int, float], float],
    changes: list[float],
    rng: Random,
) -> float:
    """Run until an instance is found or the last change; return when, inf for never.

    share: of the calls that fail, by instance and instant; constant between `changes`, of which the last one
    is the end.
    """
    began = 0.0
    last = [0.0] * hosts
    for end in changes:
        shares = [share(index, began) for index in range(hosts)]
        upcoming = [(began + rng.expovariate(rate * shares[i]), i) for i in range(hosts)]
        heapify(upcoming)
        while upcoming[0][0] < end:
            now, index = upcoming[0]
            for other in range(hosts):  # what they did since is known before a failure is judged
                passed = _poisson(rate * (1 - shares[other]) * (now - last[other]), rng)
                last[other] = now
                if other == index:
                    if detector.told(other, passed, True, now):
                        return now
                elif passed:
                    detector.told(other, passed, False, now)
            heapreplace(upcoming, (now + rng.expovariate(rate * shares[index]), index))
        began = end
    return inf


def _poisson(mean: float, rng: Random) -> int:
    """A Poisson number; by its normal limit above 30."""
    if mean > 30.0:
        return max(0, round(rng.gauss(mean, mean**0.5)))
    count, drawn, least = 0, 1.0, exp(-mean)
    while (drawn := drawn * (1.0 - rng.random())) > least:
        count += 1
    return count


def detect(scenario: Scenario, make: Callable[[int], Detector], seed: int) -> float:
    """Return the seconds from falling ill until the sick one is found, inf for never."""
    detector = make(scenario.hosts)

    def share(index: int, now: float) -> float:
        return scenario.sick if index == 0 and now >= SICK_AT else scenario.base

    rng = Random(seed)
    at = 0.0
    while at < SICK_AT + PATIENCE:  # a well one that is found is not what is looked for
        changes = [change for change in (SICK_AT, SICK_AT + PATIENCE) if change > at]
        at = play(_Only(detector, 0), scenario.hosts, scenario.rate, share, changes, rng)
        if at >= SICK_AT:
            break
    return at - SICK_AT


class _Only:
    """A detector of which only one instance counts as found, and only after SICK_AT."""

    def __init__(self, detector: Detector, index: int) -> None:
        self.detector = detector
        self.index = index

    def told(self, index: int, successes: int, failed: bool, now: float) -> bool:
        return self.detector.told(index, successes, failed, now) and index == self.index and now >= SICK_AT

    def found(self) -> tuple[int, int]:
        return self.detector.found()


class _Counted(_Only):
    """A detector that looks on to the end."""

    def told(self, index: int, successes: int, failed: bool, now: float) -> bool:
        self.detector.told(index, successes, failed, now)
        return False


class Calm(NamedTuple):
    """hosts of `rate` calls/s that fail a share `base`, and one of `incidents` for a minute of every hour."""

    hosts: int
    rate: float
    base: float
    incidents: tuple[float, ...]


CALM = Calm(20, 5.0, 0.002, (0.2, 0.2, 0.05, 0.5))
CALM_SEEN = Calm(10, 20.0, 0.005, (0.1, 0.3, 0.9))
CALM_HELD_OUT = Calm(25, 8.0, 0.003, (0.15, 0.6, 1.0))


def calm(make: Callable[[int], Detector], pool: Calm, hours: int, seed: int) -> tuple[int, int]:
    """Return how often somebody well was doubted, and out, in so many hours of the pool."""
    doubted = out = 0
    for hour in range(hours):
        detector = make(pool.hosts)

        def share(index: int, now: float, hit: float = pool.incidents[hour % len(pool.incidents)]) -> float:
            return hit if 1800.0 <= now < 1800.0 + INCIDENT else pool.base

        changes = [1800.0, 1800.0 + INCIDENT, 3600.0]
        play(_Counted(detector, 0), pool.hosts, pool.rate, share, changes, Random(1000 * seed + hour))
        doubts, ejections = detector.found()
        doubted += doubts
        out += ejections
    return doubted, out


def run() -> Report:
    """Detection times, then false alarms."""
    rows: list[list[Cell]] = []
    ours: dict[str, float] = {}
    for name, scenario in {**TUNED, **SEEN, **HELD_OUT}.items():
        for who, make in (DETECTORS if name in TUNED else OURS).items():
            trials = 5 * TRIALS if who == "ours" and name in TUNED else TRIALS // (1 if who == "ours" else 3)
            times = sorted(detect(scenario, make, FIRST_SEED + trial) for trial in range(trials))
            typical, late = median(times), times[int(0.9 * trials)]
            rows.append([name, who, _cell(typical), _cell(late), "", ""])
            if who == "ours":
                ours[name] = typical
    out = 0
    doubts_per_hour = 0.0
    for pool in (CALM, CALM_SEEN, CALM_HELD_OUT):
        for who, make in (DETECTORS if pool is CALM else OURS).items():
            hours = 20 * CALM_HOURS // pool.hosts // (1 if who == "ours" else 20)
            doubts, ejections = calm(make, pool, hours, seed=FIRST_SEED)
            name = f"{pool.hosts} at {pool.rate:g}/s, nobody sick, {pool.hosts * hours} instance-hours"
            rows.append([name, who, "", "", doubts, ejections])
            if who == "ours":
                out += ejections
                doubts_per_hour = max(doubts_per_hour, doubts / (pool.hosts * hours))
    sick, broken, *_ = (ours[name] for name in TUNED)
    return Report(
        "Ejection: how soon the sick are found, how often the well are blamed",
        "Bounds were chosen on the first three scenarios and on other seeds; all else was only judged.",
        ("scenario", "detector", "median s", "90 % within s", "false doubts", "false ejections"),
        rows,
        (
            Target("s until an instance that fails 5 % of 5 calls/s is found", sick, "<=", 20.0),
            Target("s until a broken one is found", broken, "<=", 2.0),
            Target("the same, once held out, of two", ours["2 at 10/s, one fails all"], "<=", 2.0),
            Target("the same, held out, of four", ours["held out: 4 at 3/s, one fails all"], "<=", 2.0),
            Target(
                "s, held out: 8 % of 8/s", ours["held out: 12 at 8/s that fail 0.5 %, one 8 %"], "<=", 20.0
            ),
            Target("s, held out: 3 % of 100/s", ours["held out: 30 at 100/s, one fails 3 %"], "<=", 20.0),
            Target("false ejections in 3,000 instance-hours, 1,000 of them held out", out, "<=", 0.0),
            Target("false doubts per instance-hour, of 20 s each", doubts_per_hour, "<=", 1.0),
        ),
        lambda axes: _draw(axes, rows),
    )


def _cell(seconds: float) -> float | None:
    return None if seconds == inf else seconds


def _draw(axes: Axes, rows: list[list[Cell]]) -> None:
    names = [*TUNED, *SEEN, *HELD_OUT]
    for offset, who in enumerate(DETECTORS):
        found = {str(row[0]): float(row[2] or PATIENCE) for row in rows if row[1] == who and row[2] != ""}
        places = [i + 0.27 * offset for i, name in enumerate(names) if name in found]
        axes.barh(places, [found[name] for name in names if name in found], 0.25, label=who)
    axes.set_yticks([i + 0.27 for i in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("s until it is found, median (right edge: never)")
    axes.legend(frameon=False, fontsize=7)
