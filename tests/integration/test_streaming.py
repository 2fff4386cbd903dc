"""Large and endless bodies through a real gateway process: bounded memory, no delay, no waiting for the end.

The instance and the client run here; the gateway's memory is read from the kernel.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.running import Running, kept_memory, slack
from tests.runtime.running import until
from tests.services.etcd import free_port

Answer = Callable[["Peer", bytes], Awaitable[None]]

MIB = 1 << 20
LARGE = 100 * MIB
PIECE = bytes(range(256)) * 256  # 64 KiB
# Both directions at once: 2 x 64 KiB high-water marks here, and what one read may bring on top (256 KiB).
GROWTH = 8.0  # MiB

PAGE = """
pools:
  big: {{instances: ['127.0.0.1:{port}'], retry: {{attempts: 0}}}}
endpoints:
  big: {{match: /**, authenticate: none, send: big, timeout: 30s}}
"""
BASE = """
log: {access: off}
limits: {body_bytes: 200MiB, write_timeout: 20s, stream_idle: 2s}
"""


@dataclass
class Peer:
    """One end of a connection of this test."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: int = 0
    lost: bool = False

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.sent += len(data)

    async def head(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]


@dataclass
class Instance:
    answer: Answer
    port: int = 0
    peers: list[Peer] = field(default_factory=list)


@asynccontextmanager
async def instance(answer: Answer, port: int) -> AsyncIterator[Instance]:
    made = Instance(answer)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        made.peers.append(peer)
        try:
            while True:
                await made.answer(peer, await reader.readuntil(b"\r\n\r\n"))
        except (asyncio.IncompleteReadError, ConnectionError):
            peer.lost = True
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port, limit=MIB)
    try:
        yield made
    finally:
        server.close()
        for peer in made.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)


@dataclass
class Gateway:
    """The process, and the port that its pool asks."""

    running: Running
    upstream: int

    @property
    def memory(self) -> float:
        assert self.running.process is not None
        return kept_memory(self.running.process.pid)

    async def connect(self) -> Peer:
        return Peer(*await asyncio.open_connection("127.0.0.1", self.running.http, limit=MIB))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("streaming")
    policies = folder / "policies"
    policies.mkdir()
    port = free_port()
    (policies / "page.yaml").write_text(PAGE.format(port=port))
    (policies / "gateway.yaml").write_text(BASE)
    with Running(folder) as running:
        yield Gateway(running, port)


def framed(chunked: bool) -> tuple[bytes, Callable[[bytes], bytes], bytes]:
    """The framing fields of a large body, how a piece is written, and its end."""
    if chunked:
        return (
            b"Transfer-Encoding: chunked\r\n",
            lambda data: b"%x\r\n%b\r\n" % (len(data), data),
            b"0\r\n\r\n",
        )
    return b"Content-Length: %d\r\n" % LARGE, lambda data: data, b""


def check_place(data: bytes, at: int) -> None:
    """What is read is what stands there in the body."""
    begin = at % len(PIECE)
    assert data[:64] == (PIECE + PIECE[:64])[begin : begin + min(64, len(data))]


async def read_body(peer: Peer, head: bytes) -> int:
    """Read a body to its end, checking every byte's place; returns its size."""
    size = 0
    if b"chunked" in head:
        while data := await peer.chunk():
            check_place(data, size)
            size += len(data)
        return size
    total = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while size < total:
        data = await peer.reader.read(min(65536, total - size))
        assert data, f"ended after {size} of {total}"
        check_place(data, size)
        size += len(data)
    return size


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_large_answer_waits_for_a_slow_reader_in_bounded_memory(
    gateway: Gateway, chunked: bool
) -> None:
    framing, piece, end = framed(chunked)

    async def answer(peer: Peer, head: bytes) -> None:
        peer.writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
        for _ in range(LARGE // len(PIECE)):
            await peer.send(piece(PIECE))
        await peer.send(end)

    async with instance(answer, gateway.upstream) as upstream:
        client = await gateway.connect()
        before = gateway.memory
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await client.head()
        await asyncio.sleep(0.5)  # it reads nothing: everybody must stop
        stalled = upstream.peers[0].sent
        await asyncio.sleep(0.2)
        assert upstream.peers[0].sent == stalled < LARGE / 4
        assert gateway.memory - before < GROWTH
        assert await read_body(client, head) == LARGE
        assert gateway.memory - before < GROWTH
        client.writer.close()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_large_request_waits_for_a_slow_instance_in_bounded_memory(
    gateway: Gateway, chunked: bool
) -> None:
    framing, piece, end = framed(chunked)
    may_read = asyncio.Event()
    received: list[int] = []

    async def answer(peer: Peer, head: bytes) -> None:
        await may_read.wait()
        received.append(await read_body(peer, head))
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with instance(answer, gateway.upstream):
        client = await gateway.connect()
        before = gateway.memory

        async def upload() -> None:
            client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n")
            for _ in range(LARGE // len(PIECE)):
                await client.send(piece(PIECE))
            await client.send(end)

        uploading = asyncio.ensure_future(upload())
        await asyncio.sleep(0.5)
        stalled = client.sent
        await asyncio.sleep(0.2)
        assert client.sent == stalled < LARGE / 4
        assert gateway.memory - before < GROWTH
        may_read.set()
        assert b" 200 " in await client.head()
        await uploading
        assert received == [LARGE]
        assert gateway.memory - before < GROWTH
        client.writer.close()


async def test_fifty_clients_that_stop_reading_cost_little_each(gateway: Gateway) -> None:
    async def answer(peer: Peer, head: bytes) -> None:
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (20 * MIB))
        for _ in range(20 * MIB // len(PIECE)):
            await peer.send(PIECE)

    async with instance(answer, gateway.upstream):
        before = gateway.memory
        clients = [await gateway.connect() for _ in range(50)]
        for client in clients:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in clients:
            await client.head()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a ReadTransport too
        await asyncio.sleep(0.5)
        assert (gateway.memory - before) / 50 < 0.5  # MiB
        for client in clients:
            client.writer.transport.abort()
        await until(lambda: gateway.running.metric("headgate_in_flight") == 0)


async def test_request_and_answer_stream_at_the_same_time(gateway: Gateway) -> None:
    async def answer(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while data := await peer.chunk():
            await peer.send(b"%x\r\n%b\r\n" % (len(data), data))
        await peer.send(b"0\r\n\r\n")

    async with instance(answer, gateway.upstream):
        client = await gateway.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n.\r\n")
        head = await client.head()
        assert b" 200 " in head
        async with asyncio.timeout(5):
            assert await client.chunk() == b"."
            for number in range(200):  # each answered before the next is asked
                said = b"%d" % number * 100
                await client.send(b"%x\r\n%b\r\n" % (len(said), said))
                heard = b""
                while len(heard) < len(said):
                    heard += await client.chunk()
                assert heard == said
            await client.send(b"0\r\n\r\n")
            assert await client.chunk() == b""
        client.writer.close()


async def test_an_early_answer_ends_an_upload_and_taints_both_connections(gateway: Gateway) -> None:
    async def answer(peer: Peer, head: bytes) -> None:
        await peer.reader.readexactly(1000)
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await peer.reader.readuntil(b"never")

    async with instance(answer, gateway.upstream) as upstream:
        for number in range(1, 3):
            client = await gateway.connect()
            client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (50 * MIB))
            client.writer.write(PIECE)
            head = await client.head()
            assert b" 413 " in head
            assert b"connection: close" in head
            assert await client.reader.readexactly(3) == b"big"
            await until(lambda number=number: upstream.peers[number - 1].lost)  # type: ignore[misc]
            assert len(upstream.peers) == number
            client.writer.transport.abort()


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_events_arrive_as_they_are_sent(gateway: Gateway) -> None:
    async def answer(peer: Peer, head: bytes) -> None:
        await peer.send(EVENTS)
        for _ in range(100):
            event = b"data: %.6f\n\n" % time.monotonic()
            await peer.send(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(0.005)
        await peer.send(b"0\r\n\r\n")

    async with instance(answer, gateway.upstream):
        client = await gateway.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        late = []
        while event := await client.chunk():
            assert event.count(b"data:") == 1  # each by itself: nothing waited for the next
            late.append(time.monotonic() - float(event[6:]))
        assert len(late) == 100
        assert statistics.median(late) < 0.001 * slack()
        client.writer.close()


async def test_an_endless_answer_outlives_the_timeout_and_silence_ends_it(tmp_path: Path) -> None:
    stopped_talking = 0.0

    async def answer(peer: Peer, head: bytes) -> None:
        nonlocal stopped_talking
        await peer.send(EVENTS)
        for _ in range(12):
            await asyncio.sleep(0.1)
            await peer.send(b"1\r\n.\r\n")
        stopped_talking = time.monotonic()
        await peer.reader.read()  # until we are cut off
        peer.lost = True

    policies = tmp_path / "policies"
    policies.mkdir()
    port = free_port()
    (policies / "page.yaml").write_text(PAGE.format(port=port).replace("timeout: 30s", "timeout: 500ms"))
    (policies / "gateway.yaml").write_text(BASE.replace("stream_idle: 2s", "stream_idle: 700ms"))
    running = Running(tmp_path)
    await asyncio.to_thread(running.start)
    try:
        async with instance(answer, port) as upstream:
            client = await Gateway(running, port).connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.head()
            async with asyncio.timeout(10):
                for _ in range(12):
                    assert await client.chunk() == b"."
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await client.chunk()  # broken, so that nobody takes it for the end
            assert 0.6 < time.monotonic() - stopped_talking < 0.7 + 0.5 * slack()
            await until(lambda: upstream.peers[0].lost)
            client.writer.close()
    finally:
        await asyncio.to_thread(running.stop)


async def test_a_reader_of_events_that_leaves_frees_the_instance_at_once(gateway: Gateway) -> None:
    async def answer(peer: Peer, head: bytes) -> None:
        await peer.send(EVENTS)
        while True:
            await peer.send(b"1\r\n.\r\n")
            await asyncio.sleep(0.01)

    async with instance(answer, gateway.upstream) as upstream:
        client = await gateway.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        await client.chunk()
        client.writer.transport.abort()
        left = time.monotonic()
        await until(lambda: upstream.peers[0].lost)
        assert time.monotonic() - left < 0.1 * slack()
