"""The judge of a release: keep the candidate, take it back, or let it have more. Always valid, no clock.

Each metric is one e-process (evidence.py) under a weight; the weighted mean of e-processes is one again, so

    take back when    sum_m weight_m * wealth_m >= 1 / false_alarm

gives a false rollback with a probability of at most `false_alarm` over the whole life of the release, all
metrics and all looks together. That is never worse than Bonferroni's "any wealth_m >= 1 / (weight_m a)", and
better when several metrics speak at once. Errors weigh as much as all other metrics together: they are what a
broken release shows first.

Latency is compared by thresholds that stable's own answers give: `Thresholds` freezes stable's quantiles
after enough answers. An answer of stable is bad above its quantile's latency, one of the candidate above
`allowed` times that: a candidate that is slower by no more than `allowed` then has no more bad answers than
stable, and the comparison needs no tolerance.

A verdict is a value. Who asks does what it says, and keeps it: `sides` are the numbers that decided.

Source: Vovk and Wang, E-values: calibration, combination and applications (2021), for the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from gateway.governance.evidence import Comparison, Rate, mixed
from gateway.governance.histogram import Histogram

State = Mapping[str, tuple[int, int, Sequence[float]]]
"""What a judge has gathered, as plain values: it can be written down, sent and added."""
ERRORS = "errors"
SHARE_OF_ERRORS = 0.5
"""Weight of the metric `errors` when there are others."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says now.

    take_back: the evidence against the candidate is as strong as was asked for. strongest: the metric that
    speaks most against it. against: natural logarithm of the joint wealth. needed: what it would take. sides:
    metric -> (bad events of the candidate, bad events of stable or all pairs, logarithm of its wealth).
    """

    take_back: bool
    strongest: str
    against: float
    needed: float
    sides: Mapping[str, tuple[int, int, float]]

    def __str__(self) -> str:
        bad, other, wealth = self.sides[self.strongest]
        return (
            f"{self.strongest}: {bad} against {other}, evidence {exp(min(wealth, 700)):.3g}; "
            f"in all {exp(min(self.against, 700)):.3g} of {exp(self.needed):.3g}"
        )


class Judge:
    """Gathers the evidence of one release.

    comparisons: metric -> tolerance of two arms. rates: metric -> share of bad pairs that is allowed.
    false_alarm: probability in (0, 1) of taking back a candidate that is no worse, ever.
    """

    __slots__ = ("_names", "_needed", "_weights", "comparisons", "false_alarm", "rates")

    def __init__(
        self,
        comparisons: Mapping[str, float],
        rates: Mapping[str, float] | None = None,
        false_alarm: float = 0.01,
    ) -> None:
        if not 0.0 < false_alarm < 1.0:
            raise ValueError(f"a probability of a false alarm lies between 0 and 1, not {false_alarm}")
        self.comparisons = {name: Comparison(tolerance) for name, tolerance in comparisons.items()}
        self.rates = {name: Rate(allowed) for name, allowed in (rates or {}).items()}
        self.false_alarm = false_alarm
        self._names = (*self.comparisons, *self.rates)
        if not self._names:
            raise ValueError("a judge needs a metric to judge by")
        self._weights = weights(self._names)
        self._needed = -log(false_alarm)

    def bad(self, metric: str, candidate: bool, share: float) -> None:
        """Take in one bad event of an arm. share: the candidate's share of the requests at that time."""
        self.comparisons[metric].record(candidate, share)

    def pair(self, metric: str, differs: bool) -> None:
        """Take in one pair of answers to the same question."""
        self.rates[metric].record(differs)

    def verdict(self) -> Verdict:
        """Weigh everything that is known; may be asked as often as one likes."""
        sides = {name: (one.candidate, one.stable, one.value()) for name, one in self.comparisons.items()}
        sides.update((name, (one.bad, one.all, one.value())) for name, one in self.rates.items())
        against = mixed([sides[name][2] for name in self._names], self._weights)
        strongest = max(self._names, key=lambda name: sides[name][2])
        return Verdict(against >= self._needed, strongest, against, self._needed, sides)

    def state(self) -> State:
        """Return what was gathered: metric -> (candidate or bad, stable or all, logarithms of the bets)."""
        known: dict[str, tuple[int, int, list[float]]] = {
            name: (one.candidate, one.stable, list(one.wealth)) for name, one in self.comparisons.items()
        }
        known.update((name, (one.bad, one.all, list(one.wealth))) for name, one in self.rates.items())
        return known

    def add(self, state: State) -> None:
        """Add what others gathered of the same release: another worker, or ourselves before a restart.

        Metrics that are not judged any more are left out. Events must not come twice.
        """
        for name, (first, second, wealth) in state.items():
            if name in self.comparisons:
                comparison = self.comparisons[name]
                comparison.candidate += first
                comparison.stable += second
                comparison.wealth = [
                    have + more for have, more in zip(comparison.wealth, wealth, strict=True)
                ]
            elif name in self.rates:
                rate = self.rates[name]
                rate.bad += first
                rate.all += second
                rate.wealth = [have + more for have, more in zip(rate.wealth, wealth, strict=True)]

    def __repr__(self) -> str:
        return f"<Judge {self.verdict()}>"


class Thresholds:
    """Latencies above which an answer counts as slow, learnt from stable.

    quantiles: metric -> (quantile in (0, 1) of stable's latency, how many times that the candidate may take).
    answers: of stable, before anything is compared. bounds: metric -> seconds, empty until then.
    """

    __slots__ = ("_answers", "_lowest", "_quantiles", "_seen", "bounds")

    def __init__(self, quantiles: Mapping[str, tuple[float, float]], answers: int = 500) -> None:
        for metric, (quantile, allowed) in quantiles.items():
            if not 0.0 < quantile < 1.0 or allowed < 1.0:
                raise ValueError(
                    f"{metric}: expected a quantile below 1 and a factor from 1, found {quantile}, {allowed}"
                )
        self._quantiles = dict(quantiles)
        self._answers = answers
        self._seen = Histogram()
        self._lowest = 0.0
        self.bounds: dict[str, float] = {}

    def slow(self, latency: float, candidate: bool) -> Sequence[str]:
        """Return the metrics in which an answer of `latency` seconds was bad; learns from stable at first."""
        if not self.bounds:
            if not candidate and self._quantiles:
                self._seen.observe(latency)
                if self._seen.count >= self._answers:
                    self._freeze()
            return ()
        if latency <= self._lowest:
            return ()
        return [
            metric
            for metric, bound in self.bounds.items()
            if latency > bound * (self._quantiles[metric][1] if candidate else 1.0)
        ]

    def _freeze(self) -> None:
        self.bounds = {
            metric: self._seen.quantile(quantile) for metric, (quantile, _) in self._quantiles.items()
        }
        self._lowest = min(self.bounds.values())

    def __repr__(self) -> str:
        known = ", ".join(f"{metric} {bound * 1000:.3g} ms" for metric, bound in self.bounds.items())
        return f"<Thresholds {known or f'{self._seen.count} of {self._answers} answers'}>"


def weights(names: Sequence[str]) -> list[float]:
    """Return each metric's share of the false alarm: `errors` one half where there are others."""
    if ERRORS not in names or len(names) == 1:
        return [1.0 / len(names)] * len(names)
    rest = (1.0 - SHARE_OF_ERRORS) / (len(names) - 1)
    return [SHARE_OF_ERRORS if name == ERRORS else rest for name in names]
