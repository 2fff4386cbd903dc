"""Slow, stalled and vanishing parties: what is bounded, and what each side is told."""

from __future__ import annotations

import asyncio

import pytest

from gateway.pipeline.ports import Begin
from gateway.server.settings import ServerSettings
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.upstream import HttpUpstream
from tests.fakes.relay import relay_to
from tests.fakes.wires import Instance, answers, until, wires

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
QUICK = ServerSettings(head_timeout=0.15, idle_timeout=0.3, body_timeout=0.15, linger=0.1, send_timeout=0.3)
MIB = 1 << 20
BOUND = 512 * 1024


async def hang(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await instance.read_request(reader)
    await reader.read()
    instance.lost += 1


# Slow clients


async def test_a_head_that_drips_is_cut_off() -> None:
    async with wires(server=QUICK) as world:
        client = await world.connect()
        started = asyncio.get_running_loop().time()
        for byte in GET[:-2]:
            client.send(bytes((byte,)))
            await asyncio.sleep(0.01)
            if world.listener.connections == 0:
                break
        status, fields, _ = await client.response()
        assert (status, fields[b"x-headgate-reason"]) == (408, b"head_timeout")
        assert asyncio.get_running_loop().time() - started < 1.0
        assert world.instance.heads == []


async def test_a_connection_that_says_nothing_is_closed_in_silence() -> None:
    async with wires(server=QUICK) as world:
        client = await world.connect()
        assert await client.broken()


async def test_an_idle_connection_is_closed_in_silence() -> None:
    async with wires(server=QUICK) as world:
        client = await world.connect()
        client.send(GET)
        await client.response()
        assert await client.broken()
        assert world.listener.connections == 0


async def test_a_body_that_stalls_is_answered_408() -> None:
    async with wires(server=QUICK) as world:
        client = await world.connect()
        client.send(POST + b"Content-Length: 10\r\n\r\nhalf")
        status, fields, _ = await client.response()
        assert (status, fields[b"x-headgate-reason"], fields[b"connection"]) == (
            408,
            b"body_timeout",
            b"close",
        )
        assert await client.broken()
        assert world.instance.bodies == []


async def test_an_instance_that_thinks_long_is_no_fault_of_the_client() -> None:
    async def slow(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        await asyncio.sleep(0.5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with wires(slow, server=QUICK) as world:
        client = await world.connect()
        client.send(GET)
        assert (await client.response())[0] == 200


async def test_a_client_that_never_reads_is_cut_off() -> None:
    body = b"x" * (8 * MIB)
    async with wires(
        answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body), server=QUICK
    ) as world:
        client = await world.connect()
        client.writer.transport.pause_reading()
        client.send(GET)
        await until(lambda: world.instance.heads)
        await until(lambda: world.listener.connections == 0)
        await until(lambda: world.upstream.counts()[0].active == 0)


# Bounded buffers


async def test_a_client_that_stops_reading_pauses_the_instance() -> None:
    body = b"x" * (20 * MIB)
    progress: list[int] = []

    async def large(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), MIB):
            writer.write(body[start : start + MIB])
            await writer.drain()
            progress.append(start + MIB)

    async with wires(large) as world:
        client = await world.connect()
        client.writer.transport.pause_reading()
        client.send(GET)
        await until(lambda: progress)
        await asyncio.sleep(0.5)
        (connection,) = world.listener._connections
        assert len(progress) < 20  # the rest is held by the instance, not by the gateway
        assert connection.transport.get_write_buffer_size() <= BOUND
        client.writer.transport.resume_reading()
        assert (await client.response())[2] == body


async def test_an_instance_that_stops_reading_pauses_the_client() -> None:
    go_on = asyncio.Event()

    async def lazy(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        instance.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.pause_reading()
        await go_on.wait()
        writer.transport.resume_reading()
        instance.bodies.append(await reader.readexactly(20 * MIB))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with wires(lazy) as world:
        client = await world.connect()
        client.send(POST + b"Content-Length: %d\r\n\r\n" % (20 * MIB))
        sender = asyncio.create_task(_send_all(client.writer, b"y" * (20 * MIB)))
        await until(lambda: world.instance.heads)
        await asyncio.sleep(0.5)
        (connection,) = world.listener._connections
        (group,) = world.upstream._by_address.values()
        (carrying,) = group._open
        assert not sender.done()
        assert len(connection._buffer) + carrying.transport.get_write_buffer_size() <= BOUND
        go_on.set()
        assert (await client.response())[2] == b"ok"
        assert world.instance.bodies == [b"y" * (20 * MIB)]
        await sender


async def _send_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), 64 * 1024):
        writer.write(data[start : start + 64 * 1024])
        await writer.drain()


# Clients that leave


async def test_a_client_that_leaves_while_the_instance_works_frees_it() -> None:
    async with wires(hang) as world:
        client = await world.connect()
        client.send(GET)
        await until(lambda: world.instance.heads)
        client.reset()
        await until(lambda: world.instance.lost == 1)
        assert world.upstream.counts()[0].active == 0
        assert world.listener.connections == 0


async def test_a_client_that_leaves_in_mid_body_frees_the_instance() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(POST + b"Content-Length: 1000\r\n\r\nhalf")
        await until(lambda: world.instance.heads)
        client.writer.write_eof()
        await until(lambda: world.instance.lost == 1)
        assert world.instance.bodies == []


async def test_a_client_that_leaves_in_mid_response_frees_the_instance() -> None:
    async def endless(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()
            await asyncio.sleep(0.005)

    async with wires(endless) as world:
        client = await world.connect()
        client.send(GET)
        await client.head()
        client.reset()
        await until(lambda: world.instance.lost == 1)
        assert world.upstream.counts()[0].active == 0


async def test_a_client_that_leaves_in_mid_head_is_forgotten() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(GET[:10])
        await until(lambda: world.listener.connections == 1)
        client.writer.close()
        await until(lambda: world.listener.connections == 0)


# Instances that die


@pytest.mark.parametrize(
    ("wire", "status", "reason"),
    [
        (b"", 502, b"upstream_reset"),
        (b"HTTP/1.1 2", 502, b"upstream_reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", 502, b"upstream_reset"),
        (b"nonsense\r\n\r\n", 502, b"upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502, b"upstream_protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, b"upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, 502, b"upstream_protocol"),
    ],
)
async def test_an_instance_that_dies_before_its_head_is_complete(
    wire: bytes, status: int, reason: bytes
) -> None:
    async with wires(answers(wire, close=True)) as world:
        client = await world.connect()
        client.send(GET)
        got, fields, _ = await client.response()
        assert (got, fields[b"x-headgate-reason"]) == (status, reason)
        client.send(GET)
        assert (await client.response())[0] == status  # the client's connection is none the worse


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX: a\rb",
        b"HTTP/1.1 200 OK\r\nX: \x00",
    ],
    ids=["bare LF", "bare CR", "NUL"],
)
async def test_an_instance_whose_head_can_never_be_good_is_not_waited_for(wire: bytes) -> None:
    async with wires(answers(wire)) as world:
        client = await world.connect()
        client.send(GET)
        status, fields, _ = await client.response()
        assert (status, fields[b"x-headgate-reason"]) == (502, b"upstream_protocol")


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
    ids=["length", "chunked", "malformed chunk"],
)
async def test_an_instance_that_dies_in_mid_body_breaks_the_clients_connection(wire: bytes) -> None:
    async def dies(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        cut = wire.find(b"half") + 4
        writer.write(wire[:cut])
        await asyncio.sleep(0.02)
        writer.write(wire[cut:])

    async with wires(dies) as world:
        client = await world.connect()
        client.send(GET)
        assert (await client.head())[0] == 200
        rest = await client.rest()
        assert b"half" in rest or rest == b""
        assert not rest.endswith(b"0\r\n\r\n")
        assert world.listener.connections == 0


def _to_nobody(upstream: HttpUpstream, host: str, port: int) -> Begin:
    return relay_to(upstream, "127.0.0.1", 1)


async def test_an_instance_that_is_not_there() -> None:
    async with wires(begin=_to_nobody) as world:
        client = await world.connect()
        client.send(GET)
        status, fields, _ = await client.response()
        assert (status, fields[b"x-headgate-reason"]) == (503, b"upstream_connect")


# Expect: 100-continue, and bodies that nobody wants

EXPECTING = POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"


async def test_continue_is_said_when_the_body_is_wanted() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(EXPECTING)
        assert (await client.head())[0] == 100
        client.send(b"body")
        assert (await client.response())[2] == b"body"
        assert b"expect" not in world.instance.heads[0].lower()


async def test_continue_is_not_said_to_a_client_that_did_not_wait() -> None:
    async with wires() as world:
        client = await world.connect()
        client.send(EXPECTING + b"bo")
        client.send(b"dy")
        assert (await client.response())[2] == b"body"


async def test_a_refused_expectation_closes_because_the_next_bytes_are_ambiguous() -> None:
    async with wires(begin=_to_nobody) as world:
        client = await world.connect()
        client.send(EXPECTING)
        status, fields, _ = await client.response()
        assert (status, fields[b"connection"]) == (503, b"close")
        assert await client.broken()


async def test_a_small_unwanted_body_is_read_away() -> None:
    async with wires(begin=_to_nobody) as world:
        client = await world.connect()
        for _ in range(2):
            client.send(POST + b"Content-Length: 1000\r\n\r\n")
            status, fields, _ = await client.response()
            assert (status, b"connection" in fields) == (503, False)
            client.send(b"x" * 1000)


async def test_a_large_unwanted_body_closes_after_the_answer_was_read() -> None:
    async with wires(begin=_to_nobody, server=QUICK) as world:
        client = await world.connect()
        client.send(POST + b"Content-Length: %d\r\n\r\n" % (8 * MIB) + b"x" * MIB)
        status, fields, _ = await client.response()
        assert (status, fields[b"connection"]) == (503, b"close")
        assert await client.broken()


async def test_a_body_above_the_limit_is_refused() -> None:
    limits = ServerSettings(body_limit=1000)
    async with wires(server=limits) as world:
        client = await world.connect()
        client.send(POST + b"Content-Length: 1001\r\n\r\n")
        assert (await client.response())[0] == 413
        client = await world.connect()
        client.send(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n5\r\nabcde\r\n"
        )
        assert (await client.response())[0] == 413
        assert world.instance.bodies == []


# Kept-alive connections to the instance


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokEXTRA",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["extra bytes", "a second response", "close", "HTTP/1.0"],
)
async def test_a_connection_that_is_not_clean_is_not_used_again(wire: bytes) -> None:
    async with wires(answers(wire)) as world:
        client = await world.connect()
        for _ in range(3):
            client.send(GET)
            assert (await client.response())[2] == b"ok"
        assert world.instance.connections == 3
        assert world.upstream.counts()[0].idle == 0


async def test_an_answer_before_the_request_was_sent_taints_the_connection() -> None:
    async def early(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        instance.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    async with wires(early) as world:
        client = await world.connect()
        client.send(POST + b"Content-Length: 100\r\n\r\n")
        assert (await client.response())[::2] == (403, b"no")
        assert world.upstream.counts()[0].idle == 0
        client.send(b"x" * 100)  # read away
        client.send(GET)
        assert (await client.response())[0] == 403
        assert world.instance.connections == 2


async def test_idle_connections_to_an_instance_are_closed() -> None:
    async with wires(connections=ConnectionSettings(idle_timeout=0.1)) as world:
        client = await world.connect()
        client.send(GET)
        await client.response()
        assert world.upstream.counts()[0].idle == 1
        await until(lambda: world.upstream.counts()[0].idle == 0)
        client.send(GET)
        assert (await client.response())[0] == 200
        assert world.instance.connections == 2
