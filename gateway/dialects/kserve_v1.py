"""KServe V1 over HTTP.

Source: kserve/kserve `docs/predict-api/v1`, and the KServe SDK 0.21 as it answers.

    POST /v1/models/M:predict   {"instances": [row, ...]}   ->  {"predictions": [row, ...]}
    POST /v1/models/M:explain   goes untouched to instances of this dialect, and nowhere else
    GET  /v1/models/M           {"name": M, "ready": true};  GET /v1/models  {"models": [...]}

The URLs are TensorFlow Serving's, which this protocol is a part of: without versions, labels, signatures and
columns, in strict JSON. A URL of both is read as the dialect of the endpoint's own pool (catalogue.py). The
protocol tells nothing of a model's tensors; the KServe SDK does so under V2's URL, which is asked. NaN and
infinities are refused, ids and the choice of outputs stay in the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    UNSUPPORTED,
    InvalidPrediction,
)
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.json_values import read_rows, rows_of, write_values
from gateway.dialects.metadata import Metadata, Signature, explain, require_signature
from gateway.dialects.open_inference import describe_model, read_model
from gateway.dialects.protocol import (
    GETS,
    JSON_TYPE,
    Answer,
    Call,
    Operation,
    OverHttp,
    Target,
    VersionState,
    decode_name,
    encode_name,
    getting,
    require_infer,
    require_object,
    wanted,
)
from gateway.dialects.tensors import NOTHING, InferRequest, InferResponse
from gateway.http.message import Headers

_ROUTE: Final = re.compile(rb"/v1/models/([^/:]+)(?::(predict|explain))?")
_LIST: Final = b"/v1/models"
_SUFFIX: Final = {
    Operation.INFER: b":predict",
    Operation.EXPLAIN: b":explain",
    Operation.READY: b"",
}


class KServeV1(OverHttp):
    """The dialect `kserve-v1`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "kserve-v1"

    def __repr__(self) -> str:
        return "<Dialect kserve-v1>"

    # URLs

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect."""
        if path == _LIST:
            return Target(self, Operation.MODELS) if method in GETS else None
        match = _ROUTE.fullmatch(path)
        if match is None:
            return None
        raw_model, verb = match.groups()
        model = decode_name(raw_model, "/:")
        if model is None:
            return None
        if verb is None:
            return Target(self, Operation.READY, model) if method in GETS else None
        if method != b"POST":
            return None
        return Target(self, Operation.INFER if verb == b"predict" else Operation.EXPLAIN, model)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The URL path of the same operation on a backend that calls the model `model`."""
        return _LIST if target.operation is Operation.MODELS else _path(model) + _SUFFIX[target.operation]

    def health_path(self, model: str) -> bytes:
        """The readiness of the model, or the list of models."""
        return _path(model) if model else _LIST

    def health_request(self, model: str) -> Call:
        """A GET of it."""
        return getting(self.health_path(model))

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction."""
        require_infer(target, headers)
        document = require_object(read_json(body))
        if "instances" not in document:
            raise InvalidPrediction(MALFORMED_REQUEST, "the body needs 'instances'")
        signature = require_signature(signature)
        try:
            inputs = read_rows("instances", document["instances"], signature.inputs)
        except InvalidPrediction as error:
            raise explain(error, signature) from None
        return InferRequest(None, target.model, None, None, "", inputs, None, NOTHING, "row")

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction row by row.

        Raises InvalidPrediction (wrong_shape: the inputs share no first dimension; not_finite; unsupported:
        another signature than the default one).
        """
        if infer.signature:
            raise InvalidPrediction(UNSUPPORTED, "KServe V1 knows no signatures but the default one")
        body = write_values({"instances": rows_of(infer.inputs)}, infer.inputs, non_finite=False)
        return Call(b"POST", _path(model) + b":predict", [JSON_TYPE], body)

    # The response

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read `predictions`."""
        document = require_object(read_json(body, non_finite=True))
        signature = require_signature(signature)
        if "predictions" not in document:
            raise InvalidPrediction(MALFORMED_REQUEST, "the answer has no 'predictions'")
        outputs = read_rows("predictions", document["predictions"], signature.outputs)
        return InferResponse(None, "", "", outputs, NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write `predictions`; raises InvalidPrediction (wrong_shape, not_finite)."""
        outputs = wanted(response, request)
        return [JSON_TYPE], write_values({"predictions": rows_of(outputs)}, outputs, non_finite=False)

    # About models

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask under V2's URL: V1 has none for it."""
        return getting(b"/v2/models/" + encode_name(model))

    def read_metadata(self, body: bytes) -> Metadata:
        """Read V2's description of a model."""
        return read_model(body)

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe a model as V2 does; no URL of V1 asks for it."""
        return [JSON_TYPE], write_json(describe_model(model, versions, signature))

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer whether the model is ready; 404 unknown, 503 as the SDK while it is not."""
        if not states:
            headers, body = self.write_error(
                404, "not_found", f"Model with name {target.model} does not exist."
            )
            return Answer(404, headers, body)
        ready = any(each.state == "AVAILABLE" for each in states)
        body = write_json({"name": target.model, "ready": ready})
        return Answer(200 if ready else 503, [JSON_TYPE], body)

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Refuse the list of models: what a gateway serves is not every client's to know."""
        headers, body = self.write_error(404, "not_found", "the models behind a gateway are not listed")
        return Answer(404, headers, body)

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether the model is ready (or, of the server, whether it lists its models)."""
        if status != 200:
            return False
        try:
            document = read_json(body)
        except InvalidPrediction:
            return False
        return type(document) is dict and (document.get("ready") is True or "models" in document)


def _path(model: str) -> bytes:
    return b"/v1/models/" + encode_name(model)
