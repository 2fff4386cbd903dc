"""One pipelined connection: one write per turn of the loop, replies in order, each callback called once."""

import asyncio

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline.ports import StoreUnavailable
from gateway.stores import resp
from gateway.stores.resp import Connection, ReplyError, encode


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data):
        self.written.append(bytes(data))

    def abort(self):
        self.aborted = True


class Line:
    """A connection, its wire, and what was heard from it."""

    def __init__(self, timeout=0.05):
        self.lost: list[str] = []
        self.heard: list[object] = []
        self.wire = Wire()
        self.gone = asyncio.Event()
        self.connection = Connection(asyncio.get_running_loop(), timeout, self._on_lost)
        self.connection.connection_made(self.wire)

    def _on_lost(self, why):
        self.lost.append(why)
        self.gone.set()

    def send(self, *args: bytes):
        self.connection.send(encode(*args), self.heard.append)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8))
def test_an_encoded_command_reads_back(args):
    reader = hiredis.Reader()
    reader.feed(encode(*args))
    assert reader.gets() == args


async def test_commands_of_one_turn_leave_in_one_write_and_replies_come_in_order():
    line = Line()
    for i in range(3):
        line.send(b"ECHO", b"%d" % i)
    assert line.wire.written == []
    await asyncio.sleep(0)
    assert line.wire.written == [b"".join(encode(b"ECHO", b"%d" % i) for i in range(3))]
    line.connection.data_received(b"$1\r\n0\r\n:7\r")
    assert line.heard == [b"0"]
    line.connection.data_received(b"\n$-1\r\n")
    assert line.heard == [b"0", 7, None]
    assert repr(line.connection) == "<Connection to Redis up | 0 pending>"


async def test_an_error_reply_is_handed_over_like_any_other():
    line = Line()
    line.send(b"GET", b"k")
    line.connection.data_received(b"-WRONGTYPE no\r\n")
    assert isinstance(line.heard[0], ReplyError)
    future = line.connection.call(b"PING")
    line.connection.data_received(b"-LOADING wait\r\n")
    with pytest.raises(ReplyError, match="LOADING"):
        await future


async def test_when_the_oldest_command_waited_too_long_everything_pending_fails_once():
    line = Line(timeout=0.02)
    line.send(b"A")
    line.send(b"B")
    await line.gone.wait()
    assert line.lost == ["no reply within 20 ms"]
    assert [type(x) for x in line.heard] == [StoreUnavailable, StoreUnavailable]
    assert line.wire.aborted
    line.connection.connection_lost(None)
    assert len(line.lost) == 1
    line.send(b"D")
    assert isinstance(line.heard[-1], StoreUnavailable)


async def test_answers_in_time_keep_the_connection():
    line = Line(timeout=0.02)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.06
    while loop.time() < end:
        line.send(b"PING")
        await asyncio.sleep(0)
        line.connection.data_received(b"+PONG\r\n")
    assert line.lost == []


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"+PONG\r\n", "nobody asked"), (b"hello?\r\n", "not RESP")],
    ids=["unasked", "not RESP"],
)
async def test_a_server_that_breaks_the_protocol_is_left(said, why):
    line = Line()
    line.connection.data_received(said)
    assert why in line.lost[0]
    assert line.wire.aborted


async def test_a_reply_without_an_end_is_not_kept(monkeypatch):
    monkeypatch.setattr(resp, "MAX_REPLY", 1000)
    line = Line()
    for _ in range(3):  # whole ones, together longer
        line.send(b"GET")
        line.connection.data_received(b"$600\r\n" + b"x" * 600 + b"\r\n")
    assert line.lost == []
    line.send(b"GET")
    line.connection.data_received(b"$100000\r\n" + b"x" * 900)
    line.connection.data_received(b"x" * 900)
    assert line.lost == ["a reply of more than 0 MiB"]
    assert isinstance(line.heard[-1], StoreUnavailable)


async def test_a_closed_or_broken_connection_fails_what_is_pending():
    for reason, why in ((None, "closed"), (ConnectionResetError("reset"), "broke: reset")):
        line = Line()
        line.send(b"A")
        line.connection.connection_lost(reason)
        assert why in line.lost[0]
        assert isinstance(line.heard[0], StoreUnavailable)


async def test_a_server_too_far_behind_is_not_asked_more(monkeypatch):
    monkeypatch.setattr(resp, "MAX_PENDING", 2)
    line = Line()
    for _ in range(3):
        line.send(b"A")
    assert [str(x) for x in line.heard] == ["the server is too far behind"]
    line.connection.give_up("closed")
