"""Calls that change the protocol, are silent, or are held: the upstream's half of tunnels and streams."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.message import Request
from gateway.pipeline.errors import UpstreamProtocolError, UpstreamReset, UpstreamTimeout
from tests.fakes.wires import Instance, Script, answers, until
from tests.upstream.test_upstream import Recorder, World, world

AGREED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nX: y\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def asking(protocol: bytes = b"websocket") -> Request:
    return Request(b"GET", b"/", [], upgrade=protocol)


def echoing(first: bytes = b"") -> Script:
    """Agree, say `first`, then echo until the other side ends; then say goodbye and end."""

    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        writer.write(AGREED + first)
        while data := await reader.read(65536):
            writer.write(data)
        writer.write(b"bye")
        await writer.drain()

    return script


async def opened(w: World) -> tuple[object, Recorder]:
    call, sink = w.send(asking())
    await until(lambda: sink.response or sink.error)
    assert sink.response is not None
    assert (sink.response.status, sink.response.body, sink.response.header(b"x")) == (101, None, b"y")
    return call, sink


@pytest.mark.parametrize("first", [b"", b"first words"], ids=["silent", "talking at once"])
async def test_after_the_101_bytes_pass_as_they_are_and_each_way_ends_by_itself(first: bytes) -> None:
    async with world(echoing(first)) as w:
        call, sink = await opened(w)
        assert b"connection: upgrade\r\nupgrade: websocket\r\n" in w.instance.heads[0]
        call.write(b"0\r\n\r\nnot a chunk", False)  # type: ignore[attr-defined]
        await until(lambda: sink.body == first + b"0\r\n\r\nnot a chunk")
        assert not sink.over
        call.write(b"!", True)  # type: ignore[attr-defined]
        await until(lambda: sink.over)
        assert sink.body == first + b"0\r\n\r\nnot a chunk!bye"
        assert sink.events[-1] == "last"
        await until(lambda: w.counts.active == 0)
        assert w.counts.idle == 0  # never a connection for requests again


async def test_the_instance_may_end_first_and_still_listen() -> None:
    heard = b""

    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        await instance.read_request(reader)
        writer.write(AGREED)
        writer.write_eof()
        heard = await reader.read()

    async with world(script) as w:
        call, sink = await opened(w)
        await until(lambda: sink.over)
        assert sink.events == ["response", "last"]
        call.write(b"still", False)  # type: ignore[attr-defined]
        call.write(b" here", True)  # type: ignore[attr-defined]
        await until(lambda: heard == b"still here")
        await until(lambda: w.counts.active == 0)


UNASKED = {
    "nobody asked": (b"", AGREED),
    "another protocol": (b"websocket", AGREED.replace(b"WebSocket", b"h2c")),
    "two protocols": (b"websocket", AGREED.replace(b"WebSocket", b"websocket, h2c")),
    "no protocol": (b"websocket", AGREED.replace(b"Upgrade: WebSocket\r\n", b"")),
}


@pytest.mark.parametrize(("asked", "wire"), UNASKED.values(), ids=UNASKED.keys())
async def test_a_101_that_was_not_asked_for_is_an_error_of_the_instance(asked: bytes, wire: bytes) -> None:
    async with world(answers(wire + OK)) as w:
        sink = await w.ask(asking(asked))
        assert isinstance(sink.error, UpstreamProtocolError)
        assert sink.events == ["error"]
        assert (w.counts.active, w.counts.idle) == (0, 0)


async def test_who_declines_answers_and_the_connection_stays() -> None:
    async with world(answers(OK)) as w:
        for _ in range(2):
            assert (await w.ask(asking())).body == b"ok"
        assert w.instance.connections == 1


async def test_a_tunnel_that_is_reset_is_told_of() -> None:
    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        writer.write(AGREED)
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with world(script) as w:
        call, sink = await opened(w)
        call.write(b"into the void", False)  # type: ignore[attr-defined]
        await until(lambda: sink.over)
        assert isinstance(sink.error, UpstreamReset) or sink.events[-1] == "last"


async def test_silence_ends_a_call_and_every_byte_either_way_is_a_sound() -> None:
    async with world(echoing()) as w:
        call, sink = await opened(w)
        call.allow_silence(0.2)  # type: ignore[attr-defined]
        for _ in range(8):
            await asyncio.sleep(0.06)
            call.write(b"x", False)  # type: ignore[attr-defined]
        assert sink.error is None
        assert sink.body == b"x" * 8 or sink.body == b"x" * 7
        await until(lambda: sink.over)
        assert isinstance(sink.error, UpstreamTimeout)


async def test_time_stands_still_while_a_call_is_paused() -> None:
    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await instance.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await reader.read()

    async with world(script) as w:
        call, sink = w.send(within=0.25)
        sink.at_head = call.pause  # type: ignore[attr-defined]
        await until(lambda: sink.response)
        await asyncio.sleep(0.4)
        assert sink.error is None
        call.resume()  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        assert sink.error is None
        await until(lambda: sink.over)
        assert isinstance(sink.error, UpstreamTimeout)


async def test_a_paused_call_may_get_another_deadline() -> None:
    async with world(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")) as w:
        call, sink = w.send(within=60.0)
        sink.at_head = call.pause  # type: ignore[attr-defined]
        await until(lambda: sink.response)
        call.extend(asyncio.get_running_loop().time() + 0.1)  # type: ignore[attr-defined]
        call.resume()  # type: ignore[attr-defined]
        await until(lambda: sink.over)
        assert isinstance(sink.error, UpstreamTimeout)


async def test_interim_answers_are_told_but_for_100_and_not_without_end() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    async with world(answers(b"HTTP/1.1 100 Continue\r\n\r\n" + hint + OK, hint * 20 + OK)) as w:
        assert (await w.ask()).events == ["interim 103", "response"]
        flooded = await w.ask()
        assert isinstance(flooded.error, UpstreamProtocolError)
        assert flooded.events == ["interim 103"] * 16 + ["error"]


async def test_who_gives_up_at_an_interim_answer_hears_no_more() -> None:
    async with world(answers(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as w:
        call, sink = w.send()
        sink.at_interim = call.cancel  # type: ignore[attr-defined]
        await until(lambda: sink.events)
        await asyncio.sleep(0.02)
        assert sink.events == ["interim 103"]
        assert (w.counts.active, w.counts.idle) == (0, 0)
