"""How long a call of so many rows takes: what a deadline is compared with before a batch is formed.

Calls are filed by the power of two above their rows; each file keeps an exponentially weighted mean (weight
1/8, TCP's smoothed round trip, RFC 6298 §2). For rows that were never seen, the nearest smaller file
answers, scaled by rows: time never grows faster than that once the engine is warm; the nearest larger one
answers as it is. Without any measurement a call is thought to take no time, so nothing is dropped for a
guess.
"""

from __future__ import annotations

_WEIGHT = 1 / 8
_FILES = 24  # up to 8 million rows


class Costs:
    """Seconds per call by rows, learned from calls."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = [0.0] * _FILES

    def learn(self, rows: int, seconds: float) -> None:
        """Count one call."""
        place = _file(rows)
        old = self._seconds[place]
        self._seconds[place] = old + (seconds - old) * _WEIGHT if old else seconds

    def expect(self, rows: int) -> float:
        """Return the seconds that a call of `rows` rows will take; 0.0 where nothing is known."""
        place = _file(rows)
        if self._seconds[place]:
            return self._seconds[place]
        for smaller in range(place - 1, -1, -1):
            if self._seconds[smaller]:
                return self._seconds[smaller] * float(1 << (place - smaller))
        return next((seconds for seconds in self._seconds[place + 1 :] if seconds), 0.0)


def _file(rows: int) -> int:
    return min((rows - 1).bit_length() if rows > 1 else 0, _FILES - 1)
