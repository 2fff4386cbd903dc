"""Keep-alive clients that count every failure, and a server behind the gateway that is quick."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Quick(asyncio.Protocol):
    """Answers every request without a body at once; `/slow` after a while."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            if b" /slow" in head[:20]:
                asyncio.get_running_loop().call_later(0.5, self._transport.write, ANSWER)
            else:
                self._transport.write(ANSWER)


@asynccontextmanager
async def quick_backend() -> AsyncIterator[int]:
    """Serve on a free port of this machine."""
    server = await asyncio.get_running_loop().create_server(Quick, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass
class Hammer:
    """`clients` connections to one port, each sending its next request when the last is answered.

    pause: s between an answer and the next request. statuses: of answers; granted: when the requests that got
    a 200 were sent, and when answered; failures: what went wrong, and when (the loop's clock).
    """

    port: int
    clients: int = 8
    pause: float = 0.0
    path: str = "/"
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[tuple[float, str]] = field(default_factory=list)
    reconnects: int = 0
    granted: list[tuple[float, float]] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    _stopping: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Hammer]:
        tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        try:
            yield self
        finally:
            self._stopping = True
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks)

    @property
    def answered(self) -> int:
        return self.statuses.total()

    @property
    def gaps(self) -> list[float]:
        """The times between one answer and the next, of all clients together."""
        return [after - before for before, after in pairwise(self.answers)]

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        request = f"GET {self.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while not self._stopping:
            try:
                if reader is None or writer is None or reader.at_eof():
                    if writer is not None:
                        self.reconnects += 1
                        writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                sent = loop.time()
                writer.write(request)
                status, stays = await _read(reader)
                self.statuses[status] += 1
                self.answers.append(loop.time())
                if status == 200:
                    self.granted.append((sent, self.answers[-1]))
                if not stays:
                    self.reconnects += 1
                    writer.close()
                    reader = writer = None
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.failures.append((loop.time(), repr(error)))
                if writer is not None:
                    writer.close()
                reader = writer = None
                await asyncio.sleep(0.01)
            if self.pause:
                await asyncio.sleep(self.pause)
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read one answer: its status, and whether the connection stays."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = 0
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line[15:])
    if length:
        await reader.readexactly(length)
    return int(head[9:12]), b"connection: close" not in head


def excess(granted: list[tuple[float, float]], rate: float) -> float:
    """The most that any window surely saw above rate * t: a bucket allows its burst.

    Nobody outside knows when a request was decided, but that it was between its sending and its answer. Only
    those count for a window that began and ended in it, so a process that got no turn proves nothing.
    """
    sent = np.array([one[0] for one in granted])
    answered = np.array([one[1] for one in granted])
    order = np.argsort(answered)
    sent, answered = sent[order], answered[order]
    worst = 0.0
    for begin in sent:
        inside = answered[sent >= begin]
        worst = max(worst, float(np.max(np.arange(1, len(inside) + 1) - rate * (inside - begin))))
    return worst
