"""Bounds and patience of a listener. Times in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.http.parse import HeadLimits

_HEAD = HeadLimits()


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What one client may take.

    head: bounds of a request's head.
    head_timeout: from a head's first byte, or the connection's start, to the head's end.
    idle_timeout: between requests.
    body_timeout, body_rate: a body must be complete within body_timeout + received / body_rate seconds
    (Apache's mod_reqtimeout has the same rule); the time in which the gateway itself did not want to read
    does not count. send_timeout: without any progress towards a client that doesn't read. body_limit: bytes
    of one request's body. chunk_limit: chunks of one body. read_ahead: bytes kept of a pipelined request or
    of a body that nobody wanted yet, before reading stops. write_high: bytes waiting to be sent, above
    which the exchange is told to stop. drain_limit: bytes of an unwanted body that are read away to keep
    the connection; a larger rest closes it. linger: time for a client to read the answer that closes its
    connection, before unread bytes reset it. farewell: how long an idle connection stays when the listener
    stops, so that a request on its way is answered, with Connection: close. connections,
    connections_per_address: open at once. http2: speak it to clients that begin with its preface.
    """

    head: HeadLimits = _HEAD
    head_timeout: float = 10.0
    idle_timeout: float = 75.0
    body_timeout: float = 30.0
    body_rate: float = 1024.0
    send_timeout: float = 60.0
    body_limit: int = 1 << 30
    chunk_limit: int = 1 << 20
    read_ahead: int = 64 * 1024
    write_high: int = 64 * 1024
    drain_limit: int = 64 * 1024
    linger: float = 2.0
    farewell: float = 0.25
    connections: int = 16384
    connections_per_address: int = 16384
    backlog: int = 1024
    http2: bool = True
