"""Bytes on their way out, sent together when a burst of events has been handled.

An event loop reports everything that is readable in one burst. Whoever answers each event at once hands the
processor back and forth: every small write wakes a receiver that is asleep again by the next one, and a wake
costs more than the write (figures: docs/adr/0013-hot-path.md). So writes wait here until the burst is over,
or until `BURST` of them wait, which bounds what the first one loses: a few hundred microseconds under load,
nothing when there is no load. Order is kept, per transport and over all.

Whoever writes to a transport by other means, or closes it, calls `flush` first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

BURST = 16  # writes that may wait
LARGE = (
    16 * 1024
)  # bytes; more than that go out at once, so that a fast sender is held back as soon as it must


class Writable(Protocol):
    """What is needed of a transport."""

    def write(self, data: bytes) -> None:
        """Send, or buffer."""
        ...

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        ...


class Outbox:
    """The writes of one edge. soon: calls back when the burst is over (an event loop's `call_soon`)."""

    __slots__ = ("_announced", "_soon", "_waiting")

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        self._soon = soon
        self._waiting: deque[tuple[Writable, bytes]] = deque()
        self._announced = False

    def post(self, transport: Writable, data: bytes) -> None:
        """Send `data` with the others of this burst."""
        waiting = self._waiting
        waiting.append((transport, data))
        if len(data) > LARGE or len(waiting) >= BURST:
            self.flush()
        elif not self._announced:
            self._announced = True
            self._soon(self._end_burst)

    def flush(self) -> None:
        """Send everything now. What was posted for a transport that is closing by now is dropped."""
        waiting = self._waiting
        while waiting:  # a queue, not a copy: a write may call back into another flush, and order must hold
            transport, data = waiting.popleft()
            if not transport.is_closing():
                transport.write(data)

    def _end_burst(self) -> None:
        self._announced = False
        self.flush()

    def __repr__(self) -> str:
        return f"<Outbox | {len(self._waiting)} waiting>"
