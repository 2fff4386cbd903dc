"""The `Upstream` port: a call goes to an instance over one of its kept-alive connections.

Over HTTP/1.1 a connection carries one call at a time (connections.py), over HTTP/2 many
(http2_connections.py).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gateway.http.framing import encode_chunk
from gateway.http.message import Request
from gateway.http.outbox import Outbox
from gateway.http.serialize import write_last_chunk, write_request_head
from gateway.pipeline.pool_verbs import Tls
from gateway.pipeline.ports import Call, Destination, Sink, Timers
from gateway.upstream.connections import Connections, ConnectionSettings
from gateway.upstream.http_call import HttpCall
from gateway.upstream.tls import ClientTls

if TYPE_CHECKING:  # made only where an instance speaks HTTP/2
    from gateway.upstream.http2_connections import Http2Connections
    from gateway.upstream.http2_upstream import Http2Upstream

Place: TypeAlias = tuple[str, int, Tls | None]  # one instance, reached in one way


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

    __slots__ = ("_by_address", "_client_tls", "_http2", "_loop", "_outbox", "_settings", "_timers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        settings: ConnectionSettings | None = None,
        client_tls: ClientTls | None = None,
    ) -> None:
        self._loop = loop
        self._client_tls = client_tls or ClientTls()
        self._outbox = Outbox(loop.call_soon)
        self._timers = timers
        self._settings = settings or ConnectionSettings()
        self._by_address: dict[Place, Connections] = {}
        self._http2: Http2Upstream | None = None

    def send(self, instance: Destination, request: Request, until: float, sink: Sink) -> Call:
        """Start one call; the sink is never called before this returns.

        Raises UnsafeField for a forged head.
        """
        if instance.http2:
            return self._over_http2().send(instance, request, until, sink)
        if request.trailers and request.body is not None:
            content = encode_chunk(request.body) + write_last_chunk(request.trailers)
        else:
            content = request.body or b""
        data = write_request_head(request, instance.authority, content)
        address = (instance.host, instance.port, instance.tls)
        connections = self._by_address.get(address)
        if connections is None:
            connections = self._connections_to(address)
        call = HttpCall(connections, request, data, until, sink)
        connections.start(call)
        return call

    def _over_http2(self) -> Http2Upstream:
        made = self._http2
        if made is None:
            from gateway.upstream.http2_upstream import Http2Upstream  # only where an instance speaks it

            made = self._http2 = Http2Upstream(
                self._loop, self._timers, self._settings, self._outbox, self._client_tls
            )
        return made

    def _connections_to(self, address: Place) -> Connections:
        # A good moment to forget instances that are gone: new addresses are rare.
        for known in [known for known, group in self._by_address.items() if group.is_unused()]:
            del self._by_address[known]
        host, port, tls = address
        made = Connections(
            host, port, self._settings, self._timers, self._loop, self._outbox, self._client_tls, tls
        )
        self._by_address[address] = made
        return made

    def counts(self) -> list[ConnectionCounts]:
        """Connections per instance, for the admin API and metrics."""
        groups: list[Connections | Http2Connections] = list(self._by_address.values())
        if self._http2 is not None:
            groups += self._http2.groups
        return [
            ConnectionCounts(group.host, group.port, group.active, group.idle, group.waiting)
            for group in groups
        ]

    def close(self) -> None:
        """Close all connections at once."""
        for group in self._by_address.values():
            group.close()
        self._by_address.clear()
        if self._http2 is not None:
            self._http2.close()

    def __repr__(self) -> str:
        active = sum(group.active for group in self._by_address.values())
        idle = sum(group.idle for group in self._by_address.values())
        return f"<HttpUpstream | {len(self._by_address)} instances, {active} active, {idle} idle>"
