"""TensorFlow Serving over gRPC: PredictionService and ModelService.

Source: tensorflow/serving `apis/*.proto`; tensorflow `tensor.proto` (tensor_proto.py). The model is named in
the message (`locate`); field numbers stand beside what reads them.

    /tensorflow.serving.PredictionService/Predict
        PredictRequest{1 model_spec, 2 inputs: map<string, TensorProto>, 3 output_filter}
    ->  PredictResponse{1 outputs, 2 model_spec, its version resolved}
    Classify, Regress: {1 model_spec, 2 input} -> {1 result, 2 model_spec} (tf_example.py)
    GetModelMetadata: signature_def packed in an Any.  ModelService/GetModelStatus: states of versions.
        ModelSpec{1 name, 2 version: Int64Value, 3 signature_name, 4 version_label}

Versions are int64 here: an answer to a client names a version that is no number as none. MultiInference and
SessionService take an endpoint that matches by service. HandleReloadConfig is always refused: it replaces the
server's whole list of models, which behind a gateway is not one client's to say; a pool's servers are
configured by who runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dialects import tf_example, wire
from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    UNSUPPORTED,
    WRONG_NAME,
    InvalidPrediction,
)
from gateway.dialects.metadata import (
    DEFAULT_SIGNATURE,
    Metadata,
    Signature,
    TensorSpec,
    explain,
    require_signature,
)
from gateway.dialects.over_grpc import OverGrpc, answering, calling
from gateway.dialects.protocol import (
    EXAMPLES,
    LOSSY,
    Answer,
    Call,
    Operation,
    Target,
    VersionState,
    of_version,
    require_number,
    wanted,
)
from gateway.dialects.tensor_proto import read_tensor, read_type, write_shape, write_tensor, write_type
from gateway.dialects.tensors import NOTHING, InferRequest, InferResponse, Tensor
from gateway.http.message import Headers

_PREDICTION: Final = b"/tensorflow.serving.PredictionService/"
_MODEL: Final = b"/tensorflow.serving.ModelService/"
_WORDS: Final[Mapping[bytes, Operation]] = {
    _PREDICTION + b"Predict": Operation.INFER,
    _PREDICTION + b"Classify": Operation.CLASSIFY,
    _PREDICTION + b"Regress": Operation.REGRESS,
    _PREDICTION + b"GetModelMetadata": Operation.METADATA,
    _MODEL + b"GetModelStatus": Operation.STATUS,
    _MODEL + b"HandleReloadConfigRequest": Operation.RELOAD,
}
_PATHS: Final[Mapping[Operation, bytes]] = {operation: path for path, operation in _WORDS.items()}
_STATES: Final = {"UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}
_SIGNATURES: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class TensorFlowServingGrpc(OverGrpc):
    """The dialect `tensorflow-serving-grpc`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "tensorflow-serving-grpc"

    def __repr__(self) -> str:
        return "<Dialect tensorflow-serving-grpc>"

    # Calls

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a call wants, or None when it is of another service or method."""
        operation = _WORDS.get(path)
        if operation is None or method != b"POST":
            return None
        return Target(self, operation, inside=operation is not Operation.RELOAD)

    def locate(self, target: Target, headers: Headers, body: bytes) -> Target:
        """Read which model, version or label the message is about; raises InvalidPrediction."""
        spec = _Spec()
        for field in wire.fields(wire.unframe(headers, body)):
            if field[0] == 1:
                spec.read(wire.nested(field))
        if not spec.name:
            raise wire.Broken("it names no model")
        return Target(self, target.operation, spec.name, spec.version, spec.label or None, True)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The same method: a call's path names no model."""
        return _PATHS[target.operation]

    def renamed(
        self, target: Target, headers: Headers, body: bytes, model: str, version: str | None
    ) -> bytes:
        """The same message, for a backend that calls the model `model`, all else as it was."""
        spec = _Spec()
        kept = []
        for field in wire.fields(wire.unframe(headers, body)):
            if field[0] == 1:
                spec.read(wire.nested(field))
            else:
                kept.append(wire.again(field))
        return wire.frame(_write_spec(model, version, spec.signature) + b"".join(kept))

    def health_path(self, model: str) -> bytes:
        """The path of the call for the model's status."""
        return _PATHS[Operation.STATUS]

    def health_request(self, model: str) -> Call:
        """Ask for the model's status; there is no call about the server itself."""
        return calling(_PATHS[Operation.STATUS], _write_spec(model, None, ""))

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction; the signature serves only for better words when it is wrong.

        Of Examples it is what makes tensors of them.
        """
        if target.operation in EXAMPLES:
            return _read_examples(target, wire.unframe(headers, body), signature)
        if target.operation is not Operation.INFER:
            raise InvalidPrediction(
                UNSUPPORTED, f"{target.operation.value} over gRPC can't be translated; use Predict"
            )
        spec = _Spec()
        inputs: list[tuple[str, bytes]] = []
        wanted_outputs: list[str] = []
        try:
            for field in wire.fields(wire.unframe(headers, body)):
                match field[0]:
                    case 1:
                        spec.read(wire.nested(field))
                    case 2:
                        inputs.append(wire.entry(wire.nested(field)))
                    case 3:
                        wanted_outputs.append(wire.text(field))
            tensors = _tensors(inputs)
            if not tensors:
                raise InvalidPrediction(MALFORMED_REQUEST, "the request has no inputs")
            if len(set(wanted_outputs)) < len(wanted_outputs):
                raise InvalidPrediction(WRONG_NAME, "an output is asked for twice")
        except InvalidPrediction as error:
            raise explain(error, signature) from None
        return InferRequest(
            None,
            target.model,
            target.version,
            target.label,
            "" if spec.signature == DEFAULT_SIGNATURE else spec.signature,
            tensors,
            tuple(wanted_outputs) or None,
            NOTHING,
            "binary",
        )

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction. Parameters and the id have no place in it.

        Raises InvalidPrediction (unsupported) for a version that is no number.
        """
        require_number(version)
        filters = [wire.block(3, name.encode()) for name in infer.outputs or ()]
        spec = _write_spec(model, version, infer.signature)
        return calling(_PATHS[Operation.INFER], spec + _map(2, infer.inputs) + b"".join(filters))

    # The response

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer. signature: gives the order of the outputs, which a map has not."""
        spec = _Spec()
        outputs: list[tuple[str, bytes]] = []
        for field in wire.fields(wire.unframe(headers, body)):
            match field[0]:
                case 1:
                    outputs.append(wire.entry(wire.nested(field)))
                case 2:
                    spec.read(wire.nested(field))
        tensors = _tensors(outputs)
        if signature is not None:
            places = {each.name: place for place, each in enumerate(signature.outputs)}
            tensors = tuple(sorted(tensors, key=lambda each: places.get(each.name, len(places))))
        return InferResponse(None, spec.name, spec.version or "", tensors, NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction; a version that is no number is left out, and marked as lost."""
        outputs = wanted(response, request)
        version = response.version or request.version
        spec = _write_spec(request.model, version, request.signature or DEFAULT_SIGNATURE, tag=2)
        lost: Headers = []
        if request.style in ("classify", "regress"):
            result, lost = tf_example.write_results(outputs, request.style)
            headers, body = answering(wire.block(1, result) + spec)
        else:
            headers, body = answering(_map(1, outputs) + spec)
        headers += lost
        if version and _number(version) is None:
            headers.append((LOSSY, b"answer-version"))
        return headers, body

    # About models

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask a backend for a model's signatures."""
        field = wire.block(2, b"signature_def")
        return calling(_PATHS[Operation.METADATA], _write_spec(model, version, "") + field)

    def read_metadata(self, body: bytes) -> Metadata:
        """Read GetModelMetadataResponse{1 model_spec, 2 metadata: map<string, Any{1 type, 2 value}>}."""
        spec = _Spec()
        found: dict[str, Signature] = {}
        for field in wire.fields(wire.unframe([], body)):
            if field[0] == 1:
                spec.read(wire.nested(field))
            elif field[0] == 2:
                key, value = wire.entry(wire.nested(field))
                if key == "signature_def":
                    found.update(_signatures(value))
        if not found:
            raise InvalidPrediction(MALFORMED_REQUEST, "the metadata holds no readable signature")
        first = found.pop(DEFAULT_SIGNATURE, None) or found.pop(next(iter(found)))
        versions = (spec.version,) if spec.version else ()
        return Metadata(Signature(first.inputs, first.outputs, first.name, tuple(found.values())), versions)

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe one version's signatures: this dialect names no other version beside it."""
        entries = [
            wire.block(1, wire.string(1, each.name) + wire.block(2, _write_signature(each)))
            for each in (signature, *signature.others)
        ]
        value = wire.string(1, _SIGNATURES) + wire.block(2, b"".join(entries))
        named = version or (versions[-1] if versions else None)
        entry = wire.string(1, "signature_def") + wire.block(2, value)
        return answering(_write_spec(model, named, "") + wire.block(2, entry))

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer GetModelStatus with the states of the versions that are numbers; NOT_FOUND if none is."""
        states = of_version(target, states)
        known = [each for each in states if _number(each.version) is not None]
        if not known:
            message = f"Could not find any versions of model {target.model}"
            headers, body = self.write_error(404, "not_found", message)
            return Answer(404, headers, body)
        return Answer(200, *answering(b"".join([wire.block(1, _write_state(each)) for each in known])))

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Refuse: what names no model here is HandleReloadConfigRequest."""
        message = "the models behind a gateway are not reloaded through it"
        headers, body = self.write_error(501, UNSUPPORTED, message)
        return Answer(501, headers, body)

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether GetModelStatusResponse{1 model_version_status{2 state}} has a version AVAILABLE."""
        try:
            return any(
                inner[0] == 2 and inner[2] == _STATES["AVAILABLE"]
                for field in wire.fields(wire.unframe([], body))
                if field[0] == 1
                for inner in wire.fields(wire.nested(field))
            )
        except InvalidPrediction:
            return False


def _read_examples(target: Target, message: bytes, signature: Signature | None) -> InferRequest:
    """Read ClassificationRequest or RegressionRequest{1 model_spec, 2 input}."""
    spec = _Spec()
    given = b""
    for field in wire.fields(message):
        if field[0] == 1:
            spec.read(wire.nested(field))
        elif field[0] == 2:
            given += wire.nested(field)
    examples = tf_example.read_input(given)
    return tf_example.ask(target, spec.signature, examples, require_signature(signature))


class _Spec:
    """A ModelSpec."""

    __slots__ = ("label", "name", "signature", "version")

    def __init__(self) -> None:
        self.name = ""
        self.version: str | None = None
        self.signature = ""
        self.label = ""

    def read(self, message: bytes) -> None:
        for field in wire.fields(message):
            match field[0]:
                case 1:
                    self.name = wire.text(field)
                case 2:
                    self.label = ""  # one of both: the last one counts
                    self.version = "0"
                    for inner in wire.fields(wire.nested(field)):
                        if inner[0] == 1:
                            self.version = str(wire.signed(wire.unsigned(inner)))
                case 3:
                    self.signature = wire.text(field)
                case 4:
                    self.version = None
                    self.label = wire.text(field)


def _number(version: str | None) -> int | None:
    if version is None or not (version.isascii() and version.isdigit()) or len(version) > 18:
        return None
    return int(version)


def _write_spec(model: str, version: str | None, signature: str, *, tag: int = 1) -> bytes:
    known = _number(version)
    number = b"" if known is None else wire.block(2, wire.number(1, known))
    return wire.block(tag, wire.string(1, model) + number + wire.string(3, signature))


def _tensors(entries: Sequence[tuple[str, bytes]]) -> tuple[Tensor, ...]:
    if len({name for name, _ in entries}) < len(entries):
        raise InvalidPrediction(WRONG_NAME, "two tensors have the same name")
    return tuple([read_tensor(name, message) for name, message in entries])


def _map(tag: int, tensors: Sequence[Tensor]) -> bytes:
    return b"".join(
        [wire.block(tag, wire.string(1, each.name) + wire.block(2, write_tensor(each))) for each in tensors]
    )


# Signatures


def _signatures(packed: bytes) -> dict[str, Signature]:
    """Read an Any that holds SignatureDefMap{1 map<string, SignatureDef>}; unreadable ones are left out."""
    found: dict[str, Signature] = {}
    for outer in wire.fields(packed):
        if outer[0] != 2:
            continue
        for field in wire.fields(wire.nested(outer)):
            if field[0] == 1:
                name, definition = wire.entry(wire.nested(field))
                try:
                    found[name] = _signature(name, definition)
                except InvalidPrediction:  # __saved_model_init_op has no usable datatype
                    continue
    return found


def _signature(name: str, definition: bytes) -> Signature:
    """Read SignatureDef{1 inputs, 2 outputs: map<string, TensorInfo{2 dtype, 3 tensor_shape}>}."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for field in wire.fields(definition):
        if field[0] in (1, 2):
            key, info = wire.entry(wire.nested(field))
            (inputs if field[0] == 1 else outputs).append(TensorSpec(key, *read_type(key, info, 2, 3)))
    return Signature(tuple(inputs), tuple(outputs), name)


def _write_signature(signature: Signature) -> bytes:
    inputs = [wire.block(1, _info(spec)) for spec in signature.inputs]
    outputs = [wire.block(2, _info(spec)) for spec in signature.outputs]
    return b"".join(inputs + outputs) + wire.string(3, "tensorflow/serving/predict")


def _info(spec: TensorSpec) -> bytes:
    shape = wire.block(3, write_shape(spec.shape))
    info = wire.string(1, f"{spec.name}:0") + write_type(2, spec.dtype) + shape
    return wire.string(1, spec.name) + wire.block(2, info)


def _write_state(state: VersionState) -> bytes:
    code = 2 if state.message else 0  # UNKNOWN, OK
    status = wire.block(3, wire.number(1, code) + wire.string(2, state.message))
    return wire.number(1, _number(state.version) or 0) + wire.number(2, _STATES[state.state]) + status
