"""Overload of the gateway itself: how hard pressed it is, and who goes without first.

`Gauge` turns the worst of several loads, each divided by what is tolerable, into a level from 0.0 (at ease)
to 1.0. It rises at once and falls by at most `relief` per second, so it does not flap with each gust.
`Shedder` refuses that share of the requests that are not critical, the least important first: the mix of
recent requests gives each class its stretch of [0, 1), sheddable before normal, a request gets a place in
its class's stretch by chance, and goes without when that place lies below the level. So at level 0.3 the
lowest 30 % go, be that all of a class or a part of it. Critical requests are never shed here; the limits on
pools bound them (governance/concurrency.py).

Source: Cinnamon's cumulative shedding (Uber, 2023); DAGOR (SoCC'18); Google SRE book, ch. 21 (criticality).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum


class Importance(IntEnum):
    """Who goes first; the greater the number, the earlier it goes without."""

    CRITICAL = 0
    NORMAL = 1
    SHEDDABLE = 2


class Gauge:
    """How hard pressed the gateway is. Feed it every few tens of milliseconds.

    tolerable_lag: seconds of event-loop lag (p90) that count as a load of 1.0. begins, full: loads at
    which the level leaves 0.0 and reaches 1.0. relief: how much the level may fall per second.
    """

    __slots__ = ("_sensed_at", "begins", "full", "level", "load", "relief", "tolerable_lag")

    def __init__(
        self,
        *,
        tolerable_lag: float = 0.02,
        begins: float = 0.8,
        full: float = 2.0,
        relief: float = 0.2,
    ) -> None:
        if not 0 <= begins < full:
            raise ValueError(f"pressure must begin below where it is full: {begins}, {full}")
        self.tolerable_lag = tolerable_lag
        self.begins = begins
        self.full = full
        self.relief = relief
        self.load = 0.0  # the worst, as last sensed
        self.level = 0.0
        self._sensed_at: float | None = None

    def sense(self, lag: float, in_flight: int, limit: float, now: float, pool: float = 0.0) -> float:
        """Take in the loads; returns the level.

        lag: p90 of the event loop's lateness, seconds. in_flight: requests, of at most `limit`. pool:
        load of the fullest pool, 1.0 = it has all the calls under way that it may have.
        """
        self.load = max(lag / self.tolerable_lag, in_flight / limit if limit > 0 else 0.0, pool)
        wanted = min(1.0, max(0.0, (self.load - self.begins) / (self.full - self.begins)))
        elapsed = 0.0 if self._sensed_at is None else max(0.0, now - self._sensed_at)
        self._sensed_at = now
        self.level = max(wanted, self.level - self.relief * elapsed)
        return self.level

    def __repr__(self) -> str:
        return f"<Gauge load {self.load:.2f} | level {self.level:.2f}>"


class Shedder:
    """Decides who goes without. rng: uniform in [0, 1)."""

    __slots__ = ("_normal", "_rng", "_sheddable", "shed")

    FORGET = 0.995  # per request: the mix is that of the last few hundred

    def __init__(self, rng: Callable[[], float]) -> None:
        self.shed = [0, 0, 0]  # requests so far, by importance
        self._rng = rng
        self._normal = 1.0  # recent requests, decayed
        self._sheddable = 1.0

    def sheds(self, importance: int, level: float) -> bool:
        """Tell whether this request goes without at this level; counts it into the mix of requests."""
        if importance == Importance.CRITICAL:
            return False
        normal = self._normal = self._normal * self.FORGET + (importance == Importance.NORMAL)
        sheddable = self._sheddable = self._sheddable * self.FORGET + (importance == Importance.SHEDDABLE)
        if level <= 0.0:
            return False
        all_ = normal + sheddable
        place = (
            self._rng() * sheddable
            if importance == Importance.SHEDDABLE
            else sheddable + self._rng() * normal
        )
        if place >= level * all_:
            return False
        self.shed[importance] += 1
        return True

    def __repr__(self) -> str:
        return f"<Shedder {self.shed[1]} normal and {self.shed[2]} sheddable requests shed>"
