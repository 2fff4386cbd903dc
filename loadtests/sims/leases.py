"""Who may pass, when eight gateways share one limit: rate leases beside three simpler ways.

Competitors, as their users run them: one call of a central counter per request; the limit split evenly; local
counters that are added up every 100 ms (asynchronous counters). Ours are RateBorrower and RateLender, a word
of the lender taking a round trip.

Arrivals are Poisson, shares of the gateways follow a power law, and at half time demand moves. Judged: what
passed over what could have (min of demand and limit); the worst window of each length against rate * t +
burst; the first second after the move; calls per 1,000 requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gateway.governance.rate_borrower import RateBorrower, Wish
from gateway.governance.rate_leases import RateLender
from gateway.governance.token_bucket import Bucket
from gateway.pipeline.ports import Claim
from loadtests.sims.report import Report, Target

TICK = 0.025  # s between two looks of a store at what is due


@dataclass(frozen=True, slots=True)
class Scenario:
    """rate: tokens/s; burst: tokens; offered: of the rate; skew: of the power law; move: how it moves."""

    name: str
    gateways: int
    rate: float
    offered: float
    skew: float
    move: str
    seed: int
    seconds: float = 16.0
    rtt: float = 0.001

    @property
    def burst(self) -> float:
        """A tenth of a second's, as policies have it by default."""
        return self.rate / 10

    def arrivals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return instants (s, ascending) and the gateway of each."""
        rng = np.random.default_rng(self.seed)
        shares = 1.0 / np.arange(1, self.gateways + 1) ** self.skew
        if self.move == "wholly":
            shares[:] = 0.0
            shares[0] = 1.0
        shares /= shares.sum()
        number = rng.poisson(self.rate * self.offered * self.seconds)
        instants = np.sort(rng.uniform(0.0, self.seconds, number))
        before = rng.choice(self.gateways, number, p=shares)
        after = rng.choice(self.gateways, number, p=shares[::-1])
        return instants, np.where(instants < self.seconds / 2, before, after)


class Way(Protocol):
    """A way to share a limit. calls: made to the central counter so far."""

    calls: int

    def passes(self, gateway: int, now: float) -> bool:
        """Decide one request."""
        ...


class Central:
    """One call per request."""

    def __init__(self, scenario: Scenario) -> None:
        self.calls = 0
        self._bucket = Bucket(scenario.rate, scenario.burst)

    def passes(self, gateway: int, now: float) -> bool:
        """Ask."""
        self.calls += 1
        return self._bucket.take(1.0, now) == 0.0


class EvenSplit:
    """Each gateway its part, no call at all."""

    def __init__(self, scenario: Scenario) -> None:
        self.calls = 0
        n = scenario.gateways
        self._buckets = [Bucket(scenario.rate / n, max(1.0, scenario.burst / n)) for _ in range(n)]

    def passes(self, gateway: int, now: float) -> bool:
        """Look at the own part."""
        return self._buckets[gateway].take(1.0, now) == 0.0


class AsyncCounters:
    """Local buckets of the whole limit; every 100 ms each hears what the others spent."""

    PERIOD = 0.1

    def __init__(self, scenario: Scenario) -> None:
        self.calls = 0
        self._buckets = [Bucket(scenario.rate, scenario.burst) for _ in range(scenario.gateways)]
        self._spent = [0] * scenario.gateways
        self._next = self.PERIOD

    def passes(self, gateway: int, now: float) -> bool:
        """Look at what is known here."""
        if now >= self._next:
            self._next = now + self.PERIOD
            self.calls += len(self._buckets)
            for own, bucket in enumerate(self._buckets):
                others = sum(self._spent) - self._spent[own]
                bucket.settle(float(others), now)
            self._spent = [0] * len(self._buckets)
        if self._buckets[gateway].take(1.0, now) > 0:
            return False
        self._spent[gateway] += 1
        return True


class RateLeases:
    """The gateway's own."""

    def __init__(self, scenario: Scenario) -> None:
        self.calls = 0
        self._lender = RateLender()
        self._borrowers = [RateBorrower() for _ in range(scenario.gateways)]
        self._claims = (Claim(b"limit", 1.0, scenario.rate, scenario.burst),)
        self._rtt = scenario.rtt
        self._ticks = [TICK * (1 + i / scenario.gateways) for i in range(scenario.gateways)]

    def passes(self, gateway: int, now: float) -> bool:
        """Spend from a share, or ask; the lender decides half a round trip later."""
        for holder, due in enumerate(self._ticks):
            if now >= due:
                self._ticks[holder] += TICK
                self._tick(holder, due)
        borrower = self._borrowers[gateway]
        taken = borrower.take(self._claims, now)
        if not isinstance(taken, Wish):
            return taken.allowed
        self.calls += 1
        word = self._lender.decide(gateway, taken.draws, now + self._rtt / 2)
        return borrower.answered(taken, word, now, now + self._rtt).allowed

    def _tick(self, holder: int, now: float) -> None:
        borrower = self._borrowers[holder]
        draws = borrower.due(now)
        if draws:
            self.calls += 1
            word = self._lender.decide(holder, draws, now + self._rtt / 2)
            borrower.refreshed(draws, word, now, now + self._rtt)


@dataclass(frozen=True, slots=True)
class Outcome:
    """used, moved: of what could have passed, in all and in the second after the move. over: worst excess
    of a window over rate * t + burst, as a share of it. calls: per 1,000 requests."""

    used: float
    moved: float
    over: float
    calls: float


def simulate(scenario: Scenario, way: Way) -> Outcome:
    """Play a scenario."""
    instants, gateways = scenario.arrivals()
    passed = np.array([way.passes(g, t) for t, g in zip(instants.tolist(), gateways.tolist(), strict=True)])
    granted = instants[passed]
    could = min(1.0, scenario.offered) * scenario.rate
    from_, to = scenario.seconds / 2, scenario.seconds / 2 + 1.0
    steady = granted[granted >= 2.0]
    moved = int(np.count_nonzero((granted >= from_) & (granted < to)))
    offered = int(np.count_nonzero((instants >= from_) & (instants < to)))
    steady_offered = int(np.count_nonzero(instants >= 2.0))
    return Outcome(
        used=len(steady) / min(could * (scenario.seconds - 2.0), steady_offered),
        moved=moved / min(scenario.rate, offered),
        over=max(_worst(granted, t, scenario) for t in (0.01, 0.1, 1.0, 5.0)),
        calls=1000.0 * way.calls / len(instants),
    )


def _worst(granted: np.ndarray, length: float, scenario: Scenario) -> float:
    """Return how far the fullest window of this length is above the law, as a share of the law."""
    ends = np.searchsorted(granted, granted + length, side="right")
    most = int((ends - np.arange(len(granted))).max()) if len(granted) else 0
    law = scenario.rate * length + scenario.burst
    return max(0.0, (most - 1) / law - 1.0)


TUNED = (
    Scenario("power law mirrored, 1.2 x", 8, 1000.0, 1.2, 1.0, "mirrored", seed=1),
    Scenario("wholly elsewhere, 1.2 x", 8, 1000.0, 1.2, 1.0, "wholly", seed=2),
    Scenario("below the limit, 0.9 x", 8, 1000.0, 0.9, 1.0, "mirrored", seed=3),
    Scenario("flood, 5 x", 8, 1000.0, 5.0, 1.0, "mirrored", seed=4, seconds=12.0),
)
HELD_OUT = (
    Scenario("steeper, 1.1 x", 8, 1500.0, 1.1, 1.5, "mirrored", seed=11),
    Scenario("wholly elsewhere, 2 x", 8, 2000.0, 2.0, 1.0, "wholly", seed=12, seconds=12.0),
    Scenario("even, 0.95 x", 8, 1200.0, 0.95, 0.0, "mirrored", seed=13),
    Scenario("five gateways, slow store", 5, 800.0, 1.5, 0.7, "mirrored", seed=14, rtt=0.005),
)
NEAR = tuple(
    Scenario(f"{name}, {offered:g} x", 8, rate, offered, skew, "mirrored", seed=seed)
    for seed, (name, rate, offered, skew) in enumerate(
        (
            ("even", 1000.0, 0.97, 0.0),
            ("power law", 1000.0, 1.0, 1.0),
            ("even", 1000.0, 1.02, 0.0),
            ("power law", 2000.0, 1.02, 0.5),
            ("even", 1500.0, 1.0, 0.0),
            ("power law", 1000.0, 1.05, 1.0),
        ),
        start=9500,
    )
)
SMALL = (
    Scenario("100/s, even, 1.2 x", 8, 100.0, 1.2, 0.0, "mirrored", seed=401),
    Scenario("160/s, even, 2 x", 8, 160.0, 2.0, 0.0, "mirrored", seed=402),
    Scenario("60/s, steep, 1.5 x", 8, 60.0, 1.5, 1.0, "mirrored", seed=403),
    Scenario("400/s, even, 1 x", 8, 400.0, 1.0, 0.0, "mirrored", seed=404),
    Scenario("300/s, power law, 1.02 x", 8, 300.0, 1.02, 0.5, "mirrored", seed=405),
)
WAYS: dict[str, Callable[[Scenario], Way]] = {
    "rate leases": RateLeases,
    "central counter": Central,
    "even split": EvenSplit,
    "async counters": AsyncCounters,
}


def run() -> Report:
    """Play all scenarios in all ways."""
    rows: list[Sequence[str | float]] = []
    targets = []
    kinds = (("tuned", TUNED), ("held out", HELD_OUT), ("near the limit", NEAR), ("small limits", SMALL))
    for kind, scenarios in kinds:
        ours = []
        wholly = []
        for scenario in scenarios:
            for name, make in WAYS.items():
                outcome = simulate(scenario, make(scenario))
                if name == "rate leases":
                    ours.append(outcome)
                    if scenario.move == "wholly":
                        wholly.append(outcome)
                shown = (100 * outcome.used, 100 * outcome.moved, 100 * outcome.over, outcome.calls)
                rows.append((kind, scenario.name, name, *[round(number, 1) for number in shown]))
        targets += [
            Target(f"{kind}: worst excess over rate * t + burst", max(o.over for o in ours), "<=", 0.02),
            Target(f"{kind}: used of what could pass", sum(o.used for o in ours) / len(ours), ">=", 0.97),
            Target(f"{kind}: the same, worst scenario", min(o.used for o in ours), ">=", 0.97),
        ]
        if kind == "small limits":
            continue  # decided one by one, exactly
        if wholly:
            moved = min(o.moved for o in wholly)
            targets.append(Target(f"{kind}: second after demand moved wholly", moved, ">=", 0.95))
        targets += [
            Target(f"{kind}: second after demand was mirrored", min(o.moved for o in ours), ">=", 0.88),
            Target(f"{kind}: most calls per 1,000 requests", max(o.calls for o in ours), "<=", 50.0),
        ]
    return Report(
        title="One limit, eight gateways",
        judged="Parameters were set on the tuned scenarios; the held-out ones were played after that.",
        columns=("kind", "scenario", "way", "used %", "after move %", "over %", "calls/1000"),
        rows=rows,
        targets=targets,
    )
