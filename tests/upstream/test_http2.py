"""HTTP/2 to instances: a scripted server speaks raw frames, right and wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.http.message import Headers, Request, Response
from gateway.pipeline.errors import (
    GatewayError,
    Overloaded,
    Retry,
    UpstreamClosedIdle,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.server.timers import SweptTimers
from gateway.upstream import http2, http2_connections
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.upstream import HttpUpstream
from tests.fakes.http2_client import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Client,
    frame,
    number,
    settings,
)
from tests.fakes.relay import Address
from tests.fakes.wires import until

OK = [(":status", "200"), ("content-type", "text/plain")]


class Server(Http2Client):
    """The instance's end of one connection."""

    async def begin(self, hello: bytes = settings()) -> None:
        assert await self.reader.readexactly(len(PREFACE)) == PREFACE
        self.send(hello)

    async def next_request(self) -> int:
        """Read on to a request's head; returns its stream."""
        return (await self.until(HEADERS)).stream

    def answer(self, stream: int, body: bytes = b"ok") -> None:  # type: ignore[override]
        self.send(self.head(stream, OK, False), frame(DATA, END_STREAM, stream, body))


class Recorder:
    """A sink."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.response: Response | None = None
        self.body = b""
        self.error: GatewayError | None = None
        self.done = False

    def on_ready(self) -> None:
        self.events.append("ready")

    def on_interim(self, response: Response) -> None:
        self.events.append(f"interim {response.status}")

    def on_response(self, response: Response) -> None:
        self.events.append("response")
        self.response = response
        if response.body is not None:
            self.body = response.body
            self.done = True

    def on_chunk(self, data: bytes, last: bool) -> None:
        self.events.append("last" if last else "chunk")
        self.body += data
        self.done = last

    def on_error(self, error: GatewayError) -> None:
        self.events.append(error.code)
        self.error = error
        self.done = True

    def on_writable(self, ready: bool) -> None:
        self.events.append("writable" if ready else "full")


Script = Callable[[Server], Awaitable[None]]


class World:
    def __init__(self, upstream: HttpUpstream, port: int) -> None:
        self.upstream = upstream
        self.address = Address("127.0.0.1", port, b"a.example:1", http2=True)
        self.connections = 0

    def send(
        self,
        body: bytes | None = b"",
        headers: Headers | None = None,
        time: float = 5.0,
        method: bytes = b"POST",
    ):
        sink = Recorder()
        length = None if body is None else len(body)
        request = Request(b"POST", b"/p", headers or [], body=body, length=length)
        until = asyncio.get_running_loop().time() + time
        return sink, self.upstream.send(self.address, request, until, sink)

    async def ask(self, body: bytes | None = b"", **more: object) -> Recorder:
        sink, _ = self.send(body, **more)  # type: ignore[arg-type]
        await until(lambda: sink.done)
        return sink


@asynccontextmanager
async def world(script: Script, connections: ConnectionSettings | None = None) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    upstream = HttpUpstream(loop, timers, connections)
    made: list[World] = []
    failures: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made[0].connections += 1
        server = Server(reader, writer)
        try:
            await script(server)
        except (AssertionError, asyncio.IncompleteReadError, ConnectionError, TimeoutError) as failure:
            failures.append(failure)
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.append(World(upstream, listening.sockets[0].getsockname()[1]))
    try:
        yield made[0]
    finally:
        upstream.close()
        timers.close()
        listening.close()
        await asyncio.sleep(0.01)


async def polite(server: Server) -> None:
    """Answer everything with `ok`."""
    await server.begin()
    while True:
        server.answer(await server.next_request())


async def test_a_call_is_sent_as_http2_wants_it_and_answered_whole():
    async def script(server: Server) -> None:
        await server.begin()
        stream = await server.next_request()
        await server.until(DATA, stream)
        assert server.heads[stream] == [
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/p"),
                (":authority", "a.example:1"),
                ("te", "trailers"),
                ("x-a", "1"),
                ("content-length", "4"),
            ]
        ]
        assert server.bodies[stream] == b"body"
        assert server.frames[-1].ends
        server.answer(stream, b"yes")
        await server.end()

    async with world(script) as w:
        sink = await w.ask(b"body", headers=[(b"x-a", b"1"), (b"connection", b"x"), (b"te", b"gzip")])
    assert sink.events == ["response"]
    assert sink.body == b"yes"


async def test_many_calls_share_one_connection():
    async with world(polite) as w:
        sinks = [w.send()[0] for _ in range(80)]
        await until(lambda: all(sink.done for sink in sinks))
        assert {sink.body for sink in sinks} == {b"ok"}
        assert w.connections == 1
        (counts,) = w.upstream.counts()
        assert (counts.active, counts.idle, counts.waiting) == (0, 1, 0)


async def test_a_server_that_takes_few_streams_gets_few_per_connection():
    async def script(server: Server) -> None:
        await server.begin(settings(_3=2))
        open_streams = 0
        while True:
            stream = await server.next_request()
            open_streams += 1
            assert open_streams <= 2
            await asyncio.sleep(0.01)
            open_streams -= 1
            server.answer(stream)

    async with world(script) as w:
        first = await w.ask()
        assert first.body == b"ok"
        sinks = [w.send()[0] for _ in range(6)]
        await until(lambda: all(sink.done for sink in sinks))
        assert [sink.error for sink in sinks] == [None] * 6
        assert w.connections > 1


async def test_trailers_are_there_before_the_last_piece():
    async def script(server: Server) -> None:
        await server.begin()
        stream = await server.next_request()
        server.send(server.head(stream, OK, False), frame(DATA, 0, stream, b"abc"))
        await asyncio.sleep(0.02)
        server.send(server.head(stream, [("grpc-status", "0"), ("x-sum", "9"), ("host", "evil")]))
        await server.end()

    async with world(script) as w:
        sink = await w.ask()
    assert sink.events == ["response", "chunk", "last"]
    assert sink.response is not None
    assert sink.response.trailers == [(b"grpc-status", b"0"), (b"x-sum", b"9")]


async def test_a_streamed_body_flows_while_the_answer_does():
    async def script(server: Server) -> None:
        await server.begin()
        stream = await server.next_request()
        server.send(server.head(stream, OK, False))
        for _ in range(3):
            piece = await server.until(DATA, stream)
            server.send(frame(DATA, 0, stream, b"<" + piece.payload + b">"))
        server.send(frame(DATA, END_STREAM, stream))
        await server.end()

    async with world(script) as w:
        sink, call = w.send(None)
        await until(lambda: "ready" in sink.events)
        for number_ in range(3):
            call.write(b"%d" % number_, number_ == 2)
            await until(lambda number_=number_: sink.body.endswith(b"<%d>" % number_))
        await until(lambda: sink.done)
    assert sink.body == b"<0><1><2>"


async def test_a_large_body_waits_for_the_window_and_holds_the_sender_back():
    async def script(server: Server) -> None:
        await server.begin()
        stream = await server.next_request()
        size = 0
        while size < 65_535:
            size += len((await server.until(DATA, stream)).payload)
        await asyncio.sleep(0.05)
        server.send(
            frame(WINDOW_UPDATE, 0, 0, number(1 << 20)), frame(WINDOW_UPDATE, 0, stream, number(1 << 20))
        )
        while size < 300_000:
            size += len((await server.until(DATA, stream)).payload)
        server.answer(stream, b"%d" % size)
        await server.end()

    async with world(script) as w:
        sink, call = w.send(None)
        await until(lambda: "ready" in sink.events)
        call.write(bytes(200_000), False)
        assert sink.events[-1] == "full"
        await until(lambda: "writable" in sink.events)
        call.write(bytes(100_000), True)
        await until(lambda: sink.done)
    assert sink.body == b"300000"


async def test_a_paused_call_holds_no_more_than_a_window_and_others_go_on():
    async def script(server: Server) -> None:
        await server.begin()
        slow = await server.next_request()
        server.send(server.head(slow, OK, False), *[frame(DATA, 0, slow, bytes(16_384))] * 3)
        server.answer(await server.next_request(), b"quick")
        await server.until(WINDOW_UPDATE, slow)
        server.send(frame(DATA, END_STREAM, slow, b"end"))
        await server.end()

    async with world(script) as w:
        slow, call = w.send()
        call.pause()
        quick = await w.ask()
        assert quick.body == b"quick"
        assert slow.body == b""
        call.resume()
        await until(lambda: slow.done)
    assert len(slow.body) == 3 * 16_384 + 3


async def test_a_cancelled_call_resets_its_stream_and_nothing_else():
    async def script(server: Server) -> None:
        await server.begin()
        first = await server.next_request()
        reset = await server.until(RST_STREAM, first)
        assert reset.code == 8
        server.answer(await server.next_request())
        await server.end()

    async with world(script) as w:
        sink, call = w.send()
        await until(lambda: w.connections)
        await asyncio.sleep(0.02)
        call.cancel()
        assert (await w.ask()).body == b"ok"
        assert sink.events == []
        assert w.connections == 1


async def test_a_deadline_ends_one_call_only():
    async def script(server: Server) -> None:
        await server.begin()
        first = await server.next_request()
        await server.until(RST_STREAM, first)
        server.answer(await server.next_request())
        await server.end()

    async with world(script) as w:
        late = await w.ask(time=0.1)
        assert isinstance(late.error, UpstreamTimeout)
        assert (await w.ask()).body == b"ok"
        assert w.connections == 1


async def test_interim_heads_are_told_and_100_is_not():
    async def script(server: Server) -> None:
        await server.begin()
        stream = await server.next_request()
        for status in ("100", "103"):
            server.send(server.head(stream, [(":status", status)], False))
        server.answer(stream)
        await server.end()

    async with world(script) as w:
        sink = await w.ask()
    assert sink.events[0] == "interim 103"
    assert sink.body == b"ok"


# What goes wrong


async def test_a_refused_stream_may_be_sent_elsewhere_whatever_its_method():
    async def script(server: Server) -> None:
        await server.begin()
        server.send(frame(RST_STREAM, 0, await server.next_request(), number(7)))
        await server.end()

    async with world(script) as w:
        sink = await w.ask()
    assert isinstance(sink.error, UpstreamRefused)
    assert sink.error.retry is Retry.ALWAYS


async def test_goaway_refuses_what_it_leaves_out_and_finishes_the_rest():
    async def script(server: Server) -> None:
        await server.begin()
        first = await server.next_request()
        await server.next_request()
        server.send(frame(GOAWAY, 0, 0, number(first) + number(0)))
        await asyncio.sleep(0.02)
        server.answer(first)
        await server.end()

    async with world(script) as w:
        one, _ = w.send()
        two, _ = w.send()
        await until(lambda: one.done and two.done)
        assert one.body == b"ok"
        assert isinstance(two.error, UpstreamRefused)
        w.send()
        await until(lambda: w.connections == 2)


@pytest.mark.parametrize("code", [0, 2, 8, 11])
async def test_a_reset_is_a_reset(code):
    async def script(server: Server) -> None:
        await server.begin()
        server.send(frame(RST_STREAM, 0, await server.next_request(), number(code)))
        await server.end()

    async with world(script) as w:
        sink = await w.ask()
    assert isinstance(sink.error, UpstreamReset)
    assert sink.error.retry is Retry.IF_IDEMPOTENT


async def test_a_reset_after_the_whole_answer_changes_nothing():
    async def script(server: Server) -> None:
        await server.begin()
        stream = await server.next_request()
        server.answer(stream, b"no need to read on")
        server.send(frame(RST_STREAM, 0, stream, number(0)))
        await server.end()

    async with world(script) as w:
        sink, _ = w.send(None)
        await until(lambda: sink.done)
    assert sink.body == b"no need to read on"
    assert sink.error is None


async def test_a_dead_connection_fails_all_its_calls():
    async def script(server: Server) -> None:
        await server.begin()
        await server.next_request()
        await server.next_request()

    async with world(script) as w:
        sinks = [w.send()[0] for _ in range(2)]
        await until(lambda: all(sink.done for sink in sinks))
    assert all(isinstance(sink.error, UpstreamReset) for sink in sinks)


async def test_an_idle_connection_that_dies_as_it_is_used_again_is_the_known_race():
    async def script(server: Server) -> None:
        await server.begin()
        server.answer(await server.next_request())
        await server.next_request()

    async with world(script) as w:
        assert (await w.ask()).body == b"ok"
        again = await w.ask()
    assert isinstance(again.error, UpstreamClosedIdle)


BROKEN = {
    "no status": lambda s, n: s.head(n, [("x", "1")], False),
    "status in words": lambda s, n: s.head(n, [(":status", "fine")], False),
    "two statuses": lambda s, n: s.head(n, [(":status", "200"), (":status", "200")], False),
    "a request's pseudo-header": lambda s, n: s.head(n, [(":status", "200"), (":path", "/")], False),
    "a name in capitals": lambda s, n: s.head(n, [(":status", "200"), ("X-A", "1")], False),
    "a value with LF": lambda s, n: s.head(n, [(":status", "200"), ("x", "a\nb")], False),
    "connection": lambda s, n: s.head(n, [(":status", "200"), ("connection", "close")], False),
    "101": lambda s, n: s.head(n, [(":status", "101")], False),
    "a body longer than announced": lambda s, n: (
        s.head(n, [(":status", "200"), ("content-length", "1")], False) + frame(DATA, 0, n, b"abc")
    ),
    "a body shorter than announced": lambda s, n: (
        s.head(n, [(":status", "200"), ("content-length", "9")], False) + frame(DATA, END_STREAM, n, b"abc")
    ),
    "DATA before the head": lambda s, n: frame(DATA, 0, n, b"abc"),
    "a push": lambda s, n: frame(5, END_HEADERS, n, number(2) + s.block([(":method", "GET")])),
    "unreadable HPACK": lambda s, n: frame(HEADERS, END_HEADERS, n, b"\xff" * 9),
    "a frame that is too long": lambda s, n: frame(DATA, 0, n, bytes(16_385)),
    "HTTP/1": lambda s, n: b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("say", BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_is_not_http2_fails_the_call(say):
    async def script(server: Server) -> None:
        await server.begin()
        server.send(say(server, await server.next_request()))
        await server.end()

    async with world(script) as w:
        sink = await w.ask()
    assert isinstance(sink.error, UpstreamProtocolError)


async def test_a_server_that_speaks_http_1_from_the_start_fails_the_call():
    async def script(server: Server) -> None:
        server.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await server.end()

    async with world(script) as w:
        sink = await w.ask()
    assert isinstance(sink.error, UpstreamProtocolError | UpstreamReset)


async def test_nobody_listens(unused_tcp_port):
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    upstream = HttpUpstream(loop, timers)
    sink = Recorder()
    address = Address("127.0.0.1", unused_tcp_port, b"x", http2=True)
    upstream.send(address, Request(b"GET", b"/", []), loop.time() + 5, sink)
    await until(lambda: sink.done)
    assert isinstance(sink.error, UpstreamConnectError)
    upstream.close()
    timers.close()


async def test_too_many_waiting_calls_are_overload(monkeypatch):
    monkeypatch.setattr(http2_connections, "_MAX_CONNECTIONS", 1)

    async def script(server: Server) -> None:
        await server.begin(settings(_3=1))
        server.answer(await server.next_request())
        await server.end()

    async with world(script, ConnectionSettings(max_waiting=1, connect_timeout=0.2)) as w:
        await w.ask()
        sinks = [w.send()[0] for _ in range(3)]
        await until(lambda: sinks[1].done and sinks[2].done)
        assert not sinks[0].done
        assert all(isinstance(sink.error, Overloaded) for sink in sinks[1:])


async def test_a_silent_instance_is_asked_and_given_up(monkeypatch):
    monkeypatch.setattr(http2, "SILENCE", 0.1)
    monkeypatch.setattr(http2, "ANSWER", 0.1)
    asked = []

    async def script(server: Server) -> None:
        await server.begin()
        await server.next_request()
        asked.append(await server.until(PING))
        await server.end()

    async with world(script) as w:
        sink = await w.ask()
    assert asked
    assert isinstance(sink.error, UpstreamReset)


async def test_a_silent_instance_that_answers_the_question_is_waited_for(monkeypatch):
    monkeypatch.setattr(http2, "SILENCE", 0.05)
    monkeypatch.setattr(http2, "ANSWER", 0.1)

    async def script(server: Server) -> None:
        await server.begin()
        stream = await server.next_request()
        ping = await server.until(PING)
        server.send(frame(PING, ACK, 0, ping.payload))
        await asyncio.sleep(0.3)
        server.answer(stream)
        await server.end()

    async with world(script) as w:
        assert (await w.ask()).body == b"ok"


async def test_an_idle_connection_is_closed_after_its_time():
    ended = []

    async def script(server: Server) -> None:
        await server.begin()
        server.answer(await server.next_request())
        ended.append(await server.end())

    async with world(script, ConnectionSettings(idle_timeout=0.1)) as w:
        await w.ask()
        await until(lambda: ended)
        await until(lambda: w.upstream.counts()[0].idle == 0)
    assert ended[0] is not None
    assert ended[0].code == 0


async def test_settings_are_acknowledged():
    acks = []

    async def script(server: Server) -> None:
        await server.begin()
        await server.next_request()
        while not acks:
            got = await server.until(SETTINGS)
            if got.flags & ACK:
                acks.append(got)
        server.answer(1)
        await server.end()

    async with world(script) as w:
        await w.ask()
    assert acks
