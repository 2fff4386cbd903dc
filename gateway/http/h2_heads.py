"""Heads of HTTP/2 messages: fields to a `Request` or `Response`, and back. RFC 9113 §8. Sans-io, strict.

A head that HTTP/2 calls malformed (§8.1.1) is `Malformed`: it is answered by a stream error, because nobody
can know what was meant. One that is well-formed and still not served here (an ambiguous path, too many
fields) is parse.BadRequest with a status, as in HTTP/1. Everything that HTTP/2 carries may be written into
HTTP/1 one hop later, so field names and values are held to the rules of both (§8.2.1, §10.3): a value with
CR LF in it would otherwise be two fields, or two requests, there.

Paths go through the same http/target.py as HTTP/1's, so that matching, authorisation and forwarding agree
on them whatever the client speaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.http.framing import BadFraming, read_length
from gateway.http.message import Headers, Request, Response, find
from gateway.http.parse import BadRequest, HeadLimits
from gateway.http.serialize import UnsafeField
from gateway.http.target import BadTarget, read_authority, split_target
from gateway.http.trailers import may_trail

Field = tuple[bytes, bytes]


class Malformed(ValueError):
    """A message that RFC 9113 §8.1.1 calls malformed: a stream error of type PROTOCOL_ERROR."""


# §8.2.2: fields of one HTTP/1 connection have no meaning here, and one to whoever forwards them.
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_NOT_SENT: Final = _CONNECTION_FIELDS | {b"content-length", b"host", b"te"}

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++")
_METHOD = re.compile(rb"[A-Z]++(?:-[A-Z]++)*")  # no possessive group: see framing.py
_STATUS = re.compile(rb"[1-5][0-9][0-9]")
_PROTOCOL = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32})?")
_CONTROLS: Final = bytes(code for code in range(0x20) if code != 0x09) + b"\x7f"
_UNSAFE: Final = b"\0\r\n"
_KNOWN_BOUND: Final = 2048
_LONGEST_NAME: Final = 256
_OVERHEAD: Final = 32  # bytes that §10.5.1 counts per field beside its name and value

_GRPC_MESSAGE: Final = b"grpc-message"  # gRPC's core escapes no blank at its end, and Triton writes such

_known: set[bytes] = set()  # names that were found to be well-formed; never values


def _check_fields(fields: Sequence[Field]) -> None:
    """Refuse names and values that no field may have (§8.2.1)."""
    values = b"".join([value for _, value in fields])
    if len(values) != len(values.translate(None, _CONTROLS)):
        raise Malformed("a field value holds a control character")
    known = _known
    for name, value in fields:
        if name not in known:
            _learn(name)
        if value and (value[0] in b" \t" or value[-1] in b" \t") and name != _GRPC_MESSAGE:
            raise Malformed("a field value begins or ends with white space")


def _learn(name: bytes) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise Malformed("a field name is empty, not in lower case, or no token")
    if name in _CONNECTION_FIELDS:
        raise Malformed("a field of an HTTP/1 connection")
    if len(_known) < _KNOWN_BOUND and len(name) <= 64:
        _known.add(name)


def _split(fields: Iterable[Field]) -> tuple[dict[bytes, bytes], list[Field]]:
    """Return the pseudo-header fields and the rest; §8.3 wants them first, and each once."""
    pseudo: dict[bytes, bytes] = {}
    rest: list[Field] = []
    for name, value in fields:
        if name[:1] != b":":
            rest.append((name, value))  # as plain tuples: h2's own are larger and slower to take apart
        elif rest or name in pseudo:
            raise Malformed("a pseudo-header field comes late or twice")
        else:
            pseudo[name] = value
    return pseudo, rest


# Requests


def read_request(
    fields: Sequence[Field], limits: HeadLimits, ended: bool, connect_protocol: bool = False
) -> Request:
    """Return the request of one header block. Raises Malformed, and BadRequest for what is not served here.

    ended: the block ends the stream, so there is no body; body is then b"", else None. minor is 2.
    connect_protocol: extended CONNECT was offered. It becomes the GET with `upgrade` that HTTP/1.1 has
    for it, with body b"": what the stream carries is not a body (RFC 8441 §4, §5).
    """
    pseudo, rest = _split(fields)
    protocol = pseudo.pop(b":protocol", b"") if connect_protocol else b""
    if protocol:
        if pseudo.get(b":method") != b"CONNECT" or not _PROTOCOL.fullmatch(protocol):
            raise Malformed(":protocol without CONNECT, or a malformed one")
        pseudo[b":method"] = b"GET"
    method, path, authority = _read_pseudo(pseudo)
    _check_fields(rest)
    host, length, expect, te_trailers, crumbs = _read_special(rest)
    _bound(fields, path, limits)
    if not limits.underscores and any(b"_" in name for name, _ in rest):
        raise BadRequest(400, "bad_request", "a field name holds an underscore")
    if crumbs > 1:
        rest = _join_cookies(rest)
    if ended or protocol:
        if length:
            raise Malformed("a message without a body announces one")  # §8.1.1
        length = 0
    split = _read_path(method, path)
    request = Request(
        method,
        split[0],
        rest,
        query=split[1],
        target=path,
        host=_read_host(authority, host),
        minor=2,
        length=length,
        body=b"" if ended or protocol else None,
        expect_continue=expect and not (ended or protocol),
        upgrade=protocol,
    )
    request.te_trailers = te_trailers
    return request


def _read_pseudo(pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes, bytes | None]:
    """Return method, path and authority (§8.3.1)."""
    method = pseudo.get(b":method")
    path = pseudo.get(b":path")
    scheme = pseudo.get(b":scheme")
    authority = pseudo.get(b":authority")
    if len(pseudo) != sum(one is not None for one in (method, path, scheme, authority)):
        raise Malformed("an unknown pseudo-header field")
    if method is None or not _METHOD.fullmatch(method) or len(method) > 32:
        raise Malformed("no method, or a malformed one")
    if method == b"CONNECT":
        if path is not None or scheme is not None or not authority:
            raise Malformed("CONNECT with a path or without an authority")  # §8.5
        raise BadRequest(400, "bad_method", "CONNECT is not served here")
    if scheme not in (b"http", b"https"):
        raise Malformed("no scheme, or not http and not https")
    if not path or (path[0] != 0x2F and not (path == b"*" and method == b"OPTIONS")):
        raise Malformed("no path, or one that is not absolute")
    if method == b"TRACE":
        raise BadRequest(400, "bad_method", "TRACE is not served here")
    return method, path, authority


def _read_special(rest: list[Field]) -> tuple[bytes | None, int | None, bool, bool, int]:
    """Return host, length, expect, whether trailers are welcome, and the number of cookie fields."""
    host: bytes | None = None
    length: int | None = None
    expect = te_trailers = False
    crumbs = 0
    for name, value in rest:
        if name == b"te":
            if value.lower() != b"trailers":
                raise Malformed("TE says more than `trailers`")  # §8.2.2
            te_trailers = True
        elif name == b"content-length":
            if length is not None:
                raise Malformed("there are several Content-Length fields")
            try:
                length = read_length(value)
            except BadFraming as error:
                raise Malformed(str(error)) from None
        elif name == b"host":
            if host is not None:
                raise Malformed("there are several Host fields")
            host = value
        elif name == b"cookie":
            crumbs += 1
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise BadRequest(417, "bad_expectation", "the expectation can't be met")
            expect = True
    return host, length, expect, te_trailers, crumbs


def _bound(fields: Sequence[Field], path: bytes, limits: HeadLimits) -> None:
    if len(path) > limits.target:
        raise BadRequest(414, "target_too_long", "the request's target is too long")
    if len(fields) > limits.fields + 4:
        raise BadRequest(431, "too_many_fields", "the request has too many fields")
    if sum([len(name) + len(value) for name, value in fields]) + _OVERHEAD * len(fields) > limits.head:
        raise BadRequest(431, "head_too_large", "the request's head is too large")


def _join_cookies(rest: list[Field]) -> list[Field]:
    """Put the crumbs of a cookie together, where the first one stood (§8.2.3)."""
    whole = b"; ".join([value for name, value in rest if name == b"cookie"])
    joined: list[Field] = []
    for field in rest:
        if field[0] != b"cookie":
            joined.append(field)
        elif whole:
            joined.append((b"cookie", whole))
            whole = b""
    return joined


def _read_path(method: bytes, path: bytes) -> tuple[bytes, bytes]:
    if path == b"*":
        return path, b""
    try:
        return split_target(path)
    except BadTarget as error:
        raise BadRequest(400, "bad_target", str(error)) from None


def _read_host(authority: bytes | None, host: bytes | None) -> bytes:
    """Return the one host that is meant: `:authority`, or Host without it; they must not differ (§8.3.1)."""
    if authority is None and host is None:
        raise Malformed("neither :authority nor Host")
    try:
        named = (
            read_authority(host)
            if authority is None and host is not None
            else read_authority(authority or b"")
        )
        if authority is not None and host is not None and read_authority(host) != named:
            raise Malformed(":authority and Host name different hosts")
    except BadTarget as error:
        raise Malformed(str(error)) from None
    return named


def write_request(request: Request, authority: bytes, scheme: bytes) -> list[Field]:
    """Return the header block that an instance gets. Raises UnsafeField.

    content-length stands there when it is known and there is a body; TE is ours: trailers are always read.
    """
    path = request.path + b"?" + request.query if request.query else request.path
    fields = [
        (b":method", request.method),
        (b":scheme", scheme),
        (b":path", path),
        (b":authority", authority),
        (b"te", b"trailers"),
    ]
    length = request.length if request.body is None else len(request.body)
    return _write(fields, request.headers, length or None)


# Responses


def read_response(fields: Sequence[Field], limits: HeadLimits) -> Response:
    """Return the response of one header block, body None. Raises Malformed."""
    pseudo, rest = _split(fields)
    status = pseudo.get(b":status")
    if len(pseudo) != 1 or status is None or not _STATUS.fullmatch(status):
        raise Malformed("the response has no status, or other pseudo-header fields")  # §8.3.2
    _check_fields(rest)
    if len(rest) > limits.fields:
        raise Malformed("the response has too many fields")
    length: int | None = None
    for name, value in rest:
        if name == b"content-length":
            if length is not None:
                raise Malformed("there are several Content-Length fields")
            try:
                length = read_length(value)
            except BadFraming as error:
                raise Malformed(str(error)) from None
    return Response(int(status), rest, None, length=length)


def write_response(response: Response, length: int | None, date: bytes) -> list[Field]:
    """Return the header block that a client gets. Raises UnsafeField.

    length: for Content-Length, None where it isn't known or has no meaning. date: where none is there.
    """
    fields = [(b":status", b"%d" % response.status)]
    if date and find(response.headers, b"date") is None:
        fields.append((b"date", date))
    return _write(fields, response.headers, length)


def _write(fields: list[Field], headers: Headers, length: int | None) -> list[Field]:
    for field in headers:
        name = field[0]
        if name in _NOT_SENT:
            continue
        fields.append(field)
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    _check_safe(fields)
    return fields


def _check_safe(fields: Sequence[Field]) -> None:
    whole = b"".join([name + value for name, value in fields])
    if len(whole) != len(whole.translate(None, _UNSAFE)):
        raise UnsafeField("a field holds CR, LF or NUL")


# Trailers


def read_trailers(fields: Sequence[Field], strict: bool) -> Headers:
    """Return the fields after a body. Raises Malformed, where `strict` also for names that must not trail.

    A request that has such a field means to get something past us; from a response it is dropped.
    """
    pseudo, rest = _split(fields)
    if pseudo:
        raise Malformed("a pseudo-header field in trailers")  # §8.1
    _check_fields(rest)
    kept = [field for field in rest if may_trail(field[0])]
    if strict and len(kept) != len(rest):
        raise Malformed("a trailer field is not allowed there")
    return kept


def write_trailers(trailers: Headers) -> list[Field]:
    """Return the block that ends a message. Raises UnsafeField."""
    _check_safe(trailers)
    return trailers
