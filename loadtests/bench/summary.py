"""From windows to figures: quartiles of a peer, ratios to another one within each round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

from loadtests.bench.window import Round, Window


class Figures(TypedDict, total=False):
    """One peer in one row. cpu_us_*: CPU µs per request; rate: requests/s; ratio_*: to the row's baseline.

    added_*: latency over `direct` within a round, ms, and its ratio to the baseline's. What was not measured
    is absent.
    """

    cpu_us_min: float
    cpu_us_quartile: float
    cpu_us_median: float
    rate: float
    p50_ms: float
    p99_ms: float
    ratio_min: float
    ratio_median: float
    ratio_max: float
    added_p50_ms: float
    added_p99_ms: float
    added_p50_ratio: float
    added_p99_ratio: float
    base_mib: float
    kib_2000: float
    kib_10000: float


def summarise(rounds: Sequence[Round], baseline: str) -> dict[str, Figures]:
    """Return every contestant's figures. baseline: whom ratios are to, if it was measured."""
    return {name: _one(name, rounds, baseline) for name in rounds[0]} if rounds else {}


def _one(name: str, rounds: Sequence[Round], baseline: str) -> Figures:
    windows = [windows[name] for windows in rounds]
    figures = Figures(
        rate=round(_median(window.rate for window in windows)),
        p50_ms=_rounded(_median(window.p50 for window in windows)),
        p99_ms=_rounded(_median(window.p99 for window in windows)),
    )
    costs = sorted(window.cpu_us for window in windows if not math.isnan(window.cpu_us))
    if costs:
        figures["cpu_us_min"] = round(costs[0], 1)
        figures["cpu_us_quartile"] = round(costs[len(costs) // 4], 1)
        figures["cpu_us_median"] = round(_median(costs), 1)
    ratios = sorted(per_round(rounds, name, baseline, lambda window: window.cpu_us))
    if ratios:
        figures["ratio_min"] = round(ratios[0], 2)
        figures["ratio_median"] = round(_median(ratios), 2)
        figures["ratio_max"] = round(ratios[-1], 2)
    return figures


def per_round(
    rounds: Sequence[Round], name: str, baseline: str, figure: Callable[[Window], float]
) -> list[float]:
    """Return the ratio of a figure to the baseline's, in each round that has both."""
    pairs = [(figure(windows[name]), figure(windows[baseline])) for windows in rounds if baseline in windows]
    return [one / other for one, other in pairs if other > 0 and not math.isnan(one / other)]


def add_latency(summary: dict[str, Figures], rounds: Sequence[Round], direct: str, baseline: str) -> None:
    """Put in what each contestant adds to `direct`: median over rounds, and its ratio to the baseline's."""
    for name, figures in summary.items():
        if name == direct:
            continue
        p50s = _added(rounds, name, direct, lambda window: window.p50)
        p99s = _added(rounds, name, direct, lambda window: window.p99)
        figures["added_p50_ms"] = _rounded(_median(p50s))
        figures["added_p99_ms"] = _rounded(_median(p99s))
        if baseline not in rounds[0]:
            continue
        ratios50 = _ratios(p50s, _added(rounds, baseline, direct, lambda window: window.p50))
        ratios99 = _ratios(p99s, _added(rounds, baseline, direct, lambda window: window.p99))
        if ratios50:
            figures["added_p50_ratio"] = round(_median(ratios50), 2)
        if ratios99:
            figures["added_p99_ratio"] = round(_median(ratios99), 2)


def _added(rounds: Sequence[Round], name: str, direct: str, figure: Callable[[Window], float]) -> list[float]:
    return [figure(windows[name]) - figure(windows[direct]) for windows in rounds]


def _ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ones, others, strict=True) if other > 0]


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def _rounded(value: float) -> float:
    """Three significant digits: 0.0423, 1.27, 312."""
    return float(f"{value:.3g}")
