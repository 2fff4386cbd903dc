"""Whether what a model predicts has changed since one began to watch: always valid, no clock, no window.

While predictions come from one distribution (they are exchangeable), the rank of the newest among all so
far is uniform, whatever the distribution, and independent of earlier ranks. Bets against that are an
e-process: the probability that their wealth ever reaches 1 / a is at most a, over all looks and for ever
(evidence.py). Nothing has to be known of the distribution; a reference of any length is accounted for
exactly.

    p = (values below + u * (values equal, this one included)) / values      u: uniform in [0, 1), breaks ties

Values are sorted into at most BINS bins with edges from the first `first` ones, so memory is O(1). The bets:
p leans to one side, or to both or the middle. NaN and infinities have no rank: beside the others
stand bets that more than ALLOWED of the answers are such. A drift that begins late would first have to
win back what was lost before it: so every EVERY values a fresh set of bets starts with a share of the
capital, w_j = 1 / (j (j + 1)), and beyond SETS of them what is least worth is given up. An alarm starts
everything anew, from the new state on.

What it can't know: whether the model changed or its inputs. And ranks tell little of classes: one that takes
5 % of the answers from nine others hardly moves them (loadtests/sims/drift.py).

Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), ch. 7, conformal test
martingales; Ramdas et al., Testing exchangeability (2022); Shin, Ramdas, Rinaldo, E-detectors (2024).
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp, inf, isfinite, log
from typing import Final

BINS: Final = 64
EVERY: Final = 500  # values between two sets of bets
SETS: Final = 16
ALLOWED: Final = 0.001  # share of values that may be NaN or infinite

LEANS: Final = (-0.8, -0.3, 0.3, 0.8)
SPREADS: Final = (-0.4, 0.8)
NO_NUMBER: Final = (0.01, 0.1, 0.5)
"""Shares of NaN and infinities that are bet on."""
BETS: Final = len(LEANS) + len(SPREADS) + len(NO_NUMBER)


class Drift:
    """One stream of numbers. false_alarm: probability that an unchanged stream ever raises an alarm.

    first: values that only say where the edges are. seen: values so far; alarms: so far.
    """

    __slots__ = (
        "_bets",
        "_counts",
        "_edges",
        "_evidence",
        "_first",
        "_learnt",
        "_ranked",
        "_total",
        "alarms",
        "false_alarm",
        "seen",
    )

    def __init__(self, false_alarm: float = 0.01, first: int = 200) -> None:
        if not 0.0 < false_alarm < 1.0 or first < 2:
            raise ValueError("expected a probability between 0 and 1, and two first values or more")
        self.false_alarm = false_alarm
        self._first = first
        self.seen = 0
        self.alarms = 0
        self._start()

    def _start(self) -> None:
        self._learnt: list[float] = []
        self._edges: list[float] = []
        self._counts: list[int] = []
        self._total = self._ranked = 0
        self._bets: list[tuple[float, list[float]]] = []  # logarithms: of the share, of each bet's wealth
        self._evidence = 0.0

    def observe(self, value: float, u: float) -> bool:
        """Take in one value; u: uniform in [0, 1). True: this one raises the alarm."""
        self.seen += 1
        if not self._counts:
            self._learn(value)
            return False
        if self._ranked % EVERY == 0:
            self._begin()
        self._ranked += 1
        ranks = factors(self._rank(value, u)) if isfinite(value) else (1.0,) * (len(LEANS) + len(SPREADS))
        gains = [log(factor) for factor in (*ranks, *no_number(not isfinite(value)))]
        for _, wealth in self._bets:
            for place, gain in enumerate(gains):
                wealth[place] += gain
        self._evidence = _joint(self._bets)
        if self._evidence < -log(self.false_alarm):
            return False
        self.alarms += 1
        self._start()
        return True

    @property
    def evidence(self) -> float:
        """What speaks for a drift, as a share of what an alarm takes (logarithms); never below 0."""
        return max(0.0, self._evidence) / -log(self.false_alarm)

    def _learn(self, value: float) -> None:
        self._learnt.append(value)
        if len(self._learnt) < self._first:
            return
        known = sorted(value for value in self._learnt if isfinite(value))
        steps = range(1, BINS)
        self._edges = sorted({known[step * len(known) // BINS] for step in steps}) if known else []
        self._counts = [0] * (2 * len(self._edges) + 1)
        self._learnt = []

    def _rank(self, value: float, u: float) -> float:
        """Where it stands among all so far. An edge is a bin of its own: classes are their own edges."""
        counts = self._counts
        place = bisect_left(self._edges, value)
        bin = 2 * place + (place < len(self._edges) and self._edges[place] == value)
        counts[bin] += 1
        self._total += 1
        return (sum(counts[:bin]) + u * counts[bin]) / self._total

    def _begin(self) -> None:
        number = self._ranked // EVERY + 1
        self._bets.append((-log(number * (number + 1.0)), [0.0] * BETS))
        if len(self._bets) > SETS:
            self._bets.remove(min(self._bets, key=lambda one: _joint([one])))

    def __repr__(self) -> str:
        return f"<Drift {self.seen} seen, {self.alarms} alarms | {self.evidence:.0%} of an alarm>"


def factors(p: float) -> tuple[float, ...]:
    """By what each bet's wealth is multiplied at a rank p; each has the mean 1 over uniform ranks."""
    off = 2.0 * p - 1.0
    spread = 1.5 * off * off - 0.5
    return (*(1.0 + lean * off for lean in LEANS), *(1.0 + share * spread for share in SPREADS))


def no_number(is_none: bool) -> tuple[float, ...]:
    """The same for a value that is NaN or infinite, or is neither; the mean is 1 or less while few are."""
    if is_none:
        return tuple(share / ALLOWED for share in NO_NUMBER)
    return tuple((1.0 - share) / (1.0 - ALLOWED) for share in NO_NUMBER)


def _joint(bets: list[tuple[float, list[float]]]) -> float:
    """The logarithm of what all bets are worth together."""
    logs = [share + one for share, wealth in bets for one in wealth]
    most = max(logs, default=-inf)
    if most == -inf:
        return most
    return most + log(sum(exp(one - most) for one in logs) / BETS)
