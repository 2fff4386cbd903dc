"""Service level objective: how fast its error budget burns, over two windows. No clock, no I/O.

An objective says which share of requests must be good (`ratio`), so 1 - ratio of them is the budget. The
burn rate is how many times faster than allowed the budget is being spent:

    burn = (bad / all) / (1 - ratio)         1.0: exactly used up; 100 at 99 %: every request is bad

It burns when the rate is at least `burn` over the window *and* over its last twelfth. The long window keeps
a single bad second from raising the alarm; the short one ends it soon after the cause is gone, when the long
one still remembers. A total outage is told after burn * (1 - ratio) * window seconds: 12 s for 4 x at 99 %
and 5 minutes. Fewer than `enough` requests in the short window say nothing.

Memory is 60 slices whatever the traffic; a window is exact up to one slice (a sixtieth of it).

Source: Google, The Site Reliability Workbook, ch. 5 "Alerting on SLOs" (multiwindow, multi-burn-rate), with
windows of minutes instead of hours because this alarm wakes nobody: it changes what is served.
"""

from __future__ import annotations

SLICES = 60
SHORT = 5  # slices of the short window: a twelfth


class Objective:
    """One objective and what was seen of it.

    ratio: share of requests that must be good, in (0, 1). window: seconds of the long window. burn: times
    the allowed rate at which it counts as burning. enough: requests in the short window that say something.
    """

    __slots__ = (
        "_all",
        "_bad",
        "_budget",
        "_long_all",
        "_long_bad",
        "_short_all",
        "_short_bad",
        "_slice",
        "_turn",
        "bad",
        "burn",
        "enough",
        "good",
    )

    def __init__(self, ratio: float, window: float, *, burn: float = 4.0, enough: int = 10) -> None:
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"an objective needs a ratio between 0 and 1, not {ratio}")
        if window <= 0 or burn <= 0:
            raise ValueError(f"window and burn must be positive, not {window} and {burn}")
        self.burn = burn
        self.enough = enough
        self.good = self.bad = 0  # requests of this process, ever
        self._budget = 1.0 - ratio
        self._slice = window / SLICES
        self._turn = 0  # number of the newest slice, counted from the clock's zero
        self._all = [0] * SLICES
        self._bad = [0] * SLICES
        self._long_all = self._long_bad = self._short_all = self._short_bad = 0

    def record(self, good: bool, now: float) -> None:
        """Count one request."""
        if good:
            self.good += 1
        else:
            self.bad += 1
        self.learn(good, not good, now)

    def learn(self, good: int, bad: int, now: float) -> None:
        """Count requests that somebody else served, lately."""
        self._advance(now)
        place = self._turn % SLICES
        self._all[place] += good + bad
        self._long_all += good + bad
        self._short_all += good + bad
        if bad:
            self._bad[place] += bad
            self._long_bad += bad
            self._short_bad += bad

    def rates(self, now: float) -> tuple[float, float]:
        """Return the burn rates over the long and the short window; 0.0 where there were no requests."""
        self._advance(now)
        return self._rate(self._long_bad, self._long_all), self._rate(self._short_bad, self._short_all)

    def severity(self, now: float) -> float:
        """Return the lower of both rates, as a multiple of the rate that counts as burning.

        1.0 and more: it burns. 0.0 also while the short window saw fewer than `enough` requests.
        """
        long, short = self.rates(now)
        return 0.0 if self._short_all < self.enough else min(long, short) / self.burn

    def _rate(self, bad: int, all_: int) -> float:
        return bad / all_ / self._budget if all_ else 0.0

    def _advance(self, now: float) -> None:
        turn = int(now / self._slice)
        passed = turn - self._turn
        if passed <= 0:  # the same slice, or a clock that went back
            return
        if passed >= SLICES:
            self._all = [0] * SLICES
            self._bad = [0] * SLICES
            self._long_all = self._long_bad = self._short_all = self._short_bad = 0
            self._turn = turn
            return
        for newest in range(self._turn + 1, turn + 1):
            leaves_short = (newest - SHORT) % SLICES
            self._short_all -= self._all[leaves_short]
            self._short_bad -= self._bad[leaves_short]
            place = newest % SLICES
            self._long_all -= self._all[place]
            self._long_bad -= self._bad[place]
            self._all[place] = self._bad[place] = 0
        self._turn = turn

    def __repr__(self) -> str:
        long = self._rate(self._long_bad, self._long_all)
        short = self._rate(self._short_bad, self._short_all)
        return f"<Objective | burns {long:.1f}x, lately {short:.1f}x, of {self.burn:g}x>"
