"""The mathematics of the assertions: how far a measurement may stray before it is no longer chance. No I/O.

- A share of n independent choices is held against the exact binomial interval, not its normal approximation,
  which is too narrow where n·p is small.
- A throttle is held against a replay: the textbook's token bucket is fed the very arrivals that the clients
  recorded, once starting empty and once full. A load generator that stalls changes the arrivals and so the
  bounds, and a busy machine needs no wider tolerance.
- An instant that was found by looking again and again is only known to lie between two looks; differences of
  two such instants are intervals, and an expectation is missed only when the whole interval misses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log, log1p
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation, what was measured, and whether it holds."""

    name: str
    expected: str
    measured: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Between:
    """Something that lies in [low, high]; inf: it never came."""

    low: float
    high: float

    def minus(self, other: Between) -> Between:
        """The difference of two such things."""
        if self.low == inf or other.low == inf:
            return Between(inf, inf)
        return Between(self.low - other.high, self.high - other.low)

    def may_be_within(self, low: float, high: float) -> bool:
        """Whether it can lie in [low, high]."""
        return self.low <= high and low <= self.high and self.low < inf

    def __str__(self) -> str:
        if self.low == inf:
            return "never"
        if self.high - self.low < 0.005:
            return f"{self.high:.2f} s"
        return f"{max(0.0, self.low):.2f}–{self.high:.2f} s"


NEVER = Between(inf, inf)


def binomial_interval(n: int, p: float, confidence: float) -> tuple[int, int]:
    """Return (low, high): outside of it lie at most (1 - confidence) / 2 on either side, exactly counted.

    n: independent choices. p: the share, 0..1, both ends allowed.
    """
    if not 0.0 <= p <= 1.0 or n < 0 or not 0.0 < confidence < 1.0:
        raise ValueError(f"no binomial interval for n={n}, p={p}, confidence={confidence}")
    if n == 0 or p in (0.0, 1.0):
        return round(n * p), round(n * p)
    tail = (1.0 - confidence) / 2.0
    return _quantile(n, p, tail), n - _quantile(n, 1.0 - p, tail)


def _quantile(n: int, p: float, tail: float) -> int:
    """The largest k for which P(X < k) <= tail."""
    total = 0.0
    for k in range(n + 1):
        total += exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p))
        if total > tail:
            return k
    return n


def replay(arrivals: Iterable[float], rate: float, burst: float, tokens: float) -> int:
    """How many of these arrivals (s, ascending) a token bucket lets through that holds `tokens` at the first.

    rate: tokens per second. burst: the most it holds.
    """
    granted, last = 0, None
    for arrival in arrivals:
        if last is not None:
            tokens = min(burst, tokens + max(0.0, arrival - last) * rate)
        last = arrival
        if tokens >= 1.0:
            tokens -= 1.0
            granted += 1
    return granted


def granted_bounds(
    arrivals: Sequence[float], rate: float, burst: float, *, empty: bool, jitter: float
) -> tuple[int, int]:
    """Return the fewest and the most of these arrivals that a right throttle may let through.

    empty: whether it may have been empty when they began; else it was full. jitter: s by which the gateway
    may have seen them earlier or later than the clients say.
    """
    slack = 1 + int(rate * jitter)
    fewest = replay(arrivals, rate, burst, 0.0 if empty else burst) - slack
    return max(0, fewest), min(len(arrivals), replay(arrivals, rate, burst, burst) + slack)


def first(
    looks: Iterable[T],
    is_so: Callable[[T], bool],
    asked: Callable[[T], float],
    seen: Callable[[T], float],
    since: float = -inf,
) -> Between:
    """When it became so: after the last look's question that found it otherwise, before this one's answer."""
    not_before = since
    for look in looks:
        if asked(look) < since:
            continue
        if is_so(look):
            return Between(not_before, seen(look))
        not_before = asked(look)
    return NEVER


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; nan of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
