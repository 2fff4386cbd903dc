"""Whether what a model predicts has changed since one began to watch: always valid, no clock, no window.

While predictions come from one distribution (they are exchangeable), the rank of the newest among all so
far is uniform, whatever the distribution, and independent of earlier ranks. Bets against that are an
e-process: the probability that their wealth ever reaches 1 / a is at most a, over all looks and for ever
(evidence.py). Nothing has to be known of the distribution; a reference of any length is accounted for
exactly.

    p = (values below + u * (values equal, this one included)) / values      u: uniform in [0, 1), breaks ties

Values are sorted into at most BINS bins with edges from the first `first` ones, so memory is O(1). The bets:
p leans to one side, or to both or the middle. NaN and infinities have no rank: beside the others
stand bets that more than ALLOWED of the answers are such.

Ranks tell little of classes: one that takes some answers from all others hardly moves them. So each value
that COMMON or more of the first ones share is watched by itself, and so are all others together: its answers
rank before everybody else's, and the bets are that its odds are some TIMES what they were. Ranks of two
classes are two series, and bets on them may not be added: each class has its own equal part of the false
alarm, half of the whole together. Unlike the ranks they see which class it is.

A drift that begins late would first have to win back what was lost before it: so every EVERY values each bet
gets a fresh share of the capital, w_j = 1 / (j (j + 1)). An alarm starts everything anew, from the new state
on.

What it can't know: whether the model changed or its inputs. What nobody could: n answers before and m after
a change of a share s by d hold d^2 n m / (2 s (1 - s) (n + m)) nats; an alarm over ten
classes takes about fifteen.

Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), ch. 7, conformal test
martingales; Ramdas et al., Testing exchangeability (2022); Shin, Ramdas, Rinaldo, E-detectors (2024).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from math import inf, isfinite, log
from typing import Final

BINS: Final = 64
EVERY: Final = 500  # values between two shares of the capital
ALLOWED: Final = 0.001  # share of values that may be NaN or infinite
CLASSES: Final = 16  # watched by themselves, at most
COMMON: Final = 0.02  # of the first values, for a class of its own
RARE: Final = 0.01  # that all others together are taken to have, at least

OTHERS: Final = inf
LEANS: Final = (-0.8, -0.3, -0.12, 0.12, 0.3, 0.8)
SPREADS: Final = (-0.4, 0.8)
NO_NUMBER: Final = (0.01, 0.1, 0.5)
"""Shares of NaN and infinities that are bet on."""
TIMES: Final = (0.5, 0.8, 1.25, 1.6, 3.0, 10.0)
"""By how many times a class's odds are bet to have changed."""
SAYS: Final = (
    "much lower",
    "lower",
    "a little lower",
    "a little higher",
    "higher",
    "much higher",
    "closer together",
    "further apart",
    *("no numbers",) * 3,
)
"""What each bet on ranks says when it wins."""


class Odds:
    """Bets on one class.

    value: the class; OTHERS: all that have none of their own. usual: its share of the first answers.
    """

    __slots__ = ("_if_other", "_if_own", "_own", "_total", "_usual", "_wealth", "value")

    def __init__(self, value: float, usual: float) -> None:
        self.value = value
        self._usual = usual
        self._own = self._total = 0
        shares = [times * usual / (times * usual + 1.0 - usual) for times in TIMES]
        self._if_own = [share / usual for share in shares]
        self._if_other = [(1.0 - share) / (1.0 - usual) for share in shares]
        self._wealth = [0.0] * len(TIMES)

    def begin(self, share: float) -> None:
        """Bet this share of the capital from now on."""
        self._wealth = [have + share for have in self._wealth]

    def observe(self, own: bool, u: float) -> None:
        """Take in one answer, of this class or of another; u: uniform in [0, 1)."""
        self._own += own
        self._total += 1
        share = self._own / self._total
        p = u * share if own else share + u * (1.0 - share)
        gains = self._if_own if p < self._usual else self._if_other
        self._wealth = [have * gain for have, gain in zip(self._wealth, gains, strict=True)]

    def wealth(self) -> float:
        """What all bets are worth together."""
        return sum(self._wealth) / len(TIMES)

    def says(self) -> str:
        """What the best bet says."""
        more = TIMES[self._wealth.index(max(self._wealth))] > 1.0
        name = "what was rare" if self.value == OTHERS else f"{self.value:g}"
        return f"{name} is {'more' if more else 'less'} frequent"


class Drift:
    """One stream of numbers. false_alarm: probability that an unchanged stream ever raises an alarm.

    first: values that only say where the edges are, and which classes. seen: values so far; alarms: so far.
    why: what the last alarm says.
    """

    __slots__ = (
        "_classes",
        "_counts",
        "_edges",
        "_evidence",
        "_first",
        "_learnt",
        "_named",
        "_ranked",
        "_total",
        "_wealth",
        "alarms",
        "false_alarm",
        "seen",
        "why",
    )

    def __init__(self, false_alarm: float = 0.01, first: int = 200) -> None:
        if not 0.0 < false_alarm < 1.0 or first < 2:
            raise ValueError("expected a probability between 0 and 1, and two first values or more")
        self.false_alarm = false_alarm
        self._first = first
        self.seen = 0
        self.alarms = 0
        self.why = ""
        self._start()

    def _start(self) -> None:
        self._learnt: list[float] = []
        self._edges: list[float] = []
        self._counts: list[int] = []
        self._classes: list[Odds] = []
        self._named: set[float] = set()
        self._total = self._ranked = 0
        self._wealth = [0.0] * len(SAYS)
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
        gains = (*ranks, *no_number(not isfinite(value)))
        self._wealth = [have * gain for have, gain in zip(self._wealth, gains, strict=True)]
        if self._classes and isfinite(value):
            name = value if value in self._named else OTHERS
            for one in self._classes:
                one.observe(one.value == name, u)
        return self._look()

    def _look(self) -> bool:
        """Weigh the ranks, and each class: what is nearest to its own part of the false alarm counts."""
        whole = -log(self.false_alarm)
        ranks = _logarithm(sum(self._wealth) / len(SAYS)) - (log(2.0) if self._classes else 0.0)
        said = SAYS[self._wealth.index(max(self._wealth))]
        self._evidence = ranks
        if self._classes:
            strongest = max(self._classes, key=Odds.wealth)
            classes = _logarithm(strongest.wealth()) - log(2.0 * len(self._classes))
            self._evidence = max(ranks, classes)
            if strongest.wealth() > 1.0:  # of classes a name says more than a direction
                said = strongest.says()
        if self._evidence < whole:
            return False
        self.alarms += 1
        self.why = said
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
        self._watch_classes(known)

    def _watch_classes(self, known: list[float]) -> None:
        """Choose what is frequent enough, and all others together."""
        least = max(2.0, COMMON * len(known))
        common = [one for one in Counter(known).most_common(CLASSES) if one[1] >= least]
        if not common:
            return
        self._named = {value for value, _ in common}
        rest = len(known) - sum(count for _, count in common)
        # Half an answer on either side: a share of nothing, or of everything, could not be bet on.
        self._classes = [Odds(value, (count + 0.5) / (len(known) + 1.0)) for value, count in common]
        self._classes.append(Odds(OTHERS, max(RARE, (rest + 0.5) / (len(known) + 1.0))))

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
        share = 1.0 / (number * (number + 1.0))
        self._wealth = [have + share for have in self._wealth]
        for one in self._classes:
            one.begin(share)

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


def _logarithm(wealth: float) -> float:
    return log(wealth) if wealth > 0.0 else -inf
