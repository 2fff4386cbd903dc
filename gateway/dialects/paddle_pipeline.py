"""PaddleServing's pipeline server over HTTP; what stands in its bodies: paddle_values.py.

    POST /{model}/prediction    {"key": [...], "value": ["[[...]]", ...], "tensors"?: [...], "logid"?: 7}
    ->  {"err_no": 0, "err_msg": "", "key": [...], "value": [...], "tensors": []}

An operator's failure is 200 with an `err_no` other than 0. There is no health, no metadata and no version;
the model is the service's name. Malformed JSON is the grpc-gateway's 400. A client's `logid` is not given on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dialects.errors import MALFORMED_REQUEST, UNSUPPORTED, BackendError, InvalidPrediction
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.metadata import Metadata, Signature, explain, tells_none
from gateway.dialects.paddle_values import error_of, make_tensor, read_values, write_values
from gateway.dialects.protocol import (
    JSON_TYPE,
    Answer,
    Call,
    Operation,
    OverHttp,
    Target,
    VersionState,
    decode_name,
    encode_name,
    require_infer,
    require_object,
    require_text,
    understand,
    wanted,
)
from gateway.dialects.tensors import NOTHING, InferRequest, InferResponse, Tensor
from gateway.http.message import Headers

_ROUTE: Final = re.compile(rb"/([^/]+)/prediction")


class PaddlePipeline(OverHttp):
    """The dialect `paddle-pipeline`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "paddle-pipeline"

    @property
    def hides_failures(self) -> bool:
        """An `err_no` inside a 200."""
        return True

    def __repr__(self) -> str:
        return "<Dialect paddle-pipeline>"

    # URLs

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect."""
        match = _ROUTE.fullmatch(path)
        model = None if match is None or method != b"POST" else decode_name(match[1])
        return None if model is None else Target(self, Operation.INFER, model)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The URL path of the same operation on a backend that calls the model `model`."""
        return b"/" + encode_name(model) + b"/prediction"

    def health_path(self, model: str) -> bytes:
        """None: the server has no such URL; a policy's `health:` may name one of somebody beside it."""
        return b""

    def health_request(self, model: str) -> Call:
        """A GET of nothing."""
        return Call(b"GET", b"", [], b"")

    # The request

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction."""
        require_infer(target, headers)
        document = require_object(read_json(body))
        try:
            inputs = _read(document, signature)
            if not inputs:
                raise InvalidPrediction(MALFORMED_REQUEST, "the request has neither keys nor tensors")
        except InvalidPrediction as error:
            raise explain(error, signature) from None
        return InferRequest(None, target.model, None, None, "", inputs, None, NOTHING, "named")

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction as texts; raises InvalidPrediction (not_finite, not_text, unsupported)."""
        if infer.signature:
            raise InvalidPrediction(UNSUPPORTED, "PaddleServing knows no signatures but the default one")
        names, texts = write_values(infer.inputs)
        path = b"/" + encode_name(model) + b"/prediction"
        return Call(b"POST", path, [JSON_TYPE], write_json({"key": names, "value": texts}))

    # The response

    def succeeded(self, status: int, headers: Headers, body: bytes) -> bool:
        """Whether the status is 200 and the `err_no` 0."""
        return status == 200 and _number(body) == 0

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer."""
        document = require_object(read_json(body))
        return InferResponse(None, "", "", _read(document, signature, answer=True), NOTHING)

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction as texts."""
        names, texts = write_values(wanted(response, request))
        document = {"err_no": 0, "err_msg": "", "key": names, "value": texts, "tensors": []}
        return [JSON_TYPE], write_json(document)

    # Errors

    def write_error(
        self, status: int, code: str, message: str, details: dict[str, object] | None = None
    ) -> tuple[Headers, bytes]:
        """Write an `err_no` beside a status that says so too; our stable code stands beside them."""
        number = {404: 3002, 504: 6000}.get(status, 5000 if status < 500 else 10000)
        document = {**(details or {}), "err_no": number, "err_msg": message, "key": [], "value": [],
                    "tensors": [], "code": code}  # fmt: skip
        return [JSON_TYPE], write_json(document)

    def read_error(self, status: int, headers: Headers, body: bytes) -> BackendError:
        """Understand an `err_no`, or the grpc-gateway's error; never raises."""
        number = _number(body)
        if not number:
            return understand(status, body)
        document = read_json(body)
        message = document.get("err_msg") if type(document) is dict else None
        return error_of(number, message if type(message) is str else "")

    # About models

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask for nothing: the server tells no signature."""
        return Call(b"GET", b"/", [], b"")

    def read_metadata(self, body: bytes) -> Metadata:
        """Refuse: there is none."""
        raise tells_none()

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe a model; no URL of this dialect asks for it."""
        return [JSON_TYPE], write_json({"name": model, "signature": signature.render()})

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Refuse: no URL of this dialect asks for it."""
        return self._unknown()

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Refuse: this dialect has no URL that asks about the server."""
        return self._unknown()

    def _unknown(self) -> Answer:
        headers, body = self.write_error(404, "not_found", "PaddleServing has no such operation")
        return Answer(404, headers, body)

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether something answered."""
        return 200 <= status < 300


def _number(body: bytes) -> int | None:
    """The `err_no`; absent is 0, None where the body is no such answer."""
    try:
        document = read_json(body)
    except InvalidPrediction:
        return None
    number = document.get("err_no", 0) if type(document) is dict else None
    return number if type(number) is int else None


def _texts(document: Mapping[str, object], key: str) -> list[str]:
    listed = document.get(key)
    if listed is None:
        return []
    if type(listed) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, f"'{key}' must be a list of strings")
    return [require_text(f"each of '{key}'", each) for each in listed]


def _read(
    document: Mapping[str, object], signature: Signature | None, *, answer: bool = False
) -> tuple[Tensor, ...]:
    listed = document.get("tensors") or []
    if type(listed) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, "'tensors' must be a list")
    tensors = [_tensor(require_object(each)) for each in listed]
    specs = None if signature is None else signature.outputs if answer else signature.inputs
    return read_values(_texts(document, "key"), _texts(document, "value"), tensors, specs)


def _tensor(each: dict[str, object]) -> Tensor:
    name = require_text("a tensor's name", each.get("name"))
    shape = each.get("shape")
    if each.get("lod"):
        raise InvalidPrediction(UNSUPPORTED, f"{name!r} is ragged (lod), which no other protocol carries")
    if type(shape) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, f"{name!r} has no shape")
    elements = {key: value for key, value in each.items() if type(value) is list}
    return make_tensor(name, each.get("elem_type", 0), shape, elements)
