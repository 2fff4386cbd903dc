"""Warm-up: a limit that is low while what it protects is cold, and rises to its whole while it is used.

    heat 0 .. 1     rises by 1 / warm_up per second while requests pass, falls as fast while none do
    price           COLD at heat 0, 1 at heat 1: what one request costs of the bucket

So a cold limit lets a third of its rate pass, and all of it after `warm_up` of steady use; a pause of that
length makes it cold again. Heat is kept per process, from what this process lets pass; where several share
the traffic, each waits that many times as long before it takes its quiet for a pause.

Source: Guava's SmoothWarmingUp (cold factor 3), Sentinel's WarmUpController; there the heat is the number of
permits that were stored while nobody came, here it is a number by itself, because buckets may be shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

COLD: Final = 3.0
PAUSE: Final = 1.0  # s without a request that still count as use


class Warmth:
    """The heat of one limit. warm_up: s, > 0. processes: how many share its traffic."""

    __slots__ = ("_at", "_heat", "_processes", "_warm_up")

    def __init__(self, warm_up: float, processes: Callable[[], int] = lambda: 1) -> None:
        self._warm_up = warm_up
        self._processes = processes
        self._heat = 0.0
        self._at = -1.0  # never used

    def price(self, now: float) -> float:
        """Return what a request costs now, 1.0 .. COLD; asking counts as use."""
        if self._at >= 0.0 and now > self._at:
            elapsed = now - self._at
            if elapsed <= PAUSE * self._processes():
                self._heat = min(1.0, self._heat + elapsed / self._warm_up)
            else:
                self._heat = max(0.0, self._heat - elapsed / self._warm_up)
        self._at = now
        return COLD - (COLD - 1.0) * self._heat

    def __repr__(self) -> str:
        return f"<Warmth {self._heat:.0%} of {self._warm_up:g} s>"
