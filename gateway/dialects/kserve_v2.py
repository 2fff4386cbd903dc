"""KServe V2, also called the Open Inference Protocol, over HTTP and JSON.

Source: kserve/open-inference-protocol, `specification/protocol/inference_rest.md`; Triton's binary tensor
extension.

    POST /v2/models/M[/versions/V]/infer
        {"id"?, "parameters"?, "inputs": [{"name", "datatype", "shape", "data"}, ...], "outputs"?: [{"name"}]}
    -> {"model_name", "model_version"?, "id"?, "parameters"?, "outputs": [...]}

`data` may be flat or nested as `shape` says. BYTES in JSON are UTF-8 text. Requests are strict JSON; answers
may hold NaN and Infinity tokens, because some servers write them. Nothing non-finite is written as JSON:
orjson would make it null, silently. Duplicate members are refused (see json_text.py).

Binary tensors (`Inference-Header-Content-Length`, `binary_data_size`) are read in requests and answers, and
written to a client that asked for one binary output or all. They are never written to a backend: not all can
read them. Refused as unsupported: raw binary requests (header length 0), shared memory, classification of
outputs.

Signature names have no field here; `parameters.signature_name` carries them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

from gateway.dialects.binary import JSON_LENGTH, BinaryTail, from_binary, split, to_binary
from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    NOT_FINITE,
    NOT_TEXT,
    UNSUPPORTED,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    InvalidPrediction,
)
from gateway.dialects.json_text import read_json, write_json
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
    BYTES,
    DTYPES,
    NOTHING,
    InferRequest,
    InferResponse,
    Style,
    Tensor,
    check_shape,
    is_finite,
    numbers,
    unnest,
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
_DTYPES: Final = frozenset(DTYPES)


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
        document["inputs"] = [_write_tensor(tensor) for tensor in infer.inputs]
        if infer.outputs is not None:
            document["outputs"] = [{"name": name} for name in infer.outputs]
        return Call(b"POST", _model_path(model, version) + b"/infer", [JSON_TYPE], write_json(document))

    # The response

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer, JSON and binary outputs in any mixture."""
        text_part, binary = split(headers, body)
        document = require_object(read_json(text_part, non_finite=True))
        outputs = as_declared(_read_tensors(document, "outputs", binary), signature)
        return InferResponse(
            _optional_text(document, "id"),
            _optional_text(document, "model_name") or "",
            _optional_text(document, "model_version") or "",
            outputs,
            _params(document),
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
            return _write_binary(document, outputs)
        document["outputs"] = [_write_tensor(tensor) for tensor in outputs]
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


# Reading


def _read_request(target: Target, document: dict[str, object], binary: BinaryTail | None) -> InferRequest:
    inputs = _read_tensors(document, "inputs", binary)
    if not inputs:
        raise InvalidPrediction(MALFORMED_REQUEST, "'inputs' is empty")
    outputs, wants_binary = _read_outputs(document.get("outputs"))
    params = _params(document)
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
        _optional_text(document, "id"),
        target.model,
        target.version,
        target.label,
        signature,
        inputs,
        outputs,
        params or NOTHING,
        style,
    )


def _read_outputs(asked: object) -> tuple[tuple[str, ...] | None, bool]:
    """The names wanted and whether any is wanted in binary. An absent, null or empty list wants all."""
    if asked is None or asked == []:
        return None, False
    if type(asked) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, "'outputs' must be a list")
    names: list[str] = []
    wants_binary = False
    for each in asked:
        if type(each) is not dict:
            raise InvalidPrediction(MALFORMED_REQUEST, "each of 'outputs' must be an object with a name")
        name = require_text("an output's name", each.get("name"))
        if name in names:
            raise InvalidPrediction(WRONG_NAME, f"output {name!r} is asked for twice")
        names.append(name)
        params = _params(each)
        if "classification" in params:
            raise InvalidPrediction(UNSUPPORTED, "classification of outputs is not supported")
        _refuse_shared_memory(params)
        wants_binary |= params.get("binary_data") is True
    return tuple(names), wants_binary


def _read_tensors(document: dict[str, object], key: str, binary: BinaryTail | None) -> tuple[Tensor, ...]:
    listed = document.get(key)
    if type(listed) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, f"'{key}' must be a list of tensors")
    tensors = tuple([_read_tensor(each, binary) for each in listed])
    if len(tensors) > 1 and len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidPrediction(WRONG_NAME, f"two of '{key}' have the same name")
    if binary is not None:
        binary.finish()
    return tensors


def _read_tensor(each: object, binary: BinaryTail | None) -> Tensor:
    if type(each) is not dict:
        raise InvalidPrediction(MALFORMED_REQUEST, "a tensor must be an object")
    name = require_text("a tensor's name", each.get("name"))
    dtype = each.get("datatype")
    if type(dtype) is not str or dtype not in _DTYPES:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has the unknown datatype {dtype!r:.40}")
    declared = each.get("shape")
    if type(declared) is not list:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} has no shape")
    shape = check_shape(name, declared)
    params = _params(each)
    if params is not NOTHING:
        _refuse_shared_memory(params)
        if "binary_data_size" in params:
            return _read_binary(name, dtype, shape, params, each, binary)
    if "data" not in each:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} has no data")
    flat = _flat(name, shape, each["data"])
    if dtype == BYTES:
        return Tensor(name, dtype, shape, [_bytes(name, value) for value in flat], params)
    return Tensor(name, dtype, shape, numbers(name, dtype, shape, flat), params)


def _read_binary(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    params: Mapping[str, object],
    each: dict[str, object],
    binary: BinaryTail | None,
) -> Tensor:
    if binary is None or "data" in each:
        raise InvalidPrediction(
            MALFORMED_REQUEST, f"{name!r} announces binary data that the request can't hold"
        )
    raw = binary.take(name, params["binary_data_size"])
    kept = {key: value for key, value in params.items() if key != "binary_data_size"}
    return Tensor(name, dtype, shape, from_binary(name, dtype, shape, raw), kept or NOTHING)


def _flat(name: str, shape: tuple[int, ...], data: object) -> list[object]:
    """The scalars of `data`, which is flat or nested exactly as `shape` says."""
    if type(data) is not list:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r}: data must be a list")
    flat: list[object] = data
    if data and type(data[0]) is list:
        nested, flat = unnest(name, data)
        if nested != shape and flat:
            raise InvalidPrediction(
                WRONG_SHAPE, f"{name!r} declares {list(shape)}, its data is {list(nested)}"
            )
    if len(flat) != prod(shape):
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} declares {list(shape)} and holds {len(flat)} values")
    return flat


def _bytes(name: str, value: object) -> bytes:
    if type(value) is str:
        return value.encode()
    if type(value) is list:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} is ragged: lists and values stand side by side")
    raise InvalidPrediction(WRONG_DTYPE, f"{name!r} is BYTES; in JSON its elements are strings")


def _params(holder: Mapping[str, object]) -> Mapping[str, object]:
    params = holder.get("parameters")
    if params is None or params == {}:
        return NOTHING
    if type(params) is not dict:
        raise InvalidPrediction(MALFORMED_REQUEST, "'parameters' must be an object")
    return params


def _refuse_shared_memory(params: Mapping[str, object]) -> None:
    if "shared_memory_region" in params:
        raise InvalidPrediction(UNSUPPORTED, "shared memory can't be reached through a gateway")


def _optional_text(document: Mapping[str, object], key: str) -> str | None:
    value = document.get(key)
    return None if value is None else require_text(f"'{key}'", value)


# Writing


def _write_tensor(tensor: Tensor) -> dict[str, object]:
    written: dict[str, object] = {
        "name": tensor.name,
        "datatype": tensor.dtype,
        "shape": list(tensor.shape),
        "data": _data(tensor),
    }
    if tensor.params:
        written["parameters"] = dict(tensor.params)
    return written


def _data(tensor: Tensor) -> object:
    data = tensor.data
    if isinstance(data, list):
        try:
            return [element.decode() for element in data]
        except UnicodeDecodeError as refusal:
            raise InvalidPrediction(
                NOT_TEXT, f"{tensor.name!r} holds bytes that are not UTF-8; V2's JSON carries text only"
            ) from refusal
    if not is_finite(tensor):
        raise InvalidPrediction(
            NOT_FINITE, f"{tensor.name!r} holds NaN or infinity; JSON has no word for them, binary tensors do"
        )
    return data.reshape(-1)


def _write_binary(document: dict[str, object], outputs: tuple[Tensor, ...]) -> tuple[Headers, bytes]:
    raws = [to_binary(tensor) for tensor in outputs]
    document["outputs"] = [
        {
            "name": tensor.name,
            "datatype": tensor.dtype,
            "shape": list(tensor.shape),
            "parameters": dict(tensor.params) | {"binary_data_size": len(raw)},
        }
        for tensor, raw in zip(outputs, raws, strict=True)
    ]
    head = write_json(document)
    headers = [(b"content-type", b"application/octet-stream"), (JSON_LENGTH, b"%d" % len(head))]
    return headers, head + b"".join(raws)
