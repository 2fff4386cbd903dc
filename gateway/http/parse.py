"""Heads of HTTP/1.1 messages: bytes in, a `Request` or `Response` out, in one call. Sans-io, strict.

The rule is *refuse, don't repair*: whatever two implementations could read differently (RFC 9112 §11.2) is
an error here, so nothing ambiguous is ever forwarded. A head is read by whole-buffer operations at C speed:
one `split` at CRLF; one `translate` that counts control characters, which proves at once that there is no
bare CR or LF, no NUL, no other control; one table look-up per field name. Measured on a 250-byte head of
seven fields, CPython 3.11, best of 7, cutting into fields only: this way 1.4 µs, one possessive regex with
`findall` 1.9 µs, httptools with a Python callback per field 1.4 µs; and httptools would still have to be
guarded against `Transfer-Encoding: xchunked`, several Hosts and more. The whole of `parse_request`: 2.9 µs;
0.5 µs where heads.pyx is compiled, which reads heads of the usual form and leaves all others to this file.

The caller cuts the head: everything up to and including the first empty line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.http.framing import CHUNKED, UNTIL_CLOSE, BadFraming, body_of_response, read_length
from gateway.http.message import Headers, Request, Response
from gateway.http.target import BadTarget, read_authority, split_absolute, split_target
from gateway.http.usual import read_request as _read_request
from gateway.http.usual import read_response as _read_response


class BadRequest(Exception):
    """A request head that is refused. status: 400, 414, 417 or 431; code: stable, for machines."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class BadResponse(Exception):
    """An upstream's head that can't be trusted; the caller answers 502."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds of one head. head: bytes in all; target: bytes; fields: how many; underscores: may names hold
    `_`.

    CGI-like servers read `X_Real_Ip` and `X-Real-Ip` as the same field: refused unless a site needs it.
    """

    head: int = 32768
    target: int = 8192
    fields: int = 100
    underscores: bool = False


_CONTROLS: Final = bytes(code for code in range(0x20) if code != 0x09) + b"\x7f"
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_METHOD = re.compile(rb"[A-Z]++(?:-[A-Z]++)*")  # no possessive group: see framing.py
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*+)?")
_UNFINISHED = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\A[ \t]")

_METHODS: Final = frozenset(b"DELETE GET HEAD OPTIONS PATCH POST PUT".split())
_SPECIAL_REQUEST: Final = frozenset(
    (b"connection", b"content-length", b"expect", b"host", b"te", b"transfer-encoding", b"upgrade")
)
_SPECIAL_RESPONSE: Final = frozenset((b"connection", b"content-length", b"transfer-encoding"))

# Field names as clients spell them -> lower case. Grows by what is met, up to a bound; unknown names are
# checked each time once it is full. Shared by all connections: it holds names only, never a value.
_NAMES: dict[bytes, bytes] = {}
_NAMES_BOUND: Final = 2048
_LONGEST_NAME: Final = 256

# Whole lines that clients repeat with every request -> the field. Only of names that never hold a secret,
# and the first so many: who sends others pays for reading them each time, and nobody can push anything out.
_USUAL_LINES: dict[bytes, tuple[bytes, bytes]] = {}
_USUAL_NAMES: Final = frozenset(
    b"accept accept-encoding accept-language connection content-type host server user-agent vary".split()
)
_USUAL_BOUND: Final = 1024
_LONGEST_USUAL: Final = 256


def _learn_name(raw: bytes, limits: HeadLimits) -> bytes:
    """Check a field name and return it in lower case. Raises ValueError with the reason."""
    if raw[:1] in (b" ", b"\t"):
        raise ValueError("a field is folded over two lines")  # RFC 9112 §5.2
    if not _TOKEN.fullmatch(raw) or len(raw) > _LONGEST_NAME:
        raise ValueError("a field name is malformed")  # also a space before the colon, RFC 9112 §5.1
    name = raw.lower()
    if b"_" in name:
        if not limits.underscores:
            raise ValueError("a field name holds an underscore")
    elif len(_NAMES) < _NAMES_BOUND and len(raw) <= 64:
        _NAMES[raw] = name
    return name


def _read_fields(
    lines: list[bytes], limits: HeadLimits, special_names: frozenset[bytes]
) -> tuple[Headers, Headers]:
    """Return all fields, and once more those whose names matter to framing. Raises ValueError."""
    headers: Headers = []
    special: Headers = []
    known = _NAMES
    usual = _USUAL_LINES
    for line in lines[1:-2]:
        field = usual.get(line)
        if field is None:
            raw, colon, value = line.partition(b":")
            if not colon:
                raise ValueError("a field has no colon")
            name = known.get(raw) or _learn_name(raw, limits)
            field = (name, value.strip(b" \t"))
            if name in _USUAL_NAMES and len(line) <= _LONGEST_USUAL and len(usual) < _USUAL_BOUND:
                usual[line] = field
        headers.append(field)
        if field[0] in special_names:
            special.append(field)
    return headers, special


def _split_lines(head: bytes) -> list[bytes]:
    """Return the head's lines and two empty ones. Raises ValueError for stray control characters."""
    lines = head.split(b"\r\n")
    if len(head) - len(head.translate(None, _CONTROLS)) != 2 * len(lines) - 2:
        raise ValueError("a control character, or a CR or LF that stands alone")  # RFC 9112 §2.2
    if len(lines) < 3 or lines[-1] or lines[-2]:
        raise ValueError("the head does not end in an empty line")
    return lines


# Requests


def read_ahead(data: bytes, limits: HeadLimits) -> tuple[Request, int] | None:
    """Return the request at the beginning of `data` and the bytes of its head, where its form is the usual
    one and the head is complete. None: look closer, with `parse_request`; always so where heads.pyx is not
    compiled.
    """
    if _read_request is None:
        return None
    found = _read_request(data, limits.fields, limits.target, limits.head)
    if found is None:
        return None
    method, path, query, target, headers, host, length, keep_alive, size = found
    request = Request(
        method,
        path,
        headers,
        query=query,
        target=target,
        host=host,
        length=None if length < 0 else length,
        body=None if length else b"",
        keep_alive=keep_alive,
    )
    return request, size


def parse_request(head: bytes, limits: HeadLimits) -> Request:
    """Return the request of one complete head, its body still None when one is announced.

    Raises BadRequest.
    """
    ahead = read_ahead(head, limits)
    if ahead is not None and ahead[1] == len(head):
        return ahead[0]
    if len(head) > limits.head:
        raise BadRequest(431, "head_too_large", "the request's head is too large")
    try:
        lines = _split_lines(head)
        line = lines[0]
        usual = _usual_line(line) if len(line) <= _LONGEST_USUAL else None
        if usual is not None and len(usual[1]) <= limits.target:
            method, target, minor, read = usual
        else:
            method, target, minor = _read_request_line(line, limits)
            read = None
        if len(lines) - 3 > limits.fields:
            raise BadRequest(431, "too_many_fields", "the request has too many fields")
        headers, special = _read_fields(lines, limits, _SPECIAL_REQUEST)
        return _frame_request(method, target, minor, read, headers, special)
    except BadTarget as target_error:  # a name of its own each: mypyc gives a name one type
        raise BadRequest(400, "bad_target", str(target_error)) from None
    except BadFraming as framing_error:
        raise BadRequest(400, "bad_framing", str(framing_error)) from None
    except ValueError as error:
        raise BadRequest(400, "bad_request", str(error)) from None


def check_unfinished(part: bytes, seen: int, limits: HeadLimits) -> None:
    """Refuse early what can't become a good head any more, before its end has come. Raises BadRequest.

    Without it a client that sends bare LFs would wait for the header timeout instead of its 400. seen:
    bytes of `part` that were checked before, so that a client that drips bytes costs no more than one that
    doesn't.
    """
    if len(part) > limits.head:
        raise BadRequest(431, "head_too_large", "the request's head is too large")
    if _UNFINISHED.search(part, max(seen - 1, 0)):
        raise BadRequest(400, "bad_request", "a control character, or a CR or LF that stands alone")
    line, ended, _ = part.partition(b"\r\n")
    if not ended and len(line) > limits.target + 48:
        raise BadRequest(414, "target_too_long", "the request's target is too long")
    if ended:
        _read_request_line(line, limits)


@lru_cache(maxsize=1024)
def _usual_line(line: bytes) -> tuple[bytes, bytes, int, tuple[bytes, bytes]] | None:
    """Return (method, target, minor, (path, query)) of a line of the usual form; None: look closer."""
    method, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    if method not in _METHODS or version != b"HTTP/1.1" or target[:1] != b"/":
        return None
    try:
        return method, target, 1, split_target(target)
    except BadTarget:
        return None


def _read_request_line(line: bytes, limits: HeadLimits) -> tuple[bytes, bytes, int]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise BadRequest(400, "bad_request_line", "the request line is not METHOD TARGET VERSION")
    method, target, version = parts
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    elif _VERSION.fullmatch(version):
        raise BadRequest(400, "bad_version", "only HTTP/1.1 and HTTP/1.0 are spoken here")
    else:
        raise BadRequest(400, "bad_request_line", "the request line has no HTTP version")
    if method not in _METHODS:
        _check_method(method)
    if len(target) > limits.target:
        raise BadRequest(414, "target_too_long", "the request's target is too long")
    return method, target, minor


def _check_method(method: bytes) -> None:
    if not _METHOD.fullmatch(method):
        raise BadRequest(400, "bad_method", "the method is malformed")
    if method in (b"CONNECT", b"TRACE") or len(method) > 32:
        raise BadRequest(400, "bad_method", "the method is not allowed here")


def _frame_request(
    method: bytes,
    target: bytes,
    minor: int,
    read: tuple[bytes, bytes] | None,
    headers: Headers,
    special: Headers,
) -> Request:
    """Apply what the special fields say: host, where the body ends, whether the connection stays.

    read: path and query where they are known already.
    """
    host: bytes | None = None
    length: int | None = None
    chunked = expect_continue = te_trailers = False
    upgrade = b""
    wish: bool | None = None
    for name, value in special:
        if name == b"host":
            if host is not None:
                raise BadRequest(400, "bad_host", "there are several Host fields")
            host = read_authority(value)
        elif name == b"content-length":
            if length is not None:
                raise BadFraming("there are several Content-Length fields")
            length = read_length(value)
        elif name == b"transfer-encoding":
            if chunked or value != b"chunked":
                raise BadFraming("Transfer-Encoding is not exactly `chunked`")
            if minor == 0:
                raise BadFraming("Transfer-Encoding in HTTP/1.0")  # RFC 9112 §6.1
            chunked = True
        elif name == b"connection":
            wish = read_connection(value, wish)
        elif name == b"te":
            te_trailers = te_trailers or (minor == 1 and read_te(value))
        elif name == b"upgrade":
            upgrade = upgrade + b", " + value if upgrade else value
        elif value.lower() == b"100-continue":
            expect_continue = minor == 1
        else:
            raise BadRequest(417, "bad_expectation", "the expectation can't be met")  # RFC 9110 §10.1.1
    if chunked and length is not None:
        raise BadFraming("both Content-Length and Transfer-Encoding")  # RFC 9112 §6.3, item 3
    if host is None and minor == 1:
        raise BadRequest(400, "bad_host", "there is no Host field")  # RFC 9112 §3.2
    if read is not None:
        path, query = read
    else:
        path, query, target = _read_target(method, target, host or b"")
    if not chunked and length is None:
        length = 0
    if upgrade and (minor == 0 or length != 0 or not _may_upgrade(special)):
        upgrade = b""
    return Request(
        method,
        path,
        headers,
        query=query,
        target=target,
        host=host or b"",
        minor=minor,
        length=length,
        body=b"" if length == 0 else None,
        keep_alive=minor == 1 if wish is None else wish,
        expect_continue=expect_continue and length != 0,
        te_trailers=te_trailers,
        upgrade=upgrade,
    )


def read_te(value: bytes) -> bool:
    """Tell whether a TE value says that trailers are welcome. RFC 9110 §10.1.4."""
    return any(coding.partition(b";")[0].strip(b" \t") == b"trailers" for coding in value.lower().split(b","))


def _may_upgrade(special: Headers) -> bool:
    """Tell whether the wish for another protocol counts: Connection must name it. RFC 9110 §7.8.

    Ignored, as that section allows, in HTTP/1.0 and where a body follows, which would have to be read in one
    protocol before the other begins.
    """
    return any(
        option.strip(b" \t") == b"upgrade"
        for name, value in special
        if name == b"connection"
        for option in value.lower().split(b",")
    )


def _read_target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes, bytes]:
    """Return (path, query, target in origin form) of the forms of RFC 9112 §3.2 that are served here."""
    if target[:1] == b"/":
        path, query = split_target(target)
    elif target == b"*":
        if method != b"OPTIONS":
            raise BadTarget("`*` is for OPTIONS only")
        path, query = b"*", b""
    else:
        authority, target = split_absolute(target)
        if read_authority(authority) != host:
            raise BadRequest(400, "bad_host", "the target and the Host field name different hosts")
        path, query = split_target(target)
    return path, query, target


def read_connection(value: bytes, wish: bool | None = None) -> bool | None:
    """Read one Connection value: False = close, True = keep-alive, None = it says neither.

    wish: what earlier Connection fields said; `close` wins over all others. RFC 9112 §9.3.
    """
    options = [option.strip(b" \t") for option in value.lower().split(b",")]
    if wish is False or b"close" in options:
        return False
    return True if b"keep-alive" in options else wish


# Responses


def read_response_ahead(
    data: bytes, method: bytes, limits: HeadLimits
) -> tuple[Response, int, bool, int] | None:
    """Return what `parse_response_head` does of the response at the beginning of `data`, and the bytes of its
    head; None as `read_ahead`.
    """
    if _read_response is None:
        return None
    found = _read_response(data, limits.fields, limits.head)
    if found is None:
        return None
    status, headers, announced, keep_alive, size = found
    length = announced if announced >= 0 else None
    framing = body_of_response(method, status, length, announced == CHUNKED)
    response = Response(status, headers, None, length=length)
    return response, framing, keep_alive and framing != UNTIL_CLOSE, size


def parse_response_head(head: bytes, method: bytes, limits: HeadLimits) -> tuple[Response, int, bool]:
    """Return (response with body None, its framing, whether the connection stays open). Raises BadResponse.

    method: the request's, because a response to HEAD has no body. framing: bytes, CHUNKED or UNTIL_CLOSE; the
    response's own `length` is what was announced, also where there is no body.
    """
    ahead = read_response_ahead(head, method, limits)
    if ahead is not None and ahead[3] == len(head):
        return ahead[0], ahead[1], ahead[2]
    if len(head) > limits.head:
        raise BadResponse("the response's head is too large")
    try:
        lines = _split_lines(head)
        status, modern = _read_status_line(lines[0])
        if len(lines) - 3 > limits.fields:
            raise ValueError("the response has too many fields")
        headers, special = _read_fields(lines, limits, _SPECIAL_RESPONSE)
        return _frame_response(status, method, modern, headers, special)
    except ValueError as error:
        raise BadResponse(str(error)) from None


def check_unfinished_response(part: bytes, limits: HeadLimits) -> None:
    """Refuse early what can't become a good head any more. Raises BadResponse.

    Without it an instance that ends its lines with bare LFs would be waited for until its time is up.
    """
    if len(part) > limits.head or b"HTTP/1."[: len(part)] != part[:7] or _UNFINISHED.search(part):
        raise BadResponse("the head is no HTTP/1.1, or too large")


@lru_cache(maxsize=256)
def _read_status_line(line: bytes) -> tuple[int, bool]:
    """Return (status, whether it is HTTP/1.1)."""
    match = _STATUS.fullmatch(line)
    if match is None:
        raise ValueError("the status line is malformed")
    return int(match[2]), match[1] == b"1"


def _frame_response(
    status: int, method: bytes, modern: bool, headers: Headers, special: Headers
) -> tuple[Response, int, bool]:
    length: int | None = None
    wish: bool | None = None
    chunked = False
    for name, value in special:
        if name == b"content-length":
            if length is not None:
                raise BadFraming("there are several Content-Length fields")
            length = read_length(value)
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked" or not modern:
                raise BadFraming("Transfer-Encoding is not exactly `chunked` of HTTP/1.1")
            chunked = True
        else:
            wish = read_connection(value, wish)
    if chunked and length is not None:
        raise BadFraming("both Content-Length and Transfer-Encoding")
    framing = body_of_response(method, status, length, chunked)
    response = Response(status, headers, None, length=length)
    keep_alive = modern if wish is None else wish
    return response, framing, keep_alive and framing != UNTIL_CLOSE
