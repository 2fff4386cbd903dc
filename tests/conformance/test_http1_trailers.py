"""Trailers through the gateway, both ways. RFC 9110 §6.5, §6.6.2, §10.1.4."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.wires import Client, Instance, answers, until, wires

PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WANTED = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
END = b"2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a\r\n\r\n"


async def raw(client: Client) -> tuple[bytes, bytes]:
    """A chunked answer: its head and everything up to the empty line after its trailers."""
    head = await client.reader.readuntil(b"\r\n\r\n")
    return head, await client.reader.readuntil(b"\r\n\r\n")


async def send(client: Client, head: bytes, body: bytes, pause: float) -> None:
    """In one piece, or with a pause between the two."""
    if pause:
        client.send(head)
        await asyncio.sleep(pause)
        client.send(body)
    else:
        client.send(head + body)


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["in one read", "streamed"])
async def test_a_response_keeps_its_trailers_for_who_wants_them(pause: float) -> None:
    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await instance.read_request(reader)
            writer.write(CHUNKED + b"\r\n")
            await asyncio.sleep(pause)
            writer.write(END)

    async with wires(script) as world:
        client = await world.connect()
        client.send(WANTED)
        head, body = await raw(client)
        assert b"transfer-encoding: chunked" in head
        assert body == b"2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"
        client.send(PLAIN)
        status, fields, plain = await client.response()
        assert (status, plain) == (200, b"ok")
        assert b"trailer" not in fields
        assert world.instance.connections == 1


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["in one read", "streamed"])
async def test_announced_trailers_go_to_whoever_asked(pause: float) -> None:
    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await instance.read_request(reader)
            writer.write(CHUNKED + b"Trailer: X-Sum\r\n\r\n")
            await asyncio.sleep(pause)
            writer.write(END)

    async with wires(script) as world:
        client = await world.connect()
        client.send(PLAIN)
        head, body = await raw(client)
        assert b"trailer: X-Sum" in head
        assert body.endswith(b"0\r\nx-sum: 1\r\n\r\n")


async def test_http_1_0_and_head_get_no_trailers() -> None:
    async with wires(answers(CHUNKED + b"Trailer: X-Sum\r\n\r\n" + END)) as world:
        client = await world.connect()
        client.send(b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert body == b"ok"
        assert b"railer" not in head
        assert b"chunked" not in head


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["in one read", "streamed"])
async def test_a_request_keeps_the_trailers_that_it_announced(pause: float) -> None:
    seen = b""

    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"\r\n\r\n")
        seen += await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with wires(script) as world:
        client = await world.connect()
        await send(client, POST, b"3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n", pause)
        assert (await client.response())[0] == 204
        assert b"Trailer: X-Sum".lower() in seen.lower()
        assert seen.endswith(b"3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n")


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["in one read", "streamed"])
async def test_a_request_with_a_forbidden_trailer_is_refused(pause: float) -> None:
    async with wires() as world:
        client = await world.connect()
        await send(client, POST, b"3\r\nabc\r\n0\r\nAuthorization: x\r\n\r\n" + PLAIN, pause)
        status, fields, _ = await client.response()
        assert (status, fields[b"connection"]) == (400, b"close")
        assert await client.broken()
        assert world.instance.bodies == []
        if not pause:
            assert world.instance.heads == []


async def test_a_whole_chunked_body_that_is_malformed_never_goes_upstream() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(POST + b"3\r\nabcd\r\n0\r\n\r\n")
        assert (await client.response())[0] == 400
        assert await client.broken()
        await until(lambda: not world.listener.connections)
        assert world.instance.connections == 0
