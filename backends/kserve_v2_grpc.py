"""KServe V2, the Open Inference Protocol over gRPC: the same models behind a second port.

    ServerLive, ServerReady, ServerMetadata, ModelReady, ModelMetadata, ModelInfer
    ModelStreamInfer      each request of the stream is answered in turn; a failure is an answer, too

Tensors come as raw little-endian bytes (`raw_input_contents`) or typed (`contents`), never both in one
request; they go back raw, as Triton sends them. Statuses: what is wrong with a request is INVALID_ARGUMENT,
an unknown model NOT_FOUND, a full queue UNAVAILABLE, an engine's failure INTERNAL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np

from backends.errors import BackendError, EngineFailure, Invalid, LoadError, NotFound, Overloaded
from backends.kserve_v2 import EXTENSIONS, PLATFORM, from_bytes, read_shape, to_bytes
from backends.open_inference import SERVICE, message
from backends.served import Catalogue, Served
from backends.settings import Address
from backends.tensors import Array, Tensors, TensorSpec

_CODES = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.UNAVAILABLE,
}
_CONTENTS = {  # where a typed tensor's values stand
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_METHODS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")

_log = logging.getLogger("backends.grpc")

Message = Any  # of protobuf, whose attributes no type checker knows
Unary = Callable[[Message], Awaitable[Message]]


class GrpcServer:
    """The second port. Who starts it stops it."""

    def __init__(self, catalogue: Catalogue, server_version: str, max_body: int) -> None:
        """max_body: bytes of one message."""
        self._catalogue = catalogue
        self._server_version = server_version
        self._ready = True
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            )
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))

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
        self._ready = False

    async def stop(self, grace: float) -> None:
        """Take no new calls, and give those under way `grace` seconds."""
        await self._server.stop(grace)

    def _handlers(self) -> grpc.GenericRpcHandler:
        unary: dict[str, Unary] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                _guarded(unary[name]),
                request_deserializer=message(f"{name}Request").FromString,
                response_serializer=message(f"{name}Response").SerializeToString,
            )
            for name in _METHODS
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=message("ModelInferRequest").FromString,
            response_serializer=message("ModelStreamInferResponse").SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # What is here

    async def _server_live(self, request: Message) -> Message:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, request: Message) -> Message:
        return message("ServerReadyResponse")(ready=self._ready)

    async def _server_metadata(self, request: Message) -> Message:
        return message("ServerMetadataResponse")(
            name="headgate-backend", version=self._server_version, extensions=EXTENSIONS
        )

    async def _model_ready(self, request: Message) -> Message:
        self._catalogue.find(request.name, request.version or None)
        return message("ModelReadyResponse")(ready=self._ready)

    async def _model_metadata(self, request: Message) -> Message:
        served = self._catalogue.find(request.name, request.version or None)
        signature = served.engine.signature
        return message("ModelMetadataResponse")(
            name=served.name,
            versions=[one.version for one in self._catalogue.versions(served.name)],
            platform=PLATFORM,
            inputs=[_describe(spec) for spec in signature.inputs],
            outputs=[_describe(spec) for spec in signature.outputs],
        )

    # Predictions

    async def _infer(self, request: Message) -> Message:
        served = self._catalogue.find(request.model_name, request.model_version or None)
        numbers, started = served.metrics, time.perf_counter()
        numbers.in_flight += 1
        try:
            inputs = _read_inputs(request, served)
            rows = served.validator.count_rows(inputs)
            wanted = [output.name for output in request.outputs]
            outputs = served.validator.outputs(wanted) if wanted else served.engine.signature.outputs
            tensors = await served.batcher.submit(inputs, rows)
            return _write(request, served, outputs, tensors)
        except BackendError as e:
            numbers.failures[e.status] += 1
            raise
        except Exception:
            numbers.failures[EngineFailure.status] += 1
            raise
        finally:
            numbers.in_flight -= 1
            numbers.requests += 1
            numbers.latency.observe(time.perf_counter() - started)

    async def _stream(
        self, requests: AsyncIterator[Message], context: grpc.aio.ServicerContext[Message, Message]
    ) -> AsyncIterator[Message]:
        answer = message("ModelStreamInferResponse")
        async for request in requests:
            try:
                yield answer(infer_response=await self._infer(request))
            except BackendError as e:
                yield answer(error_message=str(e))


def _guarded(method: Unary) -> Callable[[Message, Any], Awaitable[Message]]:
    """Turn errors into statuses: the only place that does."""

    async def call(request: Message, context: Any) -> Message:
        try:
            return await method(request)
        except BackendError as e:
            await context.abort(_CODES.get(type(e), grpc.StatusCode.INTERNAL), str(e))
        except Exception:  # a bug: the trace is for the log, never for the client
            _log.exception("call_failed")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return call


def _describe(spec: TensorSpec) -> Message:
    return message("ModelMetadataResponse.TensorMetadata")(
        name=spec.name, datatype=spec.dtype.name, shape=spec.shape
    )


def _read_inputs(request: Message, served: Served) -> dict[str, Array]:
    validator = served.validator
    raw = request.raw_input_contents
    if not request.inputs:
        raise validator.refuse("'inputs' must be a list of tensors")
    if raw and len(raw) != len(request.inputs):
        raise validator.refuse("raw_input_contents must hold one piece for each input")
    inputs: dict[str, Array] = {}
    for position, entry in enumerate(request.inputs):
        spec = validator.spec(entry.name)
        if spec.name in inputs:
            raise validator.refuse(f"input {spec.name!r} stands there twice")
        if entry.datatype != spec.dtype.name:
            raise validator.refuse(f"input {spec.name!r} has datatype {entry.datatype!r}")
        shape = read_shape(list(entry.shape), spec, validator)
        if raw:
            flat = from_bytes(memoryview(raw[position]), spec, validator)
        else:
            flat = _from_contents(entry.contents, spec, served)
        count = int(np.prod(shape, dtype=np.int64))
        if flat.size != count:
            raise validator.refuse(
                f"input {spec.name!r} holds {flat.size} values, its shape {list(shape)} needs {count}"
            )
        inputs[spec.name] = flat.reshape(shape)
    return inputs


def _from_contents(contents: Message, spec: TensorSpec, served: Served) -> Array:
    """Return a flat tensor from the typed values; the protocol has none for FP16."""
    field = _CONTENTS.get(spec.dtype.name)
    if field is None:
        raise served.validator.refuse(
            f"input {spec.name!r} must be raw: no typed contents hold {spec.dtype.name}"
        )
    values = getattr(contents, field)
    if spec.dtype.name == "BYTES":
        try:
            return np.array([value.decode() for value in values], dtype=np.object_)
        except UnicodeDecodeError as e:
            raise served.validator.refuse("text is not UTF-8") from e
    try:
        return np.array(values, dtype=spec.dtype.numpy)
    except OverflowError as e:
        raise served.validator.refuse(f"input {spec.name!r} holds values beyond {spec.dtype.name}") from e


def _write(request: Message, served: Served, outputs: Sequence[TensorSpec], tensors: Tensors) -> Message:
    described = message("ModelInferResponse.InferOutputTensor")
    return message("ModelInferResponse")(
        model_name=served.name,
        model_version=served.version,
        id=request.id,
        outputs=[
            described(name=spec.name, datatype=spec.dtype.name, shape=tensors[spec.name].shape)
            for spec in outputs
        ],
        raw_output_contents=[to_bytes(tensors[spec.name], spec) for spec in outputs],
    )
