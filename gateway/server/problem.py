"""Answers given before any exchange exists: problem details (RFC 9457), built whole."""

from __future__ import annotations

import json
import secrets
from http.client import responses as _reasons

from gateway.http.message import Response


def problem(status: int, code: str, detail: str, request_id: bytes = b"") -> Response:
    """Return the answer; `code` stands in the body and in `x-headgate-reason`, the id in `x-request-id`."""
    known = {"request_id": request_id.decode("ascii")} if request_id else {}
    body = json.dumps(
        {
            "type": f"urn:headgate:{code}",
            "title": _reasons.get(status, "Error"),
            "status": status,
            "code": code,
            "detail": detail,
            **known,
        }
    ).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"x-headgate-reason", code.encode())]
    if request_id:
        headers.append((b"x-request-id", request_id))
    return Response(status, headers, body)


def new_request_id() -> bytes:
    """Return an id for what never became a request: 32 hex digits, like those of requests."""
    return secrets.token_hex(16).encode()
