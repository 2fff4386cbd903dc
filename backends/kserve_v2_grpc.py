"""KServe V2, the Open Inference Protocol over gRPC: the same models behind a second port.

    ServerLive, ServerReady, ServerMetadata, ModelReady, ModelMetadata, ModelInfer
    ModelStreamInfer      each request of the stream is answered in turn; a failure is an answer, too
    RepositoryIndex, RepositoryModelLoad, RepositoryModelUnload      as repository_api.py has them

Tensors come as raw little-endian bytes (`raw_input_contents`) or typed (`contents`), never both in one
request; they go back raw, as Triton sends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import grpc
import grpc.aio
import numpy as np

from backends.catalogue import Catalogue
from backends.errors import BackendError
from backends.grpc_server import Context, Unary, ends, tell_load, unary
from backends.kserve_v2 import EXTENSIONS, PLATFORM, from_bytes, read_shape, to_bytes
from backends.messages import read_level
from backends.open_inference import SERVICE, message
from backends.predicting import counted
from backends.protobuf_table import Message
from backends.repository_api import RepositoryApi, check_config
from backends.served import Served
from backends.tensors import Array, Tensors, TensorSpec

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


class KServeV2Grpc:
    """The service over one catalogue. ready: set while the server takes requests."""

    def __init__(
        self, catalogue: Catalogue, ready: asyncio.Event, server_version: str, repository: RepositoryApi
    ) -> None:
        self._catalogue = catalogue
        self._ready = ready
        self._server_version = server_version
        self._repository = repository

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what the server is given."""
        methods: Mapping[str, Unary] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        handlers = {
            name: unary(method, message(f"{name}Request"), message(f"{name}Response"))
            for name, method in methods.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=message("ModelInferRequest").FromString,
            response_serializer=message("ModelStreamInferResponse").SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # What is here

    async def _server_live(self, request: Message, context: Context) -> Message:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, request: Message, context: Context) -> Message:
        return message("ServerReadyResponse")(ready=self._ready.is_set())

    async def _server_metadata(self, request: Message, context: Context) -> Message:
        return message("ServerMetadataResponse")(
            name="headgate-backend", version=self._server_version, extensions=EXTENSIONS
        )

    async def _model_ready(self, request: Message, context: Context) -> Message:
        self._catalogue.find(request.name, request.version or None)
        return message("ModelReadyResponse")(ready=self._ready.is_set())

    async def _model_metadata(self, request: Message, context: Context) -> Message:
        served = self._catalogue.find(request.name, request.version or None)
        return message("ModelMetadataResponse")(
            name=served.name,
            versions=[one.version for one in self._catalogue.versions(served.name)],
            platform=PLATFORM,
            inputs=[_describe(spec) for spec in served.signature.inputs],
            outputs=[_describe(spec) for spec in served.signature.outputs],
        )

    # The repository

    async def _index(self, request: Message, context: Context) -> Message:
        line = message("RepositoryIndexResponse.ModelIndex")
        entries = await self._repository.index(request.ready)
        return message("RepositoryIndexResponse")(
            models=[
                line(name=one.name, version=one.version, state=one.state, reason=one.reason)
                for one in entries
            ]
        )

    async def _load(self, request: Message, context: Context) -> Message:
        said = {name: value.string_param for name, value in request.parameters.items()}
        await self._repository.load(request.model_name, check_config(said))
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Message, context: Context) -> Message:
        await self._repository.unload(request.model_name)
        return message("RepositoryModelUnloadResponse")()

    # Predictions

    async def _model_infer(self, request: Message, context: Context) -> Message:
        try:
            return await self._infer(request, context)
        finally:
            tell_load(context, self._catalogue.load)

    async def _infer(self, request: Message, context: Context) -> Message:
        served = self._catalogue.find(request.model_name, request.model_version or None)
        return await counted(served, self._catalogue.load, lambda: _answer(request, served, context))

    async def _stream(self, requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Message]:
        answer = message("ModelStreamInferResponse")
        async for request in requests:
            try:
                yield answer(infer_response=await self._infer(request, context))
            except BackendError as e:
                yield answer(error_message=str(e))


async def _answer(request: Message, served: Served, context: Context) -> Message:
    inputs = _read_inputs(request, served)
    rows = served.validator.count_rows(inputs)
    wanted = [output.name for output in request.outputs]
    outputs = served.validator.outputs(wanted) if wanted else served.signature.outputs
    now = asyncio.get_running_loop().time()
    deadline, level = ends(context, now), 0
    if request.parameters:
        level = _whole(request, "priority")
        timeout = _whole(request, "timeout")
        deadline = min(deadline, now + timeout / 1e6) if timeout else deadline
    tensors = await served.batcher.submit(inputs, rows, deadline, read_level(level))
    return _write(request, served, outputs, tensors)


def _whole(request: Message, name: str) -> int:
    """Return a parameter that is a whole number, in whichever of the two fields it stands."""
    if name not in request.parameters:
        return 0
    value = request.parameters[name]
    return int(value.uint64_param or value.int64_param)


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
