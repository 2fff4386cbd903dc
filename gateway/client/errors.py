"""What a client is told when a prediction did not come: four kinds, each with what a program needs to decide.

    Refused      the server answered, and said no: status, code, policy, reason, retry_after, request_id
    Expired      the time given for the whole call is over; nothing else is known
    Unreachable  nobody answered: no connection, or one that broke
    Unreadable   what was to be sent or what came back can't be written or read in the dialect

The gateway writes its No in the client's dialect or as problem details (RFC 9457); model servers write only
their own form. `refused` reads all of them: what a form does not carry is empty.
"""

from __future__ import annotations

from typing import Final

from gateway.dialects.errors import (
    NOT_FINITE,
    NOT_TEXT,
    UNKNOWN_SIGNATURE,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    InvalidPrediction,
)
from gateway.dialects.json_text import read_json
from gateway.dialects.protocol import Dialect
from gateway.http.grpc import Status, read_status
from gateway.http.message import Headers, find

LONGEST: Final = 65536
"""Bytes of an error's body that are read."""


_OF_GRPC: Final = {
    Status.CANCELLED: 499,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.UNAVAILABLE: 503,
    Status.UNAUTHENTICATED: 401,
}
"""google/rpc/code.proto's HTTP mapping; the rest are 500."""
_MISFITS: Final = frozenset((WRONG_NAME, WRONG_DTYPE, WRONG_SHAPE, UNKNOWN_SIGNATURE, NOT_FINITE, NOT_TEXT))
"""422 over HTTP; gRPC has one word for these and for what can't be read at all (400)."""


class ClientError(Exception):
    """A prediction, or what was asked about a model, did not come."""


class Unreachable(ClientError):
    """Nobody answered: no connection, or one that broke before the answer was complete."""


class Expired(ClientError):
    """The deadline of the whole call passed."""


class Unreadable(ClientError):
    """The question can't be written, or the answer can't be read, in the dialect.

    code: as in dialects/errors.py.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refused(ClientError):
    """The server said no.

    status: HTTP's, also of a gRPC call. code: the gateway's stable word, "" from others. policy: the one that
    decided. reason: the words for a person. retry_after: seconds, None where the server named none. expected:
    the model's signature, where the tensors did not fit it and the answer has a place for it.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        code: str = "",
        policy: str = "",
        retry_after: float | None = None,
        request_id: str = "",
        expected: str = "",
    ) -> None:
        named = f" {code}" if code else ""
        by = f" (policy {policy})" if policy else ""
        asked = f" [request {request_id}]" if request_id else ""
        super().__init__(f"{status}{named}: {reason}{by}{asked}")
        self.status = status
        self.reason = reason
        self.code = code
        self.policy = policy
        self.retry_after = retry_after
        self.request_id = request_id
        self.expected = expected


def refused(dialect: Dialect, status: int, headers: Headers, body: bytes) -> Refused:
    """Read an answer that is no success; never raises. headers: names in lower case, trailers too."""
    members: dict[str, object] = {}
    try:
        document = read_json(body[:LONGEST])
        if type(document) is dict:
            members = document
    except InvalidPrediction:
        pass  # plain text or nothing: the dialect's own reader takes it below
    detail = members.get("detail")
    understood = dialect.read_error(status, headers, body)
    reason = detail if type(detail) is str else understood.message
    code = _text(members, "code") or _field(headers, b"x-headgate-reason")
    called = find(headers, b"grpc-status") if dialect.is_grpc else None
    if called is not None and called != b"0":
        status = 422 if code in _MISFITS else _OF_GRPC.get(read_status(called), 500)
    elif status < 300:
        status = understood.kind.status  # PaddleServing's and others' failures inside a 200
    return Refused(
        status,
        reason,
        code=code,
        policy=_text(members, "policy") or _field(headers, b"x-headgate-policy"),
        retry_after=_seconds(find(headers, b"retry-after")) or _pushback(headers),
        request_id=_text(members, "request_id") or _field(headers, b"x-request-id"),
        expected=_text(members, "expected"),
    )


def _text(members: dict[str, object], name: str) -> str:
    value = members.get(name)
    return value if type(value) is str else ""


def _field(headers: Headers, name: bytes) -> str:
    value = find(headers, name)
    return "" if value is None else value.decode("latin-1")


def _seconds(value: bytes | None) -> float | None:
    """Return Retry-After in seconds; its form as a date (RFC 9110 §10.2.3) is not read."""
    return float(value) if value is not None and value.isdigit() and len(value) < 10 else None


def _pushback(headers: Headers) -> float | None:
    """Return gRPC's own Retry-After (gRFC A6) in seconds."""
    milliseconds = _seconds(find(headers, b"grpc-retry-pushback-ms"))
    return None if milliseconds is None else milliseconds / 1000.0
