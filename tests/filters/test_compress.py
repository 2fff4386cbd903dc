from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest

from gateway.filters.catalog import PLACES, place_of
from gateway.filters.compress import KIND, Compress
from gateway.http.message import Response
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.filter import Rule
from tests.fakes.context import make_context, make_parts

JSON = (b"content-type", b"application/json")
BODY = b'{"outputs": [' + b"0.125," * 1000 + b"0]}"


def chain(**settings: Any) -> Chain:
    return Chain(sorted(KIND.build([Rule(Compress(**settings))], make_parts()), key=place_of))


def answered(
    response: Response, *fields: tuple[bytes, bytes], ctx: Context | None = None, **settings: Any
) -> Response:
    made = chain(**settings)
    ctx = ctx or make_context(*(fields or ((b"accept-encoding", b"gzip"),)))
    for _, _, _, on_request in made.on_request:
        on_request(ctx)
    for _, on_response in made.on_response:
        got = on_response(ctx, response)
        assert isinstance(got, Response)
        response = got
    return response


def streamed(response: Response, pieces: list[bytes], **settings: Any) -> tuple[Response, list[bytes]]:
    made = chain(**settings)
    ctx = make_context((b"accept-encoding", b"gzip"))
    ((_, on_response),) = made.on_response
    (on_chunk,) = made.on_response_chunk
    got = on_response(ctx, response)
    assert isinstance(got, Response)
    return got, [on_chunk(ctx, piece, last=number == len(pieces)) for number, piece in enumerate(pieces, 1)]


def test_json_is_compressed_and_says_so() -> None:
    got = answered(
        Response(200, [JSON, (b"etag", b'"1"'), (b"accept-ranges", b"bytes"), (b"x-a", b"1")], BODY)
    )
    assert got.body is not None
    assert gzip.decompress(got.body) == BODY
    assert got.length == len(got.body) < len(BODY)
    assert dict(got.headers) == {
        b"content-type": b"application/json",
        b"content-encoding": b"gzip",
        b"vary": b"accept-encoding",
        b"etag": b'W/"1"',
        b"x-a": b"1",
    }


def test_the_instance_is_asked_to_answer_plainly() -> None:
    ctx = make_context((b"accept-encoding", b"br"), (b"accept", b"x"), (b"accept-encoding", b"gzip"))
    got = answered(Response(200, [JSON], BODY), ctx=ctx)
    assert ctx.request.headers == [(b"accept", b"x")]
    assert got.header(b"content-encoding") == b"gzip"


def test_who_cannot_read_it_gets_it_plain_and_caches_know() -> None:
    for wish in (b"", b"br", b"gzip;q=0", b"identity, gzip;q=0.1"):
        got = answered(Response(200, [JSON, (b"etag", b'"1"')], BODY), (b"accept-encoding", wish))
        assert got.body == BODY
        assert got.headers == [JSON, (b"etag", b'"1"'), (b"vary", b"accept-encoding")]


@pytest.mark.parametrize(
    ("had", "has"),
    [
        (None, b"accept-encoding"),
        (b"origin", b"origin, accept-encoding"),
        (b"Accept-Encoding", b"Accept-Encoding"),
        (b"*", b"*"),
    ],
)
def test_vary_is_added_to_what_it_says_already(had: bytes | None, has: bytes) -> None:
    fields = [JSON] if had is None else [JSON, (b"vary", had)]
    got = answered(Response(200, fields, BODY))
    assert [value for name, value in got.headers if name == b"vary"] == [has]


@pytest.mark.parametrize(
    "response",
    [
        Response(200, [JSON], b"short"),
        Response(200, [JSON], b"x" * (2 << 20)),
        Response(200, [(b"content-type", b"image/png")], BODY),
        Response(200, [(b"content-type", b"text/event-stream")], BODY),
        Response(200, [(b"content-type", b"application/jsonp")], BODY),
        Response(200, [], BODY),
        Response(200, [JSON, (b"content-encoding", b"br")], BODY),
        Response(200, [JSON, (b"content-encoding", b"gzip")], BODY),
        Response(200, [JSON, (b"content-digest", b"sha-256=:x:")], BODY),
        Response(200, [JSON, (b"cache-control", b"public, No-Transform")], BODY),
        Response(206, [JSON, (b"content-range", b"bytes 0-9/10")], BODY),
        Response(204, [JSON]),
        Response(304, [JSON]),
        Response(500, [JSON], BODY),
        Response(101, []),
    ],
    ids=lambda response: f"{response.status} {response.headers[-1:]} {response.length}",
)
def test_what_may_not_or_need_not_be_compressed_is_left_alone(response: Response) -> None:
    before = list(response.headers), response.body
    got = answered(response)
    assert (got.headers, got.body) == before


def test_an_answer_to_head_is_left_alone() -> None:
    ctx = make_context((b"accept-encoding", b"gzip"), method=b"HEAD")
    got = answered(Response(200, [JSON], b"", length=5000), ctx=ctx)
    assert got.headers == [JSON]
    assert got.length == 5000


def test_what_would_grow_stays_plain() -> None:
    noise = zlib.compress(bytes(range(256)) * 40, 9) * 20
    got = answered(Response(200, [JSON], noise), min_size=10)
    assert got.body is not None
    assert len(got.body) <= len(noise)


def test_a_stream_is_compressed_piece_by_piece() -> None:
    pieces = [BODY[at : at + 500] for at in range(0, len(BODY), 500)]
    got, wire = streamed(Response(200, [JSON], None, length=len(BODY)), pieces)
    assert got.length is None
    assert got.header(b"content-encoding") == b"gzip"
    assert gzip.decompress(b"".join(wire)) == BODY
    assert len(b"".join(wire)) < len(BODY) / 5


def test_events_go_out_with_the_piece_that_holds_them() -> None:
    events = [b"data: %d\n\n" % number for number in range(20)]
    response = Response(200, [(b"content-type", b"text/event-stream; charset=utf-8")], None)
    _, wire = streamed(response, [*events, b""], types=("text/event-stream",))
    reader = zlib.decompressobj(31)
    assert [reader.decompress(piece) for piece in wire] == [*events, b""]
    assert reader.eof


def test_pieces_of_what_is_left_alone_pass_untouched() -> None:
    response = Response(200, [(b"content-type", b"text/event-stream")], None)
    got, wire = streamed(response, [b"data: 1\n\n", b""])
    assert wire == [b"data: 1\n\n", b""]
    assert got.headers == [(b"content-type", b"text/event-stream")]


def test_it_may_be_turned_off() -> None:
    got = answered(Response(200, [JSON], BODY), on=False)
    assert got.body == BODY
    assert got.headers == [JSON]


@pytest.mark.parametrize("name", ["json", "*/*", "Text/HTML", "text/html; charset=utf-8", "/x", "x/"])
def test_what_is_no_media_type_is_a_mistake_of_the_policy(name: str) -> None:
    with pytest.raises(ValueError, match="media types"):
        Compress(types=(name,))


def test_it_sees_answers_after_all_others() -> None:
    assert PLACES["compress"] == min(PLACES.values())
