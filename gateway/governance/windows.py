"""The windows of quotas: days and months as a calendar has them, or any time that rolls.

A window is cut into slots, each named by the second at which it starts; what is spent is counted in the slot
in which it is spent. A calendar window is one slot: nothing of yesterday counts today. A rolling one of W
seconds has SLOTS of them, and a slot counts until W seconds after its *end*, for that is when its last
spending is W seconds old:

    in any W seconds at most the quota is spent; what was spent is free again after W to W + W / SLOTS

Days begin at midnight of a named time zone (IANA), weeks on Monday (ISO 8601), so a day has 23 or 25 hours
when the clocks change. Hours are UTC's: in a zone whose clocks change one of them would come twice.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

SLOTS: Final = 48
CALENDAR: Final = {"hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2592000.0, "year": 31536000.0}
"""Names of calendar windows, and how long one usually is, in seconds."""


class Slot(NamedTuple):
    """Where the clock stands in a window. All in seconds since the epoch.

    start, end: of the slot. since: the earliest start of a slot that counts. hold: how long after its start
    the earliest slot stops to count.
    """

    start: int
    end: float
    since: int
    hold: float


class Window:
    """One kind of window. name: a word of CALENDAR, or "" for a rolling one of `length` seconds."""

    __slots__ = ("_known", "_zone", "length", "name")

    def __init__(self, name: str, length: float, zone: str) -> None:
        self.name = name
        self.length = length
        self._zone = ZoneInfo(zone)
        self._known: Slot | None = None

    def at(self, wall: float) -> Slot:
        """Return the slot of this instant, in seconds since the epoch."""
        known = self._known
        if known is None or not known.start <= wall < known.end:
            known = self._known = self._calendar(wall) if self.name else self._rolling(wall)
        return known

    def _rolling(self, wall: float) -> Slot:
        width = max(1, round(self.length / SLOTS))
        back = width * -(-round(self.length) // width)
        start = int(wall // width) * width
        return Slot(start, start + width, start - back, back + width)

    def _calendar(self, wall: float) -> Slot:
        if self.name == "hour":
            begin = int(wall // 3600) * 3600
            return Slot(begin, begin + 3600, begin, 3600.0)
        there = datetime.fromtimestamp(wall, self._zone)
        midnight = datetime(
            there.year, there.month, there.day, tzinfo=self._zone
        )  # by the wall: DST is in it
        match self.name:
            case "day":
                first, next_ = midnight, midnight + timedelta(days=1)
            case "week":
                first = midnight - timedelta(days=there.weekday())
                next_ = first + timedelta(days=7)
            case "month":
                first = midnight.replace(day=1)
                next_ = (first + timedelta(days=32)).replace(day=1)
            case _:
                first = midnight.replace(month=1, day=1)
                next_ = first.replace(year=there.year + 1)
        start, end = int(first.timestamp()), next_.timestamp()
        return Slot(start, end, start, end - start)

    def __repr__(self) -> str:
        return f"<Window {self.name or f'{self.length:g} s, rolling'} | {self._zone.key}>"


@lru_cache(maxsize=1024)
def window(spec: bytes) -> Window:
    """Read what a quota's key begins with: `day Europe/Berlin`, or `86400 UTC` for one that rolls."""
    kind, _, zone = spec.decode().partition(" ")
    return Window(kind, CALENDAR[kind], zone) if kind in CALENDAR else Window("", float(kind), zone)
