"""Deadlines as fields: what a client wishes for, and what an instance is told.

`x-request-timeout-ms` is a number of whole milliseconds; gRPC has `grpc-timeout` (http/grpc.py). Both are
durations, so that no two clocks need to agree: each hop counts from its own receipt. What is sent upstream is
the time left for this one try, rounded down, so that the instance gives up no later than we do.

Source: gRPC's PROTOCOL-HTTP2.md; Envoy's x-envoy-expected-rq-timeout-ms is the same idea.
"""

from __future__ import annotations

from typing import Final

from gateway.http.grpc import is_grpc, read_timeout, write_timeout
from gateway.http.message import Request

MILLISECONDS: Final = b"x-request-timeout-ms"
GRPC: Final = b"grpc-timeout"
_LONGEST: Final = 9  # digits: 11 days, more than any deadline


def field_for(request: Request) -> bytes:
    """Return the field that says to this request's instance how much time it has."""
    return GRPC if is_grpc(request.headers) else MILLISECONDS


def wished(request: Request) -> float | None:
    """Return the seconds that the client gives the request, None where it says nothing.

    Where both fields are there the shorter counts. Raises ValueError, fit for a client, where one can't be
    read: who believes in a deadline that isn't there is worse off than who is told.
    """
    shortest: float | None = None
    for name, value in request.headers:
        if name == MILLISECONDS:
            if not value.isdigit() or len(value) > _LONGEST or int(value) == 0:
                raise ValueError("x-request-timeout-ms must be a whole number of milliseconds above zero")
            seconds: float | None = int(value) / 1000
        elif name == GRPC:
            seconds = read_timeout(value)
            if seconds is None:
                raise ValueError("grpc-timeout must be at most eight digits and a unit: 250m, 1S")
        else:
            continue
        if seconds is not None and (shortest is None or seconds < shortest):
            shortest = seconds
    return shortest


def with_time_left(request: Request, field: bytes, seconds: float) -> Request:
    """Return the request with the time left as `field`, instead of what the client had written there."""
    headers = [kept for kept in request.headers if kept[0] != MILLISECONDS and kept[0] != GRPC]
    if field == GRPC:
        headers.append((GRPC, write_timeout(seconds)))
    else:
        headers.append((MILLISECONDS, b"%d" % max(1, int(seconds * 1000 + 1e-3))))
    return request.with_headers(headers)
