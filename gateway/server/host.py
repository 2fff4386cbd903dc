"""What the connections of a listener and the listener itself are to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from typing import Protocol

from mypy_extensions import mypyc_attr

from gateway.http.outbox import Outbox
from gateway.pipeline.ports import Begin, Clock, Timers
from gateway.server.settings import ServerSettings

# Is told (code, status, the client's address, the request id) of every answer that was given before a request
# existed.
OnRefused = Callable[[str, int, str, bytes], None]


class Connection(Protocol):
    """One client's connection, whatever it speaks."""

    @property
    def stream(self) -> object | None:
        """The request being answered, or one of them; None between requests."""
        ...

    def drain(self) -> None:
        """The listener stops: end as soon as nobody loses a request by it."""
        ...

    def abort(self) -> None:
        """The listener's patience is over."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Host:
    """What a connection needs of its listener, which overrides the methods.

    A base class and not a Protocol, because a compiled connection finds its fields without a look-up.
    """

    settings: ServerSettings
    begin: Begin
    timers: Timers
    loop: asyncio.AbstractEventLoop
    outbox: Outbox
    draining: bool
    on_refused: OnRefused | None
    upgrades: bool  # some endpoint lets clients go on in another protocol
    clock: Clock
    _date: bytes = b""
    _date_until: float = 0.0  # on the loop's clock

    def date(self) -> bytes:
        """The Date field's value now, made once per second. RFC 9110 §6.6.1."""
        now: float = self.loop.time()
        if now >= self._date_until:
            wall = self.clock.wall()
            self._date = formatdate(wall, usegmt=True).encode()
            self._date_until = now + 1.0 - wall % 1.0
        return self._date

    def admit(self, connection: Connection, address: str) -> bool:
        """Count a new connection; False when there are too many."""
        return False

    def leave(self, connection: Connection, address: str) -> None:
        """An admitted connection ended."""
