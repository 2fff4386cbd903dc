"""How soon is a bad release seen, and how often is a good one taken back?

A release gets a share of the traffic; both arms answer with errors at rates of their own. The judge may take
the candidate back after every request. Beside it, what release tools commonly do, written anew:

    absolute     under 99 % good answers of the candidate in a minute is a failed check; after five, back
    z, peeked    a two-sample z-test at 5 %, looked at every minute
    Bonferroni   the same at 1 %, divided by the 30 looks that are planned
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.governance.evidence import STAKES, steps
from gateway.governance.judge import ERRORS, weights
from loadtests.sims.report import Cell, Report, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUNS = 400
HALF_AN_HOUR = 1800
FALSE_ALARM = 0.01
WATCHED = ("errors", "timeouts", "invalid", "latency_p50", "latency_p90", "latency_p99", "nan", "length")
USUAL = (0.002, 0.0005, 0.0005, 0.5, 0.1, 0.01, 0.0001, 0.01)
"""Share of bad events in each metric watched, while nothing is wrong."""
CASES = {
    "equal": (0.002, 0.002),
    "equal, 0.8 % errors": (0.008, 0.008),
    "5 x errors": (0.002, 0.01),
    "50 % broken": (0.002, 0.5),
}
TRAFFIC = ((20.0, 0.05), (20.0, 0.5), (200.0, 0.05))
"""Requests/s, and the candidate's share of them."""

Counts = NDArray[np.int64]


class Arms(NamedTuple):
    """Requests (n) and errors (k) of stable (0) and the candidate (1): runs x seconds."""

    n0: Counts
    k0: Counts
    n1: Counts
    k1: Counts


class Found(NamedTuple):
    """Share of the runs that took the candidate back; median seconds and candidate requests until then."""

    share: float
    seconds: float
    requests: float


Detect = Callable[[Arms, float], NDArray[np.bool_]]
"""Tells per run and second whether the candidate is taken back by then, at a given share of the traffic."""


def run() -> Report:
    """Every judge on every traffic and case."""
    rows: list[list[Cell]] = []
    found: dict[tuple[float, float, str, str], Found] = {}
    for rate, share in TRAFFIC:
        for seed, (case, (base, worse)) in enumerate(CASES.items()):
            arms = traffic(rate, share, base, worse, seed)
            for name, detect in JUDGES.items():
                one = found[rate, share, case, name] = _summary(detect(arms, share), arms.n1)
                seconds = None if one.share < 0.5 else one.seconds
                rows.append(
                    [f"{rate:g}/s, {share:.0%}", case, name, one.share, seconds, seconds and one.requests]
                )
    broken = found[20, 0.05, "50 % broken", "judge"]
    five = found[200, 0.05, "5 x errors", "judge"]
    return Report(
        "Releases: false rollbacks and detection",
        "The odds were chosen on other seeds, the stakes by arithmetic: these runs were only judged.",
        ("traffic, candidate's", "case", "judge", "taken back", "median s", "candidate requests"),
        rows,
        (
            Target("false rollbacks, 24 h of continuous looks at 8 metrics", false_rollbacks(), "<=", 0.01),
            Target("50 % broken at 20/s, 5 % of the traffic: median s", broken.seconds, "<=", 10),
            Target("the same: median candidate requests", broken.requests, "<=", 20),
            Target("5 x errors at 10 candidate requests/s: median s", five.seconds, "<=", 90),
            Target("the same: share found in half an hour", five.share, ">=", 0.99),
        ),
        lambda axes: _draw(axes, found),
    )


def traffic(rate: float, share: float, base: float, worse: float, seed: int) -> Arms:
    """Poisson requests; each errs by chance, `base` of stable's and `worse` of the candidate's."""
    rng = np.random.default_rng([47, seed, int(rate), int(share * 100)])
    n1 = rng.poisson(rate * share, (RUNS, HALF_AN_HOUR))
    n0 = rng.poisson(rate * (1 - share), (RUNS, HALF_AN_HOUR))
    return Arms(n0, rng.binomial(n0, base), n1, rng.binomial(n1, worse))


def _summary(back: NDArray[np.bool_], asked: Counts) -> Found:
    first = back.argmax(1)[back.any(1)]
    if not len(first):
        return Found(0.0, np.inf, np.inf)
    requests = asked.cumsum(1)[back.any(1), first]
    return Found(float(back.any(1).mean()), float(np.median(first + 1)), float(np.median(requests)))


# Judges


def judge(arms: Arms, share: float) -> NDArray[np.bool_]:
    """Ours, with `errors` as one of eight metrics: the others are quiet and cost their weight."""
    weight = weights(WATCHED)[WATCHED.index(ERRORS)]
    bets = np.array(
        [bet + log(stake) for bet, stake in zip(wealth(arms.k0, arms.k1, share), STAKES, strict=True)]
    )
    return np.asarray(np.logaddexp.reduce(bets, axis=0) + log(weight) >= -log(FALSE_ALARM))


def wealth(k0: Counts, k1: Counts, share: float) -> list[NDArray[np.float64]]:
    """Logarithm of each bet of `Comparison` along the last axis: the same sums, for many runs at once."""
    of_candidate, of_stable = steps(1.0, share)
    return [np.cumsum(k1 * up + k0 * down, axis=-1) for up, down in zip(of_candidate, of_stable, strict=True)]


def absolute(arms: Arms, share: float) -> NDArray[np.bool_]:
    """Back after five minutes in which less than 99 % of the candidate's answers were good."""
    del share
    by_minute = [one.reshape(len(one), -1, 60).sum(2) for one in (arms.n1, arms.k1)]
    failed = by_minute[1] > 0.01 * by_minute[0]
    return _each_minute(failed.cumsum(1) >= 5)


def z_test(alpha: float) -> Detect:
    """Two-sample z-test of the error shares, looked at every minute, from 30 candidate requests on."""
    critical = NormalDist().inv_cdf(1 - alpha)

    def detect(arms: Arms, share: float) -> NDArray[np.bool_]:
        del share
        n0, k0, n1, k1 = (one.cumsum(1)[:, 59::60] for one in arms)
        pooled = (k0 + k1) / (n0 + n1)
        spread = np.sqrt(
            np.maximum(1e-12, pooled * (1 - pooled) * (1 / np.maximum(1, n0) + 1 / np.maximum(1, n1)))
        )
        return _each_minute(((k1 / np.maximum(1, n1) - k0 / n0) / spread > critical) & (n1 >= 30))

    return detect


def _each_minute(minutes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    seconds = np.zeros((len(minutes), minutes.shape[1] * 60), bool)
    seconds[:, 59::60] = minutes
    return seconds


JUDGES: dict[str, Detect] = {
    "judge": judge,
    "absolute": absolute,
    "z, peeked": z_test(0.05),
    "Bonferroni": z_test(0.01 / 30),
}


def false_rollbacks(runs: int = RUNS, share: float = 0.05, rate: float = 20.0) -> float:
    """Share of equal candidates taken back within 24 h, all metrics together, looked at every second."""
    rng = np.random.default_rng([47, 29])
    back = 0
    for _ in range(runs):
        logs = [
            [
                bet + log(weight * stake)
                for bet, stake in zip(
                    wealth(*_bad_events(rng, rate * usual, share), share), STAKES, strict=True
                )
            ]
            for weight, usual in zip(weights(WATCHED), USUAL, strict=True)
        ]
        bets = [bet for metric in logs for bet in metric]
        # The mean of them all can only reach the bound where one alone reaches its share of it.
        if max(float(bet.max()) for bet in bets) >= -log(FALSE_ALARM) - log(len(bets)):
            back += bool(np.logaddexp.reduce(bets, axis=0).max() >= -log(FALSE_ALARM))
    return back / runs


def _bad_events(rng: np.random.Generator, rate: float, share: float) -> tuple[Counts, Counts]:
    return rng.poisson(rate * (1 - share), 86_400), rng.poisson(rate * share, 86_400)


def _draw(axes: Axes, found: dict[tuple[float, float, str, str], Found]) -> None:
    """False rollbacks of an equal candidate, per judge."""
    for index, name in enumerate(JUDGES):
        bars = [found[rate, share, case, name].share for rate, share in TRAFFIC for case in list(CASES)[:2]]
        axes.bar([i + 0.2 * index for i in range(len(bars))], [100 * bar for bar in bars], 0.18, label=name)
    labels = [
        f"{rate:g}/s, {share:.0%}\n{errors} errors"
        for rate, share in TRAFFIC
        for errors in ("0.2 %", "0.8 %")
    ]
    axes.set_xticks([i + 0.3 for i in range(len(labels))], labels, fontsize=8)
    axes.set_ylabel("equal candidates taken back in 30 min, %")
    axes.legend(frameon=False)
