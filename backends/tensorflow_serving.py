"""TensorFlow Serving's REST API: predict in row and column form, versions, labels, status and metadata.

Source: tensorflow/serving, http_rest_api_handler.cc, json_tensor.cc and their tests; there is no health
route, the readiness of a model is its status. JSON may hold NaN, Infinity and -Infinity in both
directions, as the original's does. classify and regress need a tf.Example signature, which an ONNX graph
has not.

    POST /v1/models/{m}[/versions/{v} | /labels/{l}]:predict
    GET  /v1/models/{m}[/versions/{v} | /labels/{l}]              status
    GET  /v1/models/{m}[/versions/{v} | /labels/{l}]/metadata

    row:    {"instances": [value, …]} or [{input: value, …}, …]
            -> {"predictions": [value | {output: value}, …]}
    column: {"inputs": value | {input: value}}
            -> {"outputs": value | {output: value}}

The name of a single output is left out in both forms.

KServe's V1 protocol is the row form at the same URLs, so both are spoken at once: `GET /v1/models` lists the
models, and the status of a whole model says V1's `name` and `ready` beside TensorFlow Serving's
`model_version_status`. `:explain` has nothing to answer it (501).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

import numpy as np
import orjson

from backends.catalogue import Catalogue
from backends.errors import BackendError, Invalid, MethodNotAllowed, NotFound, Unsupported
from backends.messages import Inference, Reply, parse_object, plain
from backends.served import Served
from backends.tensors import Array, Tensors, TensorSpec
from backends.validation import Validator, to_tensor

PREFIX = "/v1/models"
SIGNATURE = "serving_default"
ROW, COLUMN = "row", "column"

_URL = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?(?:/(metadata)|:(predict|classify|regress|explain))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Target:
    """What a URL names. verb: "", metadata, predict, classify, regress or explain."""

    name: str
    version: str | None
    label: str | None
    verb: str


class TensorFlowServing:
    """The dialect over one catalogue."""

    __slots__ = ("_catalogue",)

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    # URLs

    def get(self, path: str, ready: bool) -> Reply:
        """Answer status and metadata."""
        if path.lower() == PREFIX:  # KServe V1
            return _reply({"models": self._catalogue.names()})
        target = _parse("GET", path)
        if target.verb not in ("", "metadata"):
            raise MethodNotAllowed("POST")
        if target.verb == "metadata":
            return _reply(_metadata(self._catalogue.find(target.name, target.version, target.label)))
        states = self._status(target, ready)
        if target.version is not None or target.label is not None:
            return _reply({"model_version_status": states})
        usable = any(state["state"] == "AVAILABLE" for state in states)
        return _reply({"name": target.name, "ready": usable, "model_version_status": states})

    def find(self, path: str) -> Served:
        """Return the model version of a predict URL."""
        target = _parse("POST", path)
        if target.verb in ("", "metadata"):
            raise MethodNotAllowed("GET")
        if target.verb == "explain":
            raise Unsupported("no explainer is served here")
        if target.verb != "predict":
            raise Invalid(
                f"{target.verb} needs a tf.Example signature, which this model has not; use :predict"
            )
        return self._catalogue.find(target.name, target.version, target.label)

    def _status(self, target: _Target, ready: bool) -> list[dict[str, object]]:
        """Return the named version's state, or every version's, newest first; also of those that failed
        to load."""
        failed = {
            version: reason
            for (name, version), reason in self._catalogue.failed.items()
            if name == target.name and self._catalogue.get((name, version)) is None
        }
        if target.version is not None and target.version in failed:
            return [_state(target.version, "END", "FAILED_PRECONDITION", "the version failed its checks")]
        state = "AVAILABLE" if ready else "UNLOADING"
        if target.version is not None or target.label is not None:
            served = self._catalogue.find(target.name, target.version, target.label)
            return [_state(served.version, state, "OK", "")]
        try:
            versions = [one.version for one in self._catalogue.versions(target.name)]
        except NotFound:
            if not failed:
                raise
            versions = []
        states = [_state(version, state, "OK", "") for version in versions]
        states += [
            _state(version, "END", "FAILED_PRECONDITION", "the version failed its checks")
            for version in failed
        ]
        return sorted(states, key=lambda entry: int(str(entry["version"])), reverse=True)

    # Bodies

    def read(self, body: bytes, headers: Mapping[str, str], served: Served) -> Inference:
        """Read `{"signature_name", "instances" | "inputs"}`."""
        request = _parse_body(body)
        signature = request.get("signature_name") or SIGNATURE
        if signature != SIGNATURE:
            raise Invalid(f'Serving signature name: "{signature}" not found in signature def')
        validator = served.validator
        if ("instances" in request) == ("inputs" in request):
            missing = "Missing 'inputs' or 'instances' key"
            raise validator.refuse(
                "'instances' and 'inputs' exclude each other" if "inputs" in request else missing
            )
        columns: Mapping[str, object]
        if "instances" in request:
            columns, form = _columns_of(request["instances"], validator), ROW
        else:
            columns, form = _named(request["inputs"], validator), COLUMN
        inputs = {name: _tensor(values, validator.spec(name), validator) for name, values in columns.items()}
        return Inference(inputs, validator.count_rows(inputs), validator.signature.outputs, form)

    def write(self, served: Served, inference: Inference, outputs: Tensors) -> Reply:
        """Write `{"predictions": […]}` or `{"outputs": …}`."""
        columns = {spec.name: _to_json(outputs[spec.name], spec) for spec in inference.outputs}
        single = next(iter(columns.values())) if len(columns) == 1 else None
        if inference.form == COLUMN:
            return _reply({"outputs": columns if single is None else single})
        if single is not None:
            return _reply({"predictions": single})
        names = tuple(columns)
        rows = zip(*(_rows(column) for column in columns.values()), strict=True)
        return _reply({"predictions": [dict(zip(names, row, strict=True)) for row in rows]})

    def error(self, error: BackendError) -> Reply:
        """Write `{"error": message}`."""
        return Reply(error.status, orjson.dumps({"error": str(error)}))

    def locate(self, name: str, version: str) -> str:
        """Return the model's URL."""
        return f"{PREFIX}/{quote(name, safe='')}" + (f"/versions/{version}" if version else "")


def _parse(method: str, path: str) -> _Target:
    match = _URL.fullmatch(path)
    if match is None:
        raise Invalid(f"Malformed request: {method} {path}")
    label = unquote(match[3]) if match[3] is not None else None
    return _Target(unquote(match[1]), match[2], label, (match[4] or match[5] or "").lower())


def _state(version: str, state: str, code: str, message: str) -> dict[str, object]:
    return {"version": version, "state": state, "status": {"error_code": code, "error_message": message}}


def _metadata(served: Served) -> dict[str, object]:
    signature = served.signature
    default = {
        "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": served.name, "signature_name": "", "version": served.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: default}}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, object]:
    dims = [{"size": str(size), "name": ""} for size in spec.shape]
    shape = {"dim": dims, "unknown_rank": False}
    return {"dtype": spec.dtype.tensorflow, "tensor_shape": shape, "name": spec.name}


# Reading


def _parse_body(body: bytes) -> dict[str, object]:
    """Return the JSON object; NaN and Infinity, which the original reads, go through the standard
    library."""
    try:
        return parse_object(body)
    except Invalid:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise
        return value


def _columns_of(instances: object, validator: Validator) -> dict[str, list[object]]:
    """Turn a list of rows into one list per input."""
    if not isinstance(instances, list) or not instances:
        raise validator.refuse("'instances' must be a list with at least one row")
    if not _is_named(instances[0]):
        return {_only_input(validator).name: instances}
    columns: dict[str, list[object]] = {name: [] for name in instances[0]}
    for instance in instances:
        if not _is_named(instance) or instance.keys() != columns.keys():
            raise validator.refuse("every instance must have the same inputs")
        for name, value in instance.items():
            columns[name].append(value)
    return columns


def _named(inputs: object, validator: Validator) -> Mapping[str, object]:
    if isinstance(inputs, dict) and _is_named(inputs):
        return inputs
    return {_only_input(validator).name: inputs}


def _is_named(value: object) -> bool:
    """Whether a JSON value is an object of inputs, and not binary text."""
    return isinstance(value, dict) and value.keys() != {"b64"}


def _only_input(validator: Validator) -> TensorSpec:
    if len(validator.signature.inputs) != 1:
        raise validator.refuse("the model has several inputs, so each value needs its name")
    return validator.signature.inputs[0]


def _tensor(values: object, spec: TensorSpec, validator: Validator) -> Array:
    if spec.dtype.name == "BYTES":
        try:
            values = _texts(values, spec, validator)
        except RecursionError as e:
            raise validator.refuse(f"input {spec.name!r} is nested too deeply") from e
    return to_tensor(values, spec, validator.refuse)


def _texts(values: object, spec: TensorSpec, validator: Validator) -> object:
    """Replace `{"b64": …}` by the text that it encodes, at any depth."""
    if isinstance(values, list):
        return [_texts(value, spec, validator) for value in values]
    if isinstance(values, dict):
        try:
            return base64.b64decode(values["b64"], validate=True).decode()
        except (KeyError, TypeError, binascii.Error, UnicodeDecodeError) as e:
            raise validator.refuse(
                f"input {spec.name!r} holds an object that is no base64 of UTF-8 text"
            ) from e
    return values


# Writing


def _to_json(tensor: Array, spec: TensorSpec) -> object:
    """Return what `_reply` can write; names ending in _bytes promise base64 (json_tensor.cc)."""
    if spec.dtype.name == "BYTES" and spec.name.endswith("_bytes"):
        return _encode(tensor.tolist())
    return plain(tensor)


def _encode(values: object) -> object:
    if isinstance(values, list):
        return [_encode(value) for value in values]
    return {"b64": base64.b64encode(str(values).encode()).decode()}


def _rows(column: object) -> list[object]:
    """Return a column row by row. Floats stay NumPy's and are written shortest."""
    if not isinstance(column, np.ndarray):
        return list(column) if isinstance(column, list) else [column]
    if column.ndim == 0:
        return [column]
    return list(column) if column.ndim > 1 or column.dtype.kind == "f" else list(column.tolist())


def _reply(value: object) -> Reply:
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in body:  # how orjson writes NaN and infinities; the original writes them as they are
        body = json.dumps(value, default=_tolist).encode()
    return Reply(200, body)


def _tolist(value: Array) -> object:
    return value.tolist()
