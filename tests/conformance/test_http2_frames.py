"""RFC 9113 as a table: frames that a client may or may not send, and what must become of them.

Each row sends raw frames to a real listener and says what comes back:

    GoAway(codes)        the connection ends, with a GOAWAY of one of these codes
    Reset(stream, codes) that stream ends alone; the connection and a request after it are fine
    Answer(stream, n)    the stream is answered with this status; the connection is fine
    Works()              nothing is wrong; the connection and a request after it are fine
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from gateway.http.message import Request, Response
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Downstream, Peer
from gateway.server.listener import Listener
from gateway.server.settings import ServerSettings
from gateway.server.timers import SweptTimers
from tests.fakes.http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Client,
    frame,
    number,
    request,
    settings,
)
from tests.fakes.relay import SystemClock

NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, _, CALM = range(12)


@dataclass(frozen=True)
class GoAway:
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Reset:
    stream: int
    codes: tuple[int, ...] = (PROTOCOL,)


@dataclass(frozen=True)
class Answer:
    stream: int
    status: int = 200


@dataclass(frozen=True)
class Works:
    pass


Expected = GoAway | Reset | Answer | Works
Sends = Callable[[Http2Client], bytes]


class Echo:
    """Answers each request, once its body is there, with the body's size; /wait never."""

    def __init__(self, request: Request, peer: Peer, down: Downstream) -> None:
        self.request = request
        self.down = down
        self.size = 0

    def start(self) -> None:
        if self.request.body is None:
            self.down.proceed()
        else:
            self._answer(len(self.request.body))

    def on_body(self, data: bytes, last: bool) -> None:
        self.size += len(data)
        if last:
            self._answer(self.size)

    def _answer(self, size: int) -> None:
        if self.request.path != b"/wait":
            self.down.reply(Response(200, [(b"x-size", b"%d" % size)], b"ok"))

    def on_body_error(self, error: GatewayError) -> None:
        self.down.reply(Response(error.status, [], b""))

    def on_writable(self, ready: bool) -> None: ...

    def on_client_gone(self) -> None: ...

    def crash(self, bug: Exception) -> None:
        raise bug


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    made = Listener(Echo, timers, SystemClock(), ServerSettings(linger=0.2))
    await made.start("127.0.0.1", 0)
    yield made
    made.close()
    for _ in range(3):  # transports close over a few turns of the loop
        await asyncio.sleep(0)
    timers.close()


async def check(listener: Listener, sends: Sends, expected: Expected, hello: bytes | None = None) -> None:
    client = await Http2Client.connect(listener.address, PREFACE + settings() if hello is None else hello)
    client.send(sends(client))
    try:
        if isinstance(expected, GoAway):
            last = await client.end()
            assert last is not None, "the connection ended without a GOAWAY"
            assert last.code in expected.codes
            return
        if isinstance(expected, Reset):
            assert (await client.until(RST_STREAM, expected.stream)).code in expected.codes
        elif isinstance(expected, Answer):
            assert await client.answer(expected.stream) == expected.status
        await client.ping()
        client.send(client.head(9001, request()))
        assert await client.answer(9001) == 200
    finally:
        client.close()


def fields(*pairs: tuple[str, str]) -> Sends:
    return lambda c: c.head(1, pairs)


def with_field(name: str, value: str) -> Sends:
    return lambda c: c.head(1, request((name, value)))


def get(c: Http2Client, stream: int = 1, end: bool = True) -> bytes:
    return c.head(stream, request(), end)


def post(c: Http2Client, *more: tuple[str, str], stream: int = 1, path: str = "/") -> bytes:
    return c.head(stream, request(*more, method="POST", path=path), False)


def in_pieces(block: bytes, *cuts: int) -> bytes:
    """A header block over several frames."""
    pieces = [block[at:to] for at, to in zip((0, *cuts), (*cuts, len(block)), strict=True)]
    whole = frame(HEADERS, END_STREAM, 1, pieces[0])
    for piece in pieces[1:-1]:
        whole += frame(CONTINUATION, 0, 1, piece)
    return whole + frame(CONTINUATION, END_HEADERS, 1, pieces[-1])


# §3.4, §4: how it begins, and frames as such

BEGINNING: dict[str, tuple[bytes, Expected]] = {
    "3.4 no SETTINGS first": (PREFACE + frame(PING, payload=bytes(8)), GoAway((PROTOCOL,))),
    "3.4 an ACK first": (PREFACE + frame(SETTINGS, ACK), GoAway((PROTOCOL,))),
    "3.4 a broken preface": (PREFACE[:20] + b"XX\r\n" + settings(), GoAway((PROTOCOL,))),
    "3.4 HEADERS first": (PREFACE + frame(HEADERS, 5, 1, b"\x82"), GoAway((PROTOCOL,))),
    "3.4 WINDOW_UPDATE first": (PREFACE + frame(WINDOW_UPDATE, payload=number(1)), GoAway((PROTOCOL,))),
    "3.4 settings follow": (PREFACE + settings() + settings(_3=7), Works()),
    "6.5 empty settings": (PREFACE + settings(), Works()),
}


@pytest.mark.parametrize(("hello", "expected"), BEGINNING.values(), ids=BEGINNING)
async def test_beginning(listener, hello, expected):
    await check(listener, lambda c: b"", expected, hello)


@pytest.mark.parametrize("cut", [1, 9, 16, 18, 23, 24, 30], ids=lambda cut: f"after {cut} bytes")
async def test_the_preface_may_come_in_pieces(listener, cut):
    hello = PREFACE + settings()
    client = await Http2Client.connect(listener.address, hello[:cut])
    await asyncio.sleep(0.02)
    client.send(hello[cut:], client.head(1, request()))
    assert await client.answer(1) == 200
    client.close()


FRAMES: dict[str, tuple[Sends, Expected]] = {
    "4.1 unknown frame type": (lambda c: frame(0x16, 0xFF, 0, b"whatever"), Works()),
    "4.1 unknown frame type on a stream": (lambda c: frame(0x99, 0, 1, b"whatever"), Works()),
    "4.1 undefined flags": (lambda c: frame(PING, 0x16, 0, bytes(8)), Works()),
    "4.1 reserved bit": (lambda c: frame(PING, 0, 0x80000000, bytes(8)), Works()),
    "4.2 DATA of the largest size": (lambda c: post(c) + frame(DATA, END_STREAM, 1, bytes(16384)), Answer(1)),
    "4.2 DATA too long": (lambda c: post(c) + frame(DATA, 0, 1, bytes(16385)), GoAway((SIZE,))),
    "4.2 DATA too long, not sent": (lambda c: post(c) + frame(DATA, 0, 1, b"", 16_000_000), GoAway((SIZE,))),
    "4.2 HEADERS too long": (lambda c: frame(HEADERS, 5, 1, b"", 16385), GoAway((SIZE,))),
    "4.2 SETTINGS too long": (lambda c: frame(SETTINGS, 0, 0, b"", 16386), GoAway((SIZE,))),
    "4.3 block that HPACK can't read": (lambda c: frame(HEADERS, 5, 1, b"\xff" * 5), GoAway((COMPRESSION,))),
    "4.3 block with an index that is not there": (
        lambda c: frame(HEADERS, 5, 1, b"\xfe"),
        GoAway((COMPRESSION,)),
    ),
    "4.3 table size above what is allowed": (
        lambda c: frame(HEADERS, 5, 1, b"\x3f\xe1\xff\x03\x82\x84\x86"),
        GoAway((COMPRESSION,)),
    ),
    "4.3 block interrupted by PRIORITY": (
        lambda c: frame(HEADERS, 1, 1, c.block(request())) + frame(PRIORITY, 0, 1, bytes(4) + b"\x10"),
        GoAway((PROTOCOL,)),
    ),
    "4.3 block interrupted by another stream": (
        lambda c: frame(HEADERS, 1, 1, c.block(request())) + get(c, 3),
        GoAway((PROTOCOL,)),
    ),
    "4.3 block interrupted by an unknown frame": (
        lambda c: frame(HEADERS, 1, 1, c.block(request())) + frame(0x20, 0, 1),
        GoAway((PROTOCOL,)),
    ),
    "4.3 block in three frames": (
        lambda c: in_pieces(c.block(request()), 5, 9),
        Answer(1),
    ),
    "6.1 DATA on stream 0": (lambda c: frame(DATA, 0, 0, b"x"), GoAway((PROTOCOL,))),
    "6.1 DATA padded": (lambda c: post(c) + frame(DATA, 9, 1, b"\x03abc\0\0\0"), Answer(1)),
    "6.1 DATA with padding as long as it": (
        lambda c: post(c) + frame(DATA, 9, 1, b"\x04abc"),
        GoAway((PROTOCOL,)),
    ),
    "6.1 DATA padded to nothing": (lambda c: post(c) + frame(DATA, 9, 1, b"\x02\0\0"), Answer(1)),
    "6.2 HEADERS on stream 0": (lambda c: frame(HEADERS, 5, 0, b"\x82"), GoAway((PROTOCOL,))),
    "6.2 HEADERS with wrong padding": (
        lambda c: frame(HEADERS, 5 | PADDED, 1, b"\xff" + c.block(request())),
        GoAway((PROTOCOL,)),
    ),
    "6.2 HEADERS padded": (
        lambda c: frame(HEADERS, 5 | PADDED, 1, b"\x02" + c.block(request()) + b"\0\0"),
        Answer(1),
    ),
    "6.2 HEADERS with priority": (
        lambda c: frame(HEADERS, 5 | PRIORITIZED, 1, number(0) + b"\x10" + c.block(request())),
        Answer(1),
    ),
    "6.3 PRIORITY on stream 0": (lambda c: frame(PRIORITY, 0, 0, bytes(5)), GoAway((PROTOCOL,))),
    "6.3 PRIORITY of a wrong length": (lambda c: frame(PRIORITY, 0, 1, bytes(4)), GoAway((SIZE,))),
    "6.3 PRIORITY on an idle stream": (lambda c: frame(PRIORITY, 0, 7, number(0) + b"\x10"), Works()),
    "6.4 RST_STREAM on stream 0": (lambda c: frame(RST_STREAM, 0, 0, number(8)), GoAway((PROTOCOL,))),
    "6.4 RST_STREAM on an idle stream": (lambda c: frame(RST_STREAM, 0, 1, number(8)), GoAway((PROTOCOL,))),
    "6.4 RST_STREAM of a wrong length": (
        lambda c: post(c) + frame(RST_STREAM, 0, 1, number(8)[:3]),
        GoAway((SIZE,)),
    ),
    "6.4 RST_STREAM on an open stream": (lambda c: post(c) + frame(RST_STREAM, 0, 1, number(8)), Works()),
    "6.4 RST_STREAM of an unknown code": (
        lambda c: post(c) + frame(RST_STREAM, 0, 1, number(0xFEED)),
        Works(),
    ),
    "6.5 SETTINGS on a stream": (lambda c: frame(SETTINGS, 0, 1), GoAway((PROTOCOL,))),
    "6.5 SETTINGS ACK with content": (lambda c: frame(SETTINGS, ACK, 0, bytes(6)), GoAway((SIZE,))),
    "6.5 SETTINGS of an odd length": (lambda c: frame(SETTINGS, 0, 0, bytes(3)), GoAway((SIZE,))),
    "6.5.2 ENABLE_PUSH of 2": (lambda c: settings(_2=2), GoAway((PROTOCOL,))),
    "6.5.2 ENABLE_PUSH of 1": (lambda c: settings(_2=1), Works()),
    "6.5.2 INITIAL_WINDOW_SIZE too large": (lambda c: settings(_4=2**31), GoAway((FLOW,))),
    "6.5.2 MAX_FRAME_SIZE too small": (lambda c: settings(_5=16383), GoAway((PROTOCOL,))),
    "6.5.2 MAX_FRAME_SIZE too large": (lambda c: settings(_5=2**24), GoAway((PROTOCOL,))),
    "6.5.2 MAX_FRAME_SIZE of the largest": (lambda c: settings(_5=2**24 - 1), Works()),
    "6.5.2 an unknown setting": (lambda c: settings(_255=1), Works()),
    "6.5.2 a huge header table": (lambda c: settings(_1=2**32 - 1), Works()),
    "6.5.2 no header table": (lambda c: settings(_1=0), Works()),
    "6.6 PUSH_PROMISE from a client": (
        lambda c: get(c, end=False) + frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + c.block(request())),
        GoAway((PROTOCOL,)),
    ),
    "6.7 PING on a stream": (lambda c: frame(PING, 0, 1, bytes(8)), GoAway((PROTOCOL,))),
    "6.7 PING of a wrong length": (lambda c: frame(PING, 0, 0, bytes(7)), GoAway((SIZE,))),
    "6.7 PING ACK that nobody asked for": (lambda c: frame(PING, ACK, 0, bytes(8)), Works()),
    "6.8 GOAWAY on a stream": (lambda c: frame(GOAWAY, 0, 1, bytes(8)), GoAway((PROTOCOL,))),
    "6.8 GOAWAY too short": (lambda c: frame(GOAWAY, 0, 0, bytes(7)), GoAway((SIZE,))),
    "6.9 WINDOW_UPDATE of 0 for the connection": (
        lambda c: frame(WINDOW_UPDATE, 0, 0, number(0)),
        GoAway((PROTOCOL,)),
    ),
    "6.9 WINDOW_UPDATE of 0 for a stream": (
        lambda c: post(c) + frame(WINDOW_UPDATE, 0, 1, number(0)),
        Reset(1),
    ),
    "6.9 WINDOW_UPDATE of a wrong length": (lambda c: frame(WINDOW_UPDATE, 0, 0, bytes(3)), GoAway((SIZE,))),
    "6.9 WINDOW_UPDATE on an idle stream": (
        lambda c: frame(WINDOW_UPDATE, 0, 1, number(1)),
        GoAway((PROTOCOL,)),
    ),
    "6.9.1 the connection's window overflows": (
        lambda c: frame(WINDOW_UPDATE, 0, 0, number(2**31 - 1)) * 2,
        GoAway((FLOW,)),
    ),
    "6.9.1 a stream's window overflows": (
        lambda c: post(c) + frame(WINDOW_UPDATE, 0, 1, number(2**31 - 1)),
        Reset(1, (FLOW,)),
    ),
    "6.9.1 more DATA than the stream's window": (
        lambda c: (
            post(c, path="/wait") + frame(DATA, 0, 1, bytes(16384)) * 3 + frame(DATA, 0, 1, bytes(16384))
        ),
        GoAway((FLOW,)),
    ),
    "6.9.2 INITIAL_WINDOW_SIZE makes a window overflow": (
        lambda c: post(c) + frame(WINDOW_UPDATE, 0, 1, number(2**30)) + settings(_4=2**31 - 1),
        GoAway((FLOW,)),
    ),
    "6.10 CONTINUATION on stream 0": (
        lambda c: frame(HEADERS, 1, 1, c.block(request())) + frame(CONTINUATION, END_HEADERS, 0),
        GoAway((PROTOCOL,)),
    ),
    "6.10 CONTINUATION without HEADERS": (
        lambda c: get(c, end=False) + frame(CONTINUATION, END_HEADERS, 1, c.block([("x", "y")])),
        GoAway((PROTOCOL,)),
    ),
    "6.10 CONTINUATION of another stream": (
        lambda c: frame(HEADERS, 1, 1, c.block(request())) + frame(CONTINUATION, END_HEADERS, 3),
        GoAway((PROTOCOL,)),
    ),
    "6.10 CONTINUATION after DATA": (
        lambda c: get(c, end=False) + frame(DATA, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 1),
        GoAway((PROTOCOL,)),
    ),
}


@pytest.mark.parametrize(("sends", "expected"), FRAMES.values(), ids=FRAMES)
async def test_frames(listener, sends, expected):
    await check(listener, sends, expected)


# §5: the states of streams

STREAMS: dict[str, tuple[Sends, Expected]] = {
    "5.1 DATA on an idle stream": (lambda c: frame(DATA, 0, 1, b"x"), GoAway((PROTOCOL,))),
    "5.1 DATA after the end": (lambda c: get(c) + frame(DATA, END_STREAM, 1, b"x"), Reset(1, (CLOSED,))),
    "5.1 HEADERS after the end": (lambda c: get(c) + get(c), Reset(1, (CLOSED,))),
    "5.1 CONTINUATION after the end": (
        lambda c: get(c) + frame(CONTINUATION, END_HEADERS, 1, c.block([("x", "y")])),
        GoAway((PROTOCOL, CLOSED)),
    ),
    "5.1 DATA after RST_STREAM": (
        lambda c: post(c) + frame(RST_STREAM, 0, 1, number(8)) + frame(DATA, 0, 1, b"x"),
        Reset(1, (CLOSED,)),
    ),
    "5.1 HEADERS after RST_STREAM": (
        lambda c: post(c) + frame(RST_STREAM, 0, 1, number(8)) + get(c),
        Reset(1, (CLOSED,)),
    ),
    "5.1 WINDOW_UPDATE after the end": (lambda c: get(c) + frame(WINDOW_UPDATE, 0, 1, number(9)), Answer(1)),
    "5.1 PRIORITY after the end": (lambda c: get(c) + frame(PRIORITY, 0, 1, number(0) + b"\x10"), Answer(1)),
    "5.1 RST_STREAM after the end": (lambda c: get(c) + frame(RST_STREAM, 0, 1, number(8)), Works()),
    "5.1.1 an even stream": (lambda c: get(c, 2), GoAway((PROTOCOL,))),
    "5.1.1 a lower stream than before": (lambda c: get(c, 5) + get(c, 3), GoAway((PROTOCOL, CLOSED))),
    "5.1.1 numbers may be left out": (lambda c: get(c, 3) + get(c, 99), Answer(99)),
    "5.3.1 PRIORITY that depends on itself": (
        lambda c: frame(PRIORITY, 0, 1, number(1) + b"\x10"),
        GoAway((PROTOCOL,)),
    ),
}


@pytest.mark.parametrize(("sends", "expected"), STREAMS.values(), ids=STREAMS)
async def test_streams(listener, sends, expected):
    await check(listener, sends, expected)


# §8: messages

M, S, P, A = (":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")
BAD = Reset(1)

MESSAGES: dict[str, tuple[Sends, Expected]] = {
    "8.1 trailers": (
        lambda c: post(c, ("trailer", "x-sum")) + frame(DATA, 0, 1, b"abc") + c.head(1, [("x-sum", "3")]),
        Answer(1),
    ),
    "8.1 trailers without END_STREAM": (lambda c: post(c) + c.head(1, [("x-sum", "3")], False), BAD),
    "8.1 trailers with a pseudo-header": (lambda c: post(c) + c.head(1, [(":path", "/x")]), BAD),
    "8.1 trailers that may not trail": (lambda c: post(c) + c.head(1, [("authorization", "x")]), BAD),
    "8.1 trailers with a forged Host": (lambda c: post(c) + c.head(1, [("host", "b.example")]), BAD),
    "8.1.1 Content-Length that is too small": (
        lambda c: post(c, ("content-length", "1")) + frame(DATA, END_STREAM, 1, b"xyz"),
        BAD,
    ),
    "8.1.1 Content-Length that is too large": (
        lambda c: post(c, ("content-length", "9")) + frame(DATA, END_STREAM, 1, b"xyz"),
        BAD,
    ),
    "8.1.1 Content-Length over several frames": (
        lambda c: (
            post(c, ("content-length", "4")) + frame(DATA, 0, 1, b"xyz") + frame(DATA, END_STREAM, 1, b"xy")
        ),
        BAD,
    ),
    "8.1.1 Content-Length that fits": (
        lambda c: post(c, ("content-length", "3")) + frame(DATA, END_STREAM, 1, b"xyz"),
        Answer(1),
    ),
    "8.1.1 Content-Length without a body": (
        lambda c: c.head(1, request(("content-length", "3"), method="POST")),
        BAD,
    ),
    "8.1.1 Content-Length of 0 without a body": (
        lambda c: c.head(1, request(("content-length", "0"), method="POST")),
        Answer(1),
    ),
    "8.1.1 Content-Length twice": (
        lambda c: post(c, ("content-length", "3"), ("content-length", "3")) + frame(DATA, 1, 1, b"xyz"),
        BAD,
    ),
    "8.1.1 Content-Length with a sign": (lambda c: post(c, ("content-length", "+3")), BAD),
    "8.1.1 Content-Length that is a list": (lambda c: post(c, ("content-length", "3, 3")), BAD),
    "8.1.1 Content-Length with leading zeros": (lambda c: post(c, ("content-length", "03")), BAD),
    "8.2 a name in capitals": (with_field("X-Test", "1"), BAD),
    "8.2.1 a name with a space": (with_field("x test", "1"), BAD),
    "8.2.1 a name with a colon": (with_field("x:test", "1"), BAD),
    "8.2.1 an empty name": (with_field("", "1"), BAD),
    "8.2.1 a name with a control character": (with_field("x\x01", "1"), BAD),
    "8.2.1 a name with DEL": (with_field("x\x7f", "1"), BAD),
    "8.2.1 a value with NUL": (with_field("x", "a\x00b"), BAD),
    "8.2.1 a value with LF": (with_field("x", "a\nb"), BAD),
    "8.2.1 a value with CR": (with_field("x", "a\rb"), BAD),
    "8.2.1 a value that forges a field": (with_field("x", "a\r\nhost: evil"), BAD),
    "8.2.1 a value with a space before it": (with_field("x", " a"), BAD),
    "8.2.1 a value with a tab after it": (with_field("x", "a\t"), BAD),
    "8.2.1 an empty value": (with_field("x", ""), Answer(1)),
    "8.2.1 a value with a tab inside": (with_field("x", "a\tb"), Answer(1)),
    "8.2.2 Connection": (with_field("connection", "keep-alive"), BAD),
    "8.2.2 Keep-Alive": (with_field("keep-alive", "timeout=5"), BAD),
    "8.2.2 Proxy-Connection": (with_field("proxy-connection", "keep-alive"), BAD),
    "8.2.2 Transfer-Encoding": (with_field("transfer-encoding", "chunked"), BAD),
    "8.2.2 Upgrade": (with_field("upgrade", "websocket"), BAD),
    "8.2.2 TE: gzip": (with_field("te", "trailers, gzip"), BAD),
    "8.2.2 TE: trailers": (with_field("te", "trailers"), Answer(1)),
    "8.2.3 a cookie in crumbs": (
        lambda c: c.head(1, request(("cookie", "a=1"), ("cookie", "b=2"))),
        Answer(1),
    ),
    "8.3 an unknown pseudo-header": (fields(M, S, P, A, (":test", "1")), BAD),
    "8.3 a response's pseudo-header": (fields(M, S, P, A, (":status", "200")), BAD),
    "8.3 a pseudo-header after a field": (fields(M, S, P, ("x", "1"), A), BAD),
    "8.3 a pseudo-header in capitals": (fields((":Method", "GET"), S, P, A), BAD),
    "8.3.1 no method": (fields(S, P, A), BAD),
    "8.3.1 an empty method": (fields((":method", ""), S, P, A), BAD),
    "8.3.1 a method with a space": (fields((":method", "GET /x"), S, P, A), BAD),
    "8.3.1 a method twice": (fields(M, M, S, P, A), BAD),
    "8.3.1 no scheme": (fields(M, P, A), BAD),
    "8.3.1 a scheme twice": (fields(M, S, S, P, A), BAD),
    "8.3.1 an odd scheme": (fields(M, (":scheme", "ftp"), P, A), BAD),
    "8.3.1 no path": (fields(M, S, A), BAD),
    "8.3.1 an empty path": (fields(M, S, (":path", ""), A), BAD),
    "8.3.1 a path twice": (fields(M, S, P, P, A), BAD),
    "8.3.1 a path that is not absolute": (fields(M, S, (":path", "x"), A), BAD),
    "8.3.1 a path that is a URL": (fields(M, S, (":path", "http://a.example/"), A), BAD),
    "8.3.1 * for GET": (fields(M, S, (":path", "*"), A), BAD),
    "8.3.1 * for OPTIONS": (fields((":method", "OPTIONS"), S, (":path", "*"), A), Answer(1)),
    "8.3.1 no authority and no Host": (fields(M, S, P), BAD),
    "8.3.1 an empty authority": (fields(M, S, P, (":authority", "")), BAD),
    "8.3.1 an authority twice": (fields(M, S, P, A, A), BAD),
    "8.3.1 an authority with a user": (fields(M, S, P, (":authority", "me@a.example")), BAD),
    "8.3.1 an authority with a comma": (fields(M, S, P, (":authority", "a.example,b.example")), BAD),
    "8.3.1 Host in place of the authority": (fields(M, S, P, ("host", "a.example")), Answer(1)),
    "8.3.1 Host as the authority": (fields(M, S, P, A, ("host", "A.example")), Answer(1)),
    "8.3.1 Host against the authority": (fields(M, S, P, A, ("host", "b.example")), BAD),
    "8.3.1 Host twice": (fields(M, S, P, A, ("host", "a.example"), ("host", "a.example")), BAD),
    "8.3.1 https over a plain connection": (fields(M, (":scheme", "https"), P, A), Answer(1)),
    "8.5 CONNECT": (fields((":method", "CONNECT"), A), Answer(1, 400)),
    "8.5 CONNECT with a path": (fields((":method", "CONNECT"), S, P, A), BAD),
    "8.5 CONNECT without an authority": (fields((":method", "CONNECT")), BAD),
    "RFC 8441 :protocol where it was not offered": (
        fields((":method", "CONNECT"), S, P, A, (":protocol", "websocket")),
        BAD,
    ),
    "10.3 a path with a line break": (fields(M, S, (":path", "/\r\n"), A), Answer(1, 400)),
    "10.3 a path with a space": (fields(M, S, (":path", "/a b"), A), Answer(1, 400)),
    "10.3 a path that climbs": (fields(M, S, (":path", "/../x"), A), Answer(1, 400)),
    "10.3 a path with an escaped slash": (fields(M, S, (":path", "/a%2Fb"), A), Answer(1, 400)),
    "10.3 a path with a fragment": (fields(M, S, (":path", "/a#b"), A), Answer(1, 400)),
    "RFC 9110 TRACE": (fields((":method", "TRACE"), S, P, A), Answer(1, 400)),
    "RFC 9110 an expectation that can't be met": (with_field("expect", "a miracle"), Answer(1, 417)),
    "a name with an underscore": (with_field("x_real_ip", "1"), Answer(1, 400)),
    "a path that is too long": (fields(M, S, (":path", "/" + "a" * 9000), A), Answer(1, 414)),
    "too many fields": (
        lambda c: c.head(1, request(*[(f"x-{n}", "1") for n in range(120)])),
        Answer(1, 431),
    ),
    "too large a head": (lambda c: big_head(c), Answer(1, 431)),
}


def big_head(c: Http2Client) -> bytes:
    """A head of 33 KiB."""
    return in_pieces(c.block(request(*[(f"x-{n}", "a" * 990) for n in range(34)])), 16000, 32000)


@pytest.mark.parametrize(("sends", "expected"), MESSAGES.values(), ids=MESSAGES)
async def test_messages(listener, sends, expected):
    await check(listener, sends, expected)


async def test_the_table_is_as_long_as_is_claimed():
    assert len(BEGINNING) + len(FRAMES) + len(STREAMS) + len(MESSAGES) >= 140


async def test_a_stream_too_many_is_refused_alone(listener):
    """§5.1.2, §8.7: REFUSED_STREAM says that nothing was processed; the hundred others go on."""
    client = await Http2Client.connect(listener.address)
    client.send(*[post(client, stream=1 + 2 * n) for n in range(101)])
    assert (await client.until(RST_STREAM)).code == REFUSED
    assert client.frames[-1].stream == 201
    client.send(*[frame(DATA, END_STREAM, 1 + 2 * n, b"x") for n in range(100)])
    assert await client.answer(199) == 200
    assert all(dict(heads[0])[":status"] == "200" for heads in client.heads.values())
    client.close()


async def test_expect_100_continue_is_answered_before_the_body(listener):
    client = await Http2Client.connect(listener.address)
    client.send(post(client, ("expect", "100-continue")))
    await client.until(HEADERS, 1)
    assert client.heads[1] == [[(":status", "100")]]
    client.send(frame(DATA, END_STREAM, 1, b"x"))
    assert await client.answer(1) == 200
    client.close()


async def test_a_preface_behind_a_request_of_http_1_is_refused(listener):
    """A proxy in front that forwards it as a request would otherwise lend its connection to an attacker."""
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + PREFACE + settings())
    answers = await asyncio.wait_for(reader.read(), 5)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in answers
    writer.close()
