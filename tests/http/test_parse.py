"""Heads: what is accepted, what is refused, and that nobody else reads an accepted head differently."""

from __future__ import annotations

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.framing import CHUNKED, UNTIL_CLOSE
from gateway.http.message import Headers, Request, Response
from gateway.http.parse import BadRequest, BadResponse, HeadLimits, check_unfinished, parse_request
from gateway.http.parse import parse_response_head as parse_response
from gateway.http.serialize import write_request_head, write_response_head
from tests.http.hostile import HOSTILE

LIMITS = HeadLimits()
TOKEN = "!#$%&'*+-.^`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FRAMING = {
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"expect",
    b"keep-alive",
    b"upgrade",
}


def read(head: bytes) -> Request:
    return parse_request(head, LIMITS)


def read_from(wire: bytes) -> None:
    """Do what a connection does with the first bytes it gets."""
    end = wire.find(b"\r\n\r\n")
    if end < 0:
        check_unfinished(wire, 0, LIMITS)
    else:
        read(wire[: end + 4])


@pytest.mark.parametrize(("wire", "status"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_head_that_can_be_read_in_two_ways_is_refused(wire: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        read_from(wire)
    assert refused.value.status == status


def test_an_unfinished_head_is_not_refused_while_it_may_become_good() -> None:
    good = b"POST /a?b HTTP/1.1\r\nHost: a\r\nX: \t a b\r\nContent-Length: 3\r\n\r\n"
    for end in range(len(good) - 3):
        check_unfinished(good[:end], 0, LIMITS)


def test_a_request_is_read_in_full() -> None:
    request = read(
        b"POST /v2/models/%64igits/./infer?a=1&b=%2f HTTP/1.1\r\nHost: Example.COM:8080\r\n"
        b"X-API-Key:  k\t\r\n"
        b"Content-Length: 12\r\nAccept: a\r\naccept: b\r\n\r\n"
    )
    assert (request.method, request.path, request.query) == (
        b"POST",
        b"/v2/models/digits/infer",
        b"a=1&b=%2f",
    )
    assert request.target == b"/v2/models/%64igits/./infer?a=1&b=%2f"
    assert (request.host, request.minor, request.length, request.body) == (b"example.com:8080", 1, 12, None)
    assert request.headers == [
        (b"host", b"Example.COM:8080"),
        (b"x-api-key", b"k"),
        (b"content-length", b"12"),
        (b"accept", b"a"),
        (b"accept", b"b"),
    ]


@pytest.mark.parametrize(
    ("fields", "length", "body"),
    [
        (b"", 0, b""),
        (b"Content-Length: 0\r\n", 0, b""),
        (b"Content-Length: 7\r\n", 7, None),
        (b"Transfer-Encoding: chunked\r\n", None, None),
    ],
    ids=["none", "zero", "known", "chunked"],
)
def test_the_body_is_announced(fields: bytes, length: int | None, body: bytes | None) -> None:
    request = read(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert (request.length, request.body) == (length, body)


@pytest.mark.parametrize(
    ("minor", "fields", "keep_alive"),
    [
        (1, b"", True),
        (1, b"Connection: close\r\n", False),
        (1, b"Connection: Keep-Alive, CLOSE\r\n", False),
        (1, b"Connection: close\r\nConnection: keep-alive\r\n", False),
        (0, b"", False),
        (0, b"Connection: keep-alive\r\n", True),
        (0, b"Connection: keep-alive\r\nConnection: close\r\n", False),
    ],
)
def test_whether_the_connection_stays(minor: int, fields: bytes, keep_alive: bool) -> None:
    assert read(b"GET / HTTP/1.%d\r\nHost: a\r\n" % minor + fields + b"\r\n").keep_alive is keep_alive


def test_an_http_1_0_request_needs_no_host() -> None:
    assert read(b"GET / HTTP/1.0\r\n\r\n").host == b""


def test_absolute_form_becomes_origin_form_when_the_hosts_agree() -> None:
    request = read(b"GET http://A:80?x HTTP/1.1\r\nHost: a:80\r\n\r\n")
    assert (request.path, request.query, request.target, request.host) == (b"/", b"x", b"/?x", b"a:80")


def test_star_is_for_options() -> None:
    assert read(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path == b"*"


def test_an_expectation_is_noted_only_where_a_body_follows() -> None:
    head = b"POST / HTTP/1.%d\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n"
    assert [read(head % case).expect_continue for case in ((1, 5), (1, 0), (0, 5))] == [True, False, False]


def test_underscores_pass_where_a_site_needs_them() -> None:
    request = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\n\r\n", HeadLimits(underscores=True))
    assert request.header(b"x_y") == b"1"
    with pytest.raises(BadRequest):
        read(b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\n\r\n")


# Round trips

names = (
    st.text(TOKEN, min_size=1, max_size=12).map(str.encode).filter(lambda name: name.lower() not in FRAMING)
)
values = st.binary(max_size=20).map(
    lambda raw: bytes(code for code in raw if code >= 0x20 and code != 0x7F).strip(b" \t")
)
fields = st.lists(st.tuples(names.map(bytes.lower), values), max_size=8)
segments = st.lists(st.text("abcXYZ019_~!$&'()*+,=:@-", min_size=1, max_size=6), min_size=1, max_size=4).map(
    lambda parts: ("/" + "/".join(parts)).encode()
)
methods = st.sampled_from(
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"VERSION-CONTROL"]
)


@given(
    methods, segments, st.sampled_from([b"", b"a=b&c", b"?%2f[]"]), fields, st.sampled_from([0, 1, 900, None])
)
def test_what_is_written_is_read_back(
    method: bytes, path: bytes, query: bytes, headers: Headers, length: int | None
) -> None:
    request = Request(method, path, headers, query=query, length=length, body=b"" if length == 0 else None)
    again = read(write_request_head(request, b"h:1"))
    ours = [field for field in again.headers if field[0] not in FRAMING]
    assert (again.method, again.path, again.query, ours) == (method, path, query, headers)
    assert (again.length, again.host) == (length, b"h:1")


@given(st.integers(200, 599), fields, st.sampled_from([0, 1, 900, None]), st.booleans())
def test_a_written_response_is_read_back(
    status: int, headers: Headers, length: int | None, close: bool
) -> None:
    response = Response(status, headers, None, length=length)
    head = write_response_head(
        response, length=length, chunked=length is None, connection=b"close" if close else b""
    )
    again, framing, keep_alive = parse_response(head, b"GET", LIMITS)
    bodiless = status in (204, 304)
    assert again.status == status
    assert [field for field in again.headers if field[0] not in FRAMING] == headers
    assert framing == (0 if bodiless else CHUNKED if length is None else length)
    assert keep_alive is not close


# Others' readings

pieces = st.sampled_from(
    [
        b"GET",
        b"POST",
        b"get",
        b"/",
        b"/a",
        b"/a?b",
        b"*",
        b"http://a/",
        b"a",
        b" ",
        b"  ",
        b"\t",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"Host: a",
        b"Host: b",
        b"Host:",
        b"Host : a",
        b"Content-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Connection: close",
        b"X: y",
        b"X:",
        b":",
        b"\x00",
        b"\x0b",
        b"\x7f",
        b"\xe9",
        b"_",
        b"Expect: 100-continue",
        b"#",
        b"%00",
    ]
)
heads = st.one_of(
    st.lists(pieces, max_size=12).map(b"".join),
    st.builds(
        lambda method, target, lines: method + b" " + target + b" HTTP/1.1\r\n" + b"".join(lines),
        st.sampled_from([b"GET", b"POST"]),
        st.sampled_from([b"/", b"/a?b", b"http://a/"]),
        st.lists(pieces.map(lambda piece: piece + b"\r\n"), max_size=5),
    ),
).map(lambda head: head + b"\r\n\r\n")


class _Listener:
    def __init__(self) -> None:
        self.headers: Headers = []
        self.complete = False
        self.keep_alive: bool | None = None
        self.parser: httptools.HttpRequestParser | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True
        assert self.parser is not None
        self.keep_alive = self.parser.should_keep_alive()  # forgotten once the message is complete


@given(heads)
def test_h11_and_llhttp_read_an_accepted_head_as_we_do(head: bytes) -> None:
    head = head[: head.find(b"\r\n\r\n") + 4]
    try:
        request = read(head)
    except BadRequest:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(head)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == request.method
    assert [(name.lower(), value) for name, value in event.headers] == request.headers

    listener = _Listener()
    listener.parser = httptools.HttpRequestParser(listener)
    listener.parser.feed_data(head)
    assert listener.complete
    assert listener.headers == request.headers
    assert listener.keep_alive is request.keep_alive


def test_the_differential_test_compares_something() -> None:
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 5\r\n\r\n"
    test_h11_and_llhttp_read_an_accepted_head_as_we_do.hypothesis.inner_test(head)


# Responses


@pytest.mark.parametrize(
    ("method", "head", "framing", "keep_alive", "length"),
    [
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5, True, 5),
        (b"GET", b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", 5, True, 5),
        (b"GET", b"HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n", CHUNKED, True, None),
        (b"GET", b"HTTP/1.1 200 OK\r\n\r\n", UNTIL_CLOSE, False, None),
        (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 5, False, 5),
        (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", 5, True, 5),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", 5, False, 5),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0, True, 5),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, True, None),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 0, True, 5),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 0, True, None),
        (b"GET", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0, True, None),
    ],
)
def test_where_a_response_ends(
    method: bytes, head: bytes, framing: int, keep_alive: bool, length: int | None
) -> None:
    response, got, stays = parse_response(head, method, LIMITS)
    assert (got, stays, response.length) == (framing, keep_alive, length)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 600 Six\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\nY: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    ],
)
def test_an_instance_that_answers_ambiguously_is_not_believed(head: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_response(head, b"GET", LIMITS)
