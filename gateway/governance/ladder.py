"""How far down a ladder of lesser answers to stand: a state machine with hysteresis, no clock, no I/O.

    level 0        the full answer
    level k        the first k - 1 steps are passed over, requests begin with step k

    hot   (severity >= 1)         from level 0 down at once; a step further where `patience` s did not help
    warm  (0.5 <= severity < 1)   stay: neither further down nor back, and the calm time begins anew
    calm  (severity < 0.5)        back by one level after `calm` seconds of it without a break

A level that is left and is needed again within its calm time was left too early: each such relapse doubles
the next calm time, up to eight times; a stay at level 0 of eight calm times forgives all. So a cause that
persists is tried again ever more rarely, as with a breaker that half-opens.

Levels count from the full answer, so "down" is the greater number. Law (tests): the level moves by at most
one per look, never rises in number while calm and never falls while hot or warm.
"""

from __future__ import annotations

LONGEST = 8  # times the calm time


class Ladder:
    """Where one ladder of `steps` steps stands. calm, patience: seconds."""

    __slots__ = ("_calm_since", "_changed_at", "_factor", "_left_at", "calm", "level", "patience", "steps")

    def __init__(self, steps: int, calm: float, patience: float) -> None:
        if steps < 1 or calm <= 0 or patience <= 0:
            raise ValueError(f"a ladder needs steps and positive times, not {steps}, {calm} and {patience}")
        self.steps = steps
        self.calm = calm
        self.patience = patience
        self.level = 0
        self._changed_at = 0.0
        self._calm_since: float | None = None
        self._left_at: float | None = None  # when a level was left last
        self._factor = 1

    def look(self, severity: float, now: float) -> int:
        """Take in how bad things are (1.0: bad enough to act); returns the level. now: never goes back."""
        if severity >= 1.0:
            self._calm_since = None
            self._descend(now)
        elif severity >= 0.5:
            self._calm_since = None
        else:
            self._recover(now)
        return self.level

    def _descend(self, now: float) -> None:
        if self.level == self.steps or (self.level and now - self._changed_at < self.patience):
            return
        if self._left_at is not None:
            if now - self._left_at < self.calm * self._factor:
                self._factor = min(LONGEST, self._factor * 2)
            elif self.level == 0 and now - self._left_at >= self.calm * LONGEST:
                self._factor = 1
            self._left_at = None
        self.level += 1
        self._changed_at = now

    def _recover(self, now: float) -> None:
        if self.level == 0:
            return
        if self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= self.calm * self._factor:
            self.level -= 1
            self._changed_at = self._left_at = self._calm_since = now

    def __repr__(self) -> str:
        return f"<Ladder at {self.level} of {self.steps} | calm time {self.calm * self._factor:g} s>"
