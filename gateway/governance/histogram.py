"""Latency histogram: an array of integers over fixed exponential bounds. Observing is one bisection and
one increment.

All histograms of one process share their bounds, so they merge by adding, and a scraper or a quantile
reads them without stopping anybody. The default bounds go from 0.25 ms to 64 s, two per doubling: an
estimated quantile is within 20 % of the truth. A bound is inclusive (Prometheus' `le`), the last bucket
is open.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from math import inf

BOUNDS: tuple[float, ...] = tuple(float(f"{0.00025 * 2 ** (i / 2):.3g}") for i in range(37))
"""Upper bounds in seconds: 0.00025, 0.000354, 0.0005, ... 65.5."""


class Histogram:
    """Counts per bucket. bounds: ascending upper bounds; counts: one longer, the last one for what lies
    above."""

    __slots__ = ("_above", "_last", "_up_to", "bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = tuple(bounds)
        if not self.bounds or any(a >= b for a, b in pairwise(self.bounds)):
            raise ValueError("a histogram's bounds must ascend, and there must be one")
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self._last = 0  # the bucket that was counted in last, and between what its values lie
        self._above = -inf
        self._up_to: float = self.bounds[0]

    def observe(self, value: float) -> None:
        """Count one value. Latencies come in runs, so the last one's bucket is tried first."""
        self.total += value
        if not self._above < value <= self._up_to:
            self._find(value)
        self.counts[self._last] += 1

    def _find(self, value: float) -> None:
        bounds = self.bounds
        self._last = last = bisect_left(bounds, value)
        self._above = bounds[last - 1] if last else -inf
        self._up_to = bounds[last] if last < len(bounds) else inf

    @property
    def count(self) -> int:
        """Values observed."""
        return sum(self.counts)

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts; ValueError when its bounds differ."""
        if other.bounds != self.bounds:
            raise ValueError("only histograms of the same bounds can be merged")
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def quantile(self, q: float) -> float:
        """Estimate the value below which a share `q` of the observed lies; interpolated, 0.0 when empty.

        What lies above the last bound counts as that bound.
        """
        count = self.count
        if count == 0:
            return 0.0
        rank = min(max(q, 0.0), 1.0) * count
        below = 0
        for index, here in enumerate(self.counts[:-1]):
            if here and below + here >= rank:
                lower = self.bounds[index - 1] if index else 0.0
                return lower + (self.bounds[index] - lower) * max(0.0, rank - below) / here
            below += here
        return self.bounds[-1]

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (upper bound, values up to it) per bucket, the last with bound inf: Prometheus'
        form."""
        total = 0
        rows = []
        for bound, here in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += here
            rows.append((bound, total))
        return rows

    def __repr__(self) -> str:
        return (
            f"<Histogram {self.count} observed, p50 {self.quantile(0.5):.4g}, p99 {self.quantile(0.99):.4g}>"
        )
