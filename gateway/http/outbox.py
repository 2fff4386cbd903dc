"""Bytes on their way out, sent together when a burst of events has been handled.

An event loop reports everything that is readable in one burst. Whoever answers each event at once hands the
processor back and forth: every small write wakes a receiver that is asleep again by the next one, and a wake
costs more than the write (figures: docs/adr/0013-hot-path.md). So writes wait here until the burst is over,
or until `BURST` of them wait, which bounds what the first one loses: a few hundred microseconds under load,
nothing when there is no load. Order is kept, per transport and over all.

Whoever writes to a transport by other means, or closes it, calls `flush` first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

BURST: Final = 16  # writes that may wait
LONELY: Final = 8  # bursts of one write after which the next ones don't wait
CALM: Final = 16  # writes that don't wait before one does again
LARGE: Final = 16 * 1024
"""Bytes; more than that go out at once, so that a fast sender is held back as soon as it must."""


class Writable(Protocol):
    """What is needed of a transport."""

    def write(self, data: bytes) -> None:
        """Send, or buffer."""
        ...

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        ...


class Outbox:
    """The writes of one edge. soon: calls back when the burst is over (an event loop's `call_soon`).

    Where bursts are of one write only, waiting gains nothing and costs a turn of the loop; after `LONELY` of
    them in a row the next `CALM` writes go out at once, then one waits again to see how large bursts are now.
    """

    __slots__ = ("_announced", "_calm", "_lonely", "_posted", "_sent", "_soon", "_waiting")

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        self._soon = soon
        self._waiting: list[tuple[Writable, bytes]] = []
        self._sent = 0  # of those that wait: how many are out
        self._announced = False
        self._posted = 0  # in this burst
        self._lonely = 0  # bursts in a row that were of one write
        self._calm = 0  # writes that still go out at once

    def post(self, transport: Writable, data: bytes) -> None:
        """Send `data` with the others of this burst."""
        waiting = self._waiting
        if self._calm and not waiting:
            self._calm -= 1
            if not transport.is_closing():
                transport.write(data)
            return
        waiting.append((transport, data))
        self._posted += 1
        if len(data) > LARGE or len(waiting) - self._sent >= BURST:
            self.flush()
        elif not self._announced:
            self._announced = True
            self._soon(self._end_burst)

    def flush(self) -> None:
        """Send everything now. What was posted for a transport that is closing by now is dropped."""
        waiting = self._waiting
        while self._sent < len(waiting):  # not a copy: a write may call back into another flush, in order
            transport, data = waiting[self._sent]
            self._sent += 1
            if not transport.is_closing():
                transport.write(data)
        if waiting:
            waiting.clear()
            self._sent = 0

    def _end_burst(self) -> None:
        self._announced = False
        if self._posted > 1:
            self._lonely = self._calm = 0
        else:
            self._lonely += 1
            if self._lonely >= LONELY:
                self._calm = CALM
        self._posted = 0
        self.flush()

    def __repr__(self) -> str:
        return f"<Outbox | {len(self._waiting) - self._sent} waiting>"
