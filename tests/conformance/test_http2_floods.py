"""Attacks that are made of valid frames: each must end, in bounded memory, and harm no other client."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gateway.http.message import Request, Response
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Downstream, Peer
from gateway.server.listener import Listener
from gateway.server.settings import ServerSettings
from gateway.server.timers import SweptTimers
from tests.fakes.http2_client import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
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
from tests.fakes.wires import until

CALM = 11
MIB = 1024 * 1024


class Service:
    """Answers `ok`; /big with 4 MiB; /wait never. Counts what was begun."""

    begun = 0
    gone = 0

    def __init__(self, request: Request, peer: Peer, down: Downstream) -> None:
        self.request = request
        self.down = down
        self.full = False

    def start(self) -> None:
        type(self).begun += 1
        match self.request.path:
            case b"/wait":
                self.down.proceed()
            case b"/big":
                self.down.begin(Response(200, [], None))
                self.send()
            case _:
                self.down.reply(Response(200, [], b"ok"))

    def send(self) -> None:
        while not self.full:
            self.down.write(bytes(16 * 1024))

    def on_body(self, data: bytes, last: bool) -> None: ...

    def on_body_error(self, error: GatewayError) -> None:
        self.down.reply(Response(error.status, [], b""))

    def on_writable(self, ready: bool) -> None:
        self.full = not ready
        if ready:
            self.send()

    def on_client_gone(self) -> None:
        type(self).gone += 1
        self.full = True

    def crash(self, bug: Exception) -> None:
        raise bug


SETTINGS_OF_TESTS = ServerSettings(
    linger=0.2, send_timeout=0.4, body_timeout=0.4, idle_timeout=0.5, head_timeout=0.5, farewell=0.1
)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    Service.begun = Service.gone = 0
    made = Listener(Service, timers, SystemClock(), SETTINGS_OF_TESTS)
    await made.start("127.0.0.1", 0)
    yield made
    made.close()
    for _ in range(3):  # transports close over a few turns of the loop
        await asyncio.sleep(0)
    timers.close()


@pytest.fixture
def memory() -> Iterator[Callable[[], int]]:
    """Bytes that Python has taken since the test began, at most."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def get(client: Http2Client, stream: int, path: str = "/") -> bytes:
    return client.head(stream, request(path=path))


def held(client: Http2Client, round: int) -> bytes:
    """A request that nobody answers goes first: the connection is not idle, however slow the machine is."""
    return b"" if round else get(client, 1, "/wait")


def rapid_reset(client: Http2Client, round: int) -> bytes:
    """CVE-2023-44487."""
    stream = 2 * round + 1
    return get(client, stream, "/wait") + frame(RST_STREAM, 0, stream, number(8))


def made_you_reset(client: Http2Client, round: int) -> bytes:
    """CVE-2025-8671: the server resets, because of a window update of nothing."""
    stream = 2 * round + 1
    return get(client, stream, "/wait") + frame(WINDOW_UPDATE, 0, stream, number(0))


def made_you_reset_by_overflow(client: Http2Client, round: int) -> bytes:
    """The same by a window that overflows."""
    stream = 2 * round + 1
    return get(client, stream, "/wait") + frame(WINDOW_UPDATE, 0, stream, number(2**31 - 1))


def malformed(client: Http2Client, round: int) -> bytes:
    """Requests that only ever end in resets."""
    return client.head(2 * round + 1, [(":method", "GET")])


def refused(client: Http2Client, round: int) -> bytes:
    """Streams far above what may be open."""
    return get(client, 2 * round + 1, "/wait")


def pings(client: Http2Client, round: int) -> bytes:
    """CVE-2019-9512."""
    return held(client, round) + frame(PING, 0, 0, bytes(8))


def many_settings(client: Http2Client, round: int) -> bytes:
    """CVE-2019-9515."""
    return held(client, round) + settings(_3=100)


def empty_data(client: Http2Client, round: int) -> bytes:
    """CVE-2019-9518."""
    if not round:
        return client.head(1, request(method="POST", path="/wait"), False)
    return frame(DATA, 0, 1)


def priorities(client: Http2Client, round: int) -> bytes:
    """CVE-2019-9513."""
    return held(client, round) + frame(PRIORITY, 0, 2 * (round % 1000) + 1, number(0) + b"\x10")


def unknown_frames(client: Http2Client, round: int) -> bytes:
    """Frames that only want to be skipped."""
    return held(client, round) + frame(0x77, 0, 0)


def window_updates(client: Http2Client, round: int) -> bytes:
    """Windows that are opened byte by byte, with nothing to send."""
    return held(client, round) + frame(WINDOW_UPDATE, 0, 0, number(1))


FLOODS = [
    rapid_reset,
    made_you_reset,
    made_you_reset_by_overflow,
    malformed,
    refused,
    pings,
    many_settings,
    empty_data,
    priorities,
    unknown_frames,
    window_updates,
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
async def test_a_flood_is_told_to_calm_down_and_others_don_t_feel_it(listener, memory, flood):
    bystander = await Http2Client.connect(listener.address)
    attacker = await Http2Client.connect(listener.address)
    slowest = 0.0
    end = asyncio.create_task(attacker.end(30))
    for burst in range(100):
        attacker.send(*[flood(attacker, burst * 100 + round) for round in range(100)])
        started = time.monotonic()
        bystander.send(get(bystander, 2 * burst + 1))
        assert await bystander.answer(2 * burst + 1) == 200
        slowest = max(slowest, time.monotonic() - started)
        if end.done():
            break
    told = await end
    assert told is not None
    assert told.code == CALM
    assert burst < 90, "it was let go on"
    assert slowest < 1.0
    assert Service.begun < 700 + burst
    assert memory() < 16 * MIB
    attacker.close()
    bystander.close()


async def test_requests_that_are_reset_in_the_same_read_are_never_begun(listener):
    client = await Http2Client.connect(listener.address)
    client.send(*[rapid_reset(client, round) for round in range(50)])
    await client.ping()
    assert Service.begun <= 5
    client.close()


async def test_a_client_that_resets_now_and_then_is_let_alone(listener):
    client = await Http2Client.connect(listener.address)
    for round in range(300):
        client.send(get(client, 4 * round + 1), get(client, 4 * round + 3))
        assert await client.answer(4 * round + 3) == 200
        if round % 3 == 0:
            client.send(frame(RST_STREAM, 0, 4 * round + 1, number(8)))
    await client.ping()
    client.close()


async def test_a_header_block_without_end_is_cut_off(listener, memory):
    """CVE-2024-27316 and its kin: CONTINUATION after CONTINUATION."""
    client = await Http2Client.connect(listener.address)
    client.send(frame(HEADERS, END_STREAM, 1, client.block(request())))
    for _ in range(100):
        client.send(frame(CONTINUATION, 0, 1, client.block([("x", "a" * 8000)])))
        await asyncio.sleep(0)
    told = await client.end()
    assert told is not None
    assert told.code == CALM
    assert memory() < 8 * MIB
    client.close()


async def test_a_header_block_of_empty_frames_is_cut_off(listener):
    client = await Http2Client.connect(listener.address)
    client.send(frame(HEADERS, END_STREAM, 1, client.block(request())), frame(CONTINUATION, 0, 1) * 100)
    told = await client.end()
    assert told is not None
    assert told.code == CALM
    client.close()


async def test_an_hpack_bomb_is_not_unpacked(listener, memory):
    """A table entry of 4 KiB, named 10,000 times by a byte each: 40 MiB (CVE-2016-6581)."""
    client = await Http2Client.connect(listener.address)
    bomb = client.block([*request(), ("x", "a" * 3900)]) + b"\xbe" * 10_000
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, bomb))
    told = await client.end()
    assert told is not None
    assert told.code == CALM
    assert memory() < 4 * MIB
    client.close()


async def test_a_frame_that_is_announced_large_is_refused_before_it_is_read(listener, memory):
    client = await Http2Client.connect(listener.address)
    client.send(frame(DATA, 0, 1, b"", 16_000_000), bytes(200_000))
    told = await client.end()
    assert told is not None
    assert memory() < 2 * MIB
    client.close()


async def test_a_reader_that_opens_no_window_is_given_up_and_holds_little(listener, memory):
    client = await Http2Client.connect(listener.address, PREFACE + settings(_4=0))
    client.send(*[get(client, 2 * n + 1, "/big") for n in range(50)])
    await until(lambda: Service.begun == 50)
    await until(lambda: Service.gone == 50)
    assert memory() < 50 * 3 * 64 * 1024 + 4 * MIB
    client.close()


async def test_a_reader_that_opens_its_window_byte_by_byte_is_given_up(listener):
    client = await Http2Client.connect(listener.address, PREFACE + settings(_4=1))
    client.send(get(client, 1, "/big"))
    await client.until(DATA, 1)
    started = time.monotonic()
    while Service.gone == 0:
        assert time.monotonic() - started < 4
        client.send(frame(WINDOW_UPDATE, 0, 1, number(1)))
        await asyncio.sleep(0.02)
    assert len(client.bodies[1]) < 1000
    client.close()


async def test_a_reader_that_reads_no_byte_is_given_up(listener):
    client = await Http2Client.connect(listener.address, PREFACE + settings(_4=2**30))
    client.send(frame(WINDOW_UPDATE, 0, 0, number(2**30)), get(client, 1, "/big"))
    client.writer.transport.pause_reading()
    await until(lambda: Service.gone == 1)
    client.close()


async def test_a_slow_window_is_no_reason_for_others_to_wait(listener):
    client = await Http2Client.connect(listener.address, PREFACE + settings(_4=1000))
    client.send(get(client, 1, "/big"), get(client, 3))
    assert await client.answer(3) == 200
    client.close()


async def test_a_body_that_stops_coming_is_answered_with_408(listener):
    client = await Http2Client.connect(listener.address)
    client.send(client.head(1, request(method="POST", path="/wait"), False), frame(DATA, 0, 1, b"x"))
    assert await client.answer(1) == 408
    await client.ping()
    client.close()


@pytest.mark.parametrize("hello", [PREFACE, PREFACE + settings()], ids=["no settings", "no request"])
async def test_a_connection_that_asks_for_nothing_is_closed(listener, hello):
    client = await Http2Client.connect(listener.address, hello)
    await client.end()
    assert client.closed
    client.close()


async def test_an_unfinished_header_block_does_not_keep_a_connection(listener):
    client = await Http2Client.connect(listener.address)
    client.send(frame(HEADERS, END_STREAM, 1, client.block(request())))
    await client.end()
    client.close()


async def test_pings_don_t_keep_an_idle_connection(listener):
    client = await Http2Client.connect(listener.address)
    client.send(get(client, 1))
    assert await client.answer(1) == 200
    started = time.monotonic()
    end = asyncio.create_task(client.end())
    while not end.done() and time.monotonic() - started < 3:
        client.send(frame(PING, 0, 0, bytes(8)))
        await asyncio.sleep(0.05)
    await end
    assert time.monotonic() - started < 2
    client.close()


async def test_idle_connections_cost_little(listener, memory):
    listener.settings = ServerSettings()
    clients = [await Http2Client.connect(listener.address) for _ in range(100)]
    for client in clients:
        await client.until(SETTINGS)
    assert memory() < 100 * 64 * 1024
    for client in clients:
        client.close()


# The end


async def test_a_drain_says_goodbye_and_answers_what_crosses_it(listener):
    client = await Http2Client.connect(listener.address)
    client.send(get(client, 1))
    assert await client.answer(1) == 200
    drained = asyncio.create_task(listener.drain(3))
    first = await client.until(GOAWAY)
    assert first.code == 0
    assert int.from_bytes(first.payload[:4], "big") == 2**31 - 1
    client.send(get(client, 3))  # it was on its way when the word came
    assert await client.answer(3) == 200
    last = await client.end()
    assert last is not None
    assert int.from_bytes(last.payload[:4], "big") == 3
    assert await drained == 0
    client.close()


async def test_streams_under_way_are_finished_before_the_drain_ends(listener):
    client = await Http2Client.connect(listener.address)
    client.send(get(client, 1, "/big"))
    await client.until(DATA, 1)
    drained = asyncio.create_task(listener.drain(3))
    await client.until(GOAWAY)
    assert not drained.done()
    client.close()
    assert await drained == 0


async def test_a_client_that_says_goodbye_still_gets_its_answers(listener):
    client = await Http2Client.connect(listener.address)
    client.send(get(client, 1), frame(GOAWAY, 0, 0, bytes(8)))
    assert await client.answer(1) == 200
    await client.end()
    client.close()
