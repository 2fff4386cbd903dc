"""TensorFlow Serving's REST API.

Source: tensorflow/serving `http_rest_api_handler.cc` and `json_tensor.cc`. Routes match case-insensitively;
names are percent-decoded and hold neither `/` nor `:`.

    POST /v1/models/M[/versions/N|/labels/L]:predict
        {"instances": [row, ...]}      row form:    a row is a value, or an object with one member per input
        {"inputs": value | {name: value, ...}}      column form
    -> {"predictions": [row, ...]} or {"outputs": ...}; a single output stands without its name

Datatypes and the name of a single input come from the model's signature, shapes from the nesting. Bytes are
`{"b64": "..."}`, text may stand plainly. NaN, Infinity and -Infinity are legal tokens. Requests are written
in column form, which needs no common first dimension. The JSON of an empty tensor loses its inner
dimensions; they are completed from the signature. Duplicate members are refused (see json_text.py).

`:classify` and `:regress` take lists of tf.Examples: tf_example.py. The dialect has no route for the health
or the metadata of the server itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.dialects import tf_example
from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    InvalidPrediction,
)
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.json_values import read_columns, read_rows, rows_of, write_values
from gateway.dialects.metadata import Metadata, Signature, explain, require_signature
from gateway.dialects.protocol import (
    EXAMPLES,
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
    of_version,
    require_infer,
    require_number,
    require_object,
    require_plain,
    require_text,
    wanted,
)
from gateway.dialects.signature_def import read_metadata, write_metadata
from gateway.dialects.tensors import (
    NOTHING,
    InferRequest,
    InferResponse,
    Style,
)
from gateway.http.message import Headers

_ROUTE: Final = re.compile(
    rb"/v1/models/([^/:]+)(?:/versions/([0-9]{1,19})|/labels/([^/:]+))?(?::(predict|classify|regress)|(/metadata))?",
    re.IGNORECASE,
)
_VERBS: Final = {b"predict": Operation.INFER, b"classify": Operation.CLASSIFY, b"regress": Operation.REGRESS}
_SUFFIX: Final = {
    Operation.INFER: b":predict",
    Operation.CLASSIFY: b":classify",
    Operation.REGRESS: b":regress",
    Operation.METADATA: b"/metadata",
    Operation.STATUS: b"",
}


class TensorFlowServing(OverHttp):
    """The dialect `tensorflow-serving`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "tensorflow-serving"

    def __repr__(self) -> str:
        return "<Dialect tensorflow-serving>"

    # URLs

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect."""
        match = _ROUTE.fullmatch(path)
        if match is None:
            return None
        raw_model, version, raw_label, verb, metadata = match.groups()
        model = decode_name(raw_model, "/:")
        label = None if raw_label is None else decode_name(raw_label, "/:")
        if model is None or (raw_label is not None and label is None):
            return None
        if verb is not None:
            if method != b"POST":
                return None
            operation = _VERBS[verb.lower()]
        elif method in GETS:
            operation = Operation.STATUS if metadata is None else Operation.METADATA
        else:
            return None
        return Target(self, operation, model, None if version is None else str(int(version)), label)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The URL path of the same operation on a backend that calls the model `model`."""
        return _model_path(model, version) + _SUFFIX[target.operation]

    def health_path(self, model: str) -> bytes:
        """The status of the model; there is no health route, so without a model any answer will do."""
        return b"/v1/models/" + encode_name(model)

    def health_request(self, model: str) -> Call:
        """A GET of it."""
        return getting(self.health_path(model))

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction in row or column form, or as a list of Examples."""
        if target.operation not in EXAMPLES:
            require_infer(target, headers)
        require_plain(headers)
        document = require_object(read_json(body, non_finite=True))
        asked = require_text("'signature_name'", document.get("signature_name", ""))
        if target.operation in EXAMPLES:
            examples = tf_example.read_examples(document)
            return tf_example.ask(target, asked, examples, require_signature(signature))
        by_row = "instances" in document
        if by_row == ("inputs" in document):
            found = "both" if by_row else "neither"
            raise InvalidPrediction(
                MALFORMED_REQUEST, f"the body needs either 'instances' or 'inputs', and has {found}"
            )
        signature = require_signature(
            signature
        )  # the last complaint: what is wrong already is the client's to mend
        chosen = signature.named(asked)
        try:
            if by_row:
                inputs = read_rows("instances", document["instances"], chosen.inputs)
            else:
                inputs = read_columns(document["inputs"], chosen.inputs)
        except InvalidPrediction as error:
            raise explain(error, chosen) from None
        style: Style = "row" if by_row else "column"
        name = "" if chosen is signature else chosen.name
        return InferRequest(
            None, target.model, target.version, target.label, name, inputs, None, NOTHING, style
        )

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction in column form. Parameters, id and the choice of outputs have no place in it.

        Raises InvalidPrediction (unsupported) for a version that is no number.
        """
        require_number(version)
        document: dict[str, object] = {}
        if infer.signature:
            document["signature_name"] = infer.signature
        document["inputs"] = {tensor.name: tensor for tensor in infer.inputs}
        body = write_values(document, infer.inputs)
        return Call(b"POST", _model_path(model, version) + b":predict", [JSON_TYPE], body)

    # The response

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read `predictions` or `outputs`."""
        document = require_object(read_json(body, non_finite=True))
        specs = require_signature(signature).outputs
        if "predictions" in document:
            outputs = read_rows("predictions", document["predictions"], specs)
        elif "outputs" in document:
            outputs = read_columns(document["outputs"], specs)
        else:
            raise InvalidPrediction(MALFORMED_REQUEST, "the answer has neither 'predictions' nor 'outputs'")
        return InferResponse(None, "", "", outputs, NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write `predictions` to a row-form client, `results` to one that sent Examples, else `outputs`.

        Raises InvalidPrediction (wrong_shape) if the outputs share no first dimension that could be rows.
        """
        outputs = wanted(response, request)
        if request.style in ("classify", "regress"):
            body, lost = tf_example.write_json_results(outputs, request.style)
            return [JSON_TYPE, *lost], body
        document: dict[str, object]
        if request.style == "row":
            document = {"predictions": rows_of(outputs)}
        else:
            document = {"outputs": outputs[0] if len(outputs) == 1 else {each.name: each for each in outputs}}
        return [JSON_TYPE], write_values(document, outputs)

    # About models

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask a backend for a model's signatures."""
        return getting(_model_path(model, version) + b"/metadata")

    def read_metadata(self, body: bytes) -> Metadata:
        """Read `metadata.signature_def`; the default signature first, unreadable others left out."""
        return read_metadata(body)

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe one version's signatures: this dialect names no other version beside it."""
        return [JSON_TYPE], write_metadata(model, [version] if version else versions, signature)

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer with the states of the versions; 404 if there are none (of the version asked for)."""
        states = of_version(target, states)
        if not states:
            _, body = self.write_error(
                404, "not_found", f"Could not find any versions of model {target.model}"
            )
            return Answer(404, [JSON_TYPE], body)
        status = [
            {
                "version": each.version,
                "state": each.state,
                "status": {"error_code": "UNKNOWN" if each.message else "OK", "error_message": each.message},
            }
            for each in states
        ]
        return Answer(200, [JSON_TYPE], write_json({"model_version_status": status}))

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Refuse: this dialect has no URL that asks about the server."""
        headers, body = self.write_error(404, "not_found", "TensorFlow Serving has no such operation")
        return Answer(404, headers, body)

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether a version is AVAILABLE (or KServe V1, at the same URL, says that the model is ready)."""
        if status != 200:
            return False
        try:
            document = read_json(body)
        except InvalidPrediction:
            return False
        if type(document) is not dict:
            return False
        states = document.get("model_version_status")
        if type(states) is list:
            return any(type(each) is dict and each.get("state") == "AVAILABLE" for each in states)
        return document.get("ready") is True


def _model_path(model: str, version: str | None) -> bytes:
    path = b"/v1/models/" + encode_name(model)
    return path if version is None else path + b"/versions/" + encode_name(version)
