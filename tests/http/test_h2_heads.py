from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.h2_heads import (
    Malformed,
    read_request,
    read_response,
    read_trailers,
    write_request,
    write_response,
    write_trailers,
)
from gateway.http.message import Request, Response
from gateway.http.parse import BadRequest, HeadLimits, parse_request
from gateway.http.serialize import UnsafeField

LIMITS = HeadLimits()
HEAD = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b=c"), (b":authority", b"A.example")]

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)


def test_a_request_is_read():
    request = read_request([*HEAD, (b"x-a", b"1"), (b"te", b"trailers")], LIMITS, True)
    assert (request.method, request.path, request.query, request.host) == (
        b"GET",
        b"/a",
        b"b=c",
        b"a.example",
    )
    assert (request.minor, request.length, request.body) == (2, 0, b"")
    assert request.headers == [(b"x-a", b"1"), (b"te", b"trailers")]
    assert request.te_trailers


def test_a_body_follows_where_the_head_does_not_end_the_stream():
    request = read_request([*HEAD, (b"content-length", b"7"), (b"expect", b"100-continue")], LIMITS, False)
    assert (request.length, request.body, request.expect_continue) == (7, None, True)
    assert read_request(HEAD, LIMITS, False).length is None


def test_crumbs_of_a_cookie_are_put_together():
    fields = [*HEAD, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]
    assert read_request(fields, LIMITS, True).headers == [(b"cookie", b"a=1; b=2"), (b"x", b"y")]


def test_underscores_pass_where_a_site_wants_them():
    fields = [*HEAD, (b"x_y", b"1")]
    with pytest.raises(BadRequest):
        read_request(fields, LIMITS, True)
    assert read_request(fields, HeadLimits(underscores=True), True).headers == [(b"x_y", b"1")]


@pytest.mark.parametrize("path", [b"/a/../b", b"/%7Euser", b"//x", b"/a;p/b", b"/a%20b?c=%2F"])
def test_a_path_is_read_as_http_1_reads_it(path):
    fields = [HEAD[0], HEAD[1], (b":path", path), HEAD[3]]
    ours = read_request(fields, LIMITS, True)
    theirs = parse_request(b"GET %b HTTP/1.1\r\nHost: a.example\r\n\r\n" % path, LIMITS)
    assert (ours.path, ours.query) == (theirs.path, theirs.query)


@given(st.binary(max_size=30))
def test_a_path_that_http_1_refuses_is_refused(tail):
    path = b"/" + tail
    try:
        theirs = parse_request(b"GET %b HTTP/1.1\r\nHost: a.example\r\n\r\n" % path, LIMITS)
    except BadRequest:
        with pytest.raises((BadRequest, Malformed)):
            read_request([HEAD[0], HEAD[1], (b":path", path), HEAD[3]], LIMITS, True)
    else:
        ours = read_request([HEAD[0], HEAD[1], (b":path", path), HEAD[3]], LIMITS, True)
        assert (ours.path, ours.query) == (theirs.path, theirs.query)


@given(st.lists(st.tuples(NAMES.map(lambda name: b"x-" + name), VALUES), max_size=8))
def test_a_request_that_is_written_reads_back(fields):
    sent = Request(b"POST", b"/p", list(fields), query=b"q", length=3, body=b"abc")
    back = read_request(write_request(sent, b"a.example:80", b"http"), LIMITS, False)
    assert (back.method, back.path, back.query, back.host) == (b"POST", b"/p", b"q", b"a.example:80")
    assert back.length == 3
    assert [field for field in back.headers if field[0] not in (b"te", b"content-length")] == fields


@given(st.lists(st.tuples(NAMES.map(lambda name: b"x-" + name), VALUES), max_size=8), st.integers(200, 599))
def test_a_response_that_is_written_reads_back(fields, status):
    written = write_response(Response(status, list(fields), b"12345"), 5, b"today")
    back = read_response(written, LIMITS)
    assert (back.status, back.length) == (status, 5)
    assert back.headers == [(b"date", b"today"), *fields, (b"content-length", b"5")]


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=6))
def test_whatever_comes_is_read_or_refused(fields):
    for read in (
        lambda: read_request([*HEAD, *fields], LIMITS, True),
        lambda: read_request(fields, LIMITS, False),
        lambda: read_response(fields, LIMITS),
        lambda: read_trailers(fields, strict=True),
    ):
        try:
            message = read()
        except (Malformed, BadRequest):
            continue
        headers = message if isinstance(message, list) else message.headers
        for name, value in headers:
            assert name == name.lower()
            assert not set(b"\r\n\0") & set(name + value)


def test_fields_of_a_connection_are_never_written():
    response = Response(200, [(b"connection", b"x"), (b"transfer-encoding", b"chunked"), (b"x", b"y")], b"")
    assert write_response(response, None, b"") == [(b":status", b"200"), (b"x", b"y")]


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"a\0b"])
def test_a_value_that_would_be_two_elsewhere_is_never_written(value):
    with pytest.raises(UnsafeField):
        write_response(Response(200, [(b"x", value)], b""), None, b"")
    with pytest.raises(UnsafeField):
        write_request(Request(b"GET", b"/", [(b"x", value)]), b"a", b"http")
    with pytest.raises(UnsafeField):
        write_trailers([(b"x", value)])


def test_a_trailer_that_must_not_trail_is_refused_in_requests_and_dropped_from_responses():
    fields = [(b"grpc-status", b"0"), (b"host", b"evil")]
    with pytest.raises(Malformed):
        read_trailers(fields, strict=True)
    assert read_trailers(fields, strict=False) == [(b"grpc-status", b"0")]
