"""Answers given before any exchange exists: problem details (RFC 9457), built whole."""

from __future__ import annotations

import json
from http.client import responses as _reasons

from gateway.http.message import Response


def problem(status: int, code: str, detail: str) -> Response:
    """Return the answer; `code` stands in the body and in `x-headgate-reason`."""
    body = json.dumps(
        {
            "type": f"urn:headgate:{code}",
            "title": _reasons.get(status, "Error"),
            "status": status,
            "code": code,
            "detail": detail,
        }
    ).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"x-headgate-reason", code.encode())]
    return Response(status, headers, body)
