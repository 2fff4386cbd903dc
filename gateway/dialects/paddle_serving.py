"""PaddleServing's C++ server over HTTP (brpc's JSON).

    POST /GeneralModelService/inference
        {"tensor": [{"name", "alias_name", "elem_type", "shape", "float_data" …}], "fetch_var_names": [...]}
    ->  {"outputs": [{"tensor": [...], "engine_name": …}], "err_no"?, "err_msg"?}

The URL names no model: it is for the only model that this gateway serves. Tensors are typed: int64_data,
float_data, int_data, float64_data, and `data` for strings; FP16, INT8 and UINT8 stand in `tensor_content`,
in base64 as protobuf's JSON has bytes. Its codes are not the pipeline's (a string is 20 here, 12 there).
Ragged tensors (`lod`) are refused. A client's body may be a message (`application/proto`,
paddle_serving_messages.py), and is answered with one. The server can't be had from a package registry: this
follows Serving 0.9's `core/general-server/proto/general_model_service.proto`, was tried with its own client,
and never against a server.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from math import prod
from typing import Final

from gateway.dialects.binary import from_binary, to_binary
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
from gateway.dialects.metadata import Signature, explain
from gateway.dialects.paddle_pipeline import PaddlePipeline
from gateway.dialects.paddle_serving_messages import read_request, write_response
from gateway.dialects.paddle_values import make_tensor
from gateway.dialects.protocol import (
    JSON_TYPE,
    Call,
    Operation,
    Target,
    require_infer,
    require_object,
    require_text,
    wanted,
)
from gateway.dialects.tensors import (
    BYTES,
    NOTHING,
    InferRequest,
    InferResponse,
    Style,
    Tensor,
    check_shape,
    is_finite,
)
from gateway.http.message import Headers, find

_PATH: Final = b"/GeneralModelService/inference"
_LISTED: Final = {
    "INT64": (0, "int64_data"),
    "FP32": (1, "float_data"),
    "INT32": (2, "int_data"),
    "FP64": (3, "float64_data"),
    "INT16": (4, "int_data"),
    "BOOL": (9, "bool_data"),
}
_PACKED: Final = {"FP16": 5, "UINT8": 7, "INT8": 8}
_UNPACKED: Final = {code: dtype for dtype, code in _PACKED.items()}
_STRING: Final = 20
_PROTO: Final = b"application/proto"


class PaddleServing(PaddlePipeline):
    """The dialect `paddle-serving`. Errors, and what is asked of models, are as of the pipeline."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "paddle-serving"

    @property
    def is_typed(self) -> bool:
        """Tensors say their names and datatypes."""
        return True

    def __repr__(self) -> str:
        return "<Dialect paddle-serving>"

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect."""
        return Target(self, Operation.INFER) if (method, path) == (b"POST", _PATH) else None

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The only path."""
        return _PATH

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction; the signature serves only for better words when it is wrong."""
        require_infer(target, headers)
        is_proto = (find(headers, b"content-type") or b"").startswith(_PROTO)
        try:
            document = read_request(body) if is_proto else require_object(read_json(body))
            inputs = _tensors(document.get("tensor"))
            if not inputs:
                raise InvalidPrediction(MALFORMED_REQUEST, "the request has no tensors")
            outputs = document.get("fetch_var_names") or []
            if type(outputs) is not list:
                raise InvalidPrediction(MALFORMED_REQUEST, "'fetch_var_names' must be a list of strings")
            names = tuple([require_text("an output's name", each) for each in outputs])
        except InvalidPrediction as error:
            raise explain(error, signature) from None
        style: Style = "binary" if is_proto else "named"
        return InferRequest(None, target.model, None, None, "", inputs, names or None, NOTHING, style)

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction; raises InvalidPrediction (not_finite, not_text, wrong_dtype, unsupported)."""
        if infer.signature:
            raise InvalidPrediction(UNSUPPORTED, "PaddleServing knows no signatures but the default one")
        _require_finite(infer.inputs)
        document: dict[str, object] = {"tensor": [_write(tensor) for tensor in infer.inputs]}
        document["fetch_var_names"] = list(infer.outputs or ())
        return Call(b"POST", _PATH, [JSON_TYPE], write_json(document))

    # The response

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer: the tensors of its last engine."""
        engines = require_object(read_json(body)).get("outputs")
        if type(engines) is not list or not engines:
            raise InvalidPrediction(MALFORMED_REQUEST, "the answer has no outputs")
        last = require_object(engines[-1])
        return InferResponse(None, "", "", _tensors(last.get("tensor")), NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction, to a client that sent a message as one."""
        outputs = wanted(response, request)
        tensors = [_write(tensor) for tensor in outputs]
        if request.style == "binary":
            return [(b"content-type", _PROTO)], write_response(tensors, request.model)
        _require_finite(outputs)
        engine = {"tensor": tensors, "engine_name": request.model}
        return [JSON_TYPE], write_json({"outputs": [engine], "err_no": 0, "err_msg": ""})


def _require_finite(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.dtype in _LISTED and not is_finite(tensor):
            raise InvalidPrediction(
                NOT_FINITE, f"{tensor.name!r} holds NaN or infinity; JSON has no word for them"
            )


def _tensors(listed: object) -> tuple[Tensor, ...]:
    if type(listed) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, "'tensor' must be a list")
    tensors = tuple([_read(require_object(each)) for each in listed])
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidPrediction(WRONG_NAME, "two tensors have the same name")
    return tensors


def _read(each: dict[str, object]) -> Tensor:
    name = require_text("a tensor's name", each.get("alias_name") or each.get("name"))
    code, shape = each.get("elem_type", 0), each.get("shape", [])
    if each.get("lod"):
        raise InvalidPrediction(UNSUPPORTED, f"{name!r} is ragged (lod), which no other protocol carries")
    if type(shape) is not list or type(code) is not int:
        raise InvalidPrediction(MALFORMED_REQUEST, f"{name!r} has a malformed shape or elem_type")
    if code == _STRING:
        flat = each.get("data", [])
        dims = check_shape(name, shape)
        if type(flat) is not list or not all(type(value) is str for value in flat):
            raise InvalidPrediction(WRONG_DTYPE, f"{name!r} is BYTES; its elements are strings")
        if len(flat) != prod(dims):
            raise InvalidPrediction(WRONG_SHAPE, f"{name!r} declares {list(dims)}, holds {len(flat)} values")
        return Tensor(name, BYTES, dims, [value.encode("utf-8", "surrogatepass") for value in flat])
    dtype = _UNPACKED.get(code)
    if dtype is None:
        lists = {key: value for key, value in each.items() if type(value) is list}
        return make_tensor(name, code if code != 12 else -1, shape, lists)
    try:
        raw = b64decode(require_text("tensor_content", each.get("tensor_content", "")), validate=True)
    except ValueError as refusal:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} holds malformed base64") from refusal
    dims = check_shape(name, shape)
    return Tensor(name, dtype, dims, from_binary(name, dtype, dims, raw))


def _write(tensor: Tensor) -> dict[str, object]:
    written: dict[str, object] = {"name": tensor.name, "alias_name": tensor.name, "shape": list(tensor.shape)}
    if isinstance(tensor.data, list):
        try:
            return {**written, "elem_type": _STRING, "data": [element.decode() for element in tensor.data]}
        except UnicodeDecodeError as refusal:
            raise InvalidPrediction(NOT_TEXT, f"{tensor.name!r} holds bytes that are no text") from refusal
    code = _PACKED.get(tensor.dtype)
    if code is not None:
        content = b64encode(to_binary(tensor)).decode()
        return {**written, "elem_type": code, "tensor_content": content}
    listed = _LISTED.get(tensor.dtype)
    if listed is None:
        raise InvalidPrediction(
            WRONG_DTYPE, f"{tensor.name!r} is {tensor.dtype}, which PaddleServing has not"
        )
    code, field = listed
    return {**written, "elem_type": code, field: tensor.data.reshape(-1)}
