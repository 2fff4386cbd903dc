"""Real sockets on 127.0.0.1 for tests of the edges: a raw client, a gateway, a scripted instance."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvloop

from gateway.pipeline.ports import Begin
from gateway.server.listener import Listener
from gateway.server.settings import ServerSettings
from gateway.server.timers import SweptTimers
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.upstream import HttpUpstream
from tests.fakes.relay import SystemClock, relay_to

PATIENCE = 5.0  # s that a test waits for what should happen at once

Script = Callable[["Instance", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client:
    """Sends bytes, reads responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        async with asyncio.timeout(PATIENCE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:-2])
        return int(lines[0].split(b" ")[1]), fields

    async def response(self, method: bytes = b"GET") -> tuple[int, dict[bytes, bytes], bytes]:
        status, fields = await self.head()
        async with asyncio.timeout(PATIENCE):
            if method == b"HEAD" or status < 200 or status in (204, 304):
                return status, fields, b""
            if b"content-length" in fields:
                return status, fields, await self.reader.readexactly(int(fields[b"content-length"]))
            if b"transfer-encoding" not in fields:
                return status, fields, await self.reader.read()
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return status, fields, body

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def broken(self) -> bool:
        """Was the connection reset, or ended, with nothing more to read?"""
        return await self.rest() == b""

    def reset(self) -> None:
        """Leave without a goodbye."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Instance:
    """A scripted instance that records every byte it gets."""

    script: Script
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    lost: int = 0

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        """Read one request; returns its body."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        body = b""
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if b"transfer-encoding" in fields:
            while size := int(await reader.readuntil(b"\n"), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(fields.get(b"content-length", 0)))
        self.bodies.append(body)
        return body


async def echo(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request with its body."""
    while True:
        body = await instance.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


def answers(*wire: bytes, close: bool = False) -> Script:
    """Answer the n-th request with the n-th bytes, the last ones again and again; close after each or not."""

    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await instance.read_request(reader)
            writer.write(wire[min(len(instance.heads), len(wire)) - 1])
            if close:
                return

    return script


@dataclass
class Wires:
    """What a test holds: where to connect, and what to look at."""

    listener: Listener
    upstream: HttpUpstream
    instance: Instance
    timers: SweptTimers
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.listener.address))
        self.clients.append(client)
        return client


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Instance]:
    instance = Instance(script)
    writers: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        instance.connections += 1
        writers.add(writer)
        try:
            await script(instance, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            instance.lost += 1
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    instance.port = server.sockets[0].getsockname()[1]
    try:
        yield instance
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def wires(
    script: Script = echo,
    *,
    server: ServerSettings | None = None,
    connections: ConnectionSettings | None = None,
    begin: Callable[[HttpUpstream, str, int], Begin] = relay_to,
) -> AsyncIterator[Wires]:
    """A client, a gateway that relays, an instance that follows the script."""
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    upstream = HttpUpstream(loop, timers, connections)
    async with serving(script) as instance:
        listener = Listener(begin(upstream, "127.0.0.1", instance.port), timers, SystemClock(), server)
        await listener.start("127.0.0.1", 0)
        made = Wires(listener, upstream, instance, timers)
        try:
            yield made
        finally:
            for client in made.clients:
                client.writer.transport.abort()
            listener.close()
            upstream.close()
            timers.close()
            await asyncio.sleep(0.01)


def both_loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops to run tests of the edges on: the one in production and the plain one."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is awaited sets no event
            await asyncio.sleep(0.002)
