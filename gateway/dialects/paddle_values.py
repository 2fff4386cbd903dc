"""What PaddleServing's pipeline carries: names beside texts (`key`, `value`), and typed tensors.

A value is the JSON or Python text of nested lists (`[[0.1,0.2]]`, `[True]`, `[nan]`), without a datatype:
that comes from the signature (`signature:` in the pool, for the server tells none). A text for a BYTES
tensor that is no list is its one element. Texts are what most pipelines take and return, so texts are
written; NaN and infinities, and bytes that are no text, are refused.

Source: PaddlePaddle/Serving 0.9 `python/pipeline/operator.py`, `pipeline_service.proto`; as it answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    NOT_FINITE,
    NOT_TEXT,
    SIGNATURE_UNKNOWN,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    BackendError,
    ErrorKind,
    InvalidPrediction,
    kind_of,
)
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.json_values import read_columns
from gateway.dialects.metadata import TensorSpec
from gateway.dialects.tensors import BYTES, Tensor, check_shape, is_finite, nest, numbers

ELEMENTS: Final[Mapping[int, tuple[str, str]]] = {  # elem_type: datatype, field of its elements
    0: ("INT64", "int64_data"),
    1: ("FP32", "float_data"),
    2: ("INT32", "int_data"),
    3: ("FP64", "float64_data"),
    4: ("INT16", "int_data"),
    5: ("FP16", "float_data"),
    7: ("UINT8", "uint32_data"),
    8: ("INT8", "int_data"),
    9: ("BOOL", "bool_data"),
    12: (BYTES, "str_data"),
}

_PYTHON: Final = re.compile(rb"\b(?:True|False|nan|inf)\b")
_WORDS: Final = {b"True": b"true", b"False": b"false", b"nan": b"NaN", b"inf": b"Infinity"}

# err_no (error_catch.py): 3000 the client's, 5000 parameters, 6000 time; 10000 anything an operator raised.
_KINDS: Final[Mapping[int, ErrorKind]] = {
    3002: ErrorKind.NOT_FOUND,
    5000: ErrorKind.INVALID,
    6000: ErrorKind.TIMEOUT,
}


def read_values(
    names: Sequence[str],
    texts: Sequence[str],
    tensors: Sequence[Tensor],
    specs: tuple[TensorSpec, ...] | None,
) -> tuple[Tensor, ...]:
    """Put texts and typed tensors together; raises InvalidPrediction."""
    if len(names) != len(texts):
        raise InvalidPrediction(MALFORMED_REQUEST, f"{len(names)} keys stand beside {len(texts)} values")
    if len({*names, *(tensor.name for tensor in tensors)}) < len(names) + len(tensors):
        raise InvalidPrediction(WRONG_NAME, "two tensors have the same name")
    if not names:
        return tuple(tensors)
    if specs is None:
        raise InvalidPrediction(SIGNATURE_UNKNOWN, "the model's signature is not known yet")
    strings = {spec.name for spec in specs if spec.dtype == BYTES}
    columns = {name: _value(text, name in strings) for name, text in zip(names, texts, strict=True)}
    read = read_columns(columns, specs)
    places = {spec.name: place for place, spec in enumerate(specs)}
    return tuple(sorted((*read, *tensors), key=lambda each: places.get(each.name, len(places))))


def _value(text: str, is_bytes: bool) -> object:
    raw = text.encode("utf-8", "surrogatepass")
    try:
        if b'"' not in raw:
            raw = _PYTHON.sub(lambda word: _WORDS[word[0]], raw)
        value = read_json(raw, non_finite=True)
    except InvalidPrediction:
        if is_bytes:
            return [text]
        raise
    return [text] if is_bytes and type(value) is not list else value


def write_values(tensors: Sequence[Tensor]) -> tuple[list[str], list[str]]:
    """Return names and texts; raises InvalidPrediction (not_finite, not_text)."""
    return [tensor.name for tensor in tensors], [_text(tensor) for tensor in tensors]


def _text(tensor: Tensor) -> str:
    data = tensor.data
    if isinstance(data, list):
        try:
            texts: list[object] = [element.decode() for element in data]
        except UnicodeDecodeError as refusal:
            raise InvalidPrediction(NOT_TEXT, f"{tensor.name!r} holds bytes that are no text") from refusal
        return write_json(nest(texts, tensor.shape)).decode()
    if not is_finite(tensor):
        raise InvalidPrediction(NOT_FINITE, f"{tensor.name!r} holds NaN or infinity, which no text carries")
    return write_json(data if tensor.shape else data.tolist()).decode()


def make_tensor(
    name: str, elem_type: object, shape: Sequence[object], of: Mapping[str, Sequence[object]]
) -> Tensor:
    """Make a typed tensor; of: elements by field. Raises InvalidPrediction."""
    known = ELEMENTS.get(elem_type) if type(elem_type) is int else None
    if known is None:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has the unsupported elem_type {elem_type!r:.40}")
    dtype, field = known
    dims = check_shape(name, shape)
    flat = list(of.get(field, ()))
    if len(flat) != prod(dims):
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} declares {list(dims)} and holds {len(flat)} values")
    if dtype == BYTES:
        if not all(type(each) is str for each in flat):
            raise InvalidPrediction(WRONG_DTYPE, f"{name!r} is BYTES; its elements are strings")
        return Tensor(name, dtype, dims, [str(each).encode("utf-8", "surrogatepass") for each in flat])
    if dtype == "INT64":  # protobuf's JSON writes them as texts
        flat = [
            int(each) if type(each) is str and re.fullmatch(r"-?\d{1,19}", each) else each for each in flat
        ]
    return Tensor(name, dtype, dims, numbers(name, dtype, dims, flat))


def error_of(number: int, message: str) -> BackendError:
    """Say what an `err_no` other than 0 means."""
    kind = _KINDS.get(number)
    if kind is None:
        kind = kind_of(500, message)
    return BackendError(kind, message[:2000] or f"the backend answered err_no {number}")
