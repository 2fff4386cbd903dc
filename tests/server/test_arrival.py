"""The PROXY protocol before everything else, from who may send it and who may not."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway.server.listener import Listener, ProxyProtocol
from gateway.server.settings import ServerSettings
from gateway.server.timers import SweptTimers
from gateway.server.tls import ServerTls
from tests.fakes.certificates import Authority
from tests.fakes.relay import SystemClock
from tests.fakes.wires import until
from tests.http.test_proxy_protocol import V4, V6, v2
from tests.server.test_tls import LAST, Answering, settings

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n"


@asynccontextmanager
async def behind(
    mode: ProxyProtocol = "required",
    trusted: bool = True,
    tls: ServerTls | None = None,
    limits: ServerSettings | None = None,
) -> AsyncIterator[Listener]:
    timers = SweptTimers(asyncio.get_running_loop())
    listener = Listener(
        Answering,
        timers,
        SystemClock(),
        limits,
        tls=tls,
        proxy_protocol=mode,
        is_trusted=lambda address: trusted and address == "127.0.0.1",
    )
    await listener.start("127.0.0.1", 0)
    try:
        yield listener
    finally:
        listener.close()
        timers.close()
        await asyncio.sleep(0.01)


async def say(listener: Listener, *pieces: bytes) -> bytes:
    """Send the pieces one after the other; return the whole answer, empty where there was none."""
    reader, writer = await asyncio.open_connection(*listener.address)
    answer = b""
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.002)
        answer = await reader.read()
    writer.transport.abort()
    return answer


async def address(listener: Listener, *pieces: bytes) -> str:
    answer = await say(listener, *pieces)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    return str(told["address"])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (V1, "192.0.2.7"),
        (v2(1, 0x11, V4), "192.0.2.7"),
        (v2(1, 0x21, V6), "2001:db8::7"),
        (v2(1, 0x11, V4 + b"\x04\x00\x01x"), "192.0.2.7"),
        (v2(0, 0, b""), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
    ids=["v1", "v2", "v2 over IPv6", "TLVs", "LOCAL", "UNKNOWN"],
)
async def test_the_header_says_who_the_client_is(header: bytes, expected: str) -> None:
    async with behind() as listener:
        assert await address(listener, header + LAST) == expected
        assert await address(listener, header[:5], header[5:], LAST) == expected
        assert await address(listener, *(bytes([byte]) for byte in header), LAST) == expected


@pytest.mark.parametrize(
    ("mode", "trusted", "header", "result"),
    [
        ("required", True, b"", "bad_proxy_header"),
        ("required", False, V1, "untrusted"),
        ("required", False, b"", "untrusted"),
        ("trusted", True, b"", "bad_proxy_header"),
        ("required", True, b"PROXY TCP4 junk\r\n", "bad_proxy_header"),
    ],
)
async def test_who_breaks_the_rule_gets_no_connection(
    mode: ProxyProtocol, trusted: bool, header: bytes, result: str
) -> None:
    async with behind(mode, trusted) as listener:
        assert await say(listener, header + LAST) == b""
        assert dict(listener.results) == {result: 1}
        assert listener.connections == 0


async def test_where_only_proxies_send_it_others_speak_for_themselves() -> None:
    async with behind("trusted", trusted=False) as listener:
        assert await address(listener, LAST) == "127.0.0.1"
        assert (await say(listener, V1 + LAST)).startswith(b"HTTP/1.1 400")


async def test_a_header_that_never_ends_is_given_up() -> None:
    async with behind(limits=ServerSettings(head_timeout=0.1)) as listener:
        assert await say(listener, b"PROXY TCP4 ") == b""
        assert dict(listener.results) == {"timeout": 1}


async def test_clients_behind_a_proxy_are_limited_one_by_one() -> None:
    other = V1.replace(b"192.0.2.7", b"192.0.2.8")
    async with behind(limits=ServerSettings(connections_per_address=1)) as listener:
        _, held = await asyncio.open_connection(*listener.address)
        held.write(V1)
        await until(lambda: listener.connections == 1)
        assert await address(listener, other + LAST) == "192.0.2.8"
        assert await say(listener, V1 + LAST) == b""
        held.transport.abort()
        await until(lambda: listener.connections == 0)
        assert await address(listener, V1 + LAST) == "192.0.2.7"


@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "apart"])
async def test_the_header_comes_before_tls(tmp_path: Path, together: bool) -> None:
    authority = Authority(tmp_path)
    server = ServerTls(settings(authority.server("gateway.test")), http2=False)
    async with behind(tls=server) as listener:
        reader, writer = await asyncio.open_connection(*listener.address)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = authority.trusting().wrap_bio(incoming, outgoing, server_hostname="gateway.test")
        if not together:
            writer.write(V1)
            await asyncio.sleep(0.01)
        first = V1 if together else b""
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(first + outgoing.read())
                first = b""
                incoming.write(await reader.read(65536))
        client.write(LAST)
        writer.write(outgoing.read())
        incoming.write(await reader.read())
        answer = b""
        with suppress(ssl.SSLZeroReturnError, ssl.SSLWantReadError):
            while piece := client.read(65536):
                answer += piece
        writer.close()
        assert b'"address": "192.0.2.7", "scheme": "https"' in answer
