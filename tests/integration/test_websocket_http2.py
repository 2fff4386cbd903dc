"""WebSockets over HTTP/2 (RFC 8441): extended CONNECT from the client, Upgrade to a real server."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame as Message
from websockets.frames import Opcode
from websockets.http11 import Request, Response

from tests.fakes.http2_client import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    Fields,
    Http2Client,
    frame,
    number,
)
from tests.integration.test_websocket import Stage, stage
from tests.runtime.running import until

CANCEL = 8
TUNNEL = 1


def asking(*more: tuple[str, str], path: str = "/chat/room", protocol: str = "websocket") -> Fields:
    return [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a.example"),
        ("sec-websocket-version", "13"),
        *more,
    ]


async def connected(s: Stage) -> Http2Client:
    client = await Http2Client.connect(s.gateway.worker.http_address)
    offered = await client.until(SETTINGS)
    assert b"\x00\x08\x00\x00\x00\x01" in offered.payload
    return client


async def tunnel(s: Stage, *more: tuple[str, str]) -> Http2Client:
    client = await connected(s)
    client.send(client.head(TUNNEL, asking(*more), end=False))
    await client.until(HEADERS, TUNNEL)
    assert dict(client.heads[TUNNEL][0])[":status"] == "200"
    return client


def says(data: bytes, opcode: Opcode = Opcode.BINARY, flags: int = 0) -> bytes:
    return frame(DATA, flags, TUNNEL, Message(opcode, data).serialize(mask=True))


def said(data: bytes, opcode: Opcode = Opcode.BINARY) -> bytes:
    return Message(opcode, data).serialize(mask=False)


async def hears(client: Http2Client, expected: bytes) -> None:
    while len(client.bodies.get(TUNNEL, b"")) < len(expected):
        await client.until(DATA, TUNNEL)
    assert client.bodies.pop(TUNNEL) == expected


async def test_messages_come_back_and_the_close_passes_both_ways(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        client = await tunnel(s, ("origin", "http://a.example"))
        for message in (b"hello", b"\x00\xff" * 4000, b""):
            client.send(says(message))
            await hears(client, said(message))
        client.send(says(number(1000)[2:], Opcode.CLOSE))
        await hears(client, said(number(1000)[2:], Opcode.CLOSE))
        client.send(frame(DATA, END_STREAM, TUNNEL))
        last = await client.until(DATA, TUNNEL)
        assert last.flags & END_STREAM
        await client.ping()  # the connection lives, and takes another
        await until(lambda: s.in_flight == 0)
        handshake = s.heads[0].headers
        assert handshake["upgrade"] == "websocket"
        assert handshake["origin"] == "http://a.example"
        assert (
            dict(client.heads[TUNNEL][0]).keys().isdisjoint({"sec-websocket-accept", "upgrade", "connection"})
        )
        await until(s.logged)
        assert [line["status"] for line in s.logged()] == [101]
        client.close()


async def test_tunnels_and_requests_share_a_connection(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        client = await tunnel(s)
        client.send(client.head(3, [*asking()[2:5], (":method", "GET")]))
        assert await client.answer(3) == 426  # what the server says to a plain request
        client.send(client.head(5, asking(), end=False))
        await client.until(HEADERS, 5)
        client.send(says(b"still here"))
        await hears(client, said(b"still here"))
        client.close()
        await until(lambda: s.in_flight == 0)


async def test_a_client_that_resets_its_stream_ends_the_tunnel(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def wait(socket: ServerConnection) -> None:
        await socket.wait_closed()
        gone.set()

    async with stage(tmp_path, wait) as s:
        client = await tunnel(s)
        client.send(frame(RST_STREAM, 0, TUNNEL, number(CANCEL)))
        await asyncio.wait_for(gone.wait(), 5)
        await until(lambda: s.in_flight == 0)
        client.close()


async def test_a_server_that_hangs_up_ends_its_half(tmp_path: Path) -> None:
    async def die(socket: ServerConnection) -> None:
        await socket.recv()
        socket.transport.abort()

    async with stage(tmp_path, die) as s:
        client = await tunnel(s)
        client.send(says(b"x"))
        assert (await client.until(DATA, TUNNEL)).flags & END_STREAM
        client.send(frame(DATA, END_STREAM, TUNNEL))
        await until(lambda: s.in_flight == 0)
        await client.ping()
        client.close()


async def test_silence_ends_the_tunnel(tmp_path: Path) -> None:
    async with stage(tmp_path, idle="200ms") as s:
        client = await tunnel(s)
        assert (await client.until(RST_STREAM, TUNNEL)).code == CANCEL
        client.close()


async def test_the_policies_decide_on_the_handshake(tmp_path: Path) -> None:
    async with stage(tmp_path, verbs="    upgrade: [websocket]\n    throttle: {rate: 1/h, burst: 1}\n") as s:
        client = await tunnel(s)
        client.send(client.head(3, asking(), end=False))
        assert await client.answer(3) == 429
        client.close()


@pytest.mark.parametrize(
    ("fields", "status"),
    [(asking(protocol="chat/1"), 426), (asking(path="/nowhere"), 404)],
    ids=["a protocol that is not allowed", "no endpoint"],
)
async def test_what_gets_no_tunnel_gets_an_answer(tmp_path: Path, fields: Fields, status: int) -> None:
    async with stage(tmp_path) as s:
        client = await connected(s)
        client.send(client.head(TUNNEL, fields, end=False))
        assert await client.answer(TUNNEL) == status
        await until(lambda: s.in_flight == 0)
        client.close()


async def test_a_200_of_the_instance_is_no_tunnel(tmp_path: Path) -> None:
    def plainly(socket: ServerConnection, request: Request) -> Response:
        return socket.respond(HTTPStatus.OK, "I speak HTTP\n")

    async with stage(tmp_path, handshake=plainly) as s:
        client = await connected(s)
        client.send(client.head(TUNNEL, asking(), end=False))
        assert await client.answer(TUNNEL) == 501
        assert dict(client.heads[TUNNEL][0])["x-headgate-reason"] == "upgrade_declined"
        client.close()


async def test_connect_without_a_protocol_is_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        client = await connected(s)
        client.send(client.head(TUNNEL, [(":method", "CONNECT"), (":authority", "a.example:80")]))
        assert await client.answer(TUNNEL) == 400
        assert not s.heads
        client.close()


async def test_where_no_endpoint_allows_it_nothing_is_offered(tmp_path: Path) -> None:
    async with stage(tmp_path, verbs="") as s:
        client = await Http2Client.connect(s.gateway.worker.http_address)
        assert b"\x00\x08\x00\x00\x00\x01" not in (await client.until(SETTINGS)).payload
        client.send(client.head(TUNNEL, asking(), end=False))
        assert (await client.until(RST_STREAM, TUNNEL)).code == 1
        client.close()


async def test_shutdown_gives_tunnels_their_grace_and_closes_them(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        client = await tunnel(s)
        stop = asyncio.create_task(s.gateway.worker.stop())
        await client.until(GOAWAY)
        client.send(says(b"one more"))
        await hears(client, said(b"one more"))
        while await client.read(5) is not None:
            pass
        await stop
        client.close()
