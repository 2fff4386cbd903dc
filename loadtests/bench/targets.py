"""What Headgate set out to reach, beside what a run measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Rows = Mapping[str, Any]  # a run's `rows`


@dataclass(frozen=True, slots=True)
class Target:
    """A claim, its bound, and where a run holds the figure: None where it was not measured."""

    claim: str
    bound: float
    figure: Callable[[Rows], float | None]


Figure = Callable[[Rows], float | None]


def _of(row: str, peer: str, name: str) -> Figure:
    return lambda rows: _figure(rows, row, peer, name)


def _figure(rows: Rows, row: str, peer: str, name: str) -> float | None:
    figures = rows.get(row, {}).get("peers", {}).get(peer, {})
    return figures.get(name)  # type: ignore[no-any-return]


def _quotient(one: Figure, other: Figure) -> Figure:
    def figure(rows: Rows) -> float | None:
        above, below = one(rows), other(rows)
        return above / below if above is not None and below else None

    return figure


def _highest_growth(rows: Rows) -> float | None:
    grown = rows.get("growth", {}).get("peers", {})
    return max((figures.get("ratio_median", 0.0) for figures in grown.values()), default=None)


TARGETS: Final = (
    Target("plain proxying, × NGINX", 1.3, _of("plain", "headgate", "ratio_median")),
    Target("equal policy, × NGINX", 1.5, _of("policy", "headgate", "ratio_median")),
    Target(
        "equal policy, × Envoy",
        0.5,
        _quotient(_of("policy", "headgate", "ratio_median"), _of("policy", "envoy", "ratio_median")),
    ),
    Target(
        "cache hit, × our own proxied request",
        0.7,
        _quotient(_of("cache", "headgate", "cpu_us_median"), _of("policy", "headgate", "cpu_us_median")),
    ),
    Target("pure Python, equal policy, × NGINX", 2.2, _of("policy", "headgate-pure", "ratio_median")),
    Target("latency added, p50, × NGINX", 1.3, _of("latency", "headgate", "added_p50_ratio")),
    Target("latency added, p99, × NGINX", 1.3, _of("latency", "headgate", "added_p99_ratio")),
    Target("… with policy, p50, × NGINX", 1.3, _of("latency-policy", "headgate", "added_p50_ratio")),
    Target("… with policy, p99, × NGINX", 1.3, _of("latency-policy", "headgate", "added_p99_ratio")),
    Target("memory at rest, MiB", 70.0, _of("memory", "headgate", "base_mib")),
    Target("memory per idle connection, KiB", 4.0, _of("memory", "headgate", "kib_10000")),
    Target("cost as it grows, × the smallest", 1.3, _highest_growth),
)


def judge(rows: Rows) -> list[str]:
    """Return a line per target that the run has a figure for."""
    lines = []
    for target in TARGETS:
        if (measured := target.figure(rows)) is not None:
            verdict = "reached" if measured <= target.bound else "missed"
            lines.append(
                f"  {target.claim:<40}{'≤ ' + format(target.bound, 'g'):>8}{measured:>8.2f}  {verdict}"
            )
    return lines
