"""A quantile of recent latencies, and when it is worth a hedge: a second attempt for what takes longer.

Two half-windows of exponential buckets (eight per doubling: an estimate is within 5 % of the truth): the
current one counts, the one before it still does, and the older is forgotten when `window` seconds or
`calls` observations have passed. So memory and work are O(1), and a change of the instances' speed is
followed within a window. Nothing is told while fewer than `warm_up` calls are known: a quantile of ten calls
is a guess, and a hedge on a guess is a second request for everything.

What is observed decides what is told. A hedge that wins cuts its primary off, so the primary's true latency
is never seen; were it left out, the quantile would fall, more would be hedged, and it would fall again. The
time it was waited for stands in for it: it lies above the quantile, as the truth does.

Source: Dean and Barroso, The Tail at Scale (2013), who hedge at p95 for 5 % more requests; the bias of
cut-off observations is the known one of censored data (Kaplan-Meier).
"""

from __future__ import annotations

from gateway.governance.histogram import Histogram

FINE: tuple[float, ...] = tuple(0.00025 * 2 ** (i / 8) for i in range(8 * 18 + 1))
"""Upper bounds in seconds: 0.00025, 0.000273 ... 65.5."""

_EVERY = 32  # observations between two readings: a reading walks all buckets


class RecentQuantile:
    """The `q` quantile of what was observed lately, in seconds.

    warm_up: observations until it is told. window: s of a half-window. calls: observations of one.
    """

    __slots__ = (
        "_before",
        "_began",
        "_counted",
        "_current",
        "_earlier",
        "_known",
        "_stale",
        "calls",
        "q",
        "warm_up",
        "window",
    )

    def __init__(self, q: float, *, warm_up: int = 100, window: float = 30.0, calls: int = 2000) -> None:
        if not 0.0 < q < 1.0:
            raise ValueError(f"a quantile lies between 0 and 1, not {q}")
        self.q = q
        self.warm_up = warm_up
        self.window = window
        self.calls = max(calls, warm_up)
        self._current = Histogram(FINE)
        self._counted = 0  # observations in the current half-window
        self._before = Histogram(FINE)
        self._earlier = 0  # observations in the one before
        self._began: float | None = None
        self._known = 0.0
        self._stale = _EVERY  # observations since `_known` was read

    def observe(self, seconds: float, now: float) -> None:
        """Learn how long one call took."""
        if self._began is None:
            self._began = now
        elif self._counted >= self.warm_up and (
            now - self._began >= self.window or self._counted >= self.calls
        ):
            self._turn(now)
        self._current.observe(seconds)
        self._counted += 1
        self._stale += 1

    def value(self) -> float | None:
        """Return the quantile, None while too little is known."""
        if self._counted + self._earlier < self.warm_up:
            return None
        if self._stale >= _EVERY:
            both = Histogram(FINE)
            both.merge(self._current)
            both.merge(self._before)
            self._known = both.quantile(self.q)
            self._stale = 0
        return self._known

    def _turn(self, now: float) -> None:
        """Begin a half-window: what lies further back than the one before is forgotten."""
        self._before, self._earlier = self._current, self._counted
        self._current, self._counted = Histogram(FINE), 0
        self._began = now

    def __repr__(self) -> str:
        calls = self._counted + self._earlier
        return f"<RecentQuantile p{self.q * 100:g} {self._known * 1000:.3f} ms of {calls} calls>"
