"""Heads of HTTP/1.1 messages: a `Request` or `Response` in, bytes out.

Framing is never copied: Content-Length, Transfer-Encoding, Connection and (towards instances) Host are
written here from what the caller knows, and fields of those names in `headers` are left out. No value can
start a line of its own: after the head is joined, its CRs and LFs are counted, and one too many is an
error; that costs two scans at C speed instead of a check per field. RFC 9112 §2 to §6, §11.1.
"""

from __future__ import annotations

from http.client import responses as _reasons
from typing import Final

from gateway.http.framing import LAST_CHUNK
from gateway.http.message import Headers, Request, Response, find, find_all
from gateway.http.usual import CHUNKED, NO_LENGTH
from gateway.http.usual import write_request as _write_request
from gateway.http.usual import write_response as _write_response

_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b" % (status, _reasons.get(status, "").encode()) for status in range(100, 600)
}
# Trailer announces what only chunks can carry.
_NOT_COPIED_CHUNKED: Final = frozenset(
    (b"connection", b"content-length", b"host", b"keep-alive", b"te", b"transfer-encoding", b"upgrade")
)
_NOT_COPIED: Final = _NOT_COPIED_CHUNKED | {b"trailer"}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED: Final = b"transfer-encoding: chunked"
_BODILESS: Final = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))


class UnsafeField(ValueError):
    """A field's name or value holds CR, LF or NUL: sending it would forge a line."""


def continue_head() -> bytes:
    """Return the interim response that lets a body in. RFC 9110 §10.1.1."""
    return _CONTINUE


def write_request_head(request: Request, authority: bytes, content: bytes = b"") -> bytes:
    """Return the head that an instance at `authority` (`host:port`) gets: normalised path, own Host and
    framing; and `content` behind it.

    The body's framing is request.length, or len(request.body) when the body is whole; chunks where it has
    trailers. Raises UnsafeField.
    """
    body = request.body
    length = request.length if body is None else None if request.trailers else len(body)
    if _write_request is not None and not (request.te_trailers or request.upgrade):
        announced = (
            CHUNKED if length is None else length if length or request.method not in _BODILESS else NO_LENGTH
        )
        written = _write_request(
            request.method, request.path, request.query, authority, request.headers, announced, content
        )
        if written is not None:
            return written
    target = request.path + b"?" + request.query if request.query else request.path
    left_out = _NOT_COPIED_CHUNKED if length is None else _NOT_COPIED
    lines = [b"%b %b HTTP/1.1" % (request.method, target), b"host: " + authority]
    lines += [b": ".join(field) for field in request.headers if field[0] not in left_out]
    if request.te_trailers or request.upgrade:
        lines += _wishes(request)
    if length is None:
        lines.append(_CHUNKED)
    elif length or request.method not in _BODILESS:
        lines.append(b"content-length: %d" % length)
    return _join(lines) + content


def _wishes(request: Request) -> list[bytes]:
    """Return the fields for this hop alone: a granted Upgrade, and whether trailers are welcome."""
    named, lines = [], []
    if request.te_trailers:
        named.append(b"te")
        lines.append(b"te: trailers")  # RFC 9110 §10.1.4
    if request.upgrade:
        named.append(b"upgrade")
        lines.append(b"upgrade: " + request.upgrade)  # §7.8
    return [b"connection: " + b", ".join(named), *lines]


def write_last_chunk(trailers: Headers | None) -> bytes:
    """Return the end of a chunked body, trailers included. RFC 9112 §7.1.2. Raises UnsafeField."""
    if not trailers:
        return LAST_CHUNK
    return _join([b"0", *(b": ".join(field) for field in trailers)])


def write_response_head(
    response: Response,
    *,
    length: int | None,
    chunked: bool = False,
    connection: bytes = b"",
    date: bytes = b"",
    content: bytes = b"",
) -> bytes:
    """Return a response's head, with one Content-Length, or `chunked`, or neither (HEAD, 204, 304, until
    close); and `content` behind it.

    connection: `close`, `keep-alive` or nothing to say. date: for the Date field where the response has none
    (RFC 9110 §6.6.1). Raises UnsafeField.
    """
    headers = response.headers
    if _write_response is not None and response.status != 426:
        announced = CHUNKED if chunked else NO_LENGTH if length is None else length
        line = _STATUS_LINES[response.status]
        written = _write_response(line, headers, announced, connection, date, content)
        if written is not None:
            return written
    lines = [_STATUS_LINES[response.status]]
    left_out = _NOT_COPIED_CHUNKED if chunked else _NOT_COPIED
    lines += [b": ".join(field) for field in headers if field[0] not in left_out]
    if date and find(headers, b"date") is None:
        lines.append(b"date: " + date)
    if response.status == 426:  # RFC 9110 §15.5.22, §7.8
        protocols = b", ".join(find_all(headers, b"upgrade"))
        if protocols:
            lines.append(b"upgrade: " + protocols)
            connection = b"upgrade, " + connection if connection else b"upgrade"
    if connection:
        lines.append(b"connection: " + connection)
    if chunked:
        lines.append(_CHUNKED)
    elif length is not None:
        lines.append(b"content-length: %d" % length)
    return _join(lines) + content


def write_upgrade_head(response: Response, protocol: bytes, date: bytes) -> bytes:
    """Return the head of a 101 that agrees to `protocol`. RFC 9110 §15.2.2. Raises UnsafeField."""
    lines = [_STATUS_LINES[101]]
    lines += [b": ".join(field) for field in response.headers if field[0] not in _NOT_COPIED]
    if find(response.headers, b"date") is None:
        lines.append(b"date: " + date)
    return _join([*lines, b"connection: upgrade", b"upgrade: " + protocol])


def _join(lines: list[bytes]) -> bytes:
    """Join the lines of a head and end it with an empty one. Consumes the list."""
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    separators = len(lines) - 1
    if head.count(b"\n") != separators or head.count(b"\r") != separators or 0 in head:
        raise UnsafeField("a field holds CR, LF or NUL")
    return head
