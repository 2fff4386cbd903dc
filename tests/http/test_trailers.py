"""Fields after the body: which may be there, in a request and in a response. RFC 9110 §6.5.1."""

from __future__ import annotations

import pytest

from gateway.http.framing import BadFraming, ChunkedReader
from gateway.http.message import Request
from gateway.http.parse import HeadLimits, parse_request
from gateway.http.serialize import UnsafeField, write_last_chunk, write_request_head
from gateway.http.trailers import announced, may_trail

FORBIDDEN = {
    "framing": b"transfer-encoding",
    "length": b"content-length",
    "routing": b"host",
    "condition": b"if-none-match",
    "modifier": b"range",
    "authentication": b"authorization",
    "a cookie": b"set-cookie",
    "control of the response": b"cache-control",
    "where to go": b"location",
    "how to read the content": b"content-encoding",
    "the announcement itself": b"trailer",
    "who forwarded": b"x-forwarded-for",
    "what we vouch for": b"x-headgate-principal",
    "the request's name": b"x-request-id",
    "an API key": b"x-api-key",
    "a handshake": b"sec-websocket-key",
}


@pytest.mark.parametrize("name", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_was_judged_may_not_come_afterwards(name: bytes) -> None:
    wire = b"2\r\nok\r\n0\r\nX-Sum: 1\r\n%b: 1\r\n\r\n" % name.title()
    assert not may_trail(name)
    with pytest.raises(BadFraming):
        ChunkedReader().feed(wire)
    lenient = ChunkedReader(of_response=True)
    assert (lenient.feed(wire), lenient.trailers) == (b"ok", [(b"x-sum", b"1")])


@pytest.mark.parametrize(
    "name", [b"grpc-status", b"content-digest", b"repr-digest", b"server-timing", b"x-sum"]
)
def test_what_the_body_made_known_may(name: bytes) -> None:
    assert may_trail(name)
    reader = ChunkedReader()
    reader.feed(b"0\r\n%b:  a b \r\n%b:\r\n\r\n" % (name, name))
    assert reader.trailers == [(name, b"a b"), (name, b"")]


def test_a_trailer_with_an_underscore_is_for_responses_only() -> None:
    wire = b"0\r\nX_A: 1\r\n\r\n"
    with pytest.raises(BadFraming):
        ChunkedReader().feed(wire)
    reader = ChunkedReader(of_response=True)
    reader.feed(wire)
    assert reader.trailers == [(b"x_a", b"1")]


def test_no_trailers_are_none() -> None:
    reader = ChunkedReader()
    reader.feed(b"0\r\n\r\n")
    assert (reader.done, reader.trailers) == (True, None)


def test_announced_names_of_all_fields() -> None:
    headers = [(b"trailer", b"X-Sum, grpc-status"), (b"a", b"b"), (b"trailer", b"Z")]
    assert announced(headers) == {b"x-sum", b"grpc-status", b"z"}


def test_the_last_chunk_carries_them() -> None:
    assert write_last_chunk(None) == b"0\r\n\r\n"
    assert write_last_chunk([(b"a", b"1"), (b"b", b"")]) == b"0\r\na: 1\r\nb: \r\n\r\n"
    with pytest.raises(UnsafeField):
        write_last_chunk([(b"a", b"1\r\nb: 2")])


def parsed(*lines: bytes, version: bytes = b"1.1") -> Request:
    head = b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, b"".join(line + b"\r\n" for line in lines))
    return parse_request(head, HeadLimits())


def test_who_wants_trailers_says_so() -> None:
    assert parsed(b"TE: gzip, Trailers;q=1").te_trailers
    assert not parsed(b"TE: gzip").te_trailers
    assert not parsed(b"TE: trailers", version=b"1.0").te_trailers
    assert not parsed().te_trailers


UPGRADES = {
    "as it must be": ((b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"), b"websocket"),
    "several fields": ((b"Connection: upgrade", b"Upgrade: a", b"Upgrade: b/2"), b"a, b/2"),
    "Connection doesn't name it": ((b"Upgrade: websocket",), b""),
    "no protocol": ((b"Connection: upgrade",), b""),
    "a body follows": ((b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 1"), b""),
}


@pytest.mark.parametrize(("lines", "wished"), UPGRADES.values(), ids=UPGRADES.keys())
def test_a_wish_for_another_protocol(lines: tuple[bytes, ...], wished: bytes) -> None:
    assert parsed(*lines).upgrade == wished
    assert parsed(*lines, version=b"1.0").upgrade == b""


def test_what_is_granted_is_written_for_this_hop() -> None:
    request = parsed(b"Connection: upgrade, te", b"Upgrade: websocket", b"TE: trailers", b"Trailer: X")
    head = write_request_head(request, b"b")
    assert b"connection: te, upgrade\r\nte: trailers\r\nupgrade: websocket\r\n" in head
    assert b"trailer" not in head.replace(b"te: trailers", b"")  # nothing can follow a request without a body
    assert b"pgrade" not in write_request_head(request.rewritten(b"/", b"/", []), b"b")


def test_a_whole_body_with_trailers_goes_in_chunks() -> None:
    request = Request(b"POST", b"/", [(b"trailer", b"x-sum")], body=b"ok", length=2)
    request.trailers = [(b"x-sum", b"1")]
    head = write_request_head(request, b"b")
    assert b"transfer-encoding: chunked" in head
    assert b"trailer: x-sum" in head
    assert b"content-length" not in head
