"""The connections to one instance: kept alive, bounded, used last-in first-out.

Last-in first-out keeps a few connections warm and lets the others grow old and be closed. A call that finds
none idle waits, and a new connection is opened for it while the bound allows; whichever connection is free
first takes the oldest call, so a slow handshake never delays a call that a finished one could serve.
Waiting is bounded in number and in time.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast

from gateway.http.outbox import Outbox
from gateway.http.parse import HeadLimits
from gateway.pipeline.errors import (
    GatewayError,
    Overloaded,
    UpstreamConnectError,
    UpstreamTimeout,
    UpstreamTlsError,
)
from gateway.pipeline.pool_verbs import Tls
from gateway.pipeline.ports import Cancellable, Timers
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.http_call import HttpCall
from gateway.upstream.tls import ClientTls, connect_tls

TELL_EVERY = 60.0  # s between two lines about one instance

log = logging.getLogger("headgate.upstream")

_RESPONSE_LIMITS = HeadLimits(head=64 * 1024, fields=200, underscores=True)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Bounds per instance, times in seconds.

    idle_timeout: a connection unused for so long is closed; shorter than the instance's own, ideally.
    max_idle: kept open without a call. max_connections: in all. max_waiting: calls that wait for one.
    connect_timeout: for the handshake, and for the wait for a free connection. limits: of a response's head.
    """

    connect_timeout: float = 2.0
    idle_timeout: float = 60.0
    max_idle: int = 256
    max_connections: int = 1024
    max_waiting: int = 1024
    limits: HeadLimits = _RESPONSE_LIMITS


class Connections:
    """All connections to one address."""

    __slots__ = (
        "_client_tls",
        "_closed",
        "_idle",
        "_open",
        "_sweep",
        "_tasks",
        "_tell_again",
        "_waiting",
        "host",
        "loop",
        "outbox",
        "port",
        "settings",
        "timers",
        "tls",
    )

    def __init__(
        self,
        host: str,
        port: int,
        settings: ConnectionSettings,
        timers: Timers,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        client_tls: ClientTls | None = None,
        tls: Tls | None = None,
    ) -> None:
        """tls: how connections are encrypted; None: they are not."""
        self.tls = tls
        self._client_tls = client_tls or ClientTls()
        self.host = host
        self.port = port
        self.settings = settings
        self.timers = timers
        self.loop = loop
        self.outbox = outbox
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._waiting: deque[HttpCall] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: Cancellable | None = None
        self._closed = False
        self._tell_again = 0.0  # when a refused certificate is worth a line of the log again

    @property
    def limits(self) -> HeadLimits:
        """Bounds of a response's head."""
        return self.settings.limits

    @property
    def idle(self) -> int:
        """Connections without a call."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Connections that carry a call."""
        return len(self._open) - len(self._idle)

    @property
    def waiting(self) -> int:
        """Calls that wait for a connection."""
        return len(self._waiting)

    def is_unused(self) -> bool:
        """Is there nothing open, opening or waiting?"""
        return not (self._open or self._waiting or self._tasks)

    # Calls come

    def start(self, call: HttpCall) -> None:
        """Send the call over an idle connection, or let it wait for one."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_usable():
                connection.carry(call)
                return
        self._wait(call)

    def _wait(self, call: HttpCall) -> None:
        if len(self._waiting) >= self.settings.max_waiting:
            self.loop.call_soon(call.sink.on_error, Overloaded("too many requests wait for the instance"))
            return
        self._waiting.append(call)
        patience = min(call.until, self.loop.time() + self.settings.connect_timeout)
        call.patience = self.timers.at(patience, lambda: self._lose_patience(call))
        self._open_more()

    def _lose_patience(self, call: HttpCall) -> None:
        call.patience = None
        self._waiting.remove(call)
        if self._tasks:
            call.sink.on_error(UpstreamConnectError("connecting to the instance took too long"))
        else:
            call.sink.on_error(Overloaded("no connection to the instance became free in time"))

    def withdraw(self, call: HttpCall) -> None:
        """A waiting call was given up; a connection that is being opened for it will serve another."""
        call.settle()
        if call in self._waiting:
            self._waiting.remove(call)

    # Connections come and go

    def _open_more(self) -> None:
        room = self.settings.max_connections - len(self._open) - len(self._tasks)
        if room > 0 and len(self._tasks) < len(self._waiting) and not self._closed:
            task = self.loop.create_task(self._connect(), name=f"connect {self.host}:{self.port}")
            self._tasks.add(task)
            task.add_done_callback(self._connected)

    async def _connect(self) -> None:
        async with asyncio.timeout(self.settings.connect_timeout):
            if self.tls is None:
                await self.loop.create_connection(self._make_connection, self.host, self.port)
            else:
                name = self.tls.server_name or self.host
                context = self._client_tls.context(self.tls)
                await connect_tls(self.loop, context, name, self.host, self.port, self._make_connection)

    def _make_connection(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, UpstreamConnection(self))  # by shape

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, TimeoutError):
            self._fail_one(UpstreamConnectError("connecting to the instance took too long"))
        elif isinstance(error, ssl.SSLError):
            self._distrust(error)
        elif isinstance(error, OSError):
            self._fail_one(UpstreamConnectError("the instance can't be reached"))
        elif error is not None:
            raise error
        self._open_more()

    def _distrust(self, error: ssl.SSLError) -> None:
        """Every call that waits fails: the next handshake would end alike, and costs as much."""
        reason = getattr(error, "verify_message", "") or error.reason or "no TLS"
        if self.loop.time() >= self._tell_again:
            self._tell_again = self.loop.time() + TELL_EVERY
            log.warning("no TLS with instance %s:%d: %s", self.host, self.port, reason)
        while self._waiting:
            self._fail_one(UpstreamTlsError("the instance's certificate or TLS is not accepted"))

    def _fail_one(self, error: GatewayError) -> None:
        if self._waiting:
            call = self._waiting.popleft()
            call.settle()
            call.sink.on_error(error)

    def opened(self, connection: UpstreamConnection) -> None:
        """A new connection stands."""
        if self._closed:
            connection.drop()
            return
        self._open.add(connection)
        self.released(connection)

    def released(self, connection: UpstreamConnection) -> None:
        """Give a free connection to the oldest waiting call, or keep it, or close it."""
        while self._waiting:
            call = self._waiting.popleft()
            if self.loop.time() < call.until:
                connection.carry(call)
                return
            call.settle()  # nobody waits for it any more: it is not sent
            call.sink.on_error(UpstreamTimeout("the time was used up before a connection became free"))
        if len(self._idle) >= self.settings.max_idle or self._closed:
            connection.drop()
            return
        connection.idle_since = self.loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self.timers.at(connection.idle_since + self.settings.idle_timeout, self._close_old)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection ended; one that waits may now have room for its own."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting:
            self._open_more()

    def _close_old(self) -> None:
        self._sweep = None
        limit = self.loop.time() - self.settings.idle_timeout
        for connection in [connection for connection in self._idle if connection.idle_since <= limit]:
            connection.drop()
        if self._idle:
            oldest = min(connection.idle_since for connection in self._idle)
            self._sweep = self.timers.at(oldest + self.settings.idle_timeout, self._close_old)

    def close(self) -> None:
        """Close everything, calls under way included; nothing more is reported to their sinks."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._waiting:
            self._waiting.popleft().settle()
        for connection in list(self._open):
            connection.drop()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def __repr__(self) -> str:
        return (
            f"<Connections {self.host}:{self.port} | {self.active} active, {self.idle} idle, "
            f"{len(self._tasks)} opening, {self.waiting} waiting>"
        )
