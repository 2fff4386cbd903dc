"""A gRPC service without protobuf: messages are bytes. `test.Echo`, on threads of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

SERVICE = "test.Echo"


class Echo(grpc.GenericRpcHandler):
    """Answers as the methods' names say. calls: method names, in the order in which they came in."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cancelled = threading.Event()
        self.streaming = threading.Event()
        self.fail_first = 0  # calls that are answered UNAVAILABLE before one is answered well
        self.port = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, method = details.method[1:].partition("/")
        if service != SERVICE:
            return None
        self.calls.append(method)
        match method:
            case "Unary":
                return grpc.unary_unary_rpc_method_handler(self._unary)
            case "Fail":
                return grpc.unary_unary_rpc_method_handler(self._fail)
            case "Slow":
                return grpc.unary_unary_rpc_method_handler(self._slow)
            case "Metadata":
                return grpc.unary_unary_rpc_method_handler(self._metadata)
            case "Count":
                return grpc.unary_stream_rpc_method_handler(self._count)
            case "Sum":
                return grpc.stream_unary_rpc_method_handler(self._sum)
            case "Talk":
                return grpc.stream_stream_rpc_method_handler(self._talk)
            case "Break":
                return grpc.unary_stream_rpc_method_handler(self._break)
        return None

    def _unary(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        if self.fail_first > 0:
            self.fail_first -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        context.set_trailing_metadata((("x-served", "yes"),))
        return message

    def _fail(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        name, _, text = message.decode().partition(":")
        context.abort(grpc.StatusCode[name], text)
        return b""

    def _slow(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.cancelled.set)
        time.sleep(float(message))
        return b"done"

    def _metadata(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        seen = {
            key: value.hex() if isinstance(value, bytes) else value
            for key, value in context.invocation_metadata()
        }
        seen["time_remaining"] = context.time_remaining()
        context.send_initial_metadata((("x-first", "1"), ("x-raw-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-last-bin", b"\x01\x02"),))
        return json.dumps(seen).encode()

    def _count(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(message)):
            self.streaming.set()
            yield b"%d" % number

    def _sum(self, messages: Iterable[bytes], context: grpc.ServicerContext) -> bytes:
        return b"%d" % sum(len(message) for message in messages)

    def _talk(self, messages: Iterable[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            yield b"you said " + message

    def _break(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "lost the rest")


@contextmanager
def echo_service(compression: grpc.Compression | None = None) -> Iterator[Echo]:
    """Run the service on a free port."""
    handler = Echo()
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(
            pool,
            handlers=(handler,),
            compression=compression,
            options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)),
        )
        handler.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield handler
        finally:
            server.stop(None).wait()
