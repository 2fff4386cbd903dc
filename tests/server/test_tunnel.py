"""The client's end of a tunnel: bytes as they are, each way with an end of its own."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.message import Response
from gateway.server.settings import ServerSettings
from tests.fakes.wires import until
from tests.server.test_connection import Scripted, stage

ASK = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def agree(receiver: Scripted) -> None:
    receiver.down.upgrade(Response(101, [(b"x", b"y"), (b"content-length", b"3")], None), b"websocket")


async def test_a_101_says_what_was_agreed_and_nothing_of_framing() -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        status, fields, _ = await client.response()
        assert status == 101
        assert (fields[b"connection"], fields[b"upgrade"], fields[b"x"]) == (b"upgrade", b"websocket", b"y")
        assert not {b"content-length", b"transfer-encoding"} & set(fields)


async def test_bytes_pass_as_they_are() -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        client.send(b"GET / HTTP/9.9\n\n")
        await until(lambda: s.first.body == b"GET / HTTP/9.9\n\n")
        s.first.down.write(b"\x00\r\n\xff")
        assert await client.reader.readexactly(4) == b"\x00\r\n\xff"
        assert len(s.receivers) == 1


async def test_what_came_before_the_101_waits_for_it() -> None:
    async with stage() as s:
        client = await s.world.connect()
        client.send(ASK + b"too early")
        await until(lambda: s.receivers)
        await asyncio.sleep(0.02)
        assert (s.first.events, s.first.body) == (["start"], b"")
        agree(s.first)
        await until(lambda: s.first.body == b"too early")


@pytest.mark.parametrize("client_first", [True, False], ids=["client first", "instance first"])
async def test_each_way_ends_by_itself_and_then_the_connection(client_first: bool) -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        down = s.first.down
        if client_first:
            client.writer.write_eof()
            await until(lambda: s.first.events[-1] == "last")
            down.write(b"after you")
            down.end()
            assert await client.rest() == b"after you"
        else:
            down.write(b"me first")
            down.end()
            assert await client.rest() == b"me first"
            client.send(b"still here")
            await until(lambda: s.first.body == b"still here")
            client.writer.write_eof()
            await until(lambda: s.first.events[-1] == "last")
        await until(lambda: not s.world.listener.connections)
        assert "gone" not in s.first.events


async def test_a_client_that_breaks_a_tunnel_is_gone() -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        client.reset()
        await until(lambda: s.first.events[-1] == "gone")


async def test_a_tunnel_has_no_time_of_its_own_and_no_size() -> None:
    quick = ServerSettings(body_timeout=0.05, head_timeout=0.05, idle_timeout=0.05, body_limit=10)
    async with stage(agree, quick) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        await asyncio.sleep(0.2)
        client.send(b"x" * 1000)
        await until(lambda: len(s.first.body) == 1000)


async def test_a_held_client_waits() -> None:
    async with stage(agree, ServerSettings(read_ahead=1000)) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        s.first.down.pause_body()
        client.send(b"x" * 5_000_000)
        await asyncio.sleep(0.05)
        assert len(s.first.body) < 1_000_000
        s.first.down.resume_body()
        await until(lambda: len(s.first.body) == 5_000_000)


async def test_at_the_end_of_a_drain_a_tunnel_is_closed_after_what_was_said() -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        s.first.down.write(b"last words")
        assert await s.world.listener.drain(0.05) == 1
        assert await client.rest() == b"last words"
        await until(lambda: s.first.events[-1] == "gone")


async def test_an_aborted_tunnel_is_broken() -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        s.first.down.abort()
        assert await client.broken()
        assert s.first.events == ["start"]


async def test_a_bug_at_the_clients_end_becomes_a_crash() -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()

        def fail(data: bytes, last: bool) -> None:
            raise RuntimeError("bug")

        s.first.on_body = fail  # type: ignore[method-assign]
        client.writer.write_eof()
        await until(lambda: s.first.events[-1] == "crash")


async def test_a_second_answer_is_nobodys() -> None:
    async with stage(agree) as s:
        client = await s.world.connect()
        client.send(ASK)
        await client.head()
        s.first.down.begin(Response(200, [], None))
        agree(s.first)
        s.first.down.interim(Response(103))
        s.first.down.write(b"x")
        assert await client.reader.readexactly(1) == b"x"
