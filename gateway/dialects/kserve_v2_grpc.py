"""KServe V2 (Open Inference Protocol) over gRPC.

Source: kserve/open-inference-protocol, `specification/protocol/open_inference_grpc.proto`; Triton's
`grpc_service.proto`, which has the same messages. Field numbers stand beside what reads them.

    /inference.GRPCInferenceService/ModelInfer
        ModelInferRequest{1 model_name, 2 model_version, 3 id, 4 parameters, 5 inputs, 6 outputs, 7 raw …}
    ->  ModelInferResponse{1 model_name, 2 model_version, 3 id, 4 parameters, 5 outputs, 6 raw …}

The model is named in the message, so the endpoint is found once that was read (`locate`). Tensors may stand
typed or raw; we write raw contents, and a client gets them whichever it sent, as from Triton
(kserve_v2_messages.py).

Signature names have no field; the parameter `signature_name` carries them, as in V2's JSON.
TorchServe's copy of it: torchserve_grpc.py.
ModelStreamInfer is carried untouched by an endpoint that matches the call (`match: {grpc: …}`); elsewhere it
is taken apart (kserve_v2_stream.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.dialects import wire
from gateway.dialects.errors import MALFORMED_REQUEST, UNSUPPORTED, WRONG_NAME, InvalidPrediction
from gateway.dialects.kserve_v2_messages import (
    read_output,
    read_param,
    read_spec,
    read_tensors,
    write_params,
    write_raw,
    write_spec,
    write_tensors,
)
from gateway.dialects.metadata import DEFAULT_SIGNATURE, Metadata, Signature, TensorSpec, as_declared, explain
from gateway.dialects.over_grpc import OverGrpc, answering, calling
from gateway.dialects.protocol import Answer, Call, Operation, Target, VersionState, of_version, wanted
from gateway.dialects.tensors import NOTHING, InferRequest, InferResponse
from gateway.http.message import Headers

SERVICE: Final = "inference.GRPCInferenceService"

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


class KServeV2Grpc(OverGrpc):
    """The dialect `kserve-v2-grpc`."""

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
    def has_parameters(self) -> bool:
        """Of a prediction, of each tensor and of an answer."""
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

    def path_of(self, operation: Operation) -> bytes:
        """The path of a method."""
        return self._paths[operation]

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
        return calling(self.health_path(model), wire.string(1, model))

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
                    read_param(params, wire.nested(field))
                case 5:
                    inputs.append(wire.nested(field))
                case 6:
                    outputs.append(read_output(wire.nested(field)))
                case 7:
                    raws.append(wire.nested(field))
        tensors = read_tensors(inputs, raws)
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
        head = wire.string(1, model) + wire.string(2, version or "") + wire.string(3, infer.id or "")
        asked = b"".join([wire.block(6, wire.string(1, name)) for name in infer.outputs or ()])
        tensors = write_tensors(5, infer.inputs) + asked + write_raw(7, infer.inputs)
        return calling(self._paths[Operation.INFER], head + write_params(4, params) + tensors)

    # The response

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
                    read_param(params, wire.nested(field))
                case 5:
                    outputs.append(wire.nested(field))
                case 6:
                    raws.append(wire.nested(field))
        tensors = as_declared(read_tensors(outputs, raws), signature)
        return InferResponse(id, model, version, tensors, params or NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction with raw contents."""
        outputs = wanted(response, request)
        version = response.version or request.version or ""
        head = wire.string(1, request.model) + wire.string(2, version) + wire.string(3, request.id or "")
        message = head + write_params(4, response.params) + write_tensors(5, outputs) + write_raw(6, outputs)
        return answering(message)

    # About models and the server

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask a backend for a model's inputs and outputs."""
        message = wire.string(1, model) + wire.string(2, version or "")
        return calling(self._paths[Operation.METADATA], message)

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
                    inputs.append(read_spec(wire.nested(field)))
                case 5:
                    outputs.append(read_spec(wire.nested(field)))
        return Metadata(Signature(tuple(inputs), tuple(outputs)), tuple(versions))

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe the default signature; the protocol has no place for others."""
        parts = [wire.string(1, model), *(wire.string(2, each) for each in versions)]
        parts += [wire.block(4, write_spec(spec)) for spec in signature.inputs]
        parts += [wire.block(5, write_spec(spec)) for spec in signature.outputs]
        return answering(b"".join(parts))

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer ModelReady: ready if the version asked for (or any) is available; NOT_FOUND if unknown."""
        states = of_version(target, states)
        if not states:
            headers, body = self.write_error(404, "unknown_model", f"unknown model {target.model}")
            return Answer(404, headers, body)
        ready = any(each.state == "AVAILABLE" for each in states)
        return Answer(200, *answering(wire.number(1, int(ready))))

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Answer LIVE (always), SERVER_READY or SERVER_METADATA."""
        match target.operation:
            case Operation.SERVER_METADATA:
                return Answer(200, *answering(wire.string(1, name) + wire.string(2, version)))
            case Operation.LIVE:
                return Answer(200, *answering(wire.number(1, 1)))
            case _:
                return Answer(200, *answering(wire.number(1, int(ready))))

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether a ModelReadyResponse or ServerReadyResponse{1 ready} says yes."""
        try:
            return any(field[0] == 1 and field[2] == 1 for field in wire.fields(wire.unframe([], body)))
        except InvalidPrediction:
            return False
