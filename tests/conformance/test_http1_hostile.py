"""Hostile requests over real sockets: answered once, closed, and nothing reaches the instance."""

from __future__ import annotations

import pytest

from tests.fakes.wires import wires
from tests.http.hostile import HOSTILE

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(("wire", "status"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_request_never_reaches_the_instance(wire: bytes, status: int) -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(wire if wire.find(b"\r\n\r\n") < 0 else wire + SMUGGLED)
        got, fields, body = await client.response()
        assert got == status
        assert fields[b"connection"] == b"close"
        assert fields[b"content-type"] == b"application/problem+json"
        assert fields[b"x-headgate-reason"] in body
        assert await client.broken()
        assert world.instance.heads == []


async def test_a_hostile_request_after_a_good_one_is_refused_alone() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
        client.send(
            b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert (await client.response())[2] == b"ok"
        assert (await client.response())[0] == 400
        assert await client.broken()
        assert [head.split(b" ")[1] for head in world.instance.heads] == [b"/a"]


BROKEN_BODIES = {
    "size": b"zz\r\n",
    "data longer than size": b"2\r\nabc\r\n0\r\n\r\n",
    "bare LF": b"2\nab\n0\n\n",
    "extension flood": b"2;" + b"x" * 20000,
    "forbidden trailer": b"0\r\ncontent-length: 5\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
async def test_a_body_that_breaks_is_answered_400_and_the_instance_sees_no_whole_request(body: bytes) -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(body)
        client.send(SMUGGLED)
        status, fields, _ = await client.response()
        assert (status, fields[b"connection"]) == (400, b"close")
        assert await client.broken()
        assert world.instance.bodies == []
        assert not any(b"smuggled" in head for head in world.instance.heads)


async def test_what_goes_upstream_was_written_anew() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(
            b"POST /a/%2e/b?q HTTP/1.1\r\nHost: example\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n"
            b"Keep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nProxy-Authorization: x\r\n"
            b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nAccept: x\r\nContent-Length: 1\r\n\r\nz"
        )
        await client.response()
        head = world.instance.heads[0]
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        assert head.startswith(b"POST /a/b?q HTTP/1.1\r\n")
        assert fields[b"host"] == b"127.0.0.1:%d" % world.instance.port
        assert fields[b"x-forwarded-for"] == b"127.0.0.1"
        assert fields[b"x-forwarded-host"] == b"example"
        assert fields[b"forwarded"] == b'for=127.0.0.1;proto=http;host="example"'
        assert fields[b"via"] == b"1.1 headgate"
        assert fields[b"content-length"] == b"1"
        assert fields[b"accept"] == b"x"
        assert (fields[b"te"], fields[b"connection"]) == (b"trailers", b"te")
        dropped = {b"x-secret", b"keep-alive", b"upgrade", b"proxy-authorization"}
        assert not dropped & fields.keys()
