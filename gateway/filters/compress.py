"""Answers are compressed for clients that say they can read it.

    compress: true                                        gzip, for texts and JSON from 1 KiB on
    compress: {types: [application/json], min_size: 4KiB, level: 6}

It sees answers last, after every other filter: the cache keeps them plain, and one that is kept is compressed
for whoever can read it. So that they come plain, instances are not told what the client can read; an answer
that comes compressed all the same passes as it is. What has a size stays within `max_size`, because all of
it is compressed in one go; what streams past is compressed piece by piece with 256 KiB of state.

Left alone: answers to HEAD, without content, partial (their ranges count the plain bytes), marked
`no-transform` (RFC 9110 §7.7), or with a digest of their content. Streams of events (forward.is_stream)
are compressed only where `types` names theirs, and then every piece goes out at once. Vary is said wherever
another client would get another form, and a strong ETag becomes a weak one (RFC 9110 §8.8.1).

BREACH: the length of an answer that holds a secret beside something that an attacker chooses tells of the
secret. Predictions hold no secrets; don't put this verb on endpoints whose answers do.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.kind import setting
from gateway.config.units import Size
from gateway.http.codings import Compressor, accepts_gzip, compressor
from gateway.http.message import Headers, Response, find, find_all
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.forward import is_stream
from gateway.pipeline.promise import Eventual

_STATUSES: Final = frozenset((200, 201, 202, 203))
_LEAVES_ALONE: Final = frozenset(
    (b"content-encoding", b"content-range", b"content-digest", b"repr-digest", b"digest", b"content-md5")
)
_REPLACED: Final = frozenset((b"accept-ranges", b"content-length", b"etag", b"vary"))


@dataclass(frozen=True, slots=True)
class Compress:
    """Whether and which answers are compressed with gzip."""

    on: bool = setting(True, "compress answers for clients that accept gzip", short=True)
    types: tuple[str, ...] = setting(
        ("application/json", "application/problem+json", "text/*"),
        "media types worth it; `text/*` includes no streams of events",
        example="[application/json]",
    )
    min_size: Size = setting(Size(1024), "smaller answers are left as they are", example="4KiB")
    max_size: Size = setting(Size(1 << 20), "larger ones too, unless they stream", example="1MiB")
    level: int = setting(1, "1 is quick, 9 is small", at_least=1, at_most=9)

    def __post_init__(self) -> None:
        for name in self.types:
            kind, slash, rest = name.partition("/")
            if not (kind and slash and rest) or name != name.lower() or ";" in name or kind == "*":
                raise ValueError(f"expected media types like application/json or text/*, found {name!r}")


_WISH: Slot[bytes] = Slot()  # Accept-Encoding of requests that go to an instance


class AskPlainly(Filter):
    """Lets the instance answer plainly, whatever the client can read: when it is known who asks."""

    name = "compress"
    place = 84

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Take Accept-Encoding out, and keep it for the answer."""
        headers = ctx.request.headers
        fields = find_all(headers, b"accept-encoding")
        if fields:
            _WISH.set(ctx, b",".join(fields))
            ctx.request.headers = [field for field in headers if field[0] != b"accept-encoding"]
        return None


class CompressFilter(Filter):
    """Compresses what goes out, when all others have seen it."""

    name = "compress"
    place = 8

    def __init__(self, config: Compress) -> None:
        self._types = frozenset(name.encode() for name in config.types)
        self._min = int(config.min_size)
        self._max = int(config.max_size)
        self._level = config.level
        self._stream: Slot[Compressor] = Slot()
        self._at_once: Slot[bool] = Slot()

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Compress a whole answer; begin to, where it streams."""
        if not self._may(ctx, response):
            return response
        wish = _WISH.get(ctx) or b",".join(find_all(ctx.request.headers, b"accept-encoding"))
        if not accepts_gzip(wish):
            response.headers = _varied(response.headers)
        elif response.body is None:
            self._stream.set(ctx, compressor(self._level))
            self._at_once.set(ctx, is_stream(response))
            response.headers = _coded(response.headers)
            response.length = None
        else:
            self._replace(response, response.body)
        return response

    def _may(self, ctx: Context, response: Response) -> bool:
        """Whether this answer would be compressed for somebody."""
        if response.status not in _STATUSES or ctx.request.method == b"HEAD":
            return False
        size = response.length
        if size is not None and size < self._min:
            return False
        if response.body is not None and len(response.body) > self._max:
            return False
        headers = response.headers
        return self._is_worth_it(response) and not any(
            name in _LEAVES_ALONE or (name == b"cache-control" and b"no-transform" in value.lower())
            for name, value in headers
        )

    def _is_worth_it(self, response: Response) -> bool:
        field = find(response.headers, b"content-type")
        if field is None:
            return False
        kind = field.partition(b";")[0].strip(b" \t").lower()
        if kind in self._types:
            return True
        return kind.partition(b"/")[0] + b"/*" in self._types and not is_stream(response)

    def _replace(self, response: Response, body: bytes) -> None:
        stream = compressor(self._level)
        small = stream.compress(body) + stream.flush()
        if len(small) >= len(body):
            response.headers = _varied(response.headers)
            return
        response.headers = _coded(response.headers)
        response.body = small
        response.length = len(small)

    def on_response_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """Compress a piece; a stream of events gets each piece's last byte out with it."""
        stream = self._stream.get(ctx)
        if stream is None:
            return chunk
        small = stream.compress(chunk) if chunk else b""
        if last:
            return small + stream.flush()
        return small + stream.flush(zlib.Z_SYNC_FLUSH) if chunk and self._at_once.get(ctx) else small


def _varied(headers: Headers) -> Headers:
    """Return the fields with Accept-Encoding among those that Vary names."""
    named = [value for name, value in headers if name == b"vary"]
    names = [name.strip(b" \t").lower() for value in named for name in value.split(b",")]
    if b"*" in names or b"accept-encoding" in names:
        return headers
    kept = [field for field in headers if field[0] != b"vary"]
    return [*kept, (b"vary", b", ".join([*named, b"accept-encoding"]))]


def _coded(headers: Headers) -> Headers:
    """Return the fields of the compressed form."""
    made = [field for field in headers if field[0] not in _REPLACED]
    tag = find(headers, b"etag")
    if tag is not None:
        made.append((b"etag", tag if tag.startswith(b"W/") else b"W/" + tag))
    made.append((b"content-encoding", b"gzip"))
    return made + [field for field in _varied(headers) if field[0] == b"vary"]


class Uncompressed(Filter):
    """`compress: false`: leaves all as it is, and still counts as the rule that was chosen, both ways."""

    name = "compress"

    def __init__(self, place: int) -> None:
        self.place = place


def _build(rules: Sequence[Rule[Compress]], parts: Parts) -> Iterable[Filter]:
    rule = rules[0]
    return (
        [AskPlainly(), CompressFilter(rule.value)] if rule.value.on else [Uncompressed(84), Uncompressed(8)]
    )


KIND = FilterKind(
    "compress",
    Compress,
    summary="answers are compressed for clients that can read it",
    build=_build,
)
