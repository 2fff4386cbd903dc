"""Where bodies end, however the bytes are cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import pairwise
from pkgutil import iter_modules
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway.http
from gateway.http.framing import (
    CHUNKED,
    LAST_CHUNK,
    UNTIL_CLOSE,
    BadFraming,
    ChunkedReader,
    CloseReader,
    LengthReader,
    body_of_response,
    encode_chunk,
    read_length,
    reader_for,
)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.integers(0, 400), max_size=8),
    st.binary(max_size=5),
)
def test_chunks_are_read_back_however_they_are_cut(bodies: list[bytes], at: list[int], after: bytes) -> None:
    wire = b"".join(encode_chunk(body) for body in bodies) + LAST_CHUNK + after
    reader = ChunkedReader()
    body = rest = b""
    for piece in cut(wire, at):
        if reader.done:
            rest += piece
        else:
            body += reader.feed(piece)
            rest += reader.rest
    assert (body, reader.done, rest) == (b"".join(bodies), True, after)


@pytest.mark.parametrize(
    "wire",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a\r\nhello\r\n0\r\n\r\n",
        b'5;a=b;c="d\\"e"\r\nhello\r\n0;z\r\n\r\n',
        b"00005\r\nhello\r\n000\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-Checksum: 1\r\nY:\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_forms_of_chunks_that_all_agree_on(wire: bytes) -> None:
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))]):
        reader = ChunkedReader()
        assert b"".join(reader.feed(piece) for piece in pieces) == b"hello"
        assert reader.done


BROKEN = {
    "no size": b"\r\nhello\r\n",
    "sign": b"+5\r\nhello\r\n",
    "hex prefix": b"0x5\r\nhello\r\n",
    "underscore": b"1_0\r\n",
    "space after the size": b"5 \r\nhello\r\n",
    "space before the size": b" 5\r\nhello\r\n",
    "beyond 64 bits": b"10000000000000005\r\nhello\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare CR after the size": b"5\rhello\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "CR and something after the data": b"5\r\nhello\rX0\r\n\r\n",
    "data longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n",
    "NUL in an extension": b"5;a=\x00\r\nhello\r\n",
    "open quote": b'5;a="b\r\nhello\r\n',
    "endless extension": b"5;" + b"a" * 10000,
    "large extensions": b"1;aaaaaaaa\r\nx\r\n" * 2000,
    "trailer that frames": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer that routes": b"0\r\nHost: a\r\n\r\n",
    "trailer that authenticates": b"0\r\nauthorization: x\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer without colon": b"0\r\nX\r\n\r\n",
    "trailer with a bare LF": b"0\r\nX: a\nY: b\r\n\r\n",
    "endless trailer": b"0\r\nX: " + b"a" * 10000,
    "endless trailers": b"0\r\n" + b"X: a\r\n" * 3000,
}


def feed_bytewise(reader: ChunkedReader, wire: bytes) -> bytes:
    return b"".join(reader.feed(wire[i : i + 1]) for i in range(len(wire)))


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN.keys())
def test_chunks_that_can_be_read_in_two_ways_are_refused(wire: bytes) -> None:
    with pytest.raises(BadFraming):
        ChunkedReader().feed(wire)
    with pytest.raises(BadFraming):
        feed_bytewise(ChunkedReader(), wire)


@given(
    st.lists(
        st.sampled_from([b"5", b"0", b"a", b"\r\n", b"\n", b"\r", b";x", b" ", b"hello", b"X: y"]), max_size=9
    )
)
def test_h11_reads_the_chunks_that_we_accept_as_we_do(parts: list[bytes]) -> None:
    wire = b"".join(parts)
    reader = ChunkedReader()
    try:
        body = reader.feed(wire)
    except BadFraming:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    theirs, ended = b"", False
    while (event := other.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Data):
            theirs += event.data
        ended = ended or isinstance(event, h11.EndOfMessage)
    assert (theirs, ended) == (body, reader.done)


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(BadFraming):
        ChunkedReader(max_chunks=3).feed(b"1\r\nx\r\n" * 4)


def test_an_empty_piece_does_not_end_a_chunked_body() -> None:
    assert encode_chunk(b"") == b""


@given(st.integers(0, 50), st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=4))
def test_a_counted_body_takes_exactly_its_bytes(length: int, data: bytes, at: list[int]) -> None:
    reader = LengthReader(length)
    body = rest = b""
    for piece in cut(data, at):
        if reader.done:
            rest += piece
        else:
            body += reader.feed(piece)
            rest += reader.rest
    assert (body, rest) == (data[:length], data[length:])
    assert reader.done is (len(data) >= length)


@pytest.mark.parametrize(
    "value", [b"", b"+1", b"-1", b"1,1", b"01", b"0x1", b"1_0", b" 1", b"1" * 19, "١".encode()]
)
def test_a_length_is_one_plain_number(value: bytes) -> None:
    with pytest.raises(BadFraming):
        read_length(value)


@pytest.mark.parametrize(
    ("method", "status", "length", "chunked", "framing"),
    [
        (b"HEAD", 200, 5, False, 0),
        (b"HEAD", 200, None, True, 0),
        (b"GET", 204, 5, False, 0),
        (b"GET", 304, 5, False, 0),
        (b"GET", 100, None, False, 0),
        (b"GET", 200, 5, False, 5),
        (b"GET", 200, 0, False, 0),
        (b"GET", 200, None, True, CHUNKED),
        (b"GET", 200, None, False, UNTIL_CLOSE),
    ],
)
def test_rfc_9112_6_3(method: bytes, status: int, length: int | None, chunked: bool, framing: int) -> None:
    assert body_of_response(method, status, length, chunked) == framing


def test_the_reader_fits_the_framing() -> None:
    assert [type(reader_for(framing)) for framing in (CHUNKED, UNTIL_CLOSE, 3)] == [
        ChunkedReader,
        CloseReader,
        LengthReader,
    ]
    assert CloseReader().feed(b"all") == b"all"


def possessive_groups(parsed: Iterable[Any]) -> Iterator[str]:
    """Possessive repeats of more than one character or class, in what re's own parser makes of a pattern."""
    for operator, argument in parsed:
        if str(operator) == "POSSESSIVE_REPEAT":
            inner = list(argument[2])
            if len(inner) != 1 or str(inner[0][0]) not in ("IN", "LITERAL", "NOT_LITERAL", "ANY"):
                yield str(inner)
        for part in argument if isinstance(argument, list | tuple) else ():
            for deeper in part if isinstance(part, list) else (part,):
                if hasattr(deeper, "data"):
                    yield from possessive_groups(deeper)


def test_no_pattern_holds_a_possessive_group() -> None:
    """Python before 3.11.5 takes what they don't match (cpython#106052): malformed chunks passed."""
    assert list(possessive_groups(re._parser.parse("x(?:ab|c)*+")))  # type: ignore[attr-defined]
    modules = [import_module(f"gateway.http.{found.name}") for found in iter_modules(gateway.http.__path__)]
    patterns = {
        f"{module.__name__}.{name}": value.pattern
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, re.Pattern)
    }
    assert len(patterns) > 20
    found = {
        name: list(possessive_groups(re._parser.parse(each)))  # type: ignore[attr-defined]
        for name, each in patterns.items()
    }
    assert {name: groups for name, groups in found.items() if groups} == {}
