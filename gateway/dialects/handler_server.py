"""What TorchServe and multi-model-server have in common: the body is the handler's, not the server's.

The server hands a request's body to the model's handler and sends back what that returns, so the protocol
says nothing of tensors. Between peers of one dialect everything passes untouched. For translation there is a
convention, the one that the examples of both projects and KServe's wrapper of TorchServe follow:

    {"instances": [row, ...]} to the handler, and read from clients; from clients also {"inputs": ...} or a
    member per input (columns), or a bare list of rows; for a model of one BYTES input any other body is it
    {name: column, ...}, {"predictions": [row, ...]}, {"outputs": ...} or a bare list of rows come back

What names and datatypes are meant says the pool (`signature:`): neither server tells. Both answer a handler's
exception, malformed JSON included, as 503 `InternalServerException: Prediction failed`. That is what a
client's mistake looks like here, and it is taken for one: it is not tried again and opens no breaker.

Source: pytorch/serve `docs/inference_api.md`, awslabs/multi-model-server `docs/inference_api.md`; TorchServe
0.12 and MMS 1.1.11 as they answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dialects.errors import (
    MALFORMED_JSON,
    UNSUPPORTED,
    BackendError,
    ErrorKind,
    InvalidPrediction,
    kind_of,
)
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.json_values import read_columns, read_rows, rows_of, write_values
from gateway.dialects.metadata import Metadata, Signature, explain, require_signature, tells_none
from gateway.dialects.protocol import (
    JSON_TYPE,
    Answer,
    Call,
    Operation,
    OverHttp,
    Target,
    VersionState,
    encode_name,
    getting,
    of_version,
    require_infer,
    require_object,
    wanted,
)
from gateway.dialects.tensors import BYTES, NOTHING, InferRequest, InferResponse, Style, Tensor
from gateway.http.message import Headers, find

_KINDS: Final[Mapping[str, ErrorKind]] = {
    "BadRequestException": ErrorKind.INVALID,
    "ModelNotFoundException": ErrorKind.NOT_FOUND,
    "ModelVersionNotFoundException": ErrorKind.NOT_FOUND,
    "ResourceNotFoundException": ErrorKind.NOT_FOUND,
    "MethodNotAllowedException": ErrorKind.UNIMPLEMENTED,
    "ServiceUnavailableException": ErrorKind.UNAVAILABLE,
}
_TYPES: Final[Mapping[int, str]] = {
    400: "BadRequestException",
    404: "ModelNotFoundException",
    503: "ServiceUnavailableException",
}
_STATES: Final[Mapping[str, str]] = {"AVAILABLE": "READY", "LOADING": "LOADING"}


class HandlerServer(OverHttp):
    """Everything but names and URLs."""

    __slots__ = ()

    def health_path(self, model: str) -> bytes:
        """The management API's description of the model (another port); without a model the front end."""
        return b"/models/" + encode_name(model) if model else b"/ping"

    def health_request(self, model: str) -> Call:
        """A GET of it."""
        return getting(self.health_path(model))

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction by the convention above."""
        require_infer(target, headers)
        signature = require_signature(signature)
        try:
            inputs, style = _read_inputs(headers, body, signature)
        except InvalidPrediction as error:
            raise explain(error, signature) from None
        return InferRequest(None, target.model, target.version, None, "", inputs, None, NOTHING, style)

    def predict_path(self, model: str, version: str | None) -> bytes:
        """The path of a prediction."""
        path = b"/predictions/" + encode_name(model)
        return path if version is None else path + b"/" + encode_name(version)

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction row by row.

        Raises InvalidPrediction (wrong_shape: the inputs share no first dimension; not_finite).
        """
        if infer.signature:
            raise InvalidPrediction(UNSUPPORTED, "this protocol knows no signatures but the default one")
        body = write_values({"instances": rows_of(infer.inputs)}, infer.inputs, non_finite=False)
        return Call(b"POST", self.predict_path(model, version), [JSON_TYPE], body)

    # The response

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read what a handler returned, by the convention above."""
        signature = require_signature(signature)
        specs = signature.outputs
        value = read_json(body, non_finite=True)
        if type(value) is list:
            outputs = read_rows("the answer", value, specs)
        elif type(value) is dict and "predictions" in value:
            outputs = read_rows("predictions", value["predictions"], specs)
        elif type(value) is dict and set(value) == {"outputs"} and specs[0].name != "outputs":
            outputs = read_columns(value["outputs"], specs)
        else:
            outputs = read_columns(value, specs)
        return InferResponse(None, "", "", outputs, NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write an object with a member per output."""
        outputs = wanted(response, request)
        columns: dict[str, object] = {each.name: each for each in outputs}
        return [JSON_TYPE], write_values(columns, outputs, non_finite=False)

    # Errors

    def write_error(
        self, status: int, code: str, message: str, details: dict[str, object] | None = None
    ) -> tuple[Headers, bytes]:
        """Write `{"code": status, "type": …, "message": …}`; our stable code stands beside them."""
        kind = _TYPES.get(status, "InternalServerException" if status >= 500 else "BadRequestException")
        document = {**(details or {}), "code": status, "type": kind, "message": message, "reason": code}
        return [JSON_TYPE], write_json(document)

    def read_error(self, status: int, headers: Headers, body: bytes) -> BackendError:
        """Understand the exception's name; never raises."""
        try:
            document = read_json(body[:65536])
        except InvalidPrediction:
            document = None
        if type(document) is not dict or type(document.get("type")) is not str:
            return BackendError(kind_of(status, ""), f"the backend answered {status}")
        message = str(document.get("message") or f"the backend answered {status}")[:2000]
        kind = _KINDS.get(document["type"], ErrorKind.BACKEND)
        if document["type"] == "InternalServerException" and message.startswith("Prediction failed"):
            kind = ErrorKind.INVALID
        elif kind is ErrorKind.UNAVAILABLE:
            kind = kind_of(status, message)
        return BackendError(kind, message)

    def is_ambiguous(self, status: int) -> bool:
        """500, and 503: a handler's exception, or nobody there to handle it."""
        return status in (500, 503)

    # About models

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask for the model's description, which tells nothing of tensors: `signature:` must."""
        return getting(self.health_path(model))

    def read_metadata(self, body: bytes) -> Metadata:
        """Refuse: there is none."""
        raise tells_none()

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe a model as `GET /models/M` does, with its signature beside."""
        described = [{"modelName": model, "modelVersion": each, "signature": signature.render()}
                     for each in versions]  # fmt: skip
        return [JSON_TYPE], write_json(described)

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer `GET /models/M` with a worker per version that is as ready as the version."""
        states = of_version(target, states)
        if not states:
            headers, body = self.write_error(404, "not_found", f"Model not found: {target.model}")
            return Answer(404, headers, body)
        described = [
            {
                "modelName": target.model,
                "modelVersion": each.version,
                "workers": [{"id": "gateway", "status": _STATES.get(each.state, "UNLOADING")}],
            }
            for each in states
        ]
        return Answer(200, [JSON_TYPE], write_json(described))

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Answer `GET /ping`; refuse the list of models, and a prediction that names none of several."""
        if target.operation is Operation.LIVE:
            status = "Healthy" if ready else "Unhealthy"
            return Answer(200 if ready else 500, [JSON_TYPE], write_json({"status": status}))
        message = "the models behind a gateway are not listed"
        if target.operation is Operation.INFER:
            message = "several models are served here: name one in the URL"
        headers, body = self.write_error(404, "not_found", message)
        return Answer(404, headers, body)

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether a worker of the model is READY; of /ping, whether it says Healthy, which tells little."""
        if status != 200:
            return False
        try:
            document = read_json(body)
        except InvalidPrediction:
            return False
        if type(document) is dict and "status" in document and "workers" not in document:
            return bool(document["status"] == "Healthy")
        listed = document if type(document) is list else [document]
        return any(
            type(worker) is dict and worker.get("status") == "READY"
            for each in listed
            if type(each) is dict and type(each.get("workers")) is list
            for worker in each["workers"]
        )


def _read_inputs(headers: Headers, body: bytes, signature: Signature) -> tuple[tuple[Tensor, ...], Style]:
    specs = signature.inputs
    kind = (find(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    single = len(specs) == 1 and specs[0].dtype == BYTES
    try:
        value = read_json(body)
    except InvalidPrediction as malformed:
        if not single or malformed.code != MALFORMED_JSON or kind == b"application/json":
            if kind.startswith(b"multipart/"):
                raise InvalidPrediction(UNSUPPORTED, "multipart bodies can't be translated") from malformed
            raise
        return (Tensor(specs[0].name, BYTES, (1,), [body]),), "column"
    if type(value) is list:
        return read_rows("the body", value, specs), "row"
    document = require_object(value)
    if "instances" in document:
        return read_rows("instances", document["instances"], specs), "row"
    if set(document) == {"inputs"} and not any(spec.name == "inputs" for spec in specs):
        return read_columns(document["inputs"], specs), "column"
    return read_columns(document, specs), "column"
