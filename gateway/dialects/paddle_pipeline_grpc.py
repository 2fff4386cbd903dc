"""PaddleServing's pipeline server over gRPC; what stands in its messages: paddle_values.py.

    /baidu.paddle_serving.pipeline_serving.PipelineService/inference
        Request{1 key, 2 value, 3 tensors, 4 name, 5 method, 6 logid, 7 clientip}
    ->  Response{1 err_no, 2 err_msg, 3 key, 4 value, 5 tensors}

The model is the service's name in the message. A call that failed inside is OK with an `err_no` other than 0.
Field numbers are those of the module that paddle-serving-server 0.9.0 installs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.dialects import wire
from gateway.dialects.errors import MALFORMED_REQUEST, UNSUPPORTED, BackendError, InvalidPrediction
from gateway.dialects.grpc_errors import read_error, succeeded
from gateway.dialects.metadata import Metadata, Signature, explain, tells_none
from gateway.dialects.over_grpc import OverGrpc, answering, calling
from gateway.dialects.paddle_values import error_of, make_tensor, read_values, write_values
from gateway.dialects.protocol import Answer, Call, Operation, Target, VersionState, wanted
from gateway.dialects.tensors import NOTHING, InferRequest, InferResponse, Tensor
from gateway.http.message import Headers

_PATH: Final = b"/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
_INTEGERS: Final = {1: "int64_data", 3: "int_data", 5: "uint32_data"}


class PaddlePipelineGrpc(OverGrpc):
    """The dialect `paddle-pipeline-grpc`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "paddle-pipeline-grpc"

    @property
    def hides_failures(self) -> bool:
        """An `err_no` inside an answer that is OK."""
        return True

    @property
    def is_typed(self) -> bool:
        """Texts have no datatypes."""
        return False

    def __repr__(self) -> str:
        return "<Dialect paddle-pipeline-grpc>"

    # Calls

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a call wants, or None when it is of another service."""
        return Target(self, Operation.INFER, inside=True) if (method, path) == (b"POST", _PATH) else None

    def locate(self, target: Target, headers: Headers, body: bytes) -> Target:
        """Read which service the message is about; raises InvalidPrediction."""
        name = ""
        for field in wire.fields(wire.unframe(headers, body)):
            if field[0] == 4:
                name = wire.text(field)
        if not name:
            raise wire.Broken("it names no service")
        return Target(self, target.operation, name, inside=True)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The only path."""
        return _PATH

    def renamed(
        self, target: Target, headers: Headers, body: bytes, model: str, version: str | None
    ) -> bytes:
        """The same message, for a backend that calls the service `model`, all else as it was."""
        kept = [wire.again(field) for field in wire.fields(wire.unframe(headers, body)) if field[0] != 4]
        return wire.frame(b"".join(kept) + wire.string(4, model))

    def health_path(self, model: str) -> bytes:
        """None: there is no such call."""
        return b""

    def health_request(self, model: str) -> Call:
        """A call of nothing."""
        return Call(b"POST", b"", [], b"")

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction."""
        if target.operation is not Operation.INFER:
            raise InvalidPrediction(UNSUPPORTED, f"{target.operation.value} is not part of this dialect")
        specs = None if signature is None else signature.inputs
        try:
            keys, values, tensors, _, _ = _read(wire.unframe(headers, body), 1)
            inputs = read_values(keys, values, tensors, specs)
            if not inputs:
                raise InvalidPrediction(MALFORMED_REQUEST, "the request has neither keys nor tensors")
        except InvalidPrediction as error:
            raise explain(error, signature) from None
        return InferRequest(None, target.model, None, None, "", inputs, None, NOTHING, "named")

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction as texts; raises InvalidPrediction (not_finite, not_text, unsupported)."""
        if infer.signature:
            raise InvalidPrediction(UNSUPPORTED, "PaddleServing knows no signatures but the default one")
        message = _write(infer.inputs, 1) + wire.string(4, model) + wire.string(5, "prediction")
        return calling(_PATH, message)

    # The response

    def succeeded(self, status: int, headers: Headers, body: bytes) -> bool:
        """Whether the call ended well, the `err_no` inside too."""
        return succeeded(status, headers) and _outcome(body)[0] == 0

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer."""
        keys, values, tensors, _, _ = _read(wire.unframe(headers, body), 3)
        specs = None if signature is None else signature.outputs
        return InferResponse(None, "", "", read_values(keys, values, tensors, specs), NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction as texts."""
        message = _write(wanted(response, request), 3)
        return answering(message)

    # Errors

    def read_error(self, status: int, headers: Headers, body: bytes) -> BackendError:
        """Understand an `err_no`, or the call's own status."""
        number, message = _outcome(body)
        return error_of(number, message) if number else read_error(status, headers)

    # About models

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask for nothing: the server tells no signature."""
        return calling(_PATH, b"")

    def read_metadata(self, body: bytes) -> Metadata:
        """Refuse: there is none."""
        raise tells_none()

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Refuse: no call of this dialect asks for it."""
        return self.write_error(501, UNSUPPORTED, "PaddleServing has no such operation")

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Refuse: no call of this dialect asks for it."""
        return Answer(501, *self.write_error(501, UNSUPPORTED, "PaddleServing has no such operation"))

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Refuse: no call of this dialect asks for it."""
        return Answer(501, *self.write_error(501, UNSUPPORTED, "PaddleServing has no such operation"))

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether something answered."""
        return status == 200


def _read(message: bytes, first: int) -> tuple[list[str], list[str], list[Tensor], int, str]:
    """Return keys, values, tensors, err_no and err_msg. first: the field of `key`; the two others follow."""
    keys: list[str] = []
    values: list[str] = []
    tensors: list[Tensor] = []
    number, said = 0, ""
    for field in wire.fields(message):
        if field[0] == first:
            keys.append(wire.text(field))
        elif field[0] == first + 1:
            values.append(wire.text(field))
        elif field[0] == first + 2:
            tensors.append(_tensor(wire.nested(field)))
        elif first == 3 and field[0] == 1:
            number = wire.signed(wire.unsigned(field))
        elif first == 3 and field[0] == 2:
            said = wire.text(field)
    return keys, values, tensors, number, said


def _outcome(body: bytes) -> tuple[int, str]:
    try:
        _, _, _, number, message = _read(wire.unframe([], body), 3)
    except InvalidPrediction:
        return 0, ""
    return number, message


def _tensor(message: bytes) -> Tensor:
    """Read Tensor{1 … 9 elements by type, 20 elem_type, 21 shape, 22 lod, 23 name}."""
    name = ""
    elem_type = 0
    shape: list[int] = []
    elements: dict[str, list[object]] = {}
    for field in wire.fields(message):
        match field[0]:
            case 1 | 3 | 5:
                read = [wire.signed(value) for value in wire.varints(field)]
                elements.setdefault(_INTEGERS[field[0]], []).extend(read)
            case 2:
                elements.setdefault("float_data", []).extend(wire.fixed(field, "<f4").tolist())
            case 4:
                elements.setdefault("float64_data", []).extend(wire.fixed(field, "<f8").tolist())
            case 6:
                elements.setdefault("bool_data", []).extend(value != 0 for value in wire.varints(field))
            case 9:
                elements.setdefault("str_data", []).append(wire.text(field))
            case 20:
                elem_type = wire.unsigned(field)
            case 21:
                shape += [wire.signed(value) for value in wire.varints(field)]
            case 22:
                raise InvalidPrediction(
                    UNSUPPORTED, "a ragged tensor (lod) is one that no other protocol carries"
                )
            case 23:
                name = wire.text(field)
    return make_tensor(name, elem_type, shape, elements)


def _write(tensors: Sequence[Tensor], first: int) -> bytes:
    names, texts = write_values(tensors)
    keys = [wire.block(first, name.encode()) for name in names]
    return b"".join([*keys, *(wire.block(first + 1, text.encode()) for text in texts)])
