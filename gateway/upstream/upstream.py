"""The `Upstream` port over HTTP/1.1: a call goes to an instance over one of its kept-alive connections."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gateway.http.framing import encode_chunk
from gateway.http.message import Request
from gateway.http.outbox import Outbox
from gateway.http.serialize import write_last_chunk, write_request_head
from gateway.pipeline.ports import Destination, Sink, Timers
from gateway.upstream.connection import HttpCall
from gateway.upstream.connections import Connections, ConnectionSettings


@dataclass(frozen=True, slots=True)
class ConnectionCounts:
    """One instance's connections now. waiting: calls without one."""

    host: str
    port: int
    active: int
    idle: int
    waiting: int


class HttpUpstream:
    """Sends requests to instances. One per worker, shared by all pools; who opens it closes it."""

    __slots__ = ("_by_address", "_loop", "_outbox", "_settings", "_timers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        settings: ConnectionSettings | None = None,
    ) -> None:
        self._loop = loop
        self._outbox = Outbox(loop.call_soon)
        self._timers = timers
        self._settings = settings or ConnectionSettings()
        self._by_address: dict[tuple[str, int], Connections] = {}

    def send(self, instance: Destination, request: Request, until: float, sink: Sink) -> HttpCall:
        """Start one call; the sink is never called before this returns.

        Raises UnsafeField for a forged head.
        """
        head = write_request_head(request, instance.authority)
        if request.trailers and request.body is not None:
            data = head + encode_chunk(request.body) + write_last_chunk(request.trailers)
        else:
            data = head + request.body if request.body else head
        address = (instance.host, instance.port)
        connections = self._by_address.get(address)
        if connections is None:
            connections = self._connections_to(address)
        call = HttpCall(connections, request, data, until, sink)
        connections.start(call)
        return call

    def _connections_to(self, address: tuple[str, int]) -> Connections:
        # A good moment to forget instances that are gone: new addresses are rare.
        for known in [known for known, group in self._by_address.items() if group.is_unused()]:
            del self._by_address[known]
        made = Connections(*address, self._settings, self._timers, self._loop, self._outbox)
        self._by_address[address] = made
        return made

    def counts(self) -> list[ConnectionCounts]:
        """Connections per instance, for the admin API and metrics."""
        return [
            ConnectionCounts(group.host, group.port, group.active, group.idle, group.waiting)
            for group in self._by_address.values()
        ]

    def close(self) -> None:
        """Close all connections at once."""
        for group in self._by_address.values():
            group.close()
        self._by_address.clear()

    def __repr__(self) -> str:
        active = sum(group.active for group in self._by_address.values())
        idle = sum(group.idle for group in self._by_address.values())
        return f"<HttpUpstream | {len(self._by_address)} instances, {active} active, {idle} idle>"
