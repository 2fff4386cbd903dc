"""Evidence that may be looked at after every request: e-processes for a release. No clock, no dice.

An e-process is a bet against "nothing is wrong": its wealth starts at 1 and, while nothing is wrong, stays
below 1 / a for ever with probability at least 1 - a, however often one looks (Ville's inequality). So the
judge needs no sample size fixed beforehand, no pause between looks and no minimum of requests.

Two bets, both mixed over several ways of being wrong, because nobody knows beforehand how wrong:

`Comparison` sets two arms side by side by their bad events (an error; an answer slower than a threshold).
When bad events are at most t times as frequent among the candidate's requests as among stable's, one that
happened was the candidate's with a probability of at most

    q = t w / (t w + 1 - w)        w: the candidate's share of the requests, decided before this one

and the bet "x times as frequent as that" multiplies its wealth by x / (x q + 1 - q) at each bad event of
the candidate, by 1 / (x q + 1 - q) at each of stable. Good events need not be looked at, and how frequent
bad ones are need not be known. Exact when each request's arm is drawn by chance; where arms are fixed by a
hash, the candidate's bad events are hypergeometric, which Hoeffding bounds by the binomial.

`Rate` sets the share of bad events against a share that is allowed: pairs of predictions that differ by more
than they may. A bad event multiplies by p / allowed, a good one by (1 - p) / (1 - allowed).

What the judge must see to: the arm is chosen before the event and not because of it, and what the gateway
itself refused is in neither arm. Wealth is kept as logarithms, and those of several workers add up.

Source: Ville (1939); Hoeffding (1963), section 6; Lindon and Malek, Anytime-Valid Inference for Multinomial
Count Data (2022); Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import exp, log

TIMES = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 1000.0)
"""How many times as frequent as tolerated, one bet each: from a little worse to broken."""
STAKES = (0.12, 0.14, 0.2, 0.24, 0.14, 0.08, 0.08)
"""Of the capital on each: most where evidence is scarce; of what is broken one soon has enough."""
WORSE = (2.0, 4.0, 10.0, 40.0, 200.0, 1000.0)
"""How many times more frequent than allowed."""
SURE = 0.99
"""No share of bad events is bet to be higher than this."""


class Comparison:
    """Bad events of two arms. wealth: logarithm of each bet's; candidate, stable: bad events so far."""

    __slots__ = ("candidate", "stable", "tolerance", "wealth")

    def __init__(self, tolerance: float = 1.0) -> None:
        """tolerance: how many times as frequent bad events may be and still count as no worse."""
        if tolerance < 1.0:
            raise ValueError(f"a tolerance is 1.0 (equal) or more, not {tolerance}")
        self.tolerance = tolerance
        self.wealth = [0.0] * len(TIMES)
        self.candidate = 0
        self.stable = 0

    def record(self, candidate: bool, share: float) -> None:
        """Take in one bad event of either arm. share: the candidate's share of the requests at that time.

        A share of 0.0 or 1.0 compares nothing and teaches nothing.
        """
        if candidate:
            self.candidate += 1
        else:
            self.stable += 1
        if not 0.0 < share < 1.0:
            return
        of_candidate, of_stable = steps(self.tolerance, round(share, 4))
        self.wealth = [
            have + step
            for have, step in zip(self.wealth, of_candidate if candidate else of_stable, strict=True)
        ]

    def value(self) -> float:
        """Return the logarithm of the mixed wealth."""
        return mixed(self.wealth, STAKES)

    def __repr__(self) -> str:
        return f"<Comparison {self.candidate} bad against {self.stable} of stable | {self.value():.2f}>"


class Rate:
    """Bad events among all. wealth: logarithm of each bet's; bad, all: events so far."""

    __slots__ = ("_steps", "all", "allowed", "bad", "wealth")

    def __init__(self, allowed: float) -> None:
        """allowed: the share of bad events, above 0 and below 0.5, that is still called right."""
        if not 0.0 < allowed < 0.5:
            raise ValueError(f"the share that is allowed must lie between 0 and a half, not {allowed}")
        self.allowed = allowed
        self.bad = 0
        self.all = 0
        shares = [min(SURE, allowed * times) for times in WORSE]
        self._steps = (
            [log((1.0 - share) / (1.0 - allowed)) for share in shares],
            [log(share / allowed) for share in shares],
        )
        self.wealth = [0.0] * len(WORSE)

    def record(self, bad: bool) -> None:
        """Take in one event."""
        self.all += 1
        self.bad += bad
        self.wealth = [have + step for have, step in zip(self.wealth, self._steps[bad], strict=True)]

    def value(self) -> float:
        """Return the logarithm of the mixed wealth."""
        return mixed(self.wealth)

    def __repr__(self) -> str:
        return f"<Rate {self.bad} bad of {self.all}, {self.allowed:g} allowed | {self.value():.2f}>"


@lru_cache(maxsize=1024)
def steps(tolerance: float, share: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what one bad event adds to the logarithms: of the candidate, of stable."""
    q = tolerance * share / (tolerance * share + 1.0 - share)
    losses = [log(times * q + 1.0 - q) for times in TIMES]
    gains = [log(times) - loss for times, loss in zip(TIMES, losses, strict=True)]
    return tuple(gains), tuple(-loss for loss in losses)


def mixed(wealth: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Return the logarithm of the mean of wealths, all as logarithms. weights: None for equal ones."""
    most = max(wealth)
    if weights is None:
        return most + log(sum(exp(one - most) for one in wealth) / len(wealth))
    total = sum(weights)
    return most + log(
        sum(weight * exp(one - most) for weight, one in zip(weights, wealth, strict=True)) / total
    )
