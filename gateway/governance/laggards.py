"""Slow instances: the ejector's statistic, where a call fails that takes far longer than the others' do.

A call counts against its instance when it takes more than `times` the p99 of the others (the median of their
own p99s: the judged one is left out, and one odd instance moves nothing). Whoever has significantly more such
calls than the others is doubted: it gets about a tenth of its share. It is never taken out, because slow
answers are answers, and an incident that slows everybody moves the others' p99 with it.

Off by default: LeastCost weighs latencies already, and a machine of half the speed is no fault. This is for
instances that hang now and then, whose average looks well.
"""

from __future__ import annotations

from collections.abc import Set
from math import inf, log

from gateway.governance.ejection import Ejector
from gateway.governance.quantile import RecentQuantile

REFRESH = 0.5
"""Seconds for which an instance's bound is kept."""
DOUBT = log(1e6)
"""Evidence that makes an instance doubted: more than of failures, since slow answers come in bursts."""
WARM_UP = 100
"""Calls of an instance until its p99 is believed."""


class Laggards:
    """Watches the instances of one pool, by key. times: how many of the others' p99s are too many."""

    __slots__ = ("_bounds", "_ejector", "_out", "_quantiles", "times")

    def __init__(self, times: float, max_share: float) -> None:
        self.times = times
        self._ejector = Ejector(consecutive=1_000_000, base=20.0, max_share=max_share, doubt=DOUBT)
        self._quantiles: dict[str, RecentQuantile] = {}
        self._bounds: dict[str, tuple[float, float]] = {}  # seconds, until when they are kept
        self._out: dict[str, float] = {}  # until when, of those that are slow beyond doubt

    def record(self, key: str, latency: float, now: float, size: int) -> None:
        """Learn what a call took, in seconds."""
        quantile = self._quantiles.get(key)
        if quantile is None:
            quantile = self._quantiles[key] = RecentQuantile(0.99, warm_up=WARM_UP)
        quantile.observe(latency, now)
        until = self._ejector.record(key, latency <= self._bound(key, now), now, size)
        if until is not None:
            self._out[key] = until

    def doubted_until(self, key: str) -> float:
        """Return the instant until which instance `key` is doubted; -inf: it never was."""
        return max(self._ejector.doubted_until(key), self._out.get(key, -inf))

    def retain(self, keys: Set[str]) -> None:
        """Forget everybody else: the pool's members changed."""
        self._ejector.retain(keys)
        for key in self._quantiles.keys() - keys:
            del self._quantiles[key]
            self._bounds.pop(key, None)
            self._out.pop(key, None)

    def _bound(self, key: str, now: float) -> float:
        bound, until = self._bounds.get(key, (inf, -inf))
        if now >= until:
            known = (one.value() for other, one in self._quantiles.items() if other != key)
            others = sorted(value for value in known if value is not None)
            bound = self.times * others[len(others) // 2] if others else inf
            self._bounds[key] = bound, now + REFRESH
        return bound

    def __repr__(self) -> str:
        return f"<Laggards {len(self._quantiles)} watched | beyond {self.times:g} x p99>"
