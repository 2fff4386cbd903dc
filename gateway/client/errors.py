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

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.json_text import read_json
from gateway.dialects.protocol import Dialect
from gateway.http.message import Headers, find

LONGEST: Final = 65536
"""Bytes of an error's body that are read."""


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

    code: the gateway's stable word, "" from others. policy: the one that decided. reason: the words for a
    person. retry_after: seconds, None where the server named none. expected: the model's signature, where the
    tensors did not fit it.
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
    """Read an answer that is no 2xx; never raises. headers: names in lower case."""
    members: dict[str, object] = {}
    try:
        document = read_json(body[:LONGEST])
        if type(document) is dict:
            members = document
    except InvalidPrediction:
        pass  # plain text or nothing: the dialect's own reader takes it below
    detail = members.get("detail")
    reason = detail if type(detail) is str else dialect.read_error(status, headers, body).message
    return Refused(
        status,
        reason,
        code=_text(members, "code") or _field(headers, b"x-headgate-reason"),
        policy=_text(members, "policy") or _field(headers, b"x-headgate-policy"),
        retry_after=_seconds(find(headers, b"retry-after")),
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
