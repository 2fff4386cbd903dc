"""The second port: gRPC. One server, several services; here is what they share.

    kserve_v2_grpc.py             inference.GRPCInferenceService
    tensorflow_serving_grpc.py    tensorflow.serving.PredictionService, ModelService
    here                          grpc.health.v1.Health (Check; Watch tells when the server leaves)

Statuses: what is wrong with a request is INVALID_ARGUMENT, an unknown or retired model NOT_FOUND, a full
queue UNAVAILABLE, a deadline that can't be met DEADLINE_EXCEEDED, an engine's failure INTERNAL. The trailing
metadata of every prediction says how busy the server is, as HTTP answers do (`x-headgate-load`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from math import inf
from typing import Any, Final

import grpc
import grpc.aio

from backends.errors import (
    BackendError,
    Expired,
    Forbidden,
    Gone,
    Invalid,
    LoadError,
    NotFound,
    Overloaded,
    Unavailable,
    Unsupported,
)
from backends.metrics import Load
from backends.protobuf_table import Message, Table
from backends.settings import Address

Context = Any  # grpc.aio.ServicerContext, which the library's stubs don't type
Unary = Callable[[Message, Context], Awaitable[Message]]

LOAD: Final = "x-headgate-load"

_CODES = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Gone: grpc.StatusCode.NOT_FOUND,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Expired: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}
_HEALTH = Table(
    "grpc.health.v1", {"HealthCheckRequest": "string service 1", "HealthCheckResponse": "int32 status 1"}
)
_SERVING, _NOT_SERVING = 1, 2  # grpc.health.v1.HealthCheckResponse.ServingStatus

_log = logging.getLogger("backends.grpc")


class GrpcServer:
    """The port. Who starts it stops it."""

    def __init__(
        self, handlers: Sequence[grpc.GenericRpcHandler], ready: asyncio.Event, max_body: int
    ) -> None:
        """handlers: of the services. ready: set; cleared when it drains. max_body: bytes of one message."""
        self._ready = ready
        self._leaving = asyncio.Event()
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            )
        )
        self._server.add_generic_rpc_handlers((*handlers, self._health()))

    async def start(self, address: Address) -> Address:
        """Listen; returns where. Raises LoadError."""
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as e:
            raise LoadError(f"cannot listen on {address} for gRPC") from e
        await self._server.start()
        return Address(address.host, port)

    def drain(self) -> None:
        """Answer `not ready` from now on."""
        self._ready.clear()
        self._leaving.set()

    async def stop(self, grace: float) -> None:
        """Take no new calls, and give those under way `grace` seconds."""
        await self._server.stop(grace)

    def _health(self) -> grpc.GenericRpcHandler:
        request, response = _HEALTH.message("HealthCheckRequest"), _HEALTH.message("HealthCheckResponse")

        async def check(asked: Message, context: Context) -> Message:
            return response(status=_SERVING if self._ready.is_set() else _NOT_SERVING)

        async def watch(asked: Message, context: Context) -> AsyncIterator[Message]:
            yield await check(asked, context)
            await self._leaving.wait()
            yield await check(asked, context)

        reads, writes = request.FromString, response.SerializeToString
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(check, reads, writes),
                "Watch": grpc.unary_stream_rpc_method_handler(watch, reads, writes),
            },
        )


def unary(method: Unary, request: Message, response: Message) -> grpc.RpcMethodHandler:
    """Return the handler of a call with one message each way."""
    return grpc.unary_unary_rpc_method_handler(
        _guarded(method), request.FromString, response.SerializeToString
    )


def ends(context: Context, now: float) -> float:
    """Return the instant at which the client gives up (`grpc-timeout`); inf: it doesn't."""
    left = context.time_remaining()
    return inf if left is None else now + left


def tell_load(context: Context, load: Load) -> None:
    """Say in the trailing metadata how busy the server is."""
    context.set_trailing_metadata(((LOAD, str(load)),))


def _guarded(method: Unary) -> Callable[[Message, Context], Awaitable[Message]]:
    """Turn errors into statuses: the only place that does."""

    async def call(request: Message, context: Context) -> Message:
        try:
            return await method(request, context)
        except BackendError as e:
            await context.abort(_CODES.get(type(e), grpc.StatusCode.INTERNAL), str(e))
        except Exception:  # a bug: the trace is for the log, never for the client
            _log.exception("call_failed")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return call
