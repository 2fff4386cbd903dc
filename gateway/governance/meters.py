"""Bandwidth counted by several processes: each pays at once in buckets of its own, and hears of the others'.

A message per piece of a body would cost more than the piece. So every process charges what passes here at
the whole rate, tells now and then how much that was, and charges what others tell: the buckets of all lack
the same bytes, but for those of the last telling. One connection may have the whole rate, whoever serves it.

    in t seconds at most rate * t + burst bytes, and n * rate * LAG more while demand has just begun

Each process has its part of the burst, and what passed before the others were heard of is debt that all of
them wait out: late words are made good, never forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gateway.governance.token_bucket import Buckets

LAG: Final = 0.05  # s between two tellings


class Payment(NamedTuple):
    """Bytes that passed one process. rate: of their bucket, bytes/s."""

    key: bytes
    size: float
    rate: float


class Meters:
    """The buckets of one process. processes: how many count together."""

    __slots__ = ("_buckets", "_paid", "_processes")

    def __init__(self, processes: Callable[[], int]) -> None:
        self._buckets = Buckets()
        self._processes = processes
        self._paid: dict[bytes, Payment] = {}

    def pay(self, key: bytes, size: float, rate: float, burst: float, now: float) -> float:
        """Charge bytes; returns the seconds until they are paid for."""
        self._buckets.settle(key, size, rate, now)
        if self._processes() > 1:
            before = self._paid.get(key)
            self._paid[key] = Payment(key, size if before is None else before.size + size, rate)
        return self.owed(key, rate, burst, now)

    def owed(self, key: bytes, rate: float, burst: float, now: float) -> float:
        """Return the seconds until a bucket is out of debt."""
        return self._buckets.owed(key, rate, burst / max(1, self._processes()), now)

    def told(self) -> tuple[Payment, ...]:
        """Return what was paid here since the last time, to be told to the others."""
        if not self._paid:
            return ()
        paid, self._paid = self._paid, {}
        return tuple(paid.values())

    def heard(self, payments: Iterable[Payment], now: float) -> None:
        """Charge what passed elsewhere."""
        for key, size, rate in payments:
            self._buckets.settle(key, size, rate, now)

    def __repr__(self) -> str:
        return f"<Meters {self._buckets!r} | {len(self._paid)} to tell>"
