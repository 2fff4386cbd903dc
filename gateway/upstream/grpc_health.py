"""Asks instances that speak gRPC whether they serve: grpc.health.v1.Health/Check, over HTTP/2 like any call.

A server that doesn't know that service answers UNIMPLEMENTED: it lives, and nothing more can be known. The
two messages have one field each, so they are written and read here by hand.

Source: the gRPC project's health-checking.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.http.grpc import GRPC, Status, status_of, write_timeout
from gateway.http.message import Request, Response
from gateway.http.outbox import Outbox
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Cancellable, Destination
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.http2_upstream import Http2Upstream
from gateway.upstream.tls import ClientTls

CHECK: Final = b"/grpc.health.v1.Health/Check"
_SERVING: Final = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_LIMIT: Final = 64 * 1024  # bytes of an answer


class GrpcHealth:
    """The checks of one process: connections of their own, beside the traffic."""

    def __init__(self, client_tls: ClientTls) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._upstream = Http2Upstream(
            loop, _LoopTimers(loop), ConnectionSettings(), Outbox(loop.call_soon), client_tls
        )

    async def ask(self, instance: Destination, service: str, within: float) -> bool:
        """Tell whether the instance serves. service: "" for the server as a whole; within: seconds."""
        response = await self.call(instance, CHECK, _question(service), within)
        if response is None:
            return False
        status = status_of(response, response.trailers)
        if status is Status.OK:
            return (response.body or b"")[5:] == _SERVING
        return status is Status.UNIMPLEMENTED

    async def call(
        self, instance: Destination, path: bytes, message: bytes, within: float
    ) -> Response | None:
        """Make a call; None when no answer came. message: framed. The answer is whole, trailers included."""
        headers = [(b"content-type", GRPC), (b"grpc-timeout", write_timeout(within))]
        request = Request(b"POST", path, headers, length=len(message), body=message, te_trailers=True)
        answer = _Answer(self._loop.create_future())
        call = self._upstream.send(instance, request, self._loop.time() + within, answer)
        try:
            return await answer.whole
        except GatewayError:
            return None
        except asyncio.CancelledError:
            call.cancel()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._upstream.close()


def _question(service: str) -> bytes:
    """Return HealthCheckRequest{service} with gRPC's length prefix. service: up to 127 bytes."""
    name = service.encode()
    message = b"\x0a%c%b" % (len(name), name) if name else b""
    return b"\x00" + len(message).to_bytes(4, "big") + message


class _Answer:
    """The sink of one check (ports.Sink)."""

    __slots__ = ("_response", "whole")

    def __init__(self, whole: asyncio.Future[Response]) -> None:
        self.whole = whole
        self._response: Response | None = None

    def on_ready(self) -> None: ...

    def on_interim(self, response: Response) -> None: ...

    def on_writable(self, ready: bool) -> None: ...

    def on_response(self, response: Response) -> None:
        if response.body is not None:
            self._tell(response)
        else:
            self._response = response
            response.body = b""

    def on_chunk(self, data: bytes, last: bool) -> None:
        response = self._response
        if response is not None and response.body is not None:
            if len(response.body) < _LIMIT:
                response.body += data
            if last:
                self._tell(response)

    def on_error(self, error: GatewayError) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)

    def _tell(self, response: Response) -> None:
        if not self.whole.done():
            self.whole.set_result(response)


class _LoopTimers:
    """The port `Timers` on the loop itself: checks are few."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def at(self, deadline: float, callback: Callable[[], None]) -> Cancellable:
        return self._loop.call_at(deadline, callback)

    def punctual(self, deadline: float, callback: Callable[[], None]) -> Cancellable:
        return self._loop.call_at(deadline, callback)
