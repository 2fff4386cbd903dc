"""What every part of the cache says and asks: words for Cache-Status, what a client wishes, what may be kept.

RFC 9211 (Cache-Status), RFC 9111 §5.2 (Cache-Control), for predictions: their key is not a URL, so only what
forbids or shortens keeping is taken from the fields. What RFC 9111 asks of GET is in http/caching.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.http.message import Headers, Request, find, find_all
from gateway.pipeline.answers import Windows, tag
from gateway.pipeline.ports import Principal

HIT: Final = b"headgate; hit"
MISS: Final = b"headgate; fwd=miss"
PARTIAL: Final = b"headgate; fwd=partial"  # some rows were here, the others were asked for
STALE: Final = b"headgate; fwd=stale"
BYPASS: Final = b"headgate; fwd=bypass"  # never looked up
BY_REQUEST: Final = b"headgate; fwd=request"  # the client's Cache-Control
STORED: Final = b"; stored"
COLLAPSED: Final = b"; collapsed"

NOT_KEPT: Final = frozenset(
    (
        b"age",
        b"cache-status",
        b"content-length",
        b"ratelimit",
        b"ratelimit-policy",
        b"x-request-id",
        b"retry-after",
    )
)
"""Fields that are about one answer to one client."""

ABOUT_THE_CLIENT: Final = frozenset((401, 403, 407, 408, 425, 426, 429, 499))
"""4xx that say nothing about the question."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client's Cache-Control asks of us."""

    no_store: bool = False
    no_cache: bool = False
    max_age: float | None = None


NO_WISH: Final = Wish()


def named_tags(headers: Headers) -> tuple[str, ...]:
    """Return the tags that an instance gave its answer, to be purged by: `Cache-Tag: a, b`. At most 16."""
    value = find(headers, b"cache-tag")
    if value is None:
        return ()
    names = [name.strip() for name in value.decode("latin-1").split(",")]
    return tuple([tag("tag", name) for name in names if name][:16])


def subject(principal: Principal | None, scope: str) -> bytes:
    """Return whom an answer may be shared with: everybody who has the same. scope: as in the policy."""
    if scope == "shared" or principal is None:
        return b""
    if scope == "tenant" and principal.tenant:
        return b"tenant " + principal.tenant.encode()
    return b"principal " + principal.name.encode()


def wish_of(request: Request) -> Wish:
    """Read the client's Cache-Control."""
    if request.header(b"cache-control") is None:
        return NO_WISH
    said = _directives(request.headers)
    return Wish(b"no-store" in said, b"no-cache" in said, _seconds(said.get(b"max-age")))


def allowed(headers: Headers, windows: Windows) -> Windows | None:
    """Return for how long the instance lets its answer be kept, None for not at all."""
    if find(headers, b"set-cookie") is not None or _varies(headers):
        return None
    encoding = find(headers, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        return None
    if find(headers, b"cache-control") is None:
        return windows
    said = _directives(headers)
    if not said.keys().isdisjoint((b"no-store", b"private", b"no-cache")):
        return None
    most = _seconds(said.get(b"s-maxage", said.get(b"max-age")))
    if most is None or most >= windows.ttl:
        return windows
    return None if most <= 0 else Windows(most, windows.stale_while_revalidate, windows.stale_if_error)


def _varies(headers: Headers) -> bool:
    """Whether the answer depends on fields that the key doesn't hold."""
    names = b",".join(find_all(headers, b"vary")).lower().split(b",")
    return any(name.strip() not in (b"", b"accept-encoding", b"content-type") for name in names)


def _directives(headers: Headers) -> dict[bytes, bytes]:
    said: dict[bytes, bytes] = {}
    for directive in b",".join(find_all(headers, b"cache-control")).split(b","):
        name, _, value = directive.partition(b"=")
        said[name.strip().lower()] = value.strip().strip(b'"')
    return said


def _seconds(text: bytes | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
