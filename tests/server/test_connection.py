"""A client's connection and a scripted receiver: the promises of `Downstream` and `Receiver`."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.http.message import Request, Response
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Begin, Downstream, Peer
from gateway.server.listener import BindError, Listener
from gateway.server.settings import ServerSettings
from gateway.upstream.upstream import HttpUpstream
from tests.fakes.relay import SystemClock
from tests.fakes.wires import Wires, until, wires

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


class Scripted:
    """A receiver that records, and does on start what the test wants."""

    def __init__(
        self, request: Request, peer: Peer, down: Downstream, act: Callable[[Scripted], None]
    ) -> None:
        self.request = request
        self.peer = peer
        self.down = down
        self.act = act
        self.events: list[str] = []
        self.body = b""
        self.bug: Exception | None = None

    def start(self) -> None:
        self.events.append("start")
        self.act(self)

    def on_body(self, data: bytes, last: bool) -> None:
        self.events.append("last" if last else "body")
        self.body += data

    def on_body_error(self, error: GatewayError) -> None:
        self.events.append(error.code)

    def on_writable(self, ready: bool) -> None:
        self.events.append("writable" if ready else "full")

    def on_client_gone(self) -> None:
        self.events.append("gone")

    def crash(self, bug: Exception) -> None:
        self.events.append("crash")
        self.bug = bug
        self.down.reply(Response(500, [], b"bug"))


class Stage:
    """The world, and the receivers in the order of their requests."""

    def __init__(self, world: Wires, receivers: list[Scripted]) -> None:
        self.world = world
        self.receivers = receivers

    @property
    def first(self) -> Scripted:
        return self.receivers[0]


@asynccontextmanager
async def stage(
    act: Callable[[Scripted], None] = lambda receiver: None, settings: ServerSettings | None = None
) -> AsyncIterator[Stage]:
    receivers: list[Scripted] = []

    def begin_with(upstream: HttpUpstream, host: str, port: int) -> Begin:
        def begin(request: Request, peer: Peer, down: Downstream) -> Scripted:
            receivers.append(Scripted(request, peer, down, act))
            return receivers[-1]

        return begin

    async with wires(begin=begin_with, server=settings) as world:
        yield Stage(world, receivers)


def ok(receiver: Scripted) -> None:
    receiver.down.reply(Response(200, [], b"ok"))


async def test_a_small_body_comes_with_the_request() -> None:
    async with stage(ok) as s:
        client = await s.world.connect()
        client.send(POST % 4 + b"body")
        await client.response()
        assert (s.first.request.body, s.first.events) == (b"body", ["start"])
        assert s.first.peer.address == "127.0.0.1"


async def test_no_body_before_proceed() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(POST % 10 + b"12345")
        await until(lambda: s.receivers)
        client.send(b"67")
        await asyncio.sleep(0.03)
        assert (s.first.request.body, s.first.events) == (None, ["start"])
        s.first.down.proceed()
        await until(lambda: s.first.body == b"1234567")
        client.send(b"890")
        await until(lambda: s.first.events[-1] == "last")
        assert s.first.body == b"1234567890"


async def test_a_body_that_nobody_wants_yet_is_held_in_bounds() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(POST % (8 << 20) + b"x" * (8 << 20))
        await until(lambda: s.receivers)
        await asyncio.sleep(0.1)
        (connection,) = s.world.listener._connections
        assert 0 < len(connection._buffer) <= 384 * 1024
        s.first.down.proceed()
        await until(lambda: s.first.events[-1] == "last")
        assert len(s.first.body) == 8 << 20


async def test_a_paused_body_waits() -> None:
    async with stage(lambda receiver: receiver.down.proceed()) as s:
        client = await s.world.connect()
        client.send(POST % 6 + b"ab")
        await until(lambda: s.receivers and s.first.body == b"ab")
        s.first.down.pause_body()
        client.send(b"cd")
        await asyncio.sleep(0.05)
        assert s.first.body == b"ab"
        s.first.down.resume_body()
        await until(lambda: s.first.body == b"abcd")
        client.send(b"ef")
        await until(lambda: s.first.events[-1] == "last")


async def test_time_in_which_the_gateway_did_not_read_is_not_held_against_the_client() -> None:
    async with stage(lambda receiver: receiver.down.proceed(), ServerSettings(body_timeout=0.5)) as s:
        client = await s.world.connect()
        client.send(POST % 6 + b"ab")
        await until(lambda: s.receivers and s.first.body)
        s.first.down.pause_body()
        await asyncio.sleep(0.7)
        s.first.down.resume_body()
        await asyncio.sleep(0.05)
        assert "body_timeout" not in s.first.events
        await until(lambda: "body_timeout" in s.first.events)


async def test_a_thousand_pipelined_answers_do_not_recurse() -> None:
    async with stage(ok) as s:
        client = await s.world.connect()
        client.send(GET * 1000)
        for _ in range(1000):
            assert (await client.response())[2] == b"ok"


async def test_an_exchange_that_speaks_too_late_speaks_to_nobody() -> None:
    async with stage(ok) as s:
        client = await s.world.connect()
        client.send(GET)
        await client.response()
        late = s.first.down
        client.send(POST % 5)
        await until(lambda: len(s.receivers) == 2)
        late.reply(Response(500))
        late.begin(Response(500, [], None))
        late.write(b"junk")
        late.end()
        late.abort()
        late.proceed()
        client.send(b"later")
        assert (await client.response())[::2] == (200, b"ok")


async def test_chunks_are_written_as_they_come() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(GET)
        await until(lambda: s.receivers)
        down = s.first.down
        down.begin(Response(200, [], None))
        assert (await client.head())[1][b"transfer-encoding"] == b"chunked"
        down.write(b"one")
        assert await client.reader.readexactly(8) == b"3\r\none\r\n"
        down.write(b"")
        down.write(b"x" * 20_000)
        assert await client.reader.readexactly(20_008) == b"4e20\r\n" + b"x" * 20_000 + b"\r\n"
        down.end()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("written", [b"short", b"much too long"])
async def test_a_response_that_is_not_as_long_as_announced_breaks_the_connection(written: bytes) -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(GET)
        await until(lambda: s.receivers)
        down = s.first.down
        down.begin(Response(200, [], None, length=8))
        down.write(written)
        down.end()
        rest = await client.rest()
        assert len(rest.partition(b"\r\n\r\n")[2]) < 8
        assert "gone" not in s.first.events


async def test_an_aborted_response_is_seen_as_such() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(GET)
        await until(lambda: s.receivers)
        s.first.down.begin(Response(200, [], None))
        s.first.down.write(b"half")
        await client.head()
        s.first.down.abort()
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        assert "gone" not in s.first.events


async def test_a_slow_reader_is_told_of_and_told_of_again() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.writer.transport.pause_reading()
        client.send(GET)
        await until(lambda: s.receivers)
        s.first.down.begin(Response(200, [], None))
        while "full" not in s.first.events:
            s.first.down.write(b"x" * 65536)
            await asyncio.sleep(0)
        client.writer.transport.resume_reading()
        reading = asyncio.create_task(client.rest())
        await until(lambda: s.first.events[-1] == "writable")
        s.first.down.abort()
        await reading


async def test_a_client_that_leaves_is_told_of_once() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(GET)
        await until(lambda: s.receivers)
        client.reset()
        await until(lambda: "gone" in s.first.events)
        s.first.down.reply(Response(200))
        assert s.first.events == ["start", "gone"]


# Bugs


def _raise(receiver: Scripted) -> None:
    raise RuntimeError("a bug")


async def test_a_bug_in_start_becomes_a_crash_and_the_connection_goes_on() -> None:
    async with stage(_raise) as s:
        client = await s.world.connect()
        for _ in range(2):
            client.send(GET)
            assert (await client.response())[0] == 500
        assert [receiver.events for receiver in s.receivers] == [["start", "crash"]] * 2


async def test_a_bug_after_the_reply_leaves_the_reply_alone() -> None:
    def reply_and_raise(receiver: Scripted) -> None:
        ok(receiver)
        _raise(receiver)

    async with stage(reply_and_raise) as s:
        client = await s.world.connect()
        client.send(GET)
        assert (await client.response())[0] == 200
        client.send(GET)
        assert (await client.response())[0] == 200
        assert [receiver.events for receiver in s.receivers] == [["start", "crash"]] * 2


@pytest.mark.parametrize("method", ["on_body", "on_body_error", "on_client_gone"])
async def test_a_bug_in_any_method_becomes_a_crash(method: str) -> None:
    async with stage(lambda receiver: receiver.down.proceed()) as s:
        client = await s.world.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await until(lambda: s.receivers)
        setattr(s.first, method, lambda *arguments: _raise(s.first))
        if method == "on_client_gone":
            client.reset()
        else:
            client.send(b"1\r\nx\r\n" if method == "on_body" else b"zz\r\n")
        await until(lambda: s.first.bug is not None)
        assert s.first.events[-1] == "crash"


async def test_a_bug_before_there_is_a_receiver_is_answered_500() -> None:
    def begin_with(upstream: HttpUpstream, host: str, port: int) -> Begin:
        def begin(request: Request, peer: Peer, down: Downstream) -> Scripted:
            raise RuntimeError("a bug")

        return begin

    bugs: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context["exception"]))
    async with wires(begin=begin_with) as world:
        client = await world.connect()
        client.send(GET)
        status, fields, _ = await client.response()
        assert (status, fields[b"connection"]) == (500, b"close")
        assert [type(bug) for bug in bugs] == [RuntimeError]


# The listener


async def test_too_many_connections_are_answered_503() -> None:
    async with stage(ok, ServerSettings(connections_per_address=2)) as s:
        clients = [await s.world.connect() for _ in range(3)]
        status, fields, _ = await clients[2].response()
        assert (status, fields[b"connection"]) == (503, b"close")
        clients[0].send(GET)
        assert (await clients[0].response())[0] == 200
        clients[0].reset()
        await until(lambda: s.world.listener.connections == 1)
        again = await s.world.connect()
        again.send(GET)
        assert (await again.response())[0] == 200


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", ("bad_host", 400), id="no host"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", ("bad_request", 400), id="bare LF"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"a" * 40000, ("head_too_large", 431), id="large head"),
        pytest.param(POST % 2000, ("body_too_large", 413), id="large body"),
        pytest.param(b"GET / HT", ("head_timeout", 408), id="slow head"),
    ],
)
async def test_what_never_became_a_request_is_told_of(sent: bytes, expected: tuple[str, int]) -> None:
    told: list[tuple[str, int, str, bytes]] = []
    async with stage(ok, ServerSettings(head_timeout=0.1, body_limit=1000)) as s:
        s.world.listener.on_refused = lambda *what: told.append(what)
        client = await s.world.connect()
        client.send(sent)
        status, fields, body = await client.response()
        assert (status, fields[b"content-type"]) == (expected[1], b"application/problem+json")
        request_id = fields[b"x-request-id"]
        assert told == [(*expected, "127.0.0.1", request_id)]
        problem = json.loads(body)
        assert (problem["code"], problem["request_id"]) == (expected[0], request_id.decode())
        assert not s.receivers


async def test_a_drain_closes_the_idle_and_waits_for_the_busy() -> None:
    async with stage() as s:
        idle, busy = await s.world.connect(), await s.world.connect()
        busy.send(GET)
        await until(lambda: s.receivers)
        drain = asyncio.create_task(s.world.listener.drain(5.0))
        assert await idle.broken()
        assert not drain.done()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*_remembered(s.world))
        s.first.down.reply(Response(200, [], b"done"))
        status, fields, body = await busy.response()
        assert (status, fields[b"connection"], body) == (200, b"close", b"done")
        assert await drain == 0


async def test_a_drain_answers_a_request_that_was_on_its_way_on_a_kept_connection() -> None:
    async with stage(ok) as s:
        kept = await s.world.connect()
        kept.send(GET)
        assert b"connection" not in (await kept.response())[1]
        drain = asyncio.create_task(s.world.listener.drain(5.0))
        await asyncio.sleep(0)  # the drain has looked at every connection
        kept.send(GET)
        status, fields, _ = await kept.response()
        assert (status, fields[b"connection"]) == (200, b"close")
        assert await drain == 0


def _remembered(world: Wires) -> tuple[str, int]:
    peer: tuple[str, int] = world.clients[0].writer.get_extra_info("peername")
    return peer


async def client_was_heard(s: Stage, times: int) -> bool:
    """Wait for one request more than so many."""
    await until(lambda: len(s.receivers) > times)
    return True


async def test_a_request_that_waits_in_the_socket_is_not_lost_to_the_idle_timeout() -> None:
    """It comes when the loop has looked at its sockets, and just before it looks at the clock."""
    loop = asyncio.get_running_loop()
    async with stage(ok, ServerSettings(idle_timeout=0.2)) as s:
        with socket.create_connection(s.world.listener.address) as client:
            client.sendall(GET)
            await until(lambda: s.receivers)
            await asyncio.sleep(0.03)
            for number in range(1, 4):
                assert client.recv(1000, socket.MSG_DONTWAIT).endswith(b"ok")
                s.world.timers.at(loop.time() + 0.06, lambda: client.sendall(GET))
                time.sleep(0.3)  # noqa: ASYNC251  # both instants pass while the loop is busy
                assert await asyncio.wait_for(client_was_heard(s, number), 5)
                await asyncio.sleep(0.03)
            assert client.recv(1000).endswith(b"ok")
            await until(lambda: not s.world.listener.connections)  # nothing came any more
            assert client.recv(1000) == b""


async def test_a_drain_breaks_what_is_left_after_the_grace() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(GET)
        await until(lambda: s.receivers)
        assert await s.world.listener.drain(0.05) == 1
        assert await client.broken()
        assert s.first.events == ["start", "gone"]


async def test_a_taken_port_is_named() -> None:
    async with stage(ok) as s:
        host, port = s.world.listener.address
        second = Listener(s.world.listener.begin, s.world.timers, SystemClock())
        with pytest.raises(BindError, match=f"{host}:{port}: the port is taken"):
            await second.start(host, port)


async def test_nagle_is_off_on_accepted_connections() -> None:

    async with stage(ok) as s:
        await s.world.connect()
        await until(lambda: s.world.listener.connections)
        (connection,) = s.world.listener._connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_what_is_seen() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(GET)
        await until(lambda: s.receivers)
        (connection,) = s.world.listener._connections
        assert "<Stream <Request GET /> | body read, waiting>" in repr(connection)
        assert repr(s.world.listener) == "<Listener listening | 1 connections, 1 busy>"
