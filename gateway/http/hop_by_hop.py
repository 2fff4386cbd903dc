"""Fields that end at this hop. RFC 9110 §7.6.1.

A gateway never forwards what was said about one connection: the fields listed here, and every field that the
Connection field names. Framing (Content-Length, Transfer-Encoding) is among them because the serializer
writes it anew for each hop, Expect because this gateway answers it itself (§10.1.1).
"""

from __future__ import annotations

from typing import Final

from gateway.http.message import Headers

HOP_BY_HOP: Final = frozenset(
    b"connection content-length expect keep-alive proxy-authenticate proxy-authentication-info "
    b"proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)


def end_to_end(headers: Headers, drop: frozenset[bytes] = HOP_BY_HOP, prefix: bytes | None = None) -> Headers:
    """Return the fields that go on to the other side, in order; a new list.

    drop: HOP_BY_HOP joined with any other names that must not pass, joined once. prefix: names that begin so
    must not pass either.
    """
    if prefix is None:
        kept = [field for field in headers if field[0] not in drop]
    else:
        kept = [field for field in headers if field[0] not in drop and not field[0].startswith(prefix)]
    for name, value in headers:
        if name == b"connection":
            named = _named(headers, value)
            return [field for field in kept if field[0] not in named] if named else kept
    return kept


_USUAL: Final = frozenset((b"close", b"keep-alive", b"Keep-Alive", b"upgrade", b"Upgrade"))


def _named(headers: Headers, first: bytes) -> frozenset[bytes]:
    """Return the names that Connection fields list, in lower case."""
    values = [value for name, value in headers if name == b"connection"]
    if len(values) == 1 and first in _USUAL:
        return frozenset()
    return frozenset(name.strip(b" \t").lower() for value in values for name in value.split(b","))
