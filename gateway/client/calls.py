"""gRPC for both clients, on grpcio (the extra `grpc`): it carries bytes, which dialects/ read and write.

A Reply holds the metadata from before and after the message as its headers, the outcome among them
(`grpc-status`, `grpc-message`), and the message in gRPC's frame: what the dialects read of HTTP/2 itself.
grpcio's own retries are off, for asking.py decides. A call that ended without any metadata of the server and
says UNAVAILABLE or DEADLINE_EXCEEDED is one that nobody answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.client.asking import Broken, Reply, Send
from gateway.dialects import wire
from gateway.http.grpc import Status, write_message
from gateway.http.message import Headers

_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
_OURS: Final = frozenset((b"content-type", b"te"))  # grpcio writes these itself


class Calls:
    """Calls from plain code, over one channel that threads share. roots: PEM; None: the system's."""

    def __init__(self, url: str, roots: bytes | None) -> None:
        self._grpc = require_grpc()
        self._channel = _channel(self._grpc, self._grpc, url, roots)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def send(self, wanted: Send) -> Reply | Broken:
        """Make the call."""
        method = self._channel.unary_unary(wanted.call.path.decode())
        try:
            message, call = method.with_call(
                wire.unframe([], wanted.call.body), timeout=wanted.left, metadata=_metadata(wanted)
            )
        except self._grpc.RpcError as error:
            return _failed(error, wanted)
        return _answered(message, call.initial_metadata(), call.trailing_metadata())


class AsyncCalls:
    """Calls from asyncio; made, used and closed in one event loop. roots: PEM; None: the system's."""

    def __init__(self, url: str, roots: bytes | None) -> None:
        self._grpc = require_grpc()
        self._url = url
        self._roots = roots
        self._channel: Any = None

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def send(self, wanted: Send) -> Reply | Broken:
        """Make the call."""
        if self._channel is None:
            self._channel = _channel(self._grpc, self._grpc.aio, self._url, self._roots)
        method = self._channel.unary_unary(wanted.call.path.decode())
        call = method(wire.unframe([], wanted.call.body), timeout=wanted.left, metadata=_metadata(wanted))
        try:
            message = await call
            return _answered(message, await call.initial_metadata(), await call.trailing_metadata())
        except self._grpc.RpcError as error:
            return _failed(error, wanted)


def require_grpc() -> Any:
    """Return grpcio; raises ImportError, which names the extra, where it isn't installed."""
    try:
        import grpc
        import grpc.aio
    except ImportError as missing:
        raise ImportError("gRPC dialects need grpcio: pip install 'headgate[grpc]'") from missing
    return grpc


def _channel(grpc: Any, kind: Any, url: str, roots: bytes | None) -> Any:
    parts = urlsplit(url)
    where = parts.netloc
    if parts.scheme == "https":
        return kind.secure_channel(where, grpc.ssl_channel_credentials(roots), options=_OPTIONS)
    return kind.insecure_channel(where, options=_OPTIONS)


def _metadata(wanted: Send) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in wanted.call.headers
        if name not in _OURS
    ]


def _answered(message: bytes, *metadata: Iterable[tuple[str, str | bytes]] | None) -> Reply:
    return Reply(200, [*_headers(*metadata), (b"grpc-status", b"0")], wire.frame(message))


def _failed(error: Any, wanted: Send) -> Reply | Broken:
    """Turn a grpcio error, which is the call that failed, into what came of it."""
    code, words = int(error.code().value[0]), error.details() or ""
    headers = _headers(error.initial_metadata(), error.trailing_metadata())
    if not headers and code == Status.DEADLINE_EXCEEDED:
        return Broken(f"no answer within {wanted.left:.3g} s", expired=True)
    if not headers and code == Status.UNAVAILABLE:
        return Broken(f"no answer: {words}")
    said = [(b"grpc-status", b"%d" % code), (b"grpc-message", write_message(words))]
    return Reply(200, [*headers, *said], b"")


def _headers(*metadata: Iterable[tuple[str, str | bytes]] | None) -> Headers:
    return [
        (name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1"))
        for part in metadata
        for name, value in part or ()
    ]
