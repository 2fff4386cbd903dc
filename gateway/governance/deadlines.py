"""Deadlines of everything under way, in one structure that is swept every few tens of milliseconds.

A timer wheel: time is cut into ticks, a ring of buckets holds what falls due in the next `slots` ticks,
and an entry that is further away waits in its bucket for the ring to come round again. Adding and
cancelling are O(1) whatever the number of deadlines, and a sweep touches the buckets of the ticks that
passed. A heap with lazy deletion was the alternative: most deadlines are cancelled long before they are
due (a request of 5 ms has a deadline of 60 s), so the heap would hold ten thousand dead entries per
living one, and every add would pay log n for them. Here a cancelled entry leaves at once.

Resolution is one tick plus the time between sweeps: an item is reported at or shortly after its
deadline, never before.
"""

from __future__ import annotations

from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadline(Generic[T]):
    """One entry: the handle with which it is called off."""

    __slots__ = ("_bucket", "deadline", "item")

    def __init__(self, deadline: float, item: T, bucket: dict[int, Deadline[T]] | None) -> None:
        self.deadline = deadline
        self.item = item
        self._bucket = bucket

    def cancel(self) -> None:
        """Call it off; doing so twice, or after it expired, does nothing."""
        if self._bucket is not None:
            self._bucket.pop(id(self), None)
            self._bucket = None

    @property
    def is_pending(self) -> bool:
        """Neither expired nor called off."""
        return self._bucket is not None

    def __repr__(self) -> str:
        return f"<Deadline {self.deadline:.3f} {'pending' if self.is_pending else 'over'}>"


class Deadlines(Generic[T]):
    """All deadlines of one event loop. tick: seconds; slots: of the ring, ticks until it comes round."""

    __slots__ = ("_ring", "_swept", "_tick")

    def __init__(self, tick: float = 0.025, slots: int = 1024) -> None:
        self._tick = tick
        self._ring: list[dict[int, Deadline[T]]] = [{} for _ in range(slots)]
        self._swept = -(1 << 62)  # number of the tick that was swept last

    def __len__(self) -> int:
        return sum(map(len, self._ring))

    def add(self, deadline: float, item: T) -> Deadline[T]:
        """Report `item` from the first sweep at or after `deadline` on; inf: never."""
        if deadline == inf:
            return Deadline(deadline, item, None)
        number = int(deadline // self._tick)
        if number < self._swept:
            number = self._swept  # overdue: the next sweep finds it
        bucket = self._ring[number % len(self._ring)]
        entry = Deadline(deadline, item, bucket)
        bucket[id(entry)] = entry
        return entry

    def expire(self, now: float) -> list[T]:
        """Remove and return what is due, earliest first."""
        current = max(self._swept, int(now // self._tick))
        slots = len(self._ring)
        due: list[Deadline[T]] = []
        # The tick swept last is swept again: what falls due late in it was not due then.
        for number in range(max(self._swept, current - slots + 1), current + 1):
            bucket = self._ring[number % slots]
            if bucket:
                due += [entry for entry in bucket.values() if entry.deadline <= now]
        self._swept = current
        for entry in due:
            entry.cancel()
        due.sort(key=_by_deadline)
        return [entry.item for entry in due]

    def __repr__(self) -> str:
        return f"<Deadlines {len(self)} pending>"


def _by_deadline(entry: Deadline[T]) -> float:
    return entry.deadline
