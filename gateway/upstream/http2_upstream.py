"""The calls to instances that are spoken to in HTTP/2; upstream.py comes here for them. Nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.http.h2_heads import write_request
from gateway.http.message import Request
from gateway.http.outbox import Outbox
from gateway.pipeline.pool_verbs import Tls
from gateway.pipeline.ports import Destination, Sink, Timers
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.http2_call import Http2Call
from gateway.upstream.http2_connections import Http2Connections
from gateway.upstream.tls import ClientTls


class Http2Upstream:
    """All HTTP/2 connections of one worker."""

    __slots__ = ("_by_address", "_client_tls", "_loop", "_outbox", "_settings", "_timers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        settings: ConnectionSettings,
        outbox: Outbox,
        client_tls: ClientTls,
    ) -> None:
        self._loop = loop
        self._timers = timers
        self._settings = settings
        self._outbox = outbox
        self._client_tls = client_tls
        self._by_address: dict[tuple[str, int, Tls | None], Http2Connections] = {}

    def send(self, instance: Destination, request: Request, until: float, sink: Sink) -> Http2Call:
        """Start one call; the sink is never called before this returns. Raises UnsafeField."""
        address = (instance.host, instance.port, instance.tls)
        connections = self._by_address.get(address)
        if connections is None:
            connections = self._connections_to(*address)
        fields = write_request(request, instance.authority, b"http" if instance.tls is None else b"https")
        call = Http2Call(connections, request, fields, until, sink)
        connections.start(call)
        return call

    def _connections_to(self, host: str, port: int, tls: Tls | None) -> Http2Connections:
        # A good moment to forget instances that are gone: new addresses are rare.
        for known in [known for known, group in self._by_address.items() if group.is_unused()]:
            del self._by_address[known]
        made = Http2Connections(
            host, port, self._settings, self._timers, self._loop, self._outbox, self._client_tls, tls
        )
        self._by_address[host, port, tls] = made
        return made

    @property
    def groups(self) -> Sequence[Http2Connections]:
        """The connections of each instance."""
        return tuple(self._by_address.values())

    def close(self) -> None:
        """Close all connections at once."""
        for group in self._by_address.values():
            group.close()
        self._by_address.clear()

    def __repr__(self) -> str:
        return f"<Http2Upstream | {len(self._by_address)} instances>"
