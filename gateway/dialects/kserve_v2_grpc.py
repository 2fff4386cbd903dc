"""KServe V2 (Open Inference Protocol) over gRPC, and TorchServe's copy of it under another package name.

Source: kserve/open-inference-protocol, `specification/protocol/open_inference_grpc.proto`; Triton's
`grpc_service.proto`, which has the same messages. Field numbers stand beside what reads them.

    /inference.GRPCInferenceService/ModelInfer
        ModelInferRequest{1 model_name, 2 model_version, 3 id, 4 parameters, 5 inputs, 6 outputs, 7 raw …}
    ->  ModelInferResponse{1 model_name, 2 model_version, 3 id, 4 parameters, 5 outputs, 6 raw …}

The model is named in the message, so the endpoint is found once that was read (`locate`). A tensor's elements
stand in its typed contents, or all tensors' in the raw ones (row-major, little-endian; BYTES with u32
lengths), never both. FP16 has no typed contents (the protocol's own gap): raw only. We write raw contents,
which carry every datatype exactly, NaN and empty tensors included; a client gets them whichever it sent, as
from Triton. Numbers out of a narrower datatype's range (300 as UINT8: they travel as 32-bit) are refused.

Signature names have no field; the parameter `signature_name` carries them, as in V2's JSON.
TorchServe answers the same messages as `org.pytorch.serve.grpc.openinference.GRPCInferenceService`.
ModelStreamInfer is carried untouched by an endpoint that matches the call (`match: {grpc: …}`); a model's
endpoint refuses it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

import numpy as np

from gateway.dialects import wire
from gateway.dialects.binary import from_binary, to_binary
from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    UNSUPPORTED,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    BackendError,
    InvalidPrediction,
)
from gateway.dialects.grpc_errors import read_error, succeeded, write_error
from gateway.dialects.metadata import DEFAULT_SIGNATURE, Metadata, Signature, TensorSpec, explain
from gateway.dialects.protocol import (
    GRPC_TYPE,
    Answer,
    Call,
    Operation,
    Target,
    VersionState,
    wanted,
)
from gateway.dialects.tensors import (
    BYTES,
    DTYPES,
    NOTHING,
    NUMPY,
    Array,
    InferRequest,
    InferResponse,
    Tensor,
    check_shape,
)
from gateway.dialects.wire import Field
from gateway.http.message import Headers

SERVICE: Final = "inference.GRPCInferenceService"
TORCHSERVE_SERVICE: Final = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"

_METHODS: Final = {
    b"ModelInfer": Operation.INFER,
    b"ModelStreamInfer": Operation.STREAM,
    b"ModelMetadata": Operation.METADATA,
    b"ModelReady": Operation.READY,
    b"ServerLive": Operation.LIVE,
    b"ServerReady": Operation.SERVER_READY,
    b"ServerMetadata": Operation.SERVER_METADATA,
}
_OF_MODELS: Final = (Operation.INFER, Operation.METADATA, Operation.READY)
_CONTENTS: Final = {  # field of InferTensorContents by datatype
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    BYTES: 8,
}
_DTYPES: Final = frozenset(DTYPES)


class KServeV2Grpc:
    """The dialect `kserve-v2-grpc`, and by another service's name `torchserve-grpc`."""

    __slots__ = ("_name", "_paths", "_service", "_words")

    def __init__(self, name: str = "kserve-v2-grpc", service: str = SERVICE) -> None:
        self._name = name
        self._service = service
        start = f"/{service}/".encode()
        self._words = {start + method: operation for method, operation in _METHODS.items()}
        self._paths = {operation: path for path, operation in self._words.items()}

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return self._name

    @property
    def is_grpc(self) -> bool:
        """Calls over HTTP/2, whose outcome stands in trailers."""
        return True

    @property
    def hides_failures(self) -> bool:
        """OK is a prediction."""
        return False

    @property
    def is_typed(self) -> bool:
        """Tensors say their names and datatypes."""
        return True

    def __repr__(self) -> str:
        return f"<Dialect {self._name}>"

    # Calls

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a call wants, or None when it is of another service or method."""
        operation = self._words.get(path)
        if operation is None or method != b"POST":
            return None
        return Target(self, operation, inside=operation in _OF_MODELS)

    def locate(self, target: Target, headers: Headers, body: bytes) -> Target:
        """Read which model and version the message is about; raises InvalidPrediction."""
        name = version = ""
        for field in wire.fields(wire.unframe(headers, body)):
            if field[0] == 1:
                name = wire.text(field)
            elif field[0] == 2:
                version = wire.text(field)
        if not name:
            raise wire.Broken("it names no model")
        return Target(self, target.operation, name, version or None, inside=True)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The same method: a call's path names no model."""
        return self._paths[target.operation]

    def renamed(
        self, target: Target, headers: Headers, body: bytes, model: str, version: str | None
    ) -> bytes:
        """The same message, for a backend that calls the model `model`, all else as it was."""
        kept = [
            wire.again(field) for field in wire.fields(wire.unframe(headers, body)) if field[0] not in (1, 2)
        ]
        return wire.frame(wire.string(1, model) + wire.string(2, version or "") + b"".join(kept))

    def health_path(self, model: str) -> bytes:
        """The path of the readiness call."""
        return self._paths[Operation.READY if model else Operation.SERVER_READY]

    def health_request(self, model: str) -> Call:
        """Ask for the readiness of the model, or of the server."""
        return _call(self.health_path(model), wire.string(1, model))

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction; the signature serves only for better words when it is wrong."""
        if target.operation is not Operation.INFER:
            raise InvalidPrediction(UNSUPPORTED, f"{target.operation.value} can't be translated")
        try:
            return self._read(target, wire.unframe(headers, body))
        except InvalidPrediction as error:
            raise explain(error, signature) from None

    def _read(self, target: Target, message: bytes) -> InferRequest:
        id: str | None = None
        params: dict[str, object] = {}
        inputs: list[bytes] = []
        outputs: list[str] = []
        raws: list[bytes] = []
        for field in wire.fields(message):
            match field[0]:
                case 3:
                    id = wire.text(field) or None
                case 4:
                    _param(params, wire.nested(field))
                case 5:
                    inputs.append(wire.nested(field))
                case 6:
                    outputs.append(_output_name(wire.nested(field)))
                case 7:
                    raws.append(wire.nested(field))
        tensors = _tensors(inputs, raws)
        if not tensors:
            raise InvalidPrediction(MALFORMED_REQUEST, "the request has no inputs")
        if len(set(outputs)) < len(outputs):
            raise InvalidPrediction(WRONG_NAME, "an output is asked for twice")
        signature = params.pop("signature_name", "")
        if type(signature) is not str:
            raise InvalidPrediction(MALFORMED_REQUEST, "parameters.signature_name must be a string")
        params.pop("binary_data_output", None)
        return InferRequest(
            id,
            target.model,
            target.version,
            target.label,
            "" if signature == DEFAULT_SIGNATURE else signature,
            tensors,
            tuple(outputs) or None,
            params or NOTHING,
            "binary",
        )

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction with raw contents."""
        params = dict(infer.params)
        if infer.signature:
            params["signature_name"] = infer.signature
        asked = [wire.block(6, wire.string(1, name)) for name in infer.outputs or ()]
        head = wire.string(1, model) + wire.string(2, version or "") + wire.string(3, infer.id or "")
        message = (
            head + _params(4, params) + _write(5, infer.inputs) + b"".join(asked) + _raw(7, infer.inputs)
        )
        return _call(self._paths[Operation.INFER], message)

    # The response

    def succeeded(self, status: int, headers: Headers, body: bytes) -> bool:
        """Whether the call ended well."""
        return succeeded(status, headers)

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer, typed or raw."""
        model = version = ""
        id: str | None = None
        params: dict[str, object] = {}
        outputs: list[bytes] = []
        raws: list[bytes] = []
        for field in wire.fields(wire.unframe(headers, body)):
            match field[0]:
                case 1:
                    model = wire.text(field)
                case 2:
                    version = wire.text(field)
                case 3:
                    id = wire.text(field) or None
                case 4:
                    _param(params, wire.nested(field))
                case 5:
                    outputs.append(wire.nested(field))
                case 6:
                    raws.append(wire.nested(field))
        return InferResponse(id, model, version, _tensors(outputs, raws), params or NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction with raw contents."""
        outputs = wanted(response, request)
        version = response.version or request.version or ""
        head = wire.string(1, request.model) + wire.string(2, version) + wire.string(3, request.id or "")
        message = head + _params(4, response.params) + _write(5, outputs) + _raw(6, outputs)
        return _answer(message)

    # Errors

    def write_error(
        self, status: int, code: str, message: str, details: dict[str, object] | None = None
    ) -> tuple[Headers, bytes]:
        """Write an answer that is an error from its first byte; the code stands in `x-headgate-reason`."""
        return write_error(status, code, message)

    def read_error(self, status: int, headers: Headers, body: bytes) -> BackendError:
        """Understand `grpc-status` and `grpc-message`."""
        return read_error(status, headers)

    def is_ambiguous(self, status: int) -> bool:
        """Never by its HTTP status: trailers tell, and their words."""
        return False

    # About models and the server

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask a backend for a model's inputs and outputs."""
        message = wire.string(1, model) + wire.string(2, version or "")
        return _call(self._paths[Operation.METADATA], message)

    def read_metadata(self, body: bytes) -> Metadata:
        """Read ModelMetadataResponse{2 versions, 4 inputs, 5 outputs}."""
        versions: list[str] = []
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for field in wire.fields(wire.unframe([], body)):
            match field[0]:
                case 2:
                    versions.append(wire.text(field))
                case 4:
                    inputs.append(_spec(wire.nested(field)))
                case 5:
                    outputs.append(_spec(wire.nested(field)))
        return Metadata(Signature(tuple(inputs), tuple(outputs)), tuple(versions))

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe the default signature; the protocol has no place for others."""
        parts = [wire.string(1, model), *(wire.string(2, each) for each in versions)]
        parts += [wire.block(4, _describe(spec)) for spec in signature.inputs]
        parts += [wire.block(5, _describe(spec)) for spec in signature.outputs]
        return _answer(b"".join(parts))

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer ModelReady: ready if the version asked for (or any) is available; NOT_FOUND if unknown."""
        if target.version is not None:
            states = [each for each in states if each.version == target.version]
        if not states:
            headers, body = self.write_error(404, "unknown_model", f"unknown model {target.model}")
            return Answer(404, headers, body)
        ready = any(each.state == "AVAILABLE" for each in states)
        return Answer(200, *_answer(wire.number(1, int(ready))))

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Answer LIVE (always), SERVER_READY or SERVER_METADATA."""
        match target.operation:
            case Operation.SERVER_METADATA:
                return Answer(200, *_answer(wire.string(1, name) + wire.string(2, version)))
            case Operation.LIVE:
                return Answer(200, *_answer(wire.number(1, 1)))
            case Operation.STREAM:
                message = "a model's endpoint takes ModelInfer; a stream needs one that matches the call"
                headers, body = self.write_error(501, UNSUPPORTED, message)
                return Answer(501, headers, body)
            case _:
                return Answer(200, *_answer(wire.number(1, int(ready))))

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether a ModelReadyResponse or ServerReadyResponse{1 ready} says yes."""
        try:
            return any(field[0] == 1 and field[2] == 1 for field in wire.fields(wire.unframe([], body)))
        except InvalidPrediction:
            return False


def _call(path: bytes, message: bytes) -> Call:
    return Call(b"POST", path, [GRPC_TYPE, (b"te", b"trailers")], wire.frame(message))


def _answer(message: bytes) -> tuple[Headers, bytes]:
    return [GRPC_TYPE, (b"grpc-status", b"0")], wire.frame(message)


# Reading


def _tensors(infos: Sequence[bytes], raws: Sequence[bytes]) -> tuple[Tensor, ...]:
    """Read InferInputTensor or InferOutputTensor{1 name, 2 datatype, 3 shape, 4 parameters, 5 contents}."""
    if raws and len(raws) != len(infos):
        raise InvalidPrediction(
            MALFORMED_REQUEST, f"{len(raws)} raw contents stand beside {len(infos)} tensors"
        )
    tensors = tuple([_tensor(info, raws[place] if raws else None) for place, info in enumerate(infos)])
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidPrediction(WRONG_NAME, "two tensors have the same name")
    return tensors


def _tensor(info: bytes, raw: bytes | None) -> Tensor:
    name = dtype = ""
    dims: list[int] = []
    params: dict[str, object] = {}
    contents: bytes | None = None
    for field in wire.fields(info):
        match field[0]:
            case 1:
                name = wire.text(field)
            case 2:
                dtype = wire.text(field)
            case 3:
                dims += map(wire.signed, wire.varints(field))
            case 4:
                _param(params, wire.nested(field))
            case 5:
                contents = (contents or b"") + wire.nested(field)  # two halves of a message are one
    if dtype not in _DTYPES:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has the unknown datatype {dtype!r:.40}")
    if "shared_memory_region" in params:
        raise InvalidPrediction(UNSUPPORTED, "shared memory can't be reached through a gateway")
    params.pop("binary_data_size", None)
    shape = check_shape(name, dims)
    if raw is not None:
        if contents:
            raise InvalidPrediction(MALFORMED_REQUEST, f"{name!r} has typed contents beside raw ones")
        return Tensor(name, dtype, shape, from_binary(name, dtype, shape, raw), params or NOTHING)
    return Tensor(name, dtype, shape, _typed(name, dtype, shape, contents or b""), params or NOTHING)


def _typed(name: str, dtype: str, shape: tuple[int, ...], contents: bytes) -> Array | list[bytes]:
    tag = _CONTENTS.get(dtype)
    if tag is None:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} is {dtype}, which only raw contents can carry")
    chosen = [field for field in wire.fields(contents) if field[0] in range(1, 9)]
    if any(field[0] != tag for field in chosen):
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} is {dtype}, its contents are of another datatype")
    count = prod(shape)
    if dtype == BYTES:
        texts = [wire.nested(field) for field in chosen]
        _require_count(name, shape, len(texts), count)
        return texts
    values = _numbers(dtype, chosen)
    _require_count(name, shape, len(values), count)
    return _narrowed(name, dtype, values).reshape(shape)


def _numbers(dtype: str, chosen: Sequence[Field]) -> Array:
    if dtype in ("FP32", "FP64"):
        parts = [wire.fixed(field, "<f4" if dtype == "FP32" else "<f8") for field in chosen]
    else:
        parts = [
            wire.many_varints(field[3])
            if field[1] == wire.LENGTH
            else np.array([wire.unsigned(field)], np.uint64)
            for field in chosen
        ]
    if not parts:
        return np.zeros(0, NUMPY[dtype])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _narrowed(name: str, dtype: str, values: Array) -> Array:
    """Bring varints (as uint64) or floats to the datatype; raises wrong_dtype out of its range."""
    target = NUMPY[dtype]
    if target.kind == "f":
        return values.astype(target, copy=False)
    if target.kind == "b":
        truth: Array = values != 0
        return truth
    whole = values.astype(np.uint64)
    if target.kind == "i":
        signed = whole.view(np.int64)
        narrow: Array = signed.astype(target)
        same = bool((narrow == signed).all())
    else:
        narrow = whole.astype(target)
        same = bool((narrow == whole).all())
    if not same:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} holds an integer out of the range of {dtype}")
    return narrow


def _require_count(name: str, shape: tuple[int, ...], have: int, want: int) -> None:
    if have != want:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} declares {list(shape)} and holds {have} values")


def _output_name(message: bytes) -> str:
    name = ""
    for field in wire.fields(message):
        if field[0] == 1:
            name = wire.text(field)
        elif field[0] == 2 and b"shared_memory_region" in wire.nested(field):
            raise InvalidPrediction(UNSUPPORTED, "shared memory can't be reached through a gateway")
        elif field[0] == 2 and b"classification" in wire.nested(field):
            raise InvalidPrediction(UNSUPPORTED, "classification of outputs is not supported")
    return name


def _param(params: dict[str, object], entry: bytes) -> None:
    """Read an entry of map<string, InferParameter>: {1 key, 2 value}.

    InferParameter is one of {1 bool, 2 int64, 3 string, 4 double, 5 uint64}.
    """
    key = ""
    value: object = None
    for field in wire.fields(entry):
        if field[0] == 1:
            key = wire.text(field)
        elif field[0] == 2:
            for inner in wire.fields(wire.nested(field)):
                value = _param_value(inner)
    if value is not None:
        params[key] = value


def _param_value(field: Field) -> object:
    match field[0]:
        case 1:
            return wire.unsigned(field) != 0
        case 2:
            return wire.signed(wire.unsigned(field))
        case 3:
            return wire.text(field)
        case 4 if field[1] == wire.EIGHT:
            value: float = struct.unpack("<d", field[3])[0]
            return value
        case 5:
            return wire.unsigned(field)
        case _:
            return None


def _spec(message: bytes) -> TensorSpec:
    """Read TensorMetadata{1 name, 2 datatype, 3 shape}."""
    name = dtype = ""
    dims: list[int] = []
    for field in wire.fields(message):
        match field[0]:
            case 1:
                name = wire.text(field)
            case 2:
                dtype = wire.text(field)
            case 3:
                dims += [max(-1, wire.signed(value)) for value in wire.varints(field)]
    if dtype not in _DTYPES:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has the unsupported datatype {dtype!r:.40}")
    return TensorSpec(name, dtype, tuple(dims))


# Writing


def _write(tag: int, tensors: Sequence[Tensor]) -> bytes:
    return b"".join([wire.block(tag, _info(tensor)) for tensor in tensors])


def _info(tensor: Tensor) -> bytes:
    head = wire.string(1, tensor.name) + wire.string(2, tensor.dtype) + wire.packed(3, tensor.shape)
    return head + _params(4, tensor.params)


def _raw(tag: int, tensors: Sequence[Tensor]) -> bytes:
    return b"".join([wire.block(tag, to_binary(tensor)) for tensor in tensors])


def _params(tag: int, params: Mapping[str, object]) -> bytes:
    """Write what the protocol has a type for; unsupported: lists and objects."""
    parts = []
    for key, value in params.items():
        match value:
            case bool():
                inner = wire.varint(1 << 3) + wire.varint(int(value))
            case int() if -(1 << 63) <= value < 1 << 63:
                inner = wire.varint(2 << 3) + wire.varint(value)
            case str():
                inner = wire.block(3, value.encode())
            case int() | float():
                inner = wire.varint(4 << 3 | wire.EIGHT) + struct.pack("<d", value)
            case _:
                raise InvalidPrediction(UNSUPPORTED, f"the parameter {key!r:.60} has no place in gRPC's V2")
        parts.append(wire.block(tag, wire.string(1, key) + wire.block(2, inner)))
    return b"".join(parts)


def _describe(spec: TensorSpec) -> bytes:
    shape = (-1,) if spec.shape is None else spec.shape  # the protocol has no word for any rank
    return wire.string(1, spec.name) + wire.string(2, spec.dtype) + wire.packed(3, shape)
