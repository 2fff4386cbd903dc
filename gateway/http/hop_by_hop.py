"""Fields that end at this hop. RFC 9110 §7.6.1.

A gateway never forwards what was said about one connection: the fields listed here, and every field that the
Connection field names. Framing (Content-Length, Transfer-Encoding) is among them because the serializer
writes it anew for each hop, Expect because this gateway answers it itself (§10.1.1). TE and Upgrade are
wishes that the serializer writes anew where they are granted; Trailer goes on, and is left out by the
serializer where no trailer can follow.
"""

from __future__ import annotations

from typing import Final

from gateway.http.message import Headers, find

HOP_BY_HOP: Final = frozenset(
    b"connection content-length expect keep-alive proxy-authenticate proxy-authentication-info "
    b"proxy-authorization proxy-connection te transfer-encoding upgrade".split()
)


_BOUND: Final = 2048
_USUAL: Final = frozenset((b"close", b"keep-alive", b"Keep-Alive", b"upgrade", b"Upgrade"))  # naming no field


class Passing(dict[bytes, bool]):
    """Whether fields of a name may pass to the other side: found out once per name, for 2048 short ones.

    drop: names that may not; HOP_BY_HOP and more. prefix: names that begin so may not either.
    """

    __slots__ = ("_drop", "_prefix")

    def __init__(self, drop: frozenset[bytes] = HOP_BY_HOP, prefix: bytes = b"") -> None:
        self._drop = drop
        self._prefix = prefix

    def __missing__(self, name: bytes) -> bool:
        """Decide."""
        passes = name not in self._drop and not (self._prefix and name.startswith(self._prefix))
        if len(self) < _BOUND and len(name) <= 64:
            self[name] = passes
        return passes


_PASSING: Final = Passing()


def end_to_end(headers: Headers, passing: Passing = _PASSING) -> Headers:
    """Return the fields that go on to the other side, in order; a new list."""
    kept: Headers = []
    unusual = False
    for field in headers:
        name = field[0]
        if passing[name]:
            kept.append(field)
        elif name == b"connection":
            unusual = unusual or field[1] not in _USUAL
    if unusual:
        named = _named(headers)
        return [field for field in kept if field[0] not in named]
    return kept


def hops_left(headers: Headers) -> int | None:
    """Return how many hops a request may still take; None: nobody said, or not so that it can be read.

    RFC 9110 §7.6.2, for OPTIONS (TRACE is refused): at 0 the recipient answers by itself.
    """
    value = find(headers, b"max-forwards")
    return int(value) if value is not None and value.isdigit() and len(value) <= 9 else None


def one_hop_less(headers: Headers) -> Headers:
    """Return the fields for the next hop, where they are counted."""
    left = hops_left(headers)
    if not left:
        return headers
    kept = [field for field in headers if field[0] != b"max-forwards"]
    return [*kept, (b"max-forwards", b"%d" % (left - 1))]


def _named(headers: Headers) -> frozenset[bytes]:
    """Return the names that Connection fields list, in lower case."""
    values = [value for name, value in headers if name == b"connection"]
    return frozenset(name.strip(b" \t").lower() for value in values for name in value.split(b","))
