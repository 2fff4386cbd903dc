"""The `Timers` port on an event loop: one `call_later` for all deadlines, and none while there are none.

Resolution: 25 ms. A bug in one callback is handed to the loop's exception handler; the others still run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.governance.deadlines import Deadline, Deadlines

RESOLUTION = 0.025  # s
_LOOK_AROUND = 40  # sweeps between two looks whether any deadline is left


class Timer:
    """One deadline's handle."""

    __slots__ = ("_callback", "_entry")
    _entry: Deadline[Timer]

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Call it off, also when it is due in the sweep that is running."""
        self._callback = None
        self._entry.cancel()

    def fire(self) -> None:
        """Call back, once, unless it was called off."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class SweptTimers:
    """Deadlines on the loop's clock (`loop.time()`), swept every `resolution` seconds while there are any."""

    __slots__ = ("_deadlines", "_handle", "_loop", "_resolution", "_sweeps")

    def __init__(self, loop: asyncio.AbstractEventLoop, resolution: float = RESOLUTION) -> None:
        self._loop = loop
        self._resolution = resolution
        self._deadlines: Deadlines[Timer] = Deadlines(resolution)
        self._handle: asyncio.TimerHandle | None = None
        self._sweeps = 0

    def at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call back once, at or up to two resolutions after `deadline` (inf: never)."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._resolution, self._sweep)
        timer = Timer(callback)
        timer._entry = self._deadlines.add(deadline, timer)
        return timer

    def punctual(self, deadline: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back once, at the loop's own resolution of a millisecond; a handle of the loop's for each."""
        return self._loop.call_at(deadline, callback)

    def close(self) -> None:
        """Stop sweeping; what is still waiting is never called."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _sweep(self) -> None:
        for timer in self._deadlines.expire(self._loop.time()):
            try:
                timer.fire()
            except Exception as bug:
                self._loop.call_exception_handler(
                    {"message": "a deadline's callback failed", "exception": bug}
                )
        self._sweeps += 1
        if self._sweeps % _LOOK_AROUND == 0 and not len(self._deadlines):
            self._handle = None
        else:
            self._handle = self._loop.call_later(self._resolution, self._sweep)

    def __repr__(self) -> str:
        return f"<SweptTimers every {self._resolution} s | {self._deadlines!r}>"
