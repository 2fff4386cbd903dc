"""Clients that would use everything up: each is bounded in memory and time, and nobody else notices.

A healthy client in a process of its own asks all the while; it must see no error, and its worst request is
measured against the promise times HEADGATE_TEST_SLACK (machines of CI are shared). Figures are printed:
`pytest tests/chaos/test_exhaustion.py -s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.chaos import PAGE, Asker, Recorder, gateway, speak, statuses
from tests.fakes.chaos_control import Health, healthy_client
from tests.integration.running import Client, Running, kept_memory, slack, until

MIB = 1 << 20
LIMIT = 2.0  # s: header_timeout and body_timeout of the gateway under test
LIMITS = (
    f"header_timeout: {LIMIT:g}s, body_timeout: {LIMIT:g}s, idle_timeout: 120s, write_timeout: 30s, "
    "connections: 16000, connections_per_client: 15000"
)
LARGE = 20 * MIB
LOCKED = "  locked: {match: /locked, send: all}\n"  # answered 401 by the gateway itself


async def serve(asker: Asker) -> None:
    """Answer small, or 20 MiB where the path says so, and count what was taken of it."""
    while True:
        asked = await asker.request()
        asker.recorder.forget()
        if asked.target != b"/large":
            await asker.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            continue
        await asker.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LARGE)
        for _ in range(LARGE // 65536):
            await asker.send(b"x" * 65536)
            TAKEN[0] += 65536


TAKEN = [0]


@pytest.fixture(scope="module")
def instance() -> Iterator[Recorder]:
    with Recorder(serve) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, instance: Recorder) -> Iterator[Running]:
    allow_many_descriptors()
    pages = PAGE.format(port=instance.port, pool="", endpoint="") + LOCKED
    with gateway(tmp_path_factory.mktemp("exhaustion"), 0, limits=LIMITS, pages=pages) as running:
        yield running


def allow_many_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def memory(running: Running) -> float:
    """MiB, the proportional share."""
    assert running.process is not None
    return kept_memory(running.process.pid)


def assert_unharmed(health: Health, worst: float = 100.0) -> None:
    print(health)
    assert health.errors == []
    assert health.requests > 2
    assert health.worst <= worst * slack()


def descriptors(running: Running, instance: Recorder) -> int:
    """Those that are no kept-alive connection to the instance."""
    assert running.process is not None
    return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())) - instance.open


async def connect(running: Running, number: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await asyncio.open_connection("127.0.0.1", running.http) for _ in range(number)]


# Slow clients


def test_four_hundred_dripping_heads_are_cut_at_the_limit(running: Running) -> None:
    async def drip(number: int) -> tuple[float, bytes]:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.http)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: " % number)
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            with contextlib.suppress(ConnectionError):
                writer.write(b"x")
            await asyncio.wait([ended], timeout=0.1)
        took = time.monotonic() - started
        writer.transport.abort()
        return took, ended.result()

    async def all_of_them() -> list[tuple[float, bytes]]:
        return await asyncio.gather(*(drip(number) for number in range(400)))

    with healthy_client(running.http) as health:
        ends = asyncio.run(all_of_them())
    times = [took for took, _ in ends]
    print(f"cut after {min(times):.2f} .. {max(times):.2f} s, limit {LIMIT:g} s")
    assert {tuple(statuses(answer)) for _, answer in ends} == {(408,)}
    assert min(times) >= LIMIT - 0.1
    assert max(times) <= LIMIT + 0.3 * slack()  # connecting 400 takes a moment, too
    assert_unharmed(health)


def test_two_hundred_dripping_bodies_are_cut_at_the_limit(running: Running) -> None:
    """Half of them announced a length, half send chunks: these have reached an instance already."""

    async def drip(number: int) -> tuple[float, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.http)
        started = time.monotonic()
        chunked = number % 2 == 0
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1000000"
        writer.write(b"POST /%d HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (number, framing))
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            with contextlib.suppress(ConnectionError):
                writer.write(b"1\r\nx\r\n" if chunked else b"x")
            await asyncio.wait([ended], timeout=0.1)
        took = time.monotonic() - started
        writer.transport.abort()
        return took, ended.result()

    async def all_of_them() -> list[tuple[float, bytes]]:
        return await asyncio.gather(*(drip(number) for number in range(200)))

    with healthy_client(running.http) as health:
        ends = asyncio.run(all_of_them())
    times = [took for took, _ in ends]
    print(f"cut after {min(times):.2f} .. {max(times):.2f} s, limit {LIMIT:g} s")
    assert {tuple(statuses(answer)) for _, answer in ends} == {(408,)}
    assert max(times) <= LIMIT + 0.3 * slack()
    assert_unharmed(health)
    until(lambda: running.metric("headgate_in_flight") == 0, "nothing under way")


def test_fifty_clients_that_stop_reading_hold_half_a_mebibyte_each(running: Running) -> None:
    number = 50
    before = memory(running)
    TAKEN[0] = 0

    async def stall() -> tuple[float, int]:
        wires = []
        for _ in range(number):
            wire = socket.socket()
            wire.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, 65536
            )  # the kernel's share is not our subject
            wire.connect(("127.0.0.1", running.http))
            wires.append(await asyncio.open_connection(sock=wire))
        for _, writer in wires:
            writer.transport.pause_reading()
            writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(1.5)
        taken = TAKEN[0]
        await asyncio.sleep(0.5)
        assert TAKEN[0] == taken, "the instance was not paused"
        held = memory(running) - before
        for _, writer in wires:
            writer.transport.abort()
        return held, taken

    with healthy_client(running.http) as health:
        held, taken = asyncio.run(stall())
    print(
        f"{held * 1024 / number:.0f} KiB per stalled stream; {taken / MIB / number:.1f} MiB of each 20 taken"
    )
    assert held * 1024 / number <= 512
    assert taken < number * LARGE / 2
    assert_unharmed(health, worst=250.0)  # the kernel's buffers, 8 MiB each, fill at first
    until(lambda: running.metric("headgate_in_flight") == 0, "nothing under way")


# Many connections


@pytest.mark.timeout(240)
def test_ten_thousand_idle_connections_cost_four_kibibytes_each(running: Running) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(10_000, hard - 2_000)
    if number < 8_000:
        pytest.skip(f"only {hard} descriptors are allowed here; this needs 10,000")
    before = memory(running)
    wires: list[socket.socket] = []
    try:
        for _ in range(number):
            wire = socket.create_connection(("127.0.0.1", running.http), 10)
            wires.append(wire)
            wire.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert wire.recv(4096).startswith(b"HTTP/1.1 200")
        held = (memory(running) - before) * 1024 / number
        with healthy_client(running.http) as health:
            time.sleep(2)
        print(f"{number} idle connections: {held:.2f} KiB each; {health}")
        assert running.metric("headgate_connections") >= number
        assert health.errors == []
        assert health.p50 <= 5.0 * slack()
        for wire in wires[:: number // 50]:  # they are all still good
            wire.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert wire.recv(4096).startswith(b"HTTP/1.1 200")
        assert held <= 4.0
    finally:
        for wire in wires:
            wire.close()
    until(lambda: running.metric("headgate_connections") <= 5, "all of them gone")


def test_a_storm_of_connections_that_come_and_go(running: Running, instance: Recorder) -> None:
    async def storm() -> int:
        made = 0
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            wires = await connect(running, 50)
            for at, (_, writer) in enumerate(wires):
                if at % 3 == 0:
                    writer.write(b"GET / HTTP/1.1\r\n")
                elif at % 3 == 1:
                    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                writer.transport.abort()
            made += len(wires)
        return made

    before = descriptors(running, instance)
    with healthy_client(running.http) as health:
        made = asyncio.run(storm())
    print(f"{made / 3:.0f} connections a second")
    assert_unharmed(health)
    until(lambda: running.metric("headgate_connections") <= 1, "all of them gone")
    until(lambda: running.metric("headgate_in_flight") == 0, "nothing under way")
    until(lambda: descriptors(running, instance) <= before + 1, "no descriptor kept")


def test_one_address_can_not_take_all_connections(tmp_path: Path, instance: Recorder) -> None:
    with gateway(tmp_path, instance.port, limits="connections_per_client: 20, connections: 30") as running:
        wires = [socket.create_connection(("127.0.0.1", running.http), 5) for _ in range(20)]
        try:
            (status,) = statuses(speak(running.http, [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]))
            assert status == 503
            answer = speak(running.http, [b"GET / HTTP/1.0\r\n\r\n"], source="127.0.0.2")
            assert statuses(answer) == [200]
        finally:
            for wire in wires:
                wire.close()
        until(lambda: running.metric("headgate_connections") == 0, "room again")
        assert statuses(speak(running.http, [b"GET / HTTP/1.0\r\n\r\n"])) == [200]


# Much of everything


def flood(running: Running, wire: bytes, times: int, clients: int = 1) -> tuple[float, list[bytes]]:
    """Send the bytes again and again, reading nothing until the end; returns MiB more, and the answers."""
    before = memory(running)
    peak = 0.0

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.http)
        writer.transport.pause_reading()
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(times):
                writer.write(wire)
                async with asyncio.timeout(2):
                    await writer.drain()
        nonlocal peak
        peak = max(peak, memory(running) - before)
        writer.transport.resume_reading()
        got = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.5):
                while data := await reader.read(65536):
                    got += data
        writer.transport.abort()
        return got

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*(one() for _ in range(clients)))

    return peak, asyncio.run(all_of_them())


@pytest.mark.parametrize(
    ("name", "wire", "times", "status"),
    [
        ("pipelined requests", b"GET /p HTTP/1.1\r\nHost: a\r\n\r\n" * 1000, 300, 200),
        ("pipelined refusals", b"GET /locked HTTP/1.1\r\nHost: a\r\n\r\n" * 1000, 300, 401),
        ("an endless head", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: y\r\n" * 5000, 100, 431),
        ("an endless field", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000, 100, 431),
        ("an endless target", b"GET /" + b"y" * 100_000, 100, 431),
        (
            "an endless extension",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 90_000,
            50,
            400,
        ),
        (
            "endless trailers",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 9000,
            50,
            400,
        ),
    ],
    ids=["pipelining", "refusals", "head", "field", "target", "extension", "trailers"],
)
def test_a_flood_is_bounded_and_nobody_else_notices(
    running: Running, name: str, wire: bytes, times: int, status: int
) -> None:
    with healthy_client(running.http) as health:
        time.sleep(0.2)
        grew, answers = flood(running, wire, times, clients=10)
    print(f"{name}: {grew:.1f} MiB more for ten clients")
    assert grew <= 10 * 0.5 + 4
    for answer in answers:
        allowed = {status, 414} if status == 431 else {status}  # whichever bound is met first
        assert set(statuses(answer)[:1]) <= allowed  # none where the end came as a reset
    assert_unharmed(health)
    until(lambda: running.metric("headgate_in_flight") == 0, "nothing under way")


def test_a_body_of_tiny_chunks_is_read_in_bounded_time(running: Running) -> None:
    head = b"POST /tiny HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n"
    with healthy_client(running.http) as health:
        started = time.monotonic()
        answers = [speak(running.http, [head, body], half_close=True) for _ in range(3)]
        took = (time.monotonic() - started) / 3
    print(f"300,000 chunks of one byte: {took:.2f} s")
    assert [statuses(answer) for answer in answers] == [[200]] * 3
    assert_unharmed(health)


def test_after_all_that_the_gateway_is_as_before(running: Running) -> None:
    until(lambda: running.metric("headgate_connections") == 0, "nobody connected")
    assert running.metric("headgate_in_flight") == 0
    assert running.metric("headgate_bugs_total") == 0
    client = Client(running.http)
    assert client.ask("/", headers={}).body == b"ok"
    client.close()
