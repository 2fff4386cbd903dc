"""HTTP/1.1 through the gateway: bodies, pipelining, versions, however the bytes are cut. RFC 9112."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http.framing import LAST_CHUNK, encode_chunk
from tests.fakes.wires import Instance, answers, until, wires

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_a_known_body_is_echoed_and_the_connection_stays() -> None:
    async with wires() as world:
        client = await world.connect()
        for body in (b"one", b"", b"three"):
            client.send(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            status, fields, got = await client.response()
            assert (status, got) == (200, body)
            assert b"connection" not in fields
            assert b"date" in fields
        assert world.instance.connections == 1
        assert world.listener.connections == 1


async def test_a_chunked_body_is_decoded_and_encoded_anew() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n")
        await until(lambda: world.instance.heads)
        client.send(b"2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.response())[2] == b"abcde"
        assert b"transfer-encoding: chunked" in world.instance.heads[0]
        client.send(POST + b"Content-Length: 2\r\n\r\nok")
        assert (await client.response())[2] == b"ok"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_however_the_bytes_are_cut_the_messages_are_the_same(at: list[int], chunked: bool) -> None:
    body = bytes(range(65, 91)) * 3
    if chunked:
        framed = (
            b"Transfer-Encoding: chunked\r\n\r\n"
            + encode_chunk(body[:50])
            + encode_chunk(body[50:])
            + LAST_CHUNK
        )
    else:
        framed = b"Content-Length: %d\r\n\r\n" % len(body) + body
    wire = GET + POST + framed + POST + b"Content-Length: 1\r\n\r\nz"
    edges = sorted({0, len(wire), *(position % len(wire) for position in at)})

    async def talk() -> None:
        async with wires() as world:
            client = await world.connect()
            for start, end in pairwise(edges):
                client.send(wire[start:end])
                await asyncio.sleep(0.001)
            assert [(await client.response())[2] for _ in range(3)] == [b"", body, b"z"]
            assert world.instance.bodies == [b"", body, b"z"]

    asyncio.run(talk())


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(b"".join(POST + b"Content-Length: 3\r\n\r\n%03d" % number for number in range(100)))
        assert [(await client.response())[2] for _ in range(100)] == [
            b"%03d" % number for number in range(100)
        ]
        assert world.instance.connections == 1


async def test_a_flood_of_pipelined_requests_waits_outside() -> None:
    async def never(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        await reader.read()

    async with wires(never) as world:
        client = await world.connect()
        flood = GET * 100
        sent = 0
        while client.writer.transport.get_write_buffer_size() < 1 << 20 and sent < 64 << 20:
            client.send(flood)
            sent += len(flood)
            await asyncio.sleep(0)
        (connection,) = world.listener._connections
        assert len(connection._buffer) <= 384 * 1024
        assert len(world.instance.heads) == 1


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_head_has_the_length_and_no_body(method: bytes) -> None:
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (b"hello" if method == b"GET" else b"")
    async with wires(answers(wire)) as world:
        client = await world.connect()
        for _ in range(2):
            client.send(method + GET[3:])
            status, fields, body = await client.response(method)
            assert (status, fields[b"content-length"]) == (200, b"5")
            assert body == (b"hello" if method == b"GET" else b"")


@pytest.mark.parametrize(
    ("wire", "length"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", b"7"),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", None),
    ],
)
async def test_responses_without_a_body(wire: bytes, length: bytes | None) -> None:
    async with wires(answers(wire)) as world:
        client = await world.connect()
        for _ in range(2):
            client.send(GET)
            status, fields, _ = await client.response()
            assert status == int(wire[9:12])
            assert fields.get(b"content-length") == length
            assert b"transfer-encoding" not in fields


async def test_interim_responses_but_100_are_passed_on_to_who_knows_them() -> None:
    interim = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: a\r\nA: b\r\n\r\n"
    )
    wire = interim + b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with wires(answers(wire)) as world:
        client = await world.connect()
        for _ in range(2):
            client.send(GET)
            assert await client.response() == (103, {b"link": b"x"}, b"")
            assert await client.response() == (102, {}, b"")
            assert (await client.response())[2] == b"ok"
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.response())[2] == b"ok"  # RFC 9110 §15.2: 1.0 knows no interim answers
        assert world.instance.connections == 1


async def test_an_answer_until_close_becomes_chunks() -> None:
    async with wires(answers(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True)) as world:
        client = await world.connect()
        for _ in range(2):
            client.send(GET)
            status, fields, body = await client.response()
            assert (status, body) == (200, b"until the end")
            assert fields[b"transfer-encoding"] == b"chunked"


async def test_http_1_0_clients_get_no_chunks_and_a_close() -> None:
    async with wires(answers(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True)) as world:
        client = await world.connect()
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        status, fields, body = await client.response()
        assert (status, body) == (200, b"until the end")
        assert fields[b"connection"] == b"close"
        assert b"transfer-encoding" not in fields


async def test_http_1_0_clients_may_stay_where_the_length_is_known() -> None:
    async with wires() as world:
        client = await world.connect()
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.response())[1][b"connection"] == b"keep-alive"
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.response())[1][b"connection"] == b"close"
        assert await client.broken()


async def test_connection_close_is_honoured() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
        assert (await client.response())[1][b"connection"] == b"close"
        assert await client.broken()
        assert len(world.instance.heads) == 1


async def test_one_empty_line_before_a_request_is_forgiven() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(b"\r\n" + GET + b"\r\n" + GET)
        assert [(await client.response())[0] for _ in range(2)] == [200, 200]
        client.send(b"\r\n\r\n" + GET)
        assert (await client.response())[0] == 400


async def test_a_client_may_shut_its_side_after_the_request() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(POST + b"Content-Length: 2\r\n\r\nok")
        client.writer.write_eof()
        assert (await client.response())[2] == b"ok"
        assert await client.broken()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_streams_through_in_both_directions(chunked: bool) -> None:
    async with wires() as world:
        client = await world.connect()
        body = bytes(range(256)) * 4096  # 1 MiB
        client.send(
            POST
            + (
                b"Transfer-Encoding: chunked\r\n\r\n"
                if chunked
                else b"Content-Length: %d\r\n\r\n" % len(body)
            )
        )
        for start in range(0, len(body), 100_000):
            piece = body[start : start + 100_000]
            client.send(encode_chunk(piece) if chunked else piece)
            await client.writer.drain()
        if chunked:
            client.send(LAST_CHUNK)
        assert (await client.response())[2] == body
        client.send(GET)
        assert (await client.response())[0] == 200
