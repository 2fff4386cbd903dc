"""Heads as they are written."""

from __future__ import annotations

import pytest

from gateway.http.message import Headers, Request, Response
from gateway.http.serialize import (
    UnsafeField,
    continue_head,
    write_request_head,
    write_response_head,
)


def test_a_request_gets_the_instances_host_the_normal_path_and_its_own_framing() -> None:
    headers = [
        (b"host", b"evil"),
        (b"content-length", b"9"),
        (b"transfer-encoding", b"x"),
        (b"accept", b"*/*"),
    ]
    request = Request(b"POST", b"/b", headers, query=b"q", target=b"/a/../b?q", body=b"abc")
    assert write_request_head(request, b"10.0.0.1:80") == (
        b"POST /b?q HTTP/1.1\r\nhost: 10.0.0.1:80\r\naccept: */*\r\ncontent-length: 3\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "length", "body", "framing"),
    [
        (b"GET", 0, b"", b""),
        (b"POST", 0, b"", b"content-length: 0\r\n"),
        (b"PUT", None, None, b"transfer-encoding: chunked\r\n"),
        (b"GET", 7, None, b"content-length: 7\r\n"),
        (b"POST", None, b"whole by now", b"content-length: 12\r\n"),
    ],
)
def test_the_framing_of_a_request(
    method: bytes, length: int | None, body: bytes | None, framing: bytes
) -> None:
    request = Request(method, b"/", [], length=length, body=body)
    assert write_request_head(request, b"a") == method + b" / HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n"


def test_a_response_is_dated_once() -> None:
    dated = Response(200, [(b"date", b"then")])
    assert write_response_head(dated, length=0, date=b"now").count(b"date: ") == 1
    assert b"date: now\r\n" in write_response_head(Response(200), length=0, date=b"now")


def test_a_response_writes_its_own_framing() -> None:
    response = Response(200, [(b"content-length", b"9"), (b"connection", b"x"), (b"etag", b"1")])
    assert write_response_head(response, length=3, connection=b"close") == (
        b"HTTP/1.1 200 OK\r\netag: 1\r\nconnection: close\r\ncontent-length: 3\r\n\r\n"
    )
    assert write_response_head(response, length=None, chunked=True).endswith(
        b"\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    assert write_response_head(Response(204), length=None) == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("bad", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb", b"a\x00b", b"\r\n"])
def test_no_value_starts_a_line_of_its_own(bad: bytes) -> None:
    headers: Headers = [(b"x", bad)]
    with pytest.raises(UnsafeField):
        write_response_head(Response(200, headers), length=0)
    with pytest.raises(UnsafeField):
        write_request_head(Request(b"GET", b"/", headers), b"a")
    with pytest.raises(UnsafeField):
        write_request_head(Request(b"GET", b"/" + bad, []), b"a")
    with pytest.raises(UnsafeField):
        write_request_head(Request(b"GET", b"/", []), bad)


def test_continue() -> None:
    assert continue_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
