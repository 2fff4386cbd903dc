"""A clock that moves only when told to, and timers that fire with it."""

from __future__ import annotations

from collections.abc import Callable


class ManualClock:
    """Implements ports.Clock. wall runs beside now."""

    def __init__(self, now: float = 1000.0, wall: float = 1_790_000_000.0) -> None:
        self.time = now
        self._offset = wall - now

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time + self._offset

    def advance(self, seconds: float) -> None:
        self.time += seconds


class ManualTimer:
    """One registered deadline."""

    def __init__(self, deadline: float, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.callback = callback
        self.live = True

    def cancel(self) -> None:
        self.live = False


class ManualTimers:
    """Implements ports.Timers; `fire` calls what is due."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.timers: list[ManualTimer] = []

    def at(self, deadline: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(deadline, callback)
        self.timers.append(timer)
        return timer

    def punctual(self, deadline: float, callback: Callable[[], None]) -> ManualTimer:
        return self.at(deadline, callback)

    @property
    def live(self) -> int:
        return sum(timer.live for timer in self.timers)

    def fire(self) -> None:
        due = [timer for timer in self.timers if timer.live and timer.deadline <= self._clock.now()]
        for timer in due:
            timer.live = False
            timer.callback()
