"""One wait of an exchange: for a promise, within the request's time, unless the client left.

A connection guards its own calls. What goes on once a promise is settled was called by nobody of this
request, so a bug that escapes from there ends this request (`Exchange.crash`) and not the event loop's turn.
A wait ends once: by its value, its failure, its time, or because the exchange calls it off; what comes later
is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.pipeline.errors import GatewayError, UpstreamTimeout
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.ports import Cancellable

if TYPE_CHECKING:  # the exchange makes its waits; they report to it
    from gateway.pipeline.exchange import Exchange

T = TypeVar("T")


class Wait(Generic[T]):
    """Implements ports.Cancellable. go_on: what the exchange does with the value."""

    __slots__ = ("_exchange", "_gateway", "_go_on", "_timer", "_undo")

    def __init__(
        self,
        exchange: Exchange,
        gateway: Gateway,
        go_on: Callable[[T], None],
        undo: Callable[[], None] | None = None,
    ) -> None:
        """undo: called when nobody waits any more and nothing came."""
        self._exchange = exchange
        self._gateway = gateway
        self._go_on = go_on
        self._undo = undo
        self._timer: Cancellable | None = gateway.timers.at(exchange.ctx.deadline, self._late)

    def arrived(self, value: T) -> None:
        """The promise was kept."""
        if not self._ends():
            return
        try:
            self._go_on(value)
        except Exception as bug:
            self._exchange.crash(bug)

    def failed(self, error: Exception) -> None:
        """It was broken: by what the exchange may answer, or by a bug."""
        if not self._ends():
            return
        if isinstance(error, GatewayError):
            self._fail(error)
        else:
            self._exchange.crash(error)

    def cancel(self) -> None:
        """Nobody waits any more; nothing when it is over already."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._undo is not None:
                self._undo()

    def _late(self) -> None:
        if self._timer is not None:
            self._timer = None
            if self._undo is not None:
                self._undo()
            self._fail(UpstreamTimeout("the request's time was used up while it waited"))

    def _ends(self) -> bool:
        """Tell whether the exchange still waits for this one; now it does no more."""
        if self._timer is None:
            return False
        self._timer.cancel()
        self._timer = None
        self._exchange.ctx.now = self._gateway.clock.now()
        return True

    def _fail(self, error: GatewayError) -> None:
        try:
            self._exchange.fail(error)
        except Exception as bug:
            self._exchange.crash(bug)

    def __repr__(self) -> str:
        return f"<Wait {'over' if self._timer is None else 'under way'}>"
