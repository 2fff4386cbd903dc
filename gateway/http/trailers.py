"""Fields that come after a body. RFC 9110 §6.5, RFC 9112 §7.1.2.

A trailer arrives when the message has been judged already: matched, authenticated, sent on. So it must not
say anything that the judgement was made of. What may not trail is listed here in the narrow reading of
RFC 9110 §6.5.1: framing, routing, conditions and other modifiers of the request, authentication, whatever
says how to handle the response, and how to read the content (but for its digests, which RFC 9530 lets
trail); and every name that this gateway vouches for. A request that has such a trailer is refused, because
its sender means to get something past somebody; in a response the field is dropped, because the answer is
good without it.

Which trailers are sent on:

* of a response, to a client that said `TE: trailers` (§10.1.4) or where the response announced them with
  `Trailer` (§6.6.2), in a chunked message only;
* of a request, those that it announced with `Trailer`.

Elsewhere they end here, as §6.5.1 allows every intermediary. `Trailer` itself goes on where chunks do.
"""

from __future__ import annotations

from typing import Final

from gateway.http.message import Headers

_FORBIDDEN: Final = frozenset(
    b"accept accept-charset accept-encoding accept-language age authentication-info authorization "
    b"cache-control connection cookie date expect expires forwarded from host http2-settings keep-alive "
    b"location max-forwards origin pragma range referer retry-after set-cookie te traceparent tracestate "
    b"trailer transfer-encoding upgrade user-agent vary via warning www-authenticate x-api-key x-request-id "
    b"x-real-ip".split()
)
_FORBIDDEN_PREFIXES: Final = (
    b"access-control-",
    b"content-",
    b"if-",
    b"proxy-",
    b"sec-",
    b"x-forwarded-",
    b"x-headgate-",
)


def may_trail(name: bytes) -> bool:
    """Tell whether a field of this name (lower-case) is harmless after the body."""
    if name == b"content-digest":
        return True
    return name not in _FORBIDDEN and not name.startswith(_FORBIDDEN_PREFIXES)


def announced(headers: Headers) -> frozenset[bytes]:
    """Return the names that the Trailer fields list, in lower case."""
    values = [value for name, value in headers if name == b"trailer"]
    return frozenset(name.strip(b" \t").lower() for value in values for name in value.split(b","))
