"""TlsTransport against itself: both sides, half-closing, pausing, clean ends and others."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest

from gateway.transport.tls import SLICE, Above, TlsTransport
from tests.fakes.certificates import Authority
from tests.fakes.wires import until


class Ear:
    """Keeps what it hears; stays after the other side's end when told to."""

    def __init__(self, stays: bool = True) -> None:
        self.heard = bytearray()
        self.largest = 0
        self.ended = False
        self.stays = stays
        self.lost: list[Exception | None] = []
        self.pauses = 0

    def data_received(self, data: bytes) -> None:
        assert not self.ended, "bytes after the end"
        self.heard += data
        self.largest = max(self.largest, len(data))

    def eof_received(self) -> bool:
        self.ended = True
        return self.stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.pauses += 1

    def resume_writing(self) -> None:
        self.pauses -= 1


class Side:
    """One end: shakes hands, then hands over to its ear."""

    def __init__(
        self, open_tls: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject], begins: bool
    ) -> None:
        self._open = open_tls
        self._begins = begins
        self.ear = Ear()
        self.errors: list[ssl.SSLError] = []
        self.ready = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.tcp = cast(asyncio.Transport, transport)
        self.tls = TlsTransport(asyncio.get_running_loop(), self.tcp, self._open, self.errors.append)
        if self._begins:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        if self.tls.shake_hands(data):
            self.tcp.set_protocol(cast(asyncio.BaseProtocol, self.tls))
            self.tls.set_protocol(cast(Above, self.ear))
            self.tls.start()
            self.ready.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


@dataclass
class Ends:
    server: Side
    client: Side


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("transport"))


@asynccontextmanager
async def both(authority: Authority, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> AsyncIterator[Ends]:
    pair = authority.server("a.test")
    at_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    at_server.load_cert_chain(pair.cert, pair.key)
    at_server.maximum_version = version
    at_client = authority.trusting()
    server = Side(lambda i, o: at_server.wrap_bio(i, o, server_side=True), begins=False)
    client = Side(lambda i, o: at_client.wrap_bio(i, o, server_hostname="a.test"), begins=True)
    loop = asyncio.get_running_loop()
    # TCP, not socketpair(): uvloop gives UNIX sockets another transport.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    for side, sock in ((server, ours), (client, theirs)):
        sock.setblocking(False)
        await loop.connect_accepted_socket(lambda side=side: cast(asyncio.Protocol, side), sock)  # type: ignore[misc]
    async with asyncio.timeout(5):
        await server.ready.wait()
        await client.ready.wait()
    await asyncio.sleep(0.01)  # session tickets are read: a socket closed with unread bytes is reset
    try:
        yield Ends(server, client)
    finally:
        server.tls.abort()
        client.tls.abort()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("size", [1, SLICE, SLICE + 1, 3_000_000])
async def test_bytes_arrive_as_they_were_sent(
    authority: Authority, version: ssl.TLSVersion, size: int
) -> None:
    async with both(authority, version) as ends:
        sent = bytes(range(256)) * (size // 256 + 1)
        ends.client.tls.write(sent[:size])
        ends.server.tls.writelines([sent[:size], b"end"])
        await until(lambda: len(ends.server.ear.heard) == size)
        await until(lambda: len(ends.client.ear.heard) == size + 3)
        assert ends.server.ear.heard == sent[:size]
        assert ends.client.ear.heard == sent[:size] + b"end"
        assert max(ends.server.ear.largest, ends.client.ear.largest) <= 2 * SLICE


async def test_a_side_that_ends_still_hears_the_other(authority: Authority) -> None:
    async with both(authority) as ends:
        assert ends.server.tls.can_write_eof()
        ends.server.tls.write(b"last words")
        ends.server.tls.write_eof()
        await until(lambda: ends.client.ear.ended)
        ends.client.tls.write(b"x" * 100_000)
        await until(lambda: len(ends.server.ear.heard) == 100_000)
        ends.server.tls.write(b"too late")
        ends.client.tls.write_eof()
        await until(lambda: ends.server.ear.ended)
        ends.server.tls.close()
        await until(lambda: ends.client.ear.ended)
        assert ends.client.ear.heard == b"last words"


async def test_who_pauses_hears_nothing_and_misses_nothing(authority: Authority) -> None:
    async with both(authority) as ends:
        ear = ends.server.ear
        ends.server.tls.pause_reading()
        ends.client.tls.write(b"x" * 2_000_000)
        ends.client.tls.close()
        await asyncio.sleep(0.05)
        assert ear.heard == b""
        assert not ear.ended
        ends.server.tls.resume_reading()
        await until(lambda: ear.ended)
        assert len(ear.heard) == 2_000_000


async def test_a_pause_in_the_middle_of_a_burst_holds(authority: Authority) -> None:
    async with both(authority) as ends:
        ear, tls = ends.server.ear, ends.server.tls

        def pause_after_each(data: bytes) -> None:
            ear.heard += data
            tls.pause_reading()
            asyncio.get_running_loop().call_soon(tls.resume_reading)

        ear.data_received = pause_after_each  # type: ignore[method-assign]
        ends.client.tls.write(b"x" * 500_000)
        ends.client.tls.close()
        await until(lambda: ear.ended)
        assert len(ear.heard) == 500_000


@pytest.mark.parametrize("clean", [True, False])
async def test_an_end_without_a_goodbye_is_an_error(authority: Authority, clean: bool) -> None:
    async with both(authority) as ends:
        ends.server.ear.stays = False
        if clean:
            ends.client.tls.close()
        else:
            ends.client.tcp.close()
        await until(lambda: ends.server.ear.lost)
        (error,) = ends.server.ear.lost
        assert (error is None) is clean
        assert clean or isinstance(error, ssl.SSLEOFError)


async def test_tampered_bytes_are_an_error_and_an_end(authority: Authority) -> None:
    async with both(authority) as ends:
        ends.client.tcp.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: ends.server.errors)
        await until(lambda: ends.server.ear.lost)
        assert ends.server.ear.heard == b""


async def test_a_full_send_buffer_is_told(authority: Authority) -> None:
    async with both(authority) as ends:
        ends.server.tls.set_write_buffer_limits(high=64 * 1024)
        ends.client.tls.pause_reading()
        for _ in range(400):
            ends.server.tls.write(b"x" * 65536)
        assert ends.server.ear.pauses == 1
        assert ends.server.tls.get_write_buffer_size() > 64 * 1024
        ends.client.tls.resume_reading()
        await until(lambda: ends.server.ear.pauses == 0)
        await until(lambda: len(ends.client.ear.heard) == 400 * 65536)
