"""Bodies that were compressed: read within a bound where a verb needs them, and passed on as they came."""

from __future__ import annotations

import gzip
import zlib

import pytest

from gateway.http.message import Request
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.prediction import plain_body
from gateway.pipeline.snapshot import Endpoint
from tests.fakes.context import make_context

BODY = b'{"instances": [[1.0, 2.0]]}'
BOUNDED = Endpoint("bounded", Chain(()), None, body_limit=1000)


def coded(coding: bytes, body: bytes) -> Context:
    return make_context((b"content-encoding", coding), body=body)


def refused(ctx: Context) -> tuple[int, str]:
    refusal = plain_body(ctx)
    assert isinstance(refusal, Refusal)
    return refusal.status, refusal.code


def test_a_plain_body_is_what_it_is() -> None:
    assert plain_body(make_context(body=BODY)) is not None
    assert plain_body(make_context((b"content-encoding", b"identity"), body=BODY)) == BODY


@pytest.mark.parametrize(
    ("coding", "wire"),
    [(b"gzip", gzip.compress(BODY)), (b"deflate", zlib.compress(BODY))],
    ids=["gzip", "deflate"],
)
def test_a_compressed_body_is_read_and_the_request_keeps_its_bytes(coding: bytes, wire: bytes) -> None:
    ctx = coded(coding, wire + b"")
    ctx.endpoint = BOUNDED
    assert plain_body(ctx) == BODY
    assert ctx.request.body == wire
    assert ctx.request.header(b"content-encoding") == coding


def test_more_than_may_be_held_is_a_413() -> None:
    ctx = coded(b"gzip", gzip.compress(bytes(2000)))
    ctx.endpoint = BOUNDED
    assert refused(ctx) == (413, "body_too_large")


def test_an_unknown_coding_is_a_415_that_says_what_is_known() -> None:
    ctx = coded(b"br", b"x")
    assert refused(ctx) == (415, "unknown_coding")
    refusal = plain_body(ctx)
    assert isinstance(refusal, Refusal)
    assert refusal.headers == [(b"accept-encoding", b"gzip, deflate")]


def test_two_codings_are_one_too_many() -> None:
    ctx = coded(b"gzip", b"x")
    ctx.request = Request(b"POST", b"/", [(b"content-encoding", b"gzip")] * 2, body=b"x")
    assert refused(ctx) == (415, "unknown_coding")


def test_what_is_not_what_it_says_is_a_400() -> None:
    assert refused(coded(b"gzip", BODY)) == (400, "bad_coding")
