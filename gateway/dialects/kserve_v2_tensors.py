"""Tensors in V2's JSON, read and written: the members of a prediction and of its answer.

`data` may be flat or nested as `shape` says, or stand behind the JSON as binary (binary.py). BYTES in JSON
are UTF-8 text. Nothing non-finite is written as JSON: orjson would make it null, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Final

from gateway.dialects.binary import JSON_LENGTH, BinaryTail, from_binary, to_binary
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
from gateway.dialects.json_text import write_json
from gateway.dialects.protocol import require_text
from gateway.dialects.tensors import BYTES, DTYPES, NOTHING, Tensor, check_shape, is_finite, numbers, unnest
from gateway.http.message import Headers

_DTYPES: Final = frozenset(DTYPES)

# Reading


def read_outputs(asked: object) -> tuple[tuple[str, ...] | None, bool]:
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
        params = read_params(each)
        if "classification" in params:
            raise InvalidPrediction(UNSUPPORTED, "classification of outputs is not supported")
        _refuse_shared_memory(params)
        wants_binary |= params.get("binary_data") is True
    return tuple(names), wants_binary


def read_tensors(document: dict[str, object], key: str, binary: BinaryTail | None) -> tuple[Tensor, ...]:
    """Read `inputs` or `outputs`. binary: what stands behind the JSON. Raises InvalidPrediction."""
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
    params = read_params(each)
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


def read_params(holder: Mapping[str, object]) -> Mapping[str, object]:
    """Return the `parameters` of a prediction, an answer or a tensor; raises InvalidPrediction."""
    params = holder.get("parameters")
    if params is None or params == {}:
        return NOTHING
    if type(params) is not dict:
        raise InvalidPrediction(MALFORMED_REQUEST, "'parameters' must be an object")
    return params


def _refuse_shared_memory(params: Mapping[str, object]) -> None:
    if "shared_memory_region" in params:
        raise InvalidPrediction(UNSUPPORTED, "shared memory can't be reached through a gateway")


def optional_text(document: Mapping[str, object], key: str) -> str | None:
    """Return a member that may be missing or null, and is text; raises InvalidPrediction."""
    value = document.get(key)
    return None if value is None else require_text(f"'{key}'", value)


# Writing


def write_tensor(tensor: Tensor) -> dict[str, object]:
    """Return a tensor's members; raises InvalidPrediction (not_finite, not_text)."""
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


def write_binary(document: dict[str, object], outputs: tuple[Tensor, ...]) -> tuple[Headers, bytes]:
    """Write an answer with all its tensors behind the JSON. document: its other members."""
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
