"""Predictions that drift while a version serves: how soon is it seen, and how often where nothing drifts?

A model's answers are watched one by one: a score in [0, 1], or the number of a class. After 2,000 of them
(10,000 where it says "late") something changes for good. Beside ours, what dashboards commonly compute,
written anew: PSI above 0.2, and the Kolmogorov-Smirnov test at 1 %, of every 1,000 answers in a row against
the first 1,000.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gateway.governance.drift import Drift
from loadtests.sims.predictions import kolmogorov_smirnov, population_stability
from loadtests.sims.report import Cell, Report, Target

BEFORE = 2000
LATE = 10_000
AFTER = 4000
RUNS = 25
QUIET_RUNS = 100
QUIET = 8640
"""Answers of 24 hours, one in ten seconds: that many looks."""
FALSE_ALARM = 0.01

Values = NDArray[np.float64]


def _scores(rng: np.random.Generator, count: int) -> Values:
    return np.asarray(1 / (1 + np.exp(-1.2 * rng.normal(size=count))))


def _classes(rng: np.random.Generator, count: int) -> Values:
    return rng.choice(10, count, p=[0.19] + [0.09] * 9).astype(float)


def _more_of_one(share: float, rng: np.random.Generator, count: int) -> Values:
    return np.where(rng.random(count) < share, 0.0, _classes(rng, count))


def _new_class(share: float, rng: np.random.Generator, count: int) -> Values:
    return np.where(rng.random(count) < share, 10.0, _classes(rng, count))


def _broken(rng: np.random.Generator, count: int) -> Values:
    return np.where(rng.random(count) < 0.02, np.nan, _scores(rng, count))


CASES: dict[
    str,
    tuple[Callable[[np.random.Generator, int], Values], Callable[[np.random.Generator, int], Values]],
] = {
    "scores 0.05 higher": (_scores, lambda rng, n: np.clip(_scores(rng, n) + 0.05, 0, 1)),
    "scores 0.1 higher": (_scores, lambda rng, n: np.clip(_scores(rng, n) + 0.1, 0, 1)),
    "scores closer together": (_scores, lambda rng, n: 0.5 + 0.6 * (_scores(rng, n) - 0.5)),
    "5 % of the answers become class 0": (_classes, partial(_more_of_one, 0.05)),
    "5 % of the answers become class 0, late": (_classes, partial(_more_of_one, 0.05)),
    "10 % of the answers become class 0": (_classes, partial(_more_of_one, 0.1)),
    "20 % of the answers become class 0": (_classes, partial(_more_of_one, 0.2)),
    "3 % become a class never seen": (_classes, partial(_new_class, 0.03)),
    "2 % NaN": (_scores, _broken),
}


def run() -> Report:
    """Answers until each drift is seen, and false alarms where there is none."""
    rows: list[list[Cell]] = []
    found: dict[str, float] = {}
    quiet = [_quiet(seed) for seed in range(QUIET_RUNS)]
    rows.append(["nothing, 24 h", None, None, *(float(np.mean([one[i] for one in quiet])) for i in range(3))])
    for number, (case, (before, after)) in enumerate(CASES.items()):
        delays, psi, ks = [], 0, 0
        for seed in range(RUNS):
            rng = np.random.default_rng([59, number, seed])
            changes = LATE if case.endswith("late") else BEFORE
            values = np.concatenate([before(rng, changes), after(rng, AFTER)])
            delays.append(_delay(values, changes, rng))
            psi_says, ks_says = _windows(values[: changes + 1000])
            psi, ks = psi + psi_says, ks + ks_says
        found[case] = float(np.quantile(delays, 0.9, method="higher"))
        seen = float(np.mean([one < AFTER for one in delays]))
        rows.append([case, float(np.median(delays)), found[case], seen, psi / RUNS, ks / RUNS])
    return Report(
        "Drift of predictions in steady state",
        "Bets were chosen on other seeds: these were only judged. `late`: after 10,000 answers.",
        ("what happens", "answers: median", "90 of 100", "ours sees", "PSI > 0.2", "KS at 1 %"),
        rows,
        (
            Target("false alarms over 24 h", float(np.mean([one[0] for one in quiet])), "<=", 0.01),
            Target("scores 0.05 higher: answers in 90 of 100", found["scores 0.05 higher"], "<=", 2000),
            Target("scores 0.1 higher: answers in 90 of 100", found["scores 0.1 higher"], "<=", 600),
            Target(
                "20 % of the answers become class 0: answers in 90 of 100",
                found["20 % of the answers become class 0"],
                "<=",
                1000,
            ),
            Target(
                "3 % become a class never seen: answers in 90 of 100",
                found["3 % become a class never seen"],
                "<=",
                2000,
            ),
            Target("2 % NaN: answers in 90 of 100", found["2 % NaN"], "<=", 600),
        ),
    )


def _quiet(seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng([59, 29, seed])
    values = (_scores if seed % 2 else _classes)(rng, QUIET)
    watch = Drift(FALSE_ALARM)
    for value, u in zip(values.tolist(), rng.random(QUIET).tolist(), strict=True):
        watch.observe(value, u)
    psi, ks = _windows(values)
    return float(watch.alarms > 0), float(psi), float(ks)


def _delay(values: Values, changes: int, rng: np.random.Generator) -> int:
    """Answers after the change until the alarm; AFTER: none came, or one came too early."""
    watch = Drift(FALSE_ALARM)
    for number, (value, u) in enumerate(zip(values.tolist(), rng.random(len(values)).tolist(), strict=True)):
        if watch.observe(value, u):
            return number - changes if number >= changes else AFTER
    return AFTER


def _windows(values: Values) -> tuple[bool, bool]:
    values = values[np.isfinite(values)]
    first = values[:1000]
    later = [values[start : start + 1000] for start in range(1000, len(values) - 999, 1000)]
    return (
        any(population_stability(first, one) > 0.2 for one in later),
        any(kolmogorov_smirnov(first, one) < 0.01 for one in later),
    )
