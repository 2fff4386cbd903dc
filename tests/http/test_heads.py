"""heads.pyx and its Python twin: where the compiled code answers, parse.py and serialize.py answer the same.

What is compared here is what the two forms of the gateway do, so these tests need the compiled module: `make
twin`. On the pure form there is one test, which says that nothing is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http import usual
from gateway.http.message import Headers, Request, Response
from gateway.http.parse import (
    BadRequest,
    BadResponse,
    HeadLimits,
    parse_request,
    parse_response_head,
    read_ahead,
)
from gateway.http.serialize import UnsafeField, write_request_head, write_response_head
from gateway.runtime.form import form

compiled = pytest.mark.skipif(form() == "pure", reason="heads.pyx is not compiled: make twin")
LIMITS = HeadLimits(head=400, target=60, fields=8)

names = st.sampled_from(
    b"Host host Content-Length content-length Transfer-Encoding Connection Expect TE Upgrade Trailer Accept "
    b"accept User-Agent X_Y x-a X-API-Key Date Keep-Alive Server Vary a!#$%&'*+-.^`|~ \x80 b".split(b" ")
)
values = st.one_of(
    st.sampled_from(
        b"a|localhost|LOCALHOST|127.0.0.1:80|h:99999|h:|[::1]|3|03|+3|18446744073709551616|chunked|CHUNKED|"
        b"close|Close|keep-alive|Keep-Alive|close, te|100-continue|trailers|"
        b"\t v \t|\x00|a\rb|a\nb|\x7f|\xff||".split(b"|")
    ),
    st.binary(max_size=12),
    st.integers(120, 140).map(lambda size: b"v" * size),
)
separators = st.sampled_from([b": ", b":", b" : ", b":\t", b""])
endings = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n "])
lines = st.builds(lambda *parts: b"".join(parts), names, separators, values, endings)
usual_lines = st.sampled_from(
    [
        b"Content-Length: 12\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Accept: */*\r\n",
        b"User-Agent: curl/8\r\n",
        b"X-A: \xe9\r\n",
        b"x-b:\r\n",
    ]
)
targets = st.sampled_from(
    [
        *b"/ /a /a/b.c /a?b=c /? /. /a/../b //a /a//b /%41 /a#b /a;b * http://h/ /\xff /a?\x80 /a/.b".split(),
        b"/_~!$&'()*+,=:@-",
        b"/a b",
        b"/" + b"x" * 59,
        b"/" + b"x" * 60,
    ]
)
request_lines = st.builds(
    lambda method, target, version: method + b" " + target + b" " + version + b"\r\n",
    st.sampled_from(b"GET POST PUT HEAD PATCH DELETE OPTIONS get GETS TRACE A-B".split()),
    targets,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http/1.1"]),
)
status_lines = st.sampled_from(
    b"HTTP/1.1 200 OK|HTTP/1.1 204 |HTTP/1.1 404|HTTP/1.0 200 OK|HTTP/1.1 099 X|HTTP/1.1 600 X|"
    b"HTTP/1.1 2000 X|"
    b"HTTP/1.1 301 \xe9\t.|HTTP/1.1 200 \x00".split(b"|")
).map(lambda line: line + b"\r\n")
request_heads = st.builds(
    lambda first, host, fields: first + host + b"".join(fields) + b"\r\n",
    request_lines,
    st.sampled_from([b"Host: h\r\n", b"host: h:80\r\n", b"Host: \t h \r\n", b""]),
    st.lists(st.one_of(usual_lines, lines), max_size=9),
)
response_heads = st.builds(
    lambda first, fields: first + b"".join(fields) + b"\r\n",
    status_lines,
    st.lists(st.one_of(usual_lines, lines), max_size=9),
)


@contextmanager
def the_twin() -> Iterator[None]:
    """Let Python decide alone."""
    from gateway.http import parse, serialize

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "_read_request", None)
        patch.setattr(parse, "_read_response", None)
        patch.setattr(serialize, "_write_request", None)
        patch.setattr(serialize, "_write_response", None)
        assert read_ahead(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", LIMITS) is None
        yield


def told(request: Request) -> dict[str, object]:
    fields = (
        "method path query target headers host minor length body "
        "keep_alive expect_continue te_trailers upgrade"
    )
    return {name: getattr(request, name) for name in fields.split()}


def read(head: bytes) -> object:
    try:
        return told(parse_request(head, LIMITS))
    except BadRequest as error:
        return error.status, error.code, str(error)


def read_response(head: bytes, method: bytes) -> object:
    try:
        response, framing, stays = parse_response_head(head, method, LIMITS)
    except BadResponse as error:
        return str(error)
    return response.status, response.headers, response.length, response.body, framing, stays


@compiled
@given(request_heads)
@example(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
def test_both_forms_read_a_request_alike(head: bytes) -> None:
    quick = read(head)
    with the_twin():
        assert quick == read(head)


@compiled
@given(response_heads, st.sampled_from([b"GET", b"HEAD"]))
def test_both_forms_read_a_response_alike(head: bytes, method: bytes) -> None:
    quick = read_response(head, method)
    with the_twin():
        assert quick == read_response(head, method)


@compiled
@given(request_heads, st.integers(0, 400), st.binary(max_size=8))
def test_what_is_read_ahead_is_the_first_head_and_nothing_of_an_incomplete_one(
    head: bytes, cut: int, rest: bytes
) -> None:
    ahead = read_ahead(head[:cut], LIMITS)
    end = head.find(b"\r\n\r\n") + 4
    if cut < end:
        assert ahead is None
    ahead = read_ahead(head[:end] + rest, LIMITS)
    if ahead is not None:
        assert ahead[1] == end
        assert told(ahead[0]) == read(head[:end])


field_names = st.one_of(
    names.map(bytes.lower), st.sampled_from([b"host", b"te", b"trailer", b"upgrade", b"date"])
)
fields = st.lists(st.tuples(field_names, values), max_size=6)


@compiled
@given(
    fields,
    st.sampled_from([b"GET", b"POST"]),
    st.sampled_from([b"/", b"/a\r\n"]),
    st.sampled_from([b"", b"q=1", b"\n"]),
    st.sampled_from([None, 0, 5, 10**17]),
    st.sampled_from([b"", b"body", bytes(70_000)]),
)
def test_both_forms_write_a_request_alike(
    headers: Headers, method: bytes, path: bytes, query: bytes, length: int | None, content: bytes
) -> None:
    request = Request(method, path, headers, query=query, length=length, body=None)

    def write() -> object:
        try:
            return write_request_head(request, b"h:1", content)
        except UnsafeField as error:
            return str(error)

    quick = write()
    with the_twin():
        assert quick == write()


@compiled
@given(
    fields,
    st.sampled_from([None, 0, 5]),
    st.booleans(),
    st.sampled_from([b"", b"close", b"a\r\nb"]),
    st.sampled_from([b"", b"now", b"\x00"]),
    st.sampled_from([b"", b"body"]),
)
def test_both_forms_write_a_response_alike(
    headers: Headers, length: int | None, chunked: bool, connection: bytes, date: bytes, content: bytes
) -> None:
    response = Response(200, headers, None)

    def write() -> object:
        try:
            return write_response_head(
                response, length=length, chunked=chunked, connection=connection, date=date, content=content
            )
        except UnsafeField as error:
            return str(error)

    quick = write()
    with the_twin():
        assert quick == write()


@compiled
def test_a_head_larger_than_its_scratch_is_written_all_the_same() -> None:
    request = Request(b"GET", b"/", [(b"x", b"y" * 20_000)])
    assert len(write_request_head(request, b"h")) > 20_000


@compiled
def test_the_usual_is_answered_by_compiled_code() -> None:
    assert usual.read_request is not None
    assert usual.read_response is not None
    head = b"POST /v1/m?x=1 HTTP/1.1\r\nHost: h:80\r\nContent-Length: 12\r\nAccept: */*\r\n\r\n"
    assert usual.read_request(head, 10, 100, 1000) is not None
    assert usual.read_response(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", 10, 1000) is not None


@compiled
def test_names_beyond_the_table_are_read_as_well() -> None:
    for number in range(3000):
        head = b"GET / HTTP/1.1\r\nHost: h\r\nX-%d: y\r\n\r\n" % number
        assert parse_request(head, LIMITS).headers[1] == (b"x-%d" % number, b"y")


@pytest.mark.skipif(form() == "compiled", reason="heads.pyx is compiled")
def test_nothing_is_read_ahead_where_nothing_is_compiled() -> None:
    assert read_ahead(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", HeadLimits()) is None
