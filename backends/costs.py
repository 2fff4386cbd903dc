"""How long a call of so many rows takes, and whether joining requests pays at all.

Calls are filed by the power of two above their rows; each file keeps an exponentially weighted mean
(weight 1/8, TCP's smoothed round trip, RFC 6298 §2) of the seconds and of the seconds per row.

`expect`, for deadlines: for rows that were never seen, the nearest smaller file answers, scaled by rows, for
time never grows faster than that once the engine is warm; the nearest larger one answers as it is. Without
any measurement a call is thought to take no time, so nothing is dropped for a guess.

`pays`: joining amortises what a call costs beside its rows. A model that computes for milliseconds gains
nothing from it on a CPU and can lose: twelve rows' tensors do not fit the caches that one row's do (48
convolutions, two threads: 12.1 ms of CPU a row alone, 14.0 ms in batches of four). So requests are joined
while some batch was a tenth cheaper per row than the smallest call; and now and then the other way is tried,
for what was measured may have been a bad moment.
"""

from __future__ import annotations

_WEIGHT = 1 / 8
_FILES = 24  # up to 8 million rows
_GAIN = 0.9  # of one row's time: a batch's row must take less
_FEW = 8  # calls of one size, after which one goes alone
_AGAIN, _AGAIN_ALONE = 64, 1024  # calls, after which a call is joined, or goes alone, to see


class Costs:
    """Seconds per call by rows, learned from calls. pays: whether requests should be joined now."""

    __slots__ = ("_per_row", "_seconds", "_since", "pays")

    def __init__(self) -> None:
        self._seconds = [0.0] * _FILES
        self._per_row = [0.0] * _FILES
        self._since = 0
        self.pays = True

    def learn(self, rows: int, seconds: float) -> None:
        """Count one call."""
        place = _file(rows)
        self._seconds[place] = _mean(self._seconds[place], seconds)
        self._per_row[place] = _mean(self._per_row[place], seconds / max(rows, 1))
        alone, *joined = [one for one in self._per_row if one]
        self._since += 1
        if not joined:  # calls of one size say nothing of others: join, and see how one alone does
            self.pays = place == 0 or self._since % _FEW != 0
            return
        pays = min(joined) <= alone * _GAIN
        doubted = self._since >= (_AGAIN_ALONE if pays else _AGAIN)
        self.pays = pays != doubted
        if doubted:
            self._since = 0

    def forget(self) -> None:
        """Expect nothing of calls any more; whether joining pays is kept."""
        self._seconds = [0.0] * _FILES

    def expect(self, rows: int) -> float:
        """Return the seconds that a call of `rows` rows will take; 0.0 where nothing is known."""
        place = _file(rows)
        if self._seconds[place]:
            return self._seconds[place]
        for smaller in range(place - 1, -1, -1):
            if self._seconds[smaller]:
                return self._seconds[smaller] * float(1 << (place - smaller))
        return next((seconds for seconds in self._seconds[place + 1 :] if seconds), 0.0)


def _mean(old: float, new: float) -> float:
    return old + (new - old) * _WEIGHT if old else new


def _file(rows: int) -> int:
    return min((rows - 1).bit_length() if rows > 1 else 0, _FILES - 1)
