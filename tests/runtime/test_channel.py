"""Frames between a supervisor and its workers, and what they carry."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.leases import Answer, Ask, Told
from gateway.runtime import messages
from gateway.runtime.channel import BadFrame, Channel, Frames, frame
from gateway.stores.leased import Draw, Settled
from gateway.telemetry.families import Family, Sample


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(
    sent: list[bytes], cuts: list[int]
) -> None:
    stream, frames, got, position = b"".join(frame(one) for one in sent), Frames(), [], 0
    while position < len(stream):
        size = cuts[position % len(cuts)]
        got += frames.feed(stream[position : position + size])
        position += size
    assert got == sent


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadFrame, match="1001 bytes"):
        Frames(limit=1000).feed((1001).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "message",
    [
        messages.Hello(messages.VERSION, 3, 4711),
        messages.Beat(1, 2, False),
        messages.Counted((Family("a", "gauge", "b", (Sample("a", (("x", "y"),), 1.5),)),)),
        messages.Drawing(
            Draw(
                1,
                [Told(b"k\0\xff", 1.0, 0.0)],
                [Settled(b"k", -1.0, 2.0)],
                [[Ask(b"k", 1.0, 2.0, 3.0, 4.0)]],
            )
        ),
        messages.Saw((messages.Sighting("p", "i", "ejected", 12.5),)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_a_worker_says_is_read_as_it_was_said(message: messages.FromWorker) -> None:
    read = messages.read_from_worker(messages.encode(message))
    assert type(read) is type(message)
    assert messages.encode(read) == messages.encode(message)


@pytest.mark.parametrize(
    "message",
    [
        messages.Prepare(7, {"gateway.yaml": b"limits: {}\n"}),
        messages.Drawn(1, (Answer(True, 0, 1, 0.0, 0.5, (2.0,)),)),
        messages.Unwell((("pool", "instance"),)),
        messages.Cover((0, 2)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_a_supervisor_says_is_read_as_it_was_said(message: messages.FromSupervisor) -> None:
    assert messages.read_from_supervisor(messages.encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        messages.encode(messages.Leave(1.0, 1.0)),
        messages._encoder.encode(["Hello", "v", 1, 2, 3]),
        messages._encoder.encode(["Hello", 1, 1, 2]),
        messages._encoder.encode(["Unknown"]),
    ],
    ids=["nothing", "no MessagePack", "other direction", "a field too many", "wrong type", "unknown"],
)
def test_what_is_not_understood_is_an_error(data: bytes) -> None:
    with pytest.raises(messages.BadMessage):
        messages.read_from_worker(data)


async def test_messages_arrive_in_order_and_the_end_is_told() -> None:
    here, there = socket.socketpair()
    got: list[bytes] = []
    ended = asyncio.Event()
    one = await Channel.open(here, got.append, ended.set)
    other = await Channel.open(there, got.append, lambda: None)
    for number in range(100):
        other.send(b"%d" % number)
    other.send(b"x" * 1_000_000)
    other.close()
    async with asyncio.timeout(5):
        await ended.wait()
    assert got == [*(b"%d" % number for number in range(100)), b"x" * 1_000_000]
    one.send(b"nobody listens")
    one.close()


async def test_an_end_that_speaks_no_frames_is_closed() -> None:
    here, there = socket.socketpair()
    ended = asyncio.Event()
    await Channel.open(here, lambda _: None, ended.set)
    with there:
        there.sendall(b"\xff" * 8)
        async with asyncio.timeout(5):
            await ended.wait()
