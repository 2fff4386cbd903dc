"""gRPC over HTTP/2, as far as a gateway must know it: what is gRPC, deadlines, and statuses. Sans-io.

A gRPC call is an HTTP/2 request like any other (POST /service/method, metadata as fields, messages as
body), so nothing here reads a message: length prefixes, compression and protobuf pass untouched. What
differs is where the outcome stands: the HTTP status is always 200, the real one is `grpc-status` in the
trailers, or in the only head there is (*Trailers-Only*). So an answer that is not gRPC (a refusal of ours,
an instance's 502 page) must be turned into a Trailers-Only one before a gRPC client gets it, and an
instance's health must be judged by its trailers.

Source: the gRPC project's PROTOCOL-HTTP2.md, http-grpc-status-mapping.md, statuscodes.md, gRFC A6
(retries).
"""

from __future__ import annotations

import re
from enum import IntEnum
from math import ceil
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from gateway.http.message import Headers, Request, Response, find

GRPC: Final = b"application/grpc"

_CONTENT_TYPE = re.compile(rb"application/grpc(?:\+[a-z0-9.+-]+)?(?:[ \t]*;.*)?", re.IGNORECASE | re.DOTALL)
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MOST = 99_999_999  # eight digits, as the protocol has it


class Status(IntEnum):
    """The canonical codes (statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# What the gateway's own answers mean in gRPC: who is over a quota of theirs exhausted a resource; where our
# or the instances' capacity is used up the service is unavailable.
_OURS: Final = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    405: Status.UNIMPLEMENTED,
    408: Status.DEADLINE_EXCEEDED,
    409: Status.ABORTED,
    413: Status.RESOURCE_EXHAUSTED,
    422: Status.INVALID_ARGUMENT,
    429: Status.RESOURCE_EXHAUSTED,
    431: Status.RESOURCE_EXHAUSTED,
    499: Status.CANCELLED,
    500: Status.INTERNAL,
    501: Status.UNIMPLEMENTED,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}
# The same by reason, where the HTTP status alone doesn't say it.
_REASONS: Final = {
    "unknown_model": Status.NOT_FOUND,
    "unknown_version": Status.NOT_FOUND,
    # PROTOCOL-HTTP2.md, "Errors": what an instance's RST_STREAM means. REFUSED_STREAM is UNAVAILABLE, by 503.
    "upstream_stream_reset": Status.INTERNAL,
    "upstream_cancelled": Status.CANCELLED,
    "upstream_calm": Status.RESOURCE_EXHAUSTED,
    "upstream_too_weak": Status.PERMISSION_DENIED,
    "upstream_protocol": Status.INTERNAL,
}

# http-grpc-status-mapping.md: what clients make of an answer that is not gRPC at all.
_FOREIGN: Final = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}

# Statuses that speak against the instance. The others are about the call: its arguments, its rights, a state.
BLAMING: Final = frozenset(
    (Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.INTERNAL, Status.UNAVAILABLE, Status.DATA_LOSS)
)

# … and what they would have been in HTTP, for rules that are written in its terms (`retry: {on: [503]}`).
_AS_HTTP: Final = {
    Status.UNKNOWN: 500,
    Status.DEADLINE_EXCEEDED: 504,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
}

# What describes a body that a Trailers-Only answer does not have.
_OF_BODIES: Final = frozenset(
    (b"content-type", b"content-encoding", b"content-length", b"content-range", b"etag", b"trailer")
)


def is_grpc(headers: Headers) -> bool:
    """Tell whether a message is gRPC by its Content-Type (`application/grpc`, `application/grpc+proto` …)."""
    value = find(headers, b"content-type")
    return value is not None and value[:16] == GRPC and _CONTENT_TYPE.fullmatch(value) is not None


# Deadlines


def read_timeout(value: bytes) -> float | None:
    """Return the seconds of a `grpc-timeout` (`250m`, `1S`, eight digits at most), None if it is none."""
    match = _TIMEOUT.fullmatch(value)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def write_timeout(seconds: float) -> bytes:
    """Return a `grpc-timeout` of at most `seconds`, in the finest unit in which it has eight digits.

    Rounded down, so that who is told gives up no later than who tells. What is over already is one
    nanosecond: the protocol has no zero and no negative ones.
    """
    if seconds < 1e-6:
        return b"1n"
    for unit, size in ((b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0)):
        number = int(seconds / size)
        if number <= _MOST:
            return b"%d%b" % (number, unit)
    return b"%dH" % min(_MOST, int(seconds / 3600.0))


# Statuses


def read_status(value: bytes | None) -> Status:
    """Return the status of a `grpc-status` field; what is missing or no code is UNKNOWN."""
    if value is None or not value.isdigit() or len(value) > 2 or int(value) > 16:
        return Status.UNKNOWN
    return Status(int(value))


def status_of_refusal(status: int, code: str) -> Status:
    """Return what an answer of the gateway means in gRPC. code: its stable reason."""
    return _REASONS.get(code) or _OURS.get(status) or (Status.OK if status < 300 else Status.UNKNOWN)


def status_of_foreign(status: int) -> Status:
    """Return what an HTTP answer that is not gRPC means to a gRPC client."""
    return _FOREIGN.get(status, Status.UNKNOWN)


def as_http(response: Response) -> int:
    """Return the HTTP status that an answer means: what a Trailers-Only one blames, else its own."""
    value = response.header(b"grpc-status")
    return response.status if value is None else _AS_HTTP.get(read_status(value), response.status)


def write_message(text: str) -> bytes:
    """Percent-encode a `grpc-message`: UTF-8, everything but printable ASCII escaped, and the `%` itself."""
    return quote_from_bytes(text.encode("utf-8", "replace"), safe=_PLAIN).encode("ascii")


def read_message(value: bytes) -> str:
    """Decode a `grpc-message`; what is not well-formed stays as it is, as the protocol wants."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def trailers_only(status: Status, message: str, pushback: float | None = None) -> Headers:
    """Return the fields of an answer that is an error from its first byte.

    pushback: seconds after which another try makes sense (gRFC A6), None where nothing is to be said.
    """
    fields: Headers = [(b"content-type", GRPC), (b"grpc-status", b"%d" % status)]
    if message:
        fields.append((b"grpc-message", write_message(message)))
    if pushback is not None:
        fields.append((b"grpc-retry-pushback-ms", b"%d" % max(0, ceil(pushback * 1000.0))))
    return fields


def as_grpc(response: Response) -> Response:
    """Return what a gRPC client gets: the response itself when it is gRPC, else a Trailers-Only one.

    The HTTP status is 200 in every case: only then do all clients read `grpc-status`. Fields that describe no
    body are kept, as metadata.
    """
    if is_grpc(response.headers):
        if response.status == 200:
            return _status_last(response) if response.body else response
        if response.header(b"grpc-status") is not None:
            return Response(200, response.headers, b"")
    reason = response.header(b"x-headgate-reason")
    if reason is None:
        status, message = (
            status_of_foreign(response.status),
            f"the answer is not gRPC: HTTP {response.status}",
        )
    else:
        message = reason.decode("latin-1")
        status = status_of_refusal(response.status, message)
    kept = [field for field in response.headers if field[0] not in _OF_BODIES]
    return Response(200, trailers_only(status, message) + kept, b"")


def _status_last(response: Response) -> Response:
    """Return an answer with a message and its outcome in the head as gRPC has it: behind the message."""
    value = response.header(b"grpc-status")
    if value is None or response.trailers is not None:
        return response
    ended = Response(200, [field for field in response.headers if field[0] != b"grpc-status"], response.body)
    ended.trailers = [(b"grpc-status", value)]
    return ended


def status_of(response: Response, trailers: Headers | None) -> Status:
    """Return the outcome of a call that was answered: its trailers say it, or its only head."""
    if trailers is not None:
        value = find(trailers, b"grpc-status")
        if value is not None:
            return read_status(value)
    value = response.header(b"grpc-status")
    if value is not None:
        return read_status(value)
    return Status.UNKNOWN if response.status == 200 else status_of_foreign(response.status)


def service_and_method(request: Request) -> tuple[str, str]:
    """Return (`inference.GRPCInferenceService`, `ModelInfer`) of a call's path; ("", "") if it is none."""
    service, _, method = request.path[1:].decode("latin-1").rpartition("/")
    return (service, method) if service and method else ("", "")
