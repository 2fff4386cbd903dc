"""A connection about which anything was odd carries no other call, and the next call gets its own answer.

The instance answers the first request as each case says and every later one, on whatever connection, with
`second`. A connection used again would be seen by its number, and by the wrong answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.http.message import Request
from gateway.pipeline.ports import Call
from tests.fakes.wires import Instance, until
from tests.upstream.test_upstream import Recorder, World, world

SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"
FIRST = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
GET = Request(b"GET", b"/", [])
STREAMED = Request(b"PUT", b"/", [], length=100, body=None)

Disturb = Callable[[Call, Recorder], Awaitable[None]]


def first_then(wire: bytes, later: bytes = b"") -> Callable[..., Awaitable[None]]:
    """Answer the first request ever with `wire`, and say `later` a moment after; then `second` to all."""

    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            instance.heads.append(head)
            if len(instance.heads) > 1:
                writer.write(SECOND)
                continue
            writer.write(wire)
            if later:
                await asyncio.sleep(0.02)
                writer.write(later)

    return script


async def until_over(call: Call, sink: Recorder) -> None:
    await until(lambda: sink.over)


async def cancel_at_once(call: Call, sink: Recorder) -> None:
    """The client left, or the other one of a hedged pair won, before a head came."""
    await asyncio.sleep(0.01)
    call.cancel()


async def cancel_after_the_head(call: Call, sink: Recorder) -> None:
    await until(lambda: sink.response is not None)
    call.cancel()


async def time_passes(call: Call, sink: Recorder) -> None:
    call.extend(asyncio.get_running_loop().time() + 0.03)  # type: ignore[attr-defined]
    await until(lambda: sink.error is not None)


async def over_and_a_moment(call: Call, sink: Recorder) -> None:
    await until(lambda: sink.over)
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("request_", "wire", "later", "disturb"),
    [
        pytest.param(STREAMED, FIRST, b"", until_over, id="answered before the body was sent"),
        pytest.param(GET, FIRST + b"left over", b"", until_over, id="bytes after the answer, in one read"),
        pytest.param(GET, FIRST, b"left over", over_and_a_moment, id="bytes after the answer, later"),
        pytest.param(GET, FIRST + FIRST, b"", until_over, id="a second answer that nobody asked for"),
        pytest.param(GET, b"", b"", cancel_at_once, id="cancelled before the head"),
        pytest.param(GET, FIRST[:-2], b"", cancel_after_the_head, id="cancelled in the body"),
        pytest.param(GET, b"", b"", time_passes, id="the time passed before the head"),
        pytest.param(GET, FIRST[:-2], b"", time_passes, id="the time passed in the body"),
        pytest.param(GET, b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", b"", until_over, id="a malformed head"),
        pytest.param(
            GET,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            b"",
            until_over,
            id="a malformed chunk",
        ),
        pytest.param(
            GET,
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfirst",
            b"",
            until_over,
            id="the instance wants to close",
        ),
        pytest.param(
            GET, b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst", b"", until_over, id="HTTP/1.0"
        ),
    ],
)
async def test_what_is_tainted_is_closed_and_the_next_call_gets_its_own_answer(
    request_: Request, wire: bytes, later: bytes, disturb: Disturb
) -> None:
    async with world(first_then(wire, later)) as made:
        call, sink = made.send(request_, within=0.5)
        await disturb(call, sink)  # type: ignore[arg-type]
        await check_second(made, connections=2)


async def test_a_clean_connection_is_used_again() -> None:
    async with world(first_then(FIRST)) as made:
        _, sink = made.send()
        await until(lambda: sink.over)
        await check_second(made, connections=1)


async def check_second(made: World, connections: int) -> None:
    _, second = made.send()
    await until(lambda: second.over)
    assert (second.error, second.body) == (None, b"second")
    assert made.instance.connections == connections
