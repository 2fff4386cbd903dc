"""Stub model servers: HTTP/1.1 over loopback, and a queue of their own that knows no deadlines.

    fixed      eight servers, 80 ms a call
    batching   one device, up to 16 calls at once: 20 ms + 5 ms a call
    slow       fixed, and half as fast from the surge on
    failing    fixed, and every tenth call is 500 at once
    warming    fixed, and three times slower for its first two seconds of the surge

Each can do about 100 (batching 160) calls/s, so that generator, gateway and stub fit on two cores.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

_OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_FAILED: Final = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno"


class Kind(NamedTuple):
    """How a backend works. capacity: good calls/s in the surge; size: calls at once; seconds: of n calls."""

    name: str
    capacity: float
    size: int
    batches: bool
    seconds: Callable[[int], float]
    surge: float = 1.0  # times slower in the surge
    first: float = 1.0  # times slower in its first two seconds
    fails: int = 0  # every n-th call fails; 0: none


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("fixed", 100.0, 8, False, lambda _: 0.08),
        Kind("batching", 160.0, 16, True, lambda calls: 0.02 + 0.005 * calls),
        Kind("slow", 50.0, 8, False, lambda _: 0.08, surge=2.0),
        Kind("failing", 100.0, 8, False, lambda _: 0.08, fails=10),
        Kind("warming", 80.0, 8, False, lambda _: 0.08, first=3.0),
    )
}


class Backend:
    """One server of a kind. `surge_at`: loop time at which the surge begins."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.surge_at = float("inf")
        self.served = 0
        self._waiting: deque[asyncio.Transport] = deque()
        self._busy = 0
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the port."""
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.close()

    def take(self, transport: asyncio.Transport) -> None:
        """One call came in."""
        self.served += 1
        if self.kind.fails and self.served % self.kind.fails == 0:
            self.fail(transport)
            return
        self._waiting.append(transport)
        self._work()

    def fail(self, transport: asyncio.Transport) -> None:
        """Answer 500 at once."""
        transport.write(_FAILED)

    def _work(self) -> None:
        at_once = 1 if self.kind.batches else self.kind.size
        while self._busy < at_once and self._waiting:
            self._busy += 1
            count = min(self.kind.size, len(self._waiting)) if self.kind.batches else 1
            calls = [self._waiting.popleft() for _ in range(count)]
            self._loop.call_later(self.kind.seconds(count) * self._slowness(), self._done, calls)

    def _slowness(self) -> float:
        since = self._loop.time() - self.surge_at
        if since < 0.0:
            return 1.0
        return self.kind.surge * (self.kind.first if since < 2.0 else 1.0)

    def _done(self, calls: list[asyncio.Transport]) -> None:
        self._busy -= 1
        for transport in calls:
            if not transport.is_closing():
                transport.write(_OK)
        self._work()


class _Connection(asyncio.Protocol):
    """Requests without a body, one after the other."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A head or a part of it."""
        assert self._transport is not None
        *heads, self._read = (self._read + data).split(b"\r\n\r\n")
        for _ in heads:
            self._backend.take(self._transport)
