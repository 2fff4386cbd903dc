"""Which values come most, in bounded memory: Misra-Gries counts over windows.

At most `capacity` values are counted. When another one comes while all places are taken, every count falls by
one and those at zero make room: each such fall cancels `capacity` earlier arrivals, so a step costs O(1) on
average. A count never says too much, and too little by at most n / (capacity + 1) of n arrivals in a window:

    a value that came `hot` times, and n / (capacity + 1) more, is found; one that came less often never is

A value that was hot in the last window stays so in this one.

Source: Misra & Gries, Finding repeated elements (1982); Sentinel's hot-parameter flow control for the use.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 1.0  # s


class HeavyHitters:
    """Tells hot values from others. hot: arrivals in a window that make a value hot, >= 1."""

    __slots__ = ("_before", "_capacity", "_counts", "_ends", "_hot")

    def __init__(self, capacity: int, hot: float) -> None:
        self._capacity = capacity
        self._hot = hot
        self._counts: dict[bytes, int] = {}
        self._before: set[bytes] = set()
        self._ends = 0.0

    def __len__(self) -> int:
        return len(self._counts)

    def is_hot(self, value: bytes, now: float) -> bool:
        """Count one arrival; tell whether its value is hot."""
        if now >= self._ends:
            self._turn(now)
        counts = self._counts
        count = counts.get(value, 0)
        if count or len(counts) < self._capacity:
            counts[value] = count + 1
        else:
            self._counts = {known: number - 1 for known, number in counts.items() if number > 1}
        return count + 1 > self._hot or value in self._before

    def _turn(self, now: float) -> None:
        recent = now < self._ends + WINDOW
        hot = {value for value, count in self._counts.items() if count > self._hot}
        self._before = hot if recent else set()
        self._counts = {}
        self._ends = now + WINDOW

    def __repr__(self) -> str:
        return f"<HeavyHitters {len(self._counts)} of {self._capacity} values, {len(self._before)} were hot>"
