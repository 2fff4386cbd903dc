"""The HTTP/2 connections to one instance: few, shared by many calls.

A call takes the first connection that has room for another stream; one is opened where none has, up to
`max_connections`, and beyond that calls wait, bounded in number and in time. A connection that the instance
wants to see the end of takes no more calls and is closed after its last one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import cast

from gateway.http.h2_streams import STREAMS
from gateway.http.outbox import Outbox
from gateway.http.parse import HeadLimits
from gateway.pipeline.errors import GatewayError, Overloaded, UpstreamConnectError, UpstreamTlsError
from gateway.pipeline.pool_verbs import Tls
from gateway.pipeline.ports import Cancellable, Timers
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.http2 import Http2Connection
from gateway.upstream.http2_call import Http2Call
from gateway.upstream.tls import ClientTls, connect_tls

_MAX_CONNECTIONS = 16  # of STREAMS calls each


class Http2Connections:
    """All HTTP/2 connections to one address. tls: how they are encrypted; None: they are not."""

    __slots__ = (
        "_client_tls",
        "_closed",
        "_open",
        "_sweep",
        "_tasks",
        "_tls",
        "_waiting",
        "host",
        "loop",
        "outbox",
        "port",
        "settings",
        "timers",
    )

    def __init__(
        self,
        host: str,
        port: int,
        settings: ConnectionSettings,
        timers: Timers,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        client_tls: ClientTls,
        tls: Tls | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.settings = settings
        self.timers = timers
        self.loop = loop
        self.outbox = outbox
        self._client_tls = client_tls
        self._tls = tls
        self._open: list[Http2Connection] = []  # that take calls
        self._waiting: deque[Http2Call] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: Cancellable | None = None
        self._closed = False

    @property
    def limits(self) -> HeadLimits:
        """Bounds of a response's head."""
        return self.settings.limits

    @property
    def idle(self) -> int:
        """Connections without a call."""
        return sum(not connection.calls for connection in self._open)

    @property
    def active(self) -> int:
        """Calls under way."""
        return sum(connection.calls for connection in self._open)

    @property
    def waiting(self) -> int:
        """Calls that wait for a connection."""
        return len(self._waiting)

    def is_unused(self) -> bool:
        """Is there nothing open, opening or waiting?"""
        return not (self._open or self._waiting or self._tasks)

    # Calls come

    def start(self, call: Http2Call) -> None:
        """Send the call over a connection that has room, or let it wait for one."""
        if self._waiting or not self._place(call):
            self._wait(call)

    def _place(self, call: Http2Call) -> bool:
        return any(connection.has_room() and connection.carry(call) for connection in tuple(self._open))

    def _wait(self, call: Http2Call) -> None:
        if len(self._waiting) >= self.settings.max_waiting:
            self.loop.call_soon(call.sink.on_error, Overloaded("too many requests wait for the instance"))
            return
        self._waiting.append(call)
        patience = min(call.until, self.loop.time() + self.settings.connect_timeout)
        call.patience = self.timers.at(patience, lambda: self._lose_patience(call))
        self._open_more()

    def _lose_patience(self, call: Http2Call) -> None:
        call.patience = None
        self._waiting.remove(call)
        if self._tasks and not self._open:
            call.sink.on_error(UpstreamConnectError("connecting to the instance took too long"))
        else:
            call.sink.on_error(Overloaded("no connection to the instance became free in time"))

    def withdraw(self, call: Http2Call) -> None:
        """A waiting call was given up."""
        call.settle()
        if call in self._waiting:
            self._waiting.remove(call)

    def _place_waiting(self) -> None:
        while self._waiting and self._place(self._waiting[0]):
            self._waiting.popleft()

    # Connections come and go

    def _open_more(self) -> None:
        room = _MAX_CONNECTIONS - len(self._open) - len(self._tasks)
        if room > 0 and len(self._tasks) * STREAMS < len(self._waiting) and not self._closed:
            task = self.loop.create_task(self._connect(), name=f"connect {self.host}:{self.port} (HTTP/2)")
            self._tasks.add(task)
            task.add_done_callback(self._connected)

    async def _connect(self) -> None:
        async with asyncio.timeout(self.settings.connect_timeout):
            connection = Http2Connection(self)
            protocol = cast(asyncio.Protocol, connection)
            if self._tls is None:
                await self.loop.create_connection(lambda: protocol, self.host, self.port)
            else:
                context = self._client_tls.context(self._tls, ("h2",))
                name = self._tls.server_name or self.host
                await connect_tls(self.loop, context, name, self.host, self.port, lambda: protocol)
                if not connection.agreed:
                    raise ConnectionError("the instance does not speak HTTP/2")

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, TimeoutError):
            self._fail_waiting(UpstreamConnectError("connecting to the instance took too long"))
        elif isinstance(error, ssl.SSLError):
            self._fail_waiting(UpstreamTlsError("the instance's certificate or TLS is not accepted"))
        elif isinstance(error, OSError):
            self._fail_waiting(UpstreamConnectError("the instance can't be reached"))
        elif error is not None:
            raise error
        self._open_more()

    def _fail_waiting(self, error: GatewayError) -> None:
        """A connection that would have served them all failed; those that others serve go on waiting."""
        if self._open or self._tasks:
            return
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.settle()
            call.sink.on_error(error)

    def opened(self, connection: Http2Connection) -> None:
        """A new connection takes calls."""
        if self._closed:
            connection.close()
            return
        self._open.append(connection)
        self._place_waiting()
        self._look_later()

    def freed(self, connection: Http2Connection) -> None:
        """A call is over."""
        if self._waiting:
            self._place_waiting()
        elif not connection.calls:
            self._look_later()

    def lost(self, connection: Http2Connection) -> None:
        """A connection takes no more calls; those that wait may have one opened."""
        if connection in self._open:
            self._open.remove(connection)
        if self._waiting:
            self._open_more()

    def _look_later(self) -> None:
        if self._sweep is None and not self._closed:
            self._sweep = self.timers.at(self.loop.time() + self.settings.idle_timeout, self._close_old)

    def _close_old(self) -> None:
        self._sweep = None
        limit = self.loop.time() - self.settings.idle_timeout
        for connection in tuple(self._open):
            if not connection.calls and connection.idle_since <= limit:
                connection.close()
        if self._open:
            self._look_later()

    def close(self) -> None:
        """Close everything, calls under way included; nothing more is reported to their sinks."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._waiting:
            self._waiting.popleft().settle()
        for connection in tuple(self._open):
            connection.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def __repr__(self) -> str:
        return (
            f"<Http2Connections {self.host}:{self.port} | {len(self._open)} open, {self.active} calls, "
            f"{len(self._tasks)} opening, {self.waiting} waiting>"
        )
