"""Requests out of bytes: what is whole, what is still coming, what is refused at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.parse import BadRequest
from gateway.server.heads import Heads
from gateway.server.settings import ServerSettings

SETTINGS = ServerSettings(body_limit=100, chunk_limit=4)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_head_without_a_body_leaves_what_follows() -> None:
    heads = Heads()
    request = heads.take(GET + b"GET /2", SETTINGS)
    assert request is not None
    assert (request.path, request.body, heads.rest) == (b"/", b"", b"GET /2")


@pytest.mark.parametrize(
    ("wire", "body", "rest"),
    [
        (POST + b"abcd", b"abc", b"d"),
        (POST + b"ab", None, b"ab"),
        (POST, None, b""),
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\nGET", b"abc", b"GET"),
        (CHUNKED + b"3\r\nabc\r\n", None, b"3\r\nabc\r\n"),
        (CHUNKED, None, b""),
    ],
    ids=["whole", "part", "none yet", "whole in chunks", "part in chunks", "no chunk yet"],
)
def test_a_body_that_is_here_is_part_of_the_request(wire: bytes, body: bytes | None, rest: bytes) -> None:
    heads = Heads()
    request = heads.take(wire, SETTINGS)
    assert request is not None
    assert (request.body, heads.rest) == (body, rest)


def test_trailers_of_a_whole_body_are_there_with_it() -> None:
    request = Heads().take(CHUNKED + b"1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n", SETTINGS)
    assert request is not None
    assert (request.body, request.length, request.trailers) == (b"x", 1, [(b"x-sum", b"1")])


REFUSED = {
    "announced too large": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n",
        413,
        "body_too_large",
    ),
    "a bad chunk": (CHUNKED + b"zz\r\n", 400, "bad_body"),
    "a bad chunk behind a good one": (CHUNKED + b"1\r\nx\r\n-1\r\n", 400, "bad_body"),
    "a forbidden trailer": (CHUNKED + b"0\r\nHost: b\r\n\r\n", 400, "bad_body"),
    "too many chunks": (CHUNKED + b"1\r\nx\r\n" * 5, 400, "bad_body"),
}


@pytest.mark.parametrize(("wire", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_body_that_cannot_become_good_is_refused_with_its_request(
    wire: bytes, status: int, code: str
) -> None:
    heads = Heads()
    with pytest.raises(BadRequest) as refused:
        heads.take(wire, SETTINGS)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert heads.refused is not None
    assert heads.refused.method == b"POST"


@given(st.lists(st.integers(1, 40), max_size=12))
def test_however_a_head_is_cut_it_is_the_same(steps: list[int]) -> None:
    heads = Heads()
    wire = b"\r\n" + GET + GET
    data, at, found = b"", 0, 0
    for step in [*steps, len(wire)]:
        data += wire[at : at + step]
        at += step
        while data:
            request = heads.take(data, SETTINGS)
            data = heads.rest
            if request is None:
                break
            found += 1
    assert (found, data, heads.scanned) == (2, b"", 0)
