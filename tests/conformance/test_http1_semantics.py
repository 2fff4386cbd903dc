"""What a proxy must leave alone, and what it must answer for: ranges, conditions, old clients, other targets.

RFC 9110 §8.8, §13, §14, §15; RFC 9112 §3.2, §9. The instance is scripted; every byte that it gets is known.
"""

from __future__ import annotations

import pytest

from tests.fakes.wires import answers, echo, wires

DATE = b"Sun, 22 Nov 2026 18:00:00 GMT"
MULTIPART = (
    b"--x\r\nContent-Range: bytes 0-1/9\r\n\r\nab\r\n--x\r\nContent-Range: bytes 4-5/9\r\n\r\nef\r\n--x--\r\n"
)

UNTOUCHED = {
    "a part": (
        b"Range: bytes=0-1",
        b'206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nETag: "v1"\r\nContent-Length: 2\r\n\r\nab',
        b"ab",
    ),
    "several parts": (
        b"Range: bytes=0-1,4-5",
        b"206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(MULTIPART), MULTIPART),
        MULTIPART,
    ),
    "a part of nothing": (
        b"Range: bytes=99-",
        b"416 Range Not Satisfiable\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n",
        b"",
    ),
    "part or all": (
        b'If-Range: "v0"',
        b'200 OK\r\nETag: "v1"\r\nAccept-Ranges: bytes\r\nContent-Length: 2\r\n\r\nab',
        b"ab",
    ),
    "not modified": (
        b'If-None-Match: W/"v1", "v2"',
        b'304 Not Modified\r\nETag: W/"v1"\r\nContent-Length: 9\r\n\r\n',
        b"",
    ),
    "not modified since": (
        b"If-Modified-Since: " + DATE,
        b"304 Not Modified\r\nLast-Modified: %b\r\n\r\n" % DATE,
        b"",
    ),
    "precondition failed": (
        b'If-Match: "v0"',
        b"412 Precondition Failed\r\nContent-Length: 0\r\n\r\n",
        b"",
    ),
    "no content": (b"Prefer: return=minimal", b"204 No Content\r\nPreference-Applied: x\r\n\r\n", b""),
    "reset content": (b"X: y", b"205 Reset Content\r\nContent-Length: 0\r\n\r\n", b""),
    "an unknown status": (b"X: y", b"299 Whatever\r\nContent-Length: 1\r\n\r\nz", b"z"),
    "a date of its own": (b"X: y", b"200 OK\r\nDate: %b\r\nContent-Length: 0\r\n\r\n" % DATE, b""),
}


@pytest.mark.parametrize(("asked", "wire", "body"), UNTOUCHED.values(), ids=UNTOUCHED.keys())
async def test_what_is_between_client_and_instance_passes_untouched(
    asked: bytes, wire: bytes, body: bytes
) -> None:
    async with wires(answers(b"HTTP/1.1 " + wire)) as world:
        client = await world.connect()
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + asked + b"\r\n\r\n")
            status, fields, got = await client.response()
            assert (status, got) == (int(wire[:3]), body)
            for line in wire.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
                name, _, value = line.partition(b": ")
                assert fields[name.lower()] == value
        name, _, value = asked.partition(b": ")
        assert b"%b: %b\r\n" % (name.lower(), value) in world.instance.heads[0]
        assert world.instance.connections == 1


TARGETS = {
    "absolute": (b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /x?y HTTP/1.1"),
    "absolute without a path": (b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1"),
    "absolute, query only": (b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /?q HTTP/1.1"),
    "absolute, https": (b"GET https://A:443/x HTTP/1.1\r\nHost: a:443\r\n\r\n", b"GET /x HTTP/1.1"),
    "absolute, 1.0 without Host": (b"GET /x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1"),
}


@pytest.mark.parametrize(("wire", "line"), TARGETS.values(), ids=TARGETS.keys())
async def test_other_forms_of_targets_go_on_in_origin_form(wire: bytes, line: bytes) -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(wire)
        assert (await client.response())[0] == 200
        assert world.instance.heads[0].split(b"\r\n")[0] == line


async def test_fields_that_connection_names_end_here_both_ways() -> None:
    fields_sent = b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-End: 2\r\nContent-Length: 0\r\n"
    wire = b"HTTP/1.1 200 OK\r\n" + fields_sent + b"\r\n"
    async with wires(answers(wire)) as world:
        client = await world.connect()
        client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Mine, close\r\nX-Mine: 1\r\nX-All: 2\r\n\r\n"
        )
        _, fields, _ = await client.response()
        assert fields[b"x-end"] == b"2"
        assert not {b"x-hop", b"keep-alive"} & set(fields)
        assert b"x-all: 2" in world.instance.heads[0]
        assert b"x-mine" not in world.instance.heads[0]


async def test_a_stream_to_an_http_1_0_client_runs_until_the_close() -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 20000 + b"0\r\n\r\n"
    async with wires(answers(wire)) as world:
        client = await world.connect()
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        status, fields, body = await client.response()
        assert (status, body) == (200, b"hello" * 20000)
        assert fields[b"connection"] == b"close"
        assert not {b"transfer-encoding", b"content-length"} & set(fields)


async def test_an_http_1_0_client_may_not_upgrade() -> None:
    async with wires(echo) as world:
        client = await world.connect()
        client.send(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.response())[0] == 200
        assert b"pgrade" not in world.instance.heads[0]


async def test_pipelined_requests_behind_a_half_close_are_all_answered() -> None:
    async with wires(echo) as world:
        client = await world.connect()
        for number in range(20):
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n%02d" % number)
        client.writer.write_eof()
        for number in range(20):
            assert (await client.response())[2] == b"%02d" % number
        assert await client.rest() == b""


async def test_what_follows_a_declined_upgrade_is_the_next_request() -> None:
    async with wires(echo) as world:
        client = await world.connect()
        client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
        )
        assert (await client.response())[2] == b""
        assert (await client.response())[2] == b"ok"
