"""Deadlines as fields: read from clients, written to instances."""

from __future__ import annotations

import pytest

from gateway.http.message import Headers, Request
from gateway.pipeline.time_left import field_for, wished, with_time_left


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request(b"POST", b"/a", list(headers), query=b"q=1", length=2, body=b"{}")


@pytest.mark.parametrize(
    ("field", "seconds", "told"),
    [
        (b"x-request-timeout-ms", 1.2345, b"1234"),
        (b"x-request-timeout-ms", 0.0001, b"1"),
        (b"grpc-timeout", 0.25, b"250000u"),
        (b"grpc-timeout", 3600.0, b"3600000m"),
    ],
)
def test_the_time_left_replaces_what_the_client_had_written(
    field: bytes, seconds: float, told: bytes
) -> None:
    client: Headers = [(b"x-request-timeout-ms", b"5000"), (b"grpc-timeout", b"5S"), (b"a", b"b")]
    original = request(*client)
    original.trailers = [(b"t", b"1")]
    sent = with_time_left(original, field, seconds)
    assert sent.headers == [(b"a", b"b"), (field, told)]
    assert (sent.target, sent.body, sent.length, sent.trailers) == (b"/a?q=1", b"{}", 2, [(b"t", b"1")])
    assert original.headers == client


@pytest.mark.parametrize(
    ("content_type", "field"),
    [(b"application/json", b"x-request-timeout-ms"), (b"application/grpc", b"grpc-timeout")],
)
def test_each_kind_of_request_has_its_field(content_type: bytes, field: bytes) -> None:
    assert field_for(request((b"content-type", content_type))) == field


def test_a_client_that_says_nothing_wishes_nothing() -> None:
    assert wished(request((b"timeout", b"5"))) is None
