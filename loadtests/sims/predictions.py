"""Does a new version predict something else? Pairs of answers to the same inputs, or statistics of all.

Both versions answer the same inputs: the mirror of a release sends the candidate what stable was asked. An
event is a pair that differs by more than it may. Beside it, what dashboards of drift commonly show, on the
candidate's answers against ten times as many of stable's to other inputs, written anew:

    PSI    population stability index over stable's deciles, above 0.2
    KS     Kolmogorov-Smirnov test at 1 %
"""

from __future__ import annotations

from math import inf, log

import numpy as np
from numpy.typing import NDArray

from gateway.governance.evidence import Rate
from loadtests.sims.report import Cell, Report, Target

RUNS = 400
PAIRS = 1000
TOLERANCE = 0.001
ALLOWED = 0.002
"""Share of pairs that may differ by more than the tolerance: kernels round, ties flip."""
FALSE_ALARM = 0.001
CASES = {
    "equal": (0.0, 0.0),
    "all shifted by 0.02": (0.02, 0.0),
    "2 % corrupted": (0.0, 0.02),
    "10 % corrupted": (0.0, 0.1),
}

Scores = NDArray[np.float64]


def run() -> Report:
    """Each case: share of the runs in which each statistic speaks, and after how many pairs ours does."""
    rows: list[list[Cell]] = []
    found: dict[str, tuple[float, float]] = {}
    for seed, (case, (shift, corrupted)) in enumerate(CASES.items()):
        rng = np.random.default_rng([11, seed])
        needed, psi, ks = [], 0, 0
        for _ in range(RUNS):
            stable, candidate, others = answers(rng, shift, corrupted)
            needed.append(pairs_needed(np.abs(candidate - stable) > TOLERANCE))
            psi += population_stability(others, candidate) > 0.2
            ks += kolmogorov_smirnov(others, candidate) < 0.01
        seen = [one for one in needed if one < inf]
        found[case] = (len(seen) / RUNS, float(np.quantile(needed, 0.99, method="higher")))
        rows.append([case, len(seen) / RUNS, float(np.median(seen)) if seen else None, psi / RUNS, ks / RUNS])
    return Report(
        "Predictions: paired answers against drift statistics",
        "Nothing was tuned on these cases: tolerance, allowed share and false alarm are the defaults.",
        ("case", "pairs: seen", "after pairs (median)", "PSI > 0.2", "KS at 1 %"),
        rows,
        (
            Target(
                "2 % corrupted predictions: pairs needed in 99 of 100 runs",
                found["2 % corrupted"][1],
                "<=",
                PAIRS,
            ),
            Target("false alarms on equal versions", found["equal"][0], "<=", 0.001),
        ),
    )


def answers(rng: np.random.Generator, shift: float, corrupted: float) -> tuple[Scores, Scores, Scores]:
    """Scores in [0, 1]: stable's, the candidate's to the same inputs, stable's to ten times others."""
    stable = _scores(rng, PAIRS)
    candidate = np.clip(stable + shift + rng.normal(0, 1e-4, PAIRS), 0, 1)
    return (
        stable,
        np.where(rng.random(PAIRS) < corrupted, rng.random(PAIRS), candidate),
        _scores(rng, 10 * PAIRS),
    )


def _scores(rng: np.random.Generator, count: int) -> Scores:
    return np.asarray(1 / (1 + np.exp(-1.2 * rng.normal(size=count))))


def pairs_needed(differs: NDArray[np.bool_]) -> float:
    """Pairs until the evidence is strong enough; inf: never."""
    rate = Rate(ALLOWED)
    for count, bad in enumerate(differs, 1):
        rate.record(bool(bad))
        if bad and rate.value() >= -log(FALSE_ALARM):
            return count
    return inf


def population_stability(reference: Scores, sample: Scores) -> float:
    """PSI over the reference's deciles."""
    edges = np.quantile(reference, np.linspace(0, 1, 11))
    edges[0], edges[-1] = -inf, inf
    p = np.histogram(reference, edges)[0] / len(reference) + 1e-4
    q = np.histogram(sample, edges)[0] / len(sample) + 1e-4
    return float(((q - p) * np.log(q / p)).sum())


def kolmogorov_smirnov(one: Scores, other: Scores) -> float:
    """Asymptotic p-value of the two-sample test."""
    everything = np.concatenate([one, other])
    below = [np.searchsorted(np.sort(side), everything, "right") / len(side) for side in (one, other)]
    effective = len(one) * len(other) / len(everything)
    distance = float(np.abs(below[0] - below[1]).max()) * effective**0.5
    return float(min(1.0, 2 * sum((-1) ** (k - 1) * np.exp(-2 * (k * distance) ** 2) for k in range(1, 101))))
