"""Counters and blobs in this process's memory: the stores one gets without asking, and the fallback of
the others.

They answer at once, so nothing of a request ever waits on them. Both are bounded: counters by number of
keys (full buckets go first), blobs by bytes. Each worker process has its own; limits that hold over workers
need a shared store.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.governance.bounded_map import BoundedMap
from gateway.governance.token_bucket import Buckets
from gateway.pipeline.ports import Claim, Clock, Grant


class MemoryCounters:
    """Token buckets by key. Implements ports.CounterStore. max_keys: buckets that are not full, at
    most."""

    __slots__ = ("buckets",)

    def __init__(self, max_keys: int = 100_000) -> None:
        self.buckets = Buckets(max_keys)

    def take(self, claims: Sequence[Claim], now: float) -> Grant:
        """Spend all or none."""
        allowed, binding, remaining, retry_after, reset = self.buckets.decide(claims, now)
        return Grant(allowed, binding, remaining, retry_after, reset)

    def settle(self, claims: Sequence[Claim], now: float) -> None:
        """Charge or give back."""
        for claim in claims:
            self.buckets.settle(claim.key, claim.cost, claim.rate, now)

    def __repr__(self) -> str:
        return f"<MemoryCounters {self.buckets!r}>"


class MemoryBlobs:
    """Bytes by key, each for its time. Implements ports.BlobStore. capacity: bytes in all."""

    __slots__ = ("_clock", "_entries")

    def __init__(self, capacity: int, clock: Clock) -> None:
        self._entries: BoundedMap[tuple[float, bytes]] = BoundedMap(capacity)
        self._clock = clock

    def get(self, key: bytes) -> bytes | None:
        """Return the value unless its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, value = entry
        if self._clock.now() >= expires:
            self._entries.delete(key)
            return None
        return value

    def set(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep the value for ttl seconds, unless it is larger than the whole store."""
        if ttl > 0:
            self._entries.put(key, (self._clock.now() + ttl, value), len(value))
        else:
            self._entries.delete(key)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Forget."""
        for key in keys:
            self._entries.delete(key)

    def __repr__(self) -> str:
        return f"<MemoryBlobs {self._entries!r}>"
