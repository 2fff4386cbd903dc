"""Calls to instances over real sockets: what a sink is told, and which connections live on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.http.message import Request, Response
from gateway.pipeline.errors import (
    GatewayError,
    Overloaded,
    UpstreamClosedIdle,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.server.timers import SweptTimers
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.upstream import ConnectionCounts, HttpUpstream
from tests.fakes.relay import Address
from tests.fakes.wires import Instance, Script, answers, echo, serving, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Recorder:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.response: Response | None = None
        self.body = b""
        self.error: GatewayError | None = None
        self.over = False
        self.at_head: Callable[[], None] | None = None
        self.at_interim: Callable[[], None] | None = None

    def on_ready(self) -> None:
        self.events.append("ready")

    def on_interim(self, response: Response) -> None:
        self.events.append(f"interim {response.status}")
        if self.at_interim is not None:
            self.at_interim()

    def on_response(self, response: Response) -> None:
        self.events.append("response")
        self.response = response
        if self.at_head is not None:
            self.at_head()
        if response.body is not None:
            self.body = response.body
            self.over = True

    def on_chunk(self, data: bytes, last: bool) -> None:
        self.events.append("last" if last else "chunk")
        self.body += data
        self.over = self.over or last

    def on_error(self, error: GatewayError) -> None:
        self.events.append("error")
        self.error = error
        self.over = True

    def on_writable(self, ready: bool) -> None:
        self.events.append("writable" if ready else "full")


@dataclass
class World:
    upstream: HttpUpstream
    instance: Instance
    sinks: list[Recorder] = field(default_factory=list)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.instance.port, b"instance")

    def send(self, request: Request | None = None, within: float = 5.0) -> tuple[object, Recorder]:
        sink = Recorder()
        self.sinks.append(sink)
        now = asyncio.get_running_loop().time()
        call = self.upstream.send(self.address, request or Request(b"GET", b"/", []), now + within, sink)
        assert sink.events == []  # never from within send
        return call, sink

    async def ask(self, request: Request | None = None) -> Recorder:
        _, sink = self.send(request)
        await until(lambda: sink.over)
        return sink

    @property
    def counts(self) -> ConnectionCounts:
        return self.upstream.counts()[0]


@asynccontextmanager
async def world(script: Script = echo, settings: ConnectionSettings | None = None) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    async with serving(script) as instance:
        upstream = HttpUpstream(loop, timers, settings)
        try:
            yield World(upstream, instance)
        finally:
            upstream.close()
            timers.close()
            await asyncio.sleep(0.01)


async def test_a_short_answer_comes_in_one_event() -> None:
    async with world(answers(OK)) as w:
        sink = await w.ask()
        assert sink.events == ["response"]
        assert sink.response is not None
        assert (sink.response.status, sink.response.body, sink.response.length) == (200, b"ok", 2)


async def test_a_short_chunked_answer_is_whole_too() -> None:
    async with world(
        answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    ) as w:
        sink = await w.ask()
        assert sink.events == ["response"]
        assert sink.response is not None
        assert (sink.response.body, sink.response.length) == (b"ok", 2)
        assert w.counts.idle == 1


async def test_the_answer_to_head_keeps_its_length() -> None:
    async with world(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as w:
        sink = await w.ask(Request(b"HEAD", b"/", []))
        assert sink.response is not None
        assert (sink.response.body, sink.response.length) == (b"", 9)
        assert w.counts.idle == 1


async def test_calls_one_after_another_use_one_connection() -> None:
    async with world() as w:
        for body in (b"a", b"", b"ccc"):
            assert (await w.ask(Request(b"POST", b"/", [], body=body))).body == body
        assert w.instance.connections == 1
        assert (w.counts.active, w.counts.idle) == (0, 1)


async def test_a_streamed_body_waits_for_on_ready() -> None:
    async with world() as w:
        call, sink = w.send(Request(b"POST", b"/", [], length=None, body=None))
        await until(lambda: "ready" in sink.events)
        call.write(b"ab", False)  # type: ignore[attr-defined]
        call.write(b"", False)  # type: ignore[attr-defined]
        call.write(b"cd", True)  # type: ignore[attr-defined]
        call.write(b"too late", False)  # type: ignore[attr-defined]
        await until(lambda: sink.over)
        assert sink.body == b"abcd"
        assert w.counts.idle == 1


async def test_a_body_of_another_length_than_announced_is_a_bug() -> None:
    async with world() as w:
        call, sink = w.send(Request(b"POST", b"/", [], length=3, body=None))
        await until(lambda: "ready" in sink.events)
        with pytest.raises(ValueError, match="as long as"):
            call.write(b"abcd", True)  # type: ignore[attr-defined]


# Errors, and what they say of another try


async def test_nobody_listens() -> None:
    async with world() as w:
        w.instance.port = 1
        sink = await w.ask()
        assert type(sink.error) is UpstreamConnectError


async def test_the_stale_connection_race() -> None:
    async def one_answer(
        instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await instance.read_request(reader)
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")  # the next request comes, and is not answered

    async with world(one_answer) as w:
        assert (await w.ask()).body == b"ok"
        assert type((await w.ask()).error) is UpstreamClosedIdle
        assert (await w.ask()).body == b"ok"


async def test_a_fresh_connection_that_closes_is_no_stale_one() -> None:
    async with world(answers(b"", close=True)) as w:
        assert type((await w.ask()).error) is UpstreamReset


async def test_one_byte_of_an_answer_makes_it_a_reset() -> None:
    async def half(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        writer.write(OK)
        await instance.read_request(reader)
        writer.write(b"H")

    async with world(half) as w:
        await w.ask()
        assert type((await w.ask()).error) is UpstreamReset


async def test_an_idle_connection_that_closes_is_not_used() -> None:
    async with world(answers(OK, close=True)) as w:
        for _ in range(3):
            assert (await w.ask()).body == b"ok"
            await until(lambda: w.counts.idle == 0)


async def test_an_idle_connection_that_speaks_is_dropped() -> None:
    async def chatty(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with world(chatty) as w:
        await w.ask()
        assert w.counts.idle == 1
        await until(lambda: w.counts.idle == 0)


async def test_the_deadline_ends_a_call() -> None:
    async with world(answers(b"")) as w:
        _, sink = w.send(within=0.05)
        await until(lambda: sink.over)
        assert type(sink.error) is UpstreamTimeout
        assert (w.counts.active, w.counts.idle) == (0, 0)


async def test_a_deadline_can_be_moved_both_ways() -> None:
    async with world(answers(b"")) as w:
        call, sink = w.send(within=0.05)
        now = asyncio.get_running_loop().time()
        call.extend(now + 0.3)  # type: ignore[attr-defined]
        await asyncio.sleep(0.15)
        assert not sink.over
        call.extend(now)  # type: ignore[attr-defined]
        await until(lambda: sink.over)
        assert asyncio.get_running_loop().time() < now + 0.29


async def test_a_short_deadline_after_a_long_one_is_met() -> None:
    async with world(answers(OK, b"")) as w:
        _, sink = w.send(within=60.0)
        await until(lambda: sink.over)
        _, sink = w.send(within=0.05)
        await until(lambda: sink.over)
        assert type(sink.error) is UpstreamTimeout


async def test_a_malformed_answer() -> None:
    async with world(answers(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")) as w:
        assert type((await w.ask()).error) is UpstreamProtocolError


# Giving up, and waiting


async def test_a_cancelled_call_reports_nothing_and_takes_its_connection_with_it() -> None:
    async with world(answers(b"")) as w:
        call, sink = w.send()
        await until(lambda: w.instance.heads)
        call.cancel()  # type: ignore[attr-defined]
        call.cancel()  # type: ignore[attr-defined]
        await until(lambda: w.instance.lost)
        assert sink.events == []
        assert (w.counts.active, w.counts.idle) == (0, 0)


async def test_a_finished_call_can_no_longer_touch_its_connection() -> None:
    async with world() as w:
        first, sink = w.send()
        await until(lambda: sink.over)
        second, sink = w.send(Request(b"POST", b"/", [], body=b"x"))
        first.cancel()  # type: ignore[attr-defined]
        first.write(b"x", True)  # type: ignore[attr-defined]
        first.pause()  # type: ignore[attr-defined]
        await until(lambda: sink.over)
        assert sink.body == b"x"
        assert second is not first


async def test_a_call_given_up_while_it_connects_leaves_the_connection_to_others() -> None:
    async with world() as w:
        call, sink = w.send()
        call.cancel()  # type: ignore[attr-defined]
        await until(lambda: w.counts.idle == 1)
        assert sink.events == []
        assert w.instance.heads == []


async def test_no_more_connections_than_allowed_and_calls_take_turns() -> None:
    async with world(settings=ConnectionSettings(max_connections=2)) as w:
        sinks = [w.send(Request(b"POST", b"/", [], body=b"%d" % number))[1] for number in range(10)]
        assert w.counts.waiting == 10
        await until(lambda: all(sink.over for sink in sinks))
        assert [sink.body for sink in sinks] == [b"%d" % number for number in range(10)]
        assert w.instance.connections == 2


async def test_too_many_waiting_calls_are_refused() -> None:
    async with world(answers(b""), ConnectionSettings(max_connections=1, max_waiting=2)) as w:
        _, first = w.send()
        await until(lambda: w.counts.active == 1)
        sinks = [w.send()[1] for _ in range(3)]
        await until(lambda: sinks[2].over)
        assert type(sinks[2].error) is Overloaded
        assert not any(sink.over for sink in (first, sinks[0], sinks[1]))


async def test_waiting_for_a_free_connection_is_bounded() -> None:
    async with world(answers(b""), ConnectionSettings(max_connections=1, connect_timeout=0.05)) as w:
        w.send()
        await until(lambda: w.counts.active == 1)
        _, sink = w.send()
        await until(lambda: sink.over)
        assert type(sink.error) is Overloaded


async def test_every_waiting_call_learns_that_nobody_listens() -> None:
    async with world(settings=ConnectionSettings(max_connections=1)) as w:
        w.instance.port = 1
        sinks = [w.send()[1] for _ in range(4)]
        await until(lambda: all(sink.over for sink in sinks))
        assert {type(sink.error) for sink in sinks} == {UpstreamConnectError}


async def test_only_so_many_idle_connections_are_kept() -> None:
    async with world(settings=ConnectionSettings(max_idle=1)) as w:
        sinks = [w.send()[1] for _ in range(4)]
        await until(lambda: all(sink.over for sink in sinks))
        await until(lambda: w.counts.idle == 1 and w.counts.active == 0)


async def test_a_paused_call_reads_no_further() -> None:
    async with world(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4000000)) as w:
        call, sink = w.send()
        sink.at_head = call.pause  # type: ignore[attr-defined]
        await until(lambda: sink.response)
        await asyncio.sleep(0.01)
        held = len(sink.body)
        await asyncio.sleep(0.05)
        assert len(sink.body) == held < 4000000
        call.resume()  # type: ignore[attr-defined]
        await until(lambda: sink.over)
        assert len(sink.body) == 4000000


async def test_closing_ends_everything_in_silence() -> None:
    async with world(answers(b"")) as w:
        _, active = w.send()
        await until(lambda: w.instance.heads)
        _, waiting = w.send()
        w.upstream.close()
        await until(lambda: w.instance.lost)
        assert active.events == waiting.events == []
        assert w.upstream.counts() == []


async def test_instances_that_are_gone_are_forgotten() -> None:
    async with world() as w:
        port, w.instance.port = w.instance.port, 1
        await w.ask()
        w.instance.port = port
        await w.ask()
        assert [counts.port for counts in w.upstream.counts()] == [port]


async def test_what_is_seen() -> None:
    async with world() as w:
        await w.ask()
        assert repr(w.upstream) == "<HttpUpstream | 1 instances, 0 active, 1 idle>"
