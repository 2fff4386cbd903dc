"""Retry budget: retries as a share of requests, with a floor for quiet times.

Every request adds `ratio` of a token and every second adds `floor` tokens; a retry or hedge spends one.
Law: attempts <= requests * (1 + ratio) + floor * t. It bounds what retries can add to an outage, where
each layer's three attempts would multiply; the floor keeps the first failure of a quiet pool retriable.
Tokens are capped, so that an hour without failures is no licence for a storm.

Source: Finagle's RetryBudget; Google SRE book, ch. 21 (10 % budget); simulated in loadtests/sims.
"""

from __future__ import annotations


class RetryBudget:
    """One budget, shared by the retries and hedges of a pool.

    ratio: tokens per request; floor: tokens per second; cap: most tokens kept (None: ten seconds of
    floor, at least 10).
    """

    __slots__ = ("_refilled_at", "_tokens", "cap", "floor", "ratio", "refused", "spent")

    def __init__(self, ratio: float = 0.2, floor: float = 3.0, cap: float | None = None) -> None:
        if ratio < 0 or floor < 0:
            raise ValueError(f"a retry budget's ratio and floor can't be negative: {ratio}, {floor}")
        self.ratio = ratio
        self.floor = floor
        self.cap = max(10.0, 10.0 * floor) if cap is None else cap
        self.spent = 0
        self.refused = 0
        self._tokens = 0.0
        self._refilled_at: float | None = None

    def request(self, now: float) -> None:
        """Count one request (not its retries)."""
        if self._refilled_at is None:
            self._refilled_at = now - 1.0  # as if it had stood for a second: the first request may be retried
        self._tokens += self.ratio
        if self._tokens > self.cap:
            self._tokens = self.cap

    def spend(self, now: float) -> bool:
        """Pay for one more attempt; False: don't make it."""
        self._refill(now)
        if self._tokens < 1.0 - 1e-9:
            self.refused += 1
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        self.spent += 1
        return True

    def balance(self, now: float) -> float:
        """Tokens that could be spent now."""
        self._refill(now)
        return self._tokens

    def _refill(self, now: float) -> None:
        before = now if self._refilled_at is None else self._refilled_at
        self._tokens = min(self.cap, self._tokens + self.floor * max(0.0, now - before))
        self._refilled_at = now

    def __repr__(self) -> str:
        return (
            f"<RetryBudget {self._tokens:.1f} of {self.cap:g} | {self.spent} spent, {self.refused} refused>"
        )
