"""What a header block becomes on its way in: a request, or the answer that turns it away. RFC 9113 §8.1.1.

Three things may be wrong with it. Where nobody can know what was meant (`Malformed`) the stream is reset;
what is well-formed and not served here is answered (`BadRequest`); above the bound of streams the number
alone is read, and the client may send it elsewhere (REFUSED_STREAM, §8.7).
"""

from __future__ import annotations

import os

from gateway.http.h2_connect import ask_in_http1
from gateway.http.h2_frames import Field, HeadReceived
from gateway.http.h2_heads import read_request
from gateway.http.message import Request, Response
from gateway.http.parse import BadRequest
from gateway.server.problem import problem
from gateway.server.settings import ServerSettings


def read(event: HeadReceived, settings: ServerSettings, connect_protocol: bool) -> Request:
    """Return the request. Raises Malformed and BadRequest."""
    request = read_request(event.fields, settings.head, event.ended, connect_protocol)
    if request.length is not None and request.length > settings.body_limit:
        raise BadRequest(413, "body_too_large", "the request's body is too large")
    if request.upgrade:
        ask_in_http1(request, os.urandom(16))
    return request


def turned_away(fields: list[Field], bad: BadRequest, request_id: bytes) -> tuple[Request, Response]:
    """Return what stands in for the request that it never was, and the answer."""
    pseudo = dict(fields[:4])
    kept = [(name, value) for name, value in fields if name == b"content-type"]
    stand_in = Request(pseudo.get(b":method", b"GET"), b"/", kept, minor=2)
    return stand_in, problem(bad.status, bad.code, str(bad), request_id)
