"""The least that a receiver can do: pass every request to one instance.

For tests of the edges and for the bench.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

from gateway.http.forwarded import FORWARDED_FIELDS, Forwarding
from gateway.http.hop_by_hop import HOP_BY_HOP, Passing, end_to_end
from gateway.http.message import Request, Response
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.pool_verbs import Tls
from gateway.pipeline.ports import Begin, Call, Destination, Downstream, Peer, Upstream
from gateway.server.listener import Listener
from gateway.server.problem import problem
from gateway.server.timers import SweptTimers
from gateway.upstream.upstream import HttpUpstream

PASSING = Passing(HOP_BY_HOP | FORWARDED_FIELDS)
TIMEOUT = 60.0


class Address(Destination):
    def __init__(
        self, host: str, port: int, authority: bytes, tls: Tls | None = None, http2: bool = False
    ) -> None:
        self.host = host
        self.port = port
        self.authority = authority
        self.tls = tls
        self.http2 = http2


class SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class Relay:
    """One request, seen from the client."""

    __slots__ = ("_address", "_down", "_forwarding", "_now", "_peer", "_request", "_upstream", "call")

    def __init__(
        self,
        upstream: Upstream,
        address: Address,
        forwarding: Forwarding,
        now: Callable[[], float],
        request: Request,
        peer: Peer,
        down: Downstream,
    ) -> None:
        self._upstream = upstream
        self._address = address
        self._forwarding = forwarding
        self._now = now
        self._request = request
        self._peer = peer
        self._down = down
        self.call: Call | None = None

    def start(self) -> None:
        request, peer = self._request, self._peer
        made = self._forwarding.add(
            request.headers, address=peer.address, scheme=peer.scheme, host=request.host, minor=request.minor
        )
        request.headers = end_to_end(request.headers, PASSING)
        request.headers += made.fields
        request.upgrade = b""
        self.call = self._upstream.send(self._address, request, self._now() + TIMEOUT, Attempt(self._down))

    def on_body(self, data: bytes, last: bool) -> None:
        if self.call is not None:
            self.call.write(data, last, self._request.trailers if last else None)

    def on_body_error(self, error: GatewayError) -> None:
        self.on_client_gone()
        self._down.reply(problem(error.status, error.code, str(error)))

    def on_client_gone(self) -> None:
        if self.call is not None:
            self.call.cancel()

    def on_writable(self, ready: bool) -> None:
        if self.call is not None:
            if ready:
                self.call.resume()
            else:
                self.call.pause()

    def crash(self, bug: Exception) -> None:
        self.on_client_gone()
        self._down.reply(problem(500, "internal", "the gateway failed"))


class Attempt:
    """The same request, seen from the instance."""

    __slots__ = ("_begun", "_down", "_response")

    def __init__(self, down: Downstream) -> None:
        self._down = down
        self._begun = False
        self._response: Response | None = None

    def on_ready(self) -> None:
        self._down.proceed()

    def on_interim(self, response: Response) -> None:
        response.headers = end_to_end(response.headers)
        self._down.interim(response)

    def on_response(self, response: Response) -> None:
        response.headers = end_to_end(response.headers)
        if response.body is not None:
            self._down.reply(response)
        else:
            self._begun = True
            self._response = response
            self._down.begin(response)

    def on_chunk(self, data: bytes, last: bool) -> None:
        self._down.write(data)
        if last:
            self._down.end(None if self._response is None else self._response.trailers)

    def on_error(self, error: GatewayError) -> None:
        if self._begun:
            self._down.abort()
        else:
            self._down.reply(problem(error.status, error.code, str(error)))

    def on_writable(self, ready: bool) -> None:
        if ready:
            self._down.resume_body()
        else:
            self._down.pause_body()


def relay_to(upstream: Upstream, host: str, port: int) -> Begin:
    """Return what makes the receivers of a pass-through to one instance."""
    address = Address(host, port, f"{host}:{port}".encode())
    forwarding = Forwarding()
    now = asyncio.get_running_loop().time

    def begin(request: Request, peer: Peer, down: Downstream) -> Relay:
        return Relay(upstream, address, forwarding, now, request, peer, down)

    return begin


async def main(port: int, to: int) -> None:
    """Relay 127.0.0.1:port to 127.0.0.1:to until interrupted."""
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    upstream = HttpUpstream(loop, timers)
    listener = Listener(relay_to(upstream, "127.0.0.1", to), timers, SystemClock())
    await listener.start("127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import gc

    import uvloop

    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
