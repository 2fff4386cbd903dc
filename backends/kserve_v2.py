"""KServe V2, the Open Inference Protocol over REST, with versions in the URL and the binary tensor
extension.

Source: the Open Inference Protocol, "REST", and Triton's "binary tensor data extension". Where servers
differ: malformed requests are always 400 (Triton says 500 to some, MLServer 422), tensors keep their
rank ([n] stays [n]), `id` comes back only when it was sent, and `versions` lists what this process
serves.

    GET  /v2                                      server metadata
    GET  /v2/health/live | /v2/health/ready
    GET  /v2/models/{m}[/versions/{v}][/ready]    metadata, readiness
    POST /v2/models/{m}[/versions/{v}]/infer

Binary: the header `Inference-Header-Content-Length` gives the length of the JSON; the tensors' bytes
follow in order, little-endian and row-major; text is u32 length + UTF-8 for each element.

`parameters.priority` (1 first, 9 last) and `parameters.timeout` (µs) are Triton's, and the repository API
(`/v2/repository/…`) is repository_api.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from math import inf
from urllib.parse import quote, unquote

import numpy as np
import orjson

from backends.catalogue import Catalogue
from backends.errors import BackendError, EngineFailure, Invalid, MethodNotAllowed, NotFound
from backends.messages import Inference, Reply, parse_object, plain, read_level
from backends.served import Served
from backends.tensors import Array, Tensors, TensorSpec
from backends.validation import Validator, to_tensor
from backends.waiting import NORMAL

PREFIX = "/v2"
HEADER_LENGTH = "Inference-Header-Content-Length"
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data", "model_repository")

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")


class KServeV2:
    """The dialect over one catalogue."""

    __slots__ = ("_catalogue", "_server_version")

    def __init__(self, catalogue: Catalogue, server_version: str) -> None:
        self._catalogue = catalogue
        self._server_version = server_version

    # URLs

    def get(self, path: str, ready: bool) -> Reply:
        """Answer health, readiness and metadata."""
        if path == "/v2":
            return _reply(
                {"name": "headgate-backend", "version": self._server_version, "extensions": EXTENSIONS}
            )
        if path == "/v2/health/live":
            return _reply({"live": True})
        if path == "/v2/health/ready":
            return _reply({"ready": ready}, 200 if ready else 503)
        name, version, verb = _parse(path)
        if verb == "/infer":
            raise MethodNotAllowed("POST")
        served = self._catalogue.find(name, version)
        if verb == "/ready":
            return _reply({"name": name, "ready": ready}, 200 if ready else 503)
        return _reply(self._metadata(served))

    def find(self, path: str) -> Served:
        """Return the model version of an infer URL."""
        name, version, verb = _parse(path)
        if verb != "/infer":
            raise MethodNotAllowed("GET")
        return self._catalogue.find(name, version)

    def _metadata(self, served: Served) -> dict[str, object]:
        signature = served.signature
        return {
            "name": served.name,
            "versions": [one.version for one in self._catalogue.versions(served.name)],
            "platform": PLATFORM,
            "inputs": [_describe(spec) for spec in signature.inputs],
            "outputs": [_describe(spec) for spec in signature.outputs],
        }

    # Bodies

    def read(self, body: bytes, headers: Mapping[str, str], served: Served) -> Inference:
        """Read `{"id", "inputs": [{name, datatype, shape, data}], "outputs": [{name}]}`."""
        header, raw = _split(body, headers.get(HEADER_LENGTH))
        request = parse_object(header)
        validator = served.validator
        inputs = _read_inputs(request.get("inputs"), _Bytes(raw), validator)
        rows = validator.count_rows(inputs)
        parameters = request.get("parameters")
        all_binary, level, timeout = False, NORMAL, inf
        if isinstance(parameters, dict):
            all_binary = parameters.get("binary_data_output") is True
            level = read_level(parameters.get("priority", 0))
            timeout = _read_timeout(parameters.get("timeout", 0))
        outputs, binary = _read_outputs(request.get("outputs"), validator, all_binary)
        identifier = request.get("id")
        if identifier is not None and not isinstance(identifier, str):
            raise Invalid("'id' must be a string")
        return Inference(inputs, rows, outputs, identifier, binary, level, timeout)

    def write(self, served: Served, inference: Inference, outputs: Tensors) -> Reply:
        """Write `{"model_name", "model_version", "id", "outputs": [{name, datatype, shape, data}]}`."""
        answer: dict[str, object] = {"model_name": served.name, "model_version": served.version}
        if inference.form is not None:
            answer["id"] = inference.form
        written, raw = [], []
        for spec in inference.outputs:
            tensor = outputs[spec.name]
            entry: dict[str, object] = {"name": spec.name, "datatype": spec.dtype.name, "shape": tensor.shape}
            if spec.name in inference.binary:
                raw.append(to_bytes(tensor, spec))
                entry["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                entry["data"] = plain(tensor.ravel())
            written.append(entry)
        answer["outputs"] = written
        header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        if b"null" in header:  # how orjson writes what JSON has no number for
            _check_finite(inference, outputs)
        if not inference.binary:
            return Reply(200, header)
        return Reply(
            200, b"".join((header, *raw)), "application/octet-stream", {HEADER_LENGTH: str(len(header))}
        )

    def error(self, error: BackendError) -> Reply:
        """Write `{"error": message}`."""
        return _reply({"error": str(error)}, error.status)

    def locate(self, name: str, version: str) -> str:
        """Return the model's URL."""
        return f"/v2/models/{quote(name, safe='')}" + (f"/versions/{version}" if version else "")


def _reply(value: object, status: int = 200) -> Reply:
    return Reply(status, orjson.dumps(value))


def _parse(path: str) -> tuple[str, str | None, str | None]:
    match = _MODEL.fullmatch(path)
    if match is None:
        raise NotFound("no such URL")
    return unquote(match[1]), match[2], match[3]


def _describe(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.dtype.name, "shape": spec.shape}


# Reading tensors


class _Bytes:
    """The raw part of a body, consumed tensor by tensor."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, size: object) -> memoryview:
        """Return the next `size` bytes."""
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(self._data) - self._at:
            raise Invalid("'binary_data_size' does not fit the bytes that follow the JSON")
        start, self._at = self._at, self._at + size
        return self._data[start : self._at]

    def finish(self) -> None:
        """Refuse bytes that belong to no tensor."""
        if self._at != len(self._data):
            raise Invalid(f"{len(self._data) - self._at} bytes after the last tensor")


def _read_timeout(said: object) -> float:
    """Return seconds; Triton's `timeout` is in microseconds, and 0 means none."""
    if type(said) is not int or said < 0:
        raise Invalid("'timeout' must be a whole number of microseconds")
    return said / 1e6 if said else inf


def _split(body: bytes, length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and the raw tensors that follow it."""
    if length is None:
        return body, memoryview(b"")
    if not length.isdecimal() or not 0 < int(length) <= len(body):
        raise Invalid(f"{HEADER_LENGTH} must be the length of the JSON, 1..{len(body)}")
    return body[: int(length)], memoryview(body)[int(length) :]


def _read_inputs(entries: object, raw: _Bytes, validator: Validator) -> dict[str, Array]:
    if not isinstance(entries, list) or not entries:
        raise validator.refuse("'inputs' must be a list of tensors")
    inputs: dict[str, Array] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise validator.refuse("every input needs a 'name'")
        spec = validator.spec(entry["name"])
        if spec.name in inputs:
            raise validator.refuse(f"input {spec.name!r} stands there twice")
        inputs[spec.name] = _read_tensor(entry, spec, raw, validator)
    raw.finish()
    return inputs


def _read_tensor(entry: Mapping[str, object], spec: TensorSpec, raw: _Bytes, validator: Validator) -> Array:
    if entry.get("datatype") != spec.dtype.name:
        raise validator.refuse(f"input {spec.name!r} has datatype {entry.get('datatype')!r}")
    shape = read_shape(entry.get("shape"), spec, validator)
    parameters = entry.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        tensor = from_bytes(raw.take(parameters["binary_data_size"]), spec, validator)
    elif "data" in entry:
        tensor = to_tensor(entry["data"], spec, validator.refuse)
    else:
        raise validator.refuse(f"input {spec.name!r} has no 'data'")
    if tensor.shape == shape:
        return tensor
    count = 1
    for size in shape:
        count *= size
    if tensor.ndim != 1 or tensor.size != count:
        raise validator.refuse(
            f"input {spec.name!r} holds {tensor.size} values, its shape {list(shape)} needs {count}"
        )
    return tensor.reshape(shape)


def read_shape(shape: object, spec: TensorSpec, validator: Validator) -> tuple[int, ...]:
    """Return the sizes of a tensor. Invalid where they don't fit the spec."""
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise validator.refuse(f"input {spec.name!r}: 'shape' must be a list of sizes")
    if not spec.fits(shape):
        raise validator.refuse(f"input {spec.name!r} has shape {shape}")
    return tuple(shape)


def from_bytes(data: memoryview, spec: TensorSpec, validator: Validator) -> Array:
    """Return a flat tensor from its little-endian bytes."""
    if spec.dtype.name == "BYTES":
        return np.array(_split_texts(data, validator), dtype=np.object_)
    if len(data) % spec.dtype.numpy.itemsize:
        raise validator.refuse(
            f"input {spec.name!r}: {len(data)} bytes are no whole number of {spec.dtype.name}"
        )
    if spec.dtype.name == "BOOL":
        return np.frombuffer(data, dtype=np.uint8).astype(np.bool_)
    return np.frombuffer(data, dtype=spec.dtype.numpy.newbyteorder("<"))


def _split_texts(data: memoryview, validator: Validator) -> list[str]:
    texts, at = [], 0
    while at < len(data):
        end = at + 4 + struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data) + 1
        if end > len(data):
            raise validator.refuse("text is cut short")
        try:
            texts.append(str(data[at + 4 : end], "utf-8"))
        except UnicodeDecodeError as e:
            raise validator.refuse("text is not UTF-8") from e
        at = end
    return texts


def _read_outputs(
    entries: object, validator: Validator, all_binary: bool
) -> tuple[tuple[TensorSpec, ...], frozenset[str]]:
    """Return the outputs that the client wants, and which of them as raw bytes."""
    if entries is None or entries == []:
        chosen = validator.signature.outputs
        return chosen, frozenset(spec.name for spec in chosen) if all_binary else frozenset()
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise validator.refuse("'outputs' must be a list of {'name': …}")
    chosen = validator.outputs(entry["name"] for entry in entries)
    binary = frozenset(entry["name"] for entry in entries if _wants_binary(entry, all_binary))
    return chosen, binary


def _wants_binary(entry: Mapping[str, object], default: bool) -> bool:
    parameters = entry.get("parameters")
    wish = parameters.get("binary_data") if isinstance(parameters, dict) else None
    return wish if isinstance(wish, bool) else default


# Writing tensors


def to_bytes(tensor: Array, spec: TensorSpec) -> bytes:
    """Return a tensor's bytes: little-endian, row-major; text as u32 length + UTF-8."""
    if spec.dtype.name == "BYTES":
        texts: Sequence[bytes] = [str(text).encode() for text in tensor.ravel()]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return tensor.astype(spec.dtype.numpy.newbyteorder("<"), copy=False).tobytes()


def _check_finite(inference: Inference, outputs: Tensors) -> None:
    for spec in inference.outputs:
        tensor = outputs[spec.name]
        if spec.name not in inference.binary and tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise EngineFailure(
                f"output {spec.name!r} is not finite, which JSON cannot carry; ask for binary data"
            )
