"""Hours that come back every week: `during: "Mon-Fri 08:00-18:00 Europe/Berlin"`.

What the wall clock of the zone shows decides, so that an office hour stays one when the clocks change: a
window that begins in the hour that is skipped begins right after it, one in the hour that comes twice holds
both times. A window whose end is not after its start goes on until that time of the next day and belongs to
the day on which it began. Nothing is switched and no timer runs: each request asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.config.kind import setting

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY = 24 * 60  # minutes
WEEK = 7 * DAY

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Weekly:
    """Hours of some days of the week."""

    hours: str = setting("00:00-24:00", "from and until, as clocks there show it", example="08:00-18:00")
    days: str = setting("Mon-Sun", "days and ranges of days", example="Mon-Fri,Sun")
    zone: str = setting("UTC", "time zone, as IANA names it", example="Europe/Berlin")

    @classmethod
    def from_text(cls, text: str) -> Weekly:
        """Read `[DAYS] HH:MM-HH:MM [ZONE]`, like `Mon-Fri 08:00-18:00 Europe/Berlin`."""
        words = text.split()
        at = next((index for index, word in enumerate(words) if ":" in word), None)
        if at is None or at > 1 or len(words) - at > 2:
            raise ValueError(f"expected hours like Mon-Fri 08:00-18:00 Europe/Berlin, found {text!r}")
        days = words[0] if at else "Mon-Sun"
        return cls(words[at], days, words[at + 1] if len(words) > at + 1 else "UTC")

    def __post_init__(self) -> None:
        _hours(self.hours)
        _days(self.days)
        _zone(self.zone)

    def holds(self, wall: float) -> bool:
        """Whether it is that time. wall: seconds since the epoch."""
        there = datetime.fromtimestamp(wall, _zone(self.zone))
        return there.weekday() * DAY + there.hour * 60 + there.minute in self.minutes()

    def minutes(self) -> frozenset[int]:
        """Return the minutes of the week that it covers; Monday 00:00 is 0."""
        return _minutes(self.hours, self.days)

    def overlaps(self, other: Weekly) -> bool:
        """Whether both may hold at once; of two zones that can't be said, so it counts as yes."""
        return self.zone != other.zone or bool(self.minutes() & other.minutes())


@cache
def _minutes(hours: str, days: str) -> frozenset[int]:
    start, end = _hours(hours)
    length = end - start if end > start else end - start + DAY
    begins = [day * DAY + start for day in _days(days)]
    return frozenset((begin + minute) % WEEK for begin in begins for minute in range(length))


def _hours(text: str) -> tuple[int, int]:
    found = _HOURS.fullmatch(text)
    if found is None or (found[3] == "24" and found[4] != "00"):
        raise ValueError(f"expected hours like 08:00-18:00, found {text!r}")
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start == end:
        raise ValueError(f"expected hours that last, found {text!r}")
    return start, end


def _days(text: str) -> tuple[int, ...]:
    days: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"expected days like Mon-Fri or Sat,Sun, found {text!r}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days.extend(day % 7 for day in range(begin, (end if end >= begin else end + 7) + 1))
    return tuple(dict.fromkeys(days))


@cache
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"expected a time zone like Europe/Berlin, found {name!r}") from error
