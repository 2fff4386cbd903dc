"""KServe V2, also called the Open Inference Protocol, over HTTP and JSON.

Source: kserve/open-inference-protocol, `specification/protocol/inference_rest.md`; Triton's binary tensor
extension.

    POST /v2/models/M[/versions/V]/infer
        {"id"?, "parameters"?, "inputs": [{"name", "datatype", "shape", "data"}, ...], "outputs"?: [{"name"}]}
    -> {"model_name", "model_version"?, "id"?, "parameters"?, "outputs": [...]}

Tensors: kserve_v2_tensors.py. Requests are strict JSON; answers may hold NaN and Infinity tokens, because
some servers write them. Duplicate members are refused (see json_text.py).

Binary tensors (`Inference-Header-Content-Length`, `binary_data_size`) are read in requests and answers, and
written to a client that asked for one binary output or all. They are never written to a backend: not all can
read them. Refused as unsupported: raw binary requests (header length 0), shared memory, classification of
outputs.

Signature names have no field here; `parameters.signature_name` carries them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.dialects.binary import BinaryTail, split
from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    InvalidPrediction,
)
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.kserve_v2_tensors import (
    optional_text,
    read_outputs,
    read_params,
    read_tensors,
    write_binary,
    write_tensor,
)
from gateway.dialects.metadata import DEFAULT_SIGNATURE, Metadata, Signature, as_declared, explain
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
    of_version,
    require_infer,
    require_object,
    require_text,
    wanted,
)
from gateway.dialects.tensors import (
    NOTHING,
    InferRequest,
    InferResponse,
    Style,
)
from gateway.http.message import Headers

_MODEL_ROUTE: Final = re.compile(rb"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(infer|ready))?")
_SERVER_ROUTES: Final = {
    b"/v2": Operation.SERVER_METADATA,
    b"/v2/": Operation.SERVER_METADATA,
    b"/v2/health/live": Operation.LIVE,
    b"/v2/health/ready": Operation.SERVER_READY,
}
_SERVER_PATHS: Final = {
    Operation.SERVER_METADATA: b"/v2",
    Operation.LIVE: b"/v2/health/live",
    Operation.SERVER_READY: b"/v2/health/ready",
}
_SUFFIX: Final = {
    Operation.INFER: b"/infer",
    Operation.READY: b"/ready",
    Operation.METADATA: b"",
}


class KServeV2(OverHttp):
    """The dialect `kserve-v2`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "kserve-v2"

    @property
    def is_typed(self) -> bool:
        """Tensors say their names and datatypes."""
        return True

    @property
    def has_parameters(self) -> bool:
        """Of a prediction, of each tensor and of an answer."""
        return True

    def __repr__(self) -> str:
        return "<Dialect kserve-v2>"

    # URLs

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect."""
        server = _SERVER_ROUTES.get(path)
        if server is not None:
            return Target(self, server) if method in GETS else None
        match = _MODEL_ROUTE.fullmatch(path)
        if match is None:
            return None
        raw_model, raw_version, verb = match.groups()
        model = decode_name(raw_model)
        version = None if raw_version is None else decode_name(raw_version)
        if model is None or (raw_version is not None and version is None):
            return None
        if verb == b"infer":
            return Target(self, Operation.INFER, model, version) if method == b"POST" else None
        if method not in GETS:
            return None
        return Target(self, Operation.METADATA if verb is None else Operation.READY, model, version)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The URL path of the same operation on a backend that calls the model `model`."""
        server = _SERVER_PATHS.get(target.operation)
        return server if server is not None else _model_path(model, version) + _SUFFIX[target.operation]

    def health_path(self, model: str) -> bytes:
        """The readiness of the model, or of the server."""
        return _model_path(model, None) + b"/ready" if model else b"/v2/health/ready"

    def health_request(self, model: str) -> Call:
        """A GET of it."""
        return getting(self.health_path(model))

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction; the signature serves only for better words when it is wrong."""
        require_infer(target, headers)
        try:
            text_part, binary = split(headers, body)
            document = require_object(read_json(text_part))
            return _read_request(target, document, binary)
        except InvalidPrediction as error:
            raise explain(error, signature) from None

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction as JSON.

        Raises InvalidPrediction (not_finite, not_text) for what JSON can't carry.
        """
        document: dict[str, object] = {}
        if infer.id is not None:
            document["id"] = infer.id
        params = dict(infer.params)
        if infer.signature:
            params["signature_name"] = infer.signature
        if params:
            document["parameters"] = params
        document["inputs"] = [write_tensor(tensor) for tensor in infer.inputs]
        if infer.outputs is not None:
            document["outputs"] = [{"name": name} for name in infer.outputs]
        return Call(b"POST", _model_path(model, version) + b"/infer", [JSON_TYPE], write_json(document))

    # The response

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer, JSON and binary outputs in any mixture."""
        text_part, binary = split(headers, body)
        document = require_object(read_json(text_part, non_finite=True))
        outputs = as_declared(read_tensors(document, "outputs", binary), signature)
        return InferResponse(
            optional_text(document, "id"),
            optional_text(document, "model_name") or "",
            optional_text(document, "model_version") or "",
            outputs,
            read_params(document),
        )

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction.

        Binary if the request's style is. Raises InvalidPrediction (not_finite, not_text).
        """
        document: dict[str, object] = {"model_name": request.model}
        version = response.version or request.version
        if version:
            document["model_version"] = version
        if request.id is not None:
            document["id"] = request.id
        if response.params:
            document["parameters"] = dict(response.params)
        outputs = wanted(response, request)
        if request.style == "binary":
            return write_binary(document, outputs)
        document["outputs"] = [write_tensor(tensor) for tensor in outputs]
        return [JSON_TYPE], write_json(document)

    # About models and the server

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask a backend for a model's inputs and outputs."""
        return getting(_model_path(model, version))

    def read_metadata(self, body: bytes) -> Metadata:
        """Read inputs, outputs and versions (null and absent mean: not said)."""
        return read_model(body)

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe the default signature; the protocol has no place for others."""
        return [JSON_TYPE], write_json(describe_model(model, versions, signature))

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer READY.

        200 if the version asked for (or any) is available, 400 as Triton if not, 404 unknown.
        """
        states = of_version(target, states)
        if not states:
            headers, body = self.write_error(404, "not_found", f"unknown model {target.model}")
            return Answer(404, headers, body)
        if any(each.state == "AVAILABLE" for each in states):
            return Answer(200, [JSON_TYPE], write_json({"name": target.model, "ready": True}))
        headers, body = self.write_error(400, "unavailable", "Model version not ready")
        return Answer(400, headers, body)

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Answer LIVE (always), SERVER_READY (400 while not ready) or SERVER_METADATA."""
        match target.operation:
            case Operation.SERVER_METADATA:
                document: dict[str, object] = {"name": name, "version": version, "extensions": []}
                return Answer(200, [JSON_TYPE], write_json(document))
            case Operation.LIVE:
                return Answer(200, [JSON_TYPE], write_json({"live": True}))
            case _:
                return Answer(200 if ready else 400, [JSON_TYPE], write_json({"ready": ready}))

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether a readiness answer says yes: 200, and no `{"ready": false}` inside."""
        if status != 200:
            return False
        try:
            document = read_json(body)
        except InvalidPrediction:
            return True  # Triton and MLServer answer with an empty body
        return type(document) is not dict or document.get("ready") is not False


def _model_path(model: str, version: str | None) -> bytes:
    path = b"/v2/models/" + encode_name(model)
    return path if version is None else path + b"/versions/" + encode_name(version)


def _read_request(target: Target, document: dict[str, object], binary: BinaryTail | None) -> InferRequest:
    inputs = read_tensors(document, "inputs", binary)
    if not inputs:
        raise InvalidPrediction(MALFORMED_REQUEST, "'inputs' is empty")
    outputs, wants_binary = read_outputs(document.get("outputs"))
    params = read_params(document)
    style: Style = "named"
    signature = ""
    if params is not NOTHING:
        params = dict(params)
        wants_binary |= params.pop("binary_data_output", False) is True
        signature = require_text("parameters.signature_name", params.pop("signature_name", ""))
        if signature == DEFAULT_SIGNATURE:
            signature = ""
    if wants_binary:
        style = "binary"
    return InferRequest(
        optional_text(document, "id"),
        target.model,
        target.version,
        target.label,
        signature,
        inputs,
        outputs,
        params or NOTHING,
        style,
    )
