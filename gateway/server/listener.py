"""Listening: a port, its connections, their limits, and how they end.

A drain stops accepting at once, closes what is idle, lets every request under way finish (its response says
`Connection: close`), and breaks what is left when the grace is over. Both event loops set TCP_NODELAY on
accepted sockets themselves. SO_REUSEADDR is set, so that a restart doesn't wait for old connections in
TIME_WAIT.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, cast

from gateway.http.outbox import Outbox
from gateway.pipeline.ports import Begin, Clock, Peer, Timers
from gateway.server.arrival import Arrival, Connected, Handshakes
from gateway.server.connection import ServerConnection
from gateway.server.host import Connection, Host, OnRefused
from gateway.server.settings import ServerSettings
from gateway.server.tls import ServerTls

ProxyProtocol: TypeAlias = Literal["off", "trusted", "required"]


class BindError(Exception):
    """The address can't be listened on; the text names it and says why."""


class Listener(Host):
    """One listening socket and the connections that came through it.

    Who starts it calls `drain` or `close`.
    """

    def __init__(
        self,
        begin: Begin,
        timers: Timers,
        clock: Clock,
        settings: ServerSettings | None = None,
        on_refused: OnRefused | None = None,
        *,
        tls: ServerTls | None = None,
        proxy_protocol: ProxyProtocol = "off",
        is_trusted: Callable[[str], bool] | None = None,
    ) -> None:
        """on_refused: is told of every answer that was given before a request existed.

        is_trusted: whose PROXY header is believed.
        """
        self.begin = begin
        self.timers = timers
        self.settings = settings or ServerSettings()
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self.loop.call_soon)
        self.draining = False
        self.upgrades = False
        self.clock = clock
        self.on_refused = on_refused
        self.tls = tls
        self.handshakes = Handshakes(self.loop, 1 if tls is None else tls.settings.handshakes)
        self.results: Counter[str] = Counter()  # of handshakes and PROXY headers
        self._proxy_protocol = proxy_protocol
        self._is_trusted = is_trusted or (lambda address: False)
        self._server: asyncio.Server | None = None
        self._covered: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._arrivals: dict[Arrival, str | None] = {}
        self._by_address: Counter[str] = Counter()
        self._empty = asyncio.Event()

    async def start(self, host: str, port: int, reuse_port: bool = False) -> None:
        """Listen on host:port (0 = any free port). Raises BindError."""
        try:
            found = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            await self.start_on(_bind(family, address, reuse_port))
        except OSError as error:
            raise BindError(f"can't listen on {host}:{port}: {_reason(error)}") from error

    async def start_on(self, listening: socket.socket) -> None:
        """Listen on a socket that is bound already: a supervisor's, shared by its workers. Takes it over."""
        self._server = await self.loop.create_server(
            self._meet, sock=listening, backlog=self.settings.backlog
        )

    async def cover(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these bound sockets too, until told otherwise: their worker is gone for the moment."""
        covered, self._covered = self._covered, []
        for server in covered:
            server.close()
        for listening in () if self.draining else sockets:
            self._covered.append(
                await self.loop.create_server(self._meet, sock=listening, backlog=self.settings.backlog)
            )

    def _meet(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        is_plain = self.tls is None and self._proxy_protocol == "off"
        return cast(asyncio.Protocol, ServerConnection(self) if is_plain else Arrival(self))

    def set_tls(self, tls: ServerTls) -> None:
        """Use other certificates from the next handshake on; connections that stand are left alone."""
        self.tls = tls
        self.handshakes.limit = tls.settings.handshakes

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    @property
    def busy(self) -> int:
        """Connections with a request under way."""
        return sum(connection.stream is not None for connection in self._connections)

    def admit(self, connection: Connection, address: str) -> bool:
        """Count a new connection; False when there are too many, in all or from this address."""
        settings = self.settings
        if len(self._connections) + len(self._arrivals) >= settings.connections:
            return False
        if self._by_address[address] >= settings.connections_per_address:
            return False
        self._connections.add(connection)
        self._by_address[address] += 1
        return True

    def leave(self, connection: Connection, address: str) -> None:
        """An admitted connection ended."""
        self._connections.discard(connection)
        self._leave_address(address)
        self._look_whether_empty()

    # Arrivals: what isn't HTTP yet

    def expects_proxy(self, address: str) -> bool | None:
        """Whether a PROXY header must come from there; None: nobody may connect from there."""
        if self._proxy_protocol == "off":
            return False
        trusted = self._is_trusted(address)
        return None if self._proxy_protocol == "required" and not trusted else trusted

    def came(self, arrival: Arrival, address: str | None) -> bool:
        """Count an arrival; False when there are too many, in all or from this address.

        A proxy's own address (None) is not counted: all its clients come from there.
        """
        settings = self.settings
        if len(self._connections) + len(self._arrivals) >= settings.connections:
            return False
        if address is not None:
            if self._by_address[address] >= settings.connections_per_address:
                return False
            self._by_address[address] += 1
        self._arrivals[arrival] = address
        return True

    def left(self, arrival: Arrival) -> None:
        """Forget an arrival: it became a connection, or ended."""
        address = self._arrivals.pop(arrival, None)
        if address is not None:
            self._leave_address(address)
        self._look_whether_empty()

    def take_over(self, peer: Peer) -> ServerConnection:
        """Make the protocol that speaks HTTP with somebody who arrived."""
        return ServerConnection(self, peer)

    def settled(self, connection: Connected) -> None:
        """Let a connection that began while the listener stops have its one request."""
        if self.draining and isinstance(connection, ServerConnection):
            connection.drain()

    def count(self, result: str, address: str) -> None:
        """Count how a handshake or a PROXY header ended."""
        self.results[result] += 1

    def _look_whether_empty(self) -> None:
        if not (self._connections or self._arrivals):
            self._empty.set()

    def _leave_address(self, address: str) -> None:
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    # The end

    async def drain(self, grace: float, farewell: float | None = None) -> int:
        """Stop accepting, let requests finish for `grace` seconds, break the rest. Returns how many.

        farewell: s that idle connections may stay, where it isn't the settings'.
        """
        self.draining = True
        if farewell is not None:
            self.settings = replace(self.settings, farewell=farewell)
        self._stop_accepting()
        for arrival in list(self._arrivals):
            arrival.drain()
        for connection in list(self._connections):
            connection.drain()
        if self._connections or self._arrivals:
            self._empty.clear()
            try:
                async with asyncio.timeout(grace):
                    while self._connections or self._arrivals:
                        await self._empty.wait()
                        self._empty.clear()
            except TimeoutError:
                pass
        broken = len(self._connections)
        self.close()
        return broken

    def close(self) -> None:
        """Stop accepting and break every connection."""
        self.draining = True
        self._stop_accepting()
        for arrival in list(self._arrivals):
            arrival.abort()
        for connection in list(self._connections):
            connection.abort()

    def _stop_accepting(self) -> None:
        for server in (*self._covered, *(() if self._server is None else (self._server,))):
            server.close()

    def __repr__(self) -> str:
        state = "draining" if self.draining else "listening" if self._server is not None else "not started"
        return f"<Listener {state} | {self.connections} connections, {self.busy} busy>"


def bind(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """Bind host:port (0 = any free port), for a listener of this process or another. Raises BindError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return _bind(found[0][0], found[0][4], reuse_port)
    except OSError as error:
        raise BindError(f"can't listen on {host}:{port}: {_reason(error)}") from error


def _bind(family: int, address: object, reuse_port: bool) -> socket.socket:
    # asyncio turns Nagle off only where it knows from the socket that it is TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.setblocking(False)
        listening.bind(address)  # type: ignore[arg-type]  # as getaddrinfo returned it
    except OSError:
        listening.close()
        raise
    return listening


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is taken by another process"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "not permitted (ports below 1024 need privileges)"
    return error.strerror or str(error)
