"""The outbox: one flush per burst, order kept, nothing to whom is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.http.outbox import BURST, CALM, LARGE, LONELY, Outbox


class Wire:
    """A transport that notes what it was given."""

    def __init__(self, log: list[tuple[str, bytes]], name: str = "a") -> None:
        self.log = log
        self.name = name
        self.closing = False
        self.on_write: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        self.log.append((self.name, data))
        self.on_write()

    def is_closing(self) -> bool:
        return self.closing


@pytest.fixture
def soon() -> list[Callable[[], None]]:
    return []


@pytest.fixture
def outbox(soon: list[Callable[[], None]]) -> Outbox:
    return Outbox(soon.append)


@pytest.fixture
def log() -> list[tuple[str, bytes]]:
    return []


def test_writes_wait_for_the_end_of_the_burst(
    outbox: Outbox, soon: list[Callable[[], None]], log: list[tuple[str, bytes]]
) -> None:
    first, second = Wire(log), Wire(log, "b")
    outbox.post(first, b"1")
    outbox.post(second, b"2")
    outbox.post(first, b"3")
    assert log == []
    assert len(soon) == 1
    soon.pop()()
    assert log == [("a", b"1"), ("b", b"2"), ("a", b"3")]


def test_the_next_burst_is_announced_anew(
    outbox: Outbox, soon: list[Callable[[], None]], log: list[tuple[str, bytes]]
) -> None:
    wire = Wire(log)
    outbox.post(wire, b"1")
    soon.pop()()
    outbox.post(wire, b"2")
    assert len(soon) == 1


def test_a_long_burst_is_cut(outbox: Outbox, log: list[tuple[str, bytes]]) -> None:
    wire = Wire(log)
    for number in range(BURST):
        outbox.post(wire, b"%d" % number)
    assert [data for _, data in log] == [b"%d" % number for number in range(BURST)]


def test_a_large_piece_goes_out_at_once_after_what_waits(
    outbox: Outbox, log: list[tuple[str, bytes]]
) -> None:
    wire = Wire(log)
    outbox.post(wire, b"head")
    outbox.post(wire, b"x" * (LARGE + 1))
    assert [len(data) for _, data in log] == [4, LARGE + 1]


def test_nothing_is_written_to_a_transport_that_closes(
    outbox: Outbox, soon: list[Callable[[], None]], log: list[tuple[str, bytes]]
) -> None:
    gone, there = Wire(log), Wire(log, "b")
    outbox.post(gone, b"1")
    outbox.post(there, b"2")
    gone.closing = True
    soon.pop()()
    assert log == [("b", b"2")]


def test_a_flush_from_within_a_write_keeps_the_order(
    outbox: Outbox, soon: list[Callable[[], None]], log: list[tuple[str, bytes]]
) -> None:
    wire = Wire(log)

    def post_more() -> None:
        wire.on_write = lambda: None
        outbox.post(wire, b"3")
        outbox.flush()

    wire.on_write = post_more
    outbox.post(wire, b"1")
    outbox.post(wire, b"2")
    soon.pop()()
    assert [data for _, data in log] == [b"1", b"2", b"3"]


def test_after_bursts_of_one_write_the_next_ones_go_out_at_once(
    outbox: Outbox, soon: list[Callable[[], None]], log: list[tuple[str, bytes]]
) -> None:
    wire = Wire(log)
    for _ in range(LONELY):
        outbox.post(wire, b"waits")
        soon.pop()()
    for number in range(CALM):
        outbox.post(wire, b"%d" % number)
        assert log[-1] == ("a", b"%d" % number)
    assert soon == []
    outbox.post(wire, b"looks again")
    assert log[-1] == ("a", b"%d" % (CALM - 1))
    soon.pop()()
    assert log[-1] == ("a", b"looks again")
    outbox.post(wire, b"still calm")
    assert log[-1] == ("a", b"still calm")


def test_a_burst_of_two_ends_the_calm(
    outbox: Outbox, soon: list[Callable[[], None]], log: list[tuple[str, bytes]]
) -> None:
    wire = Wire(log)
    for _ in range(LONELY):
        outbox.post(wire, b"alone")
        soon.pop()()
    for _ in range(CALM):
        outbox.post(wire, b"at once")
    outbox.post(wire, b"1")
    outbox.post(wire, b"2")
    soon.pop()()
    outbox.post(wire, b"waits")
    assert log[-1] == ("a", b"2")


def test_in_a_calm_nothing_is_sent_to_whom_is_gone(
    outbox: Outbox, soon: list[Callable[[], None]], log: list[tuple[str, bytes]]
) -> None:
    wire = Wire(log)
    for _ in range(LONELY):
        outbox.post(wire, b"alone")
        soon.pop()()
    wire.closing, before = True, len(log)
    outbox.post(wire, b"late")
    assert len(log) == before
