"""Tensors as plain JSON values, the way TensorFlow Serving made common: by rows or by columns, untyped.

A row is a value, or an object with one member per tensor; columns are an object of whole tensors; a single
tensor stands without its name. Datatypes come from what the model declares, shapes from the nesting, so an
empty tensor's inner dimensions are completed from the declaration. Bytes are `{"b64": "..."}`, text may stand
plainly; what is no text, and any tensor whose name ends in `_bytes`, is written as base64.

Source: tensorflow/serving `json_tensor.cc`. KServe V1, and by custom most handlers of TorchServe and MMS,
take and give the same forms.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    NOT_FINITE,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    InvalidPrediction,
)
from gateway.dialects.json_text import write_json, write_non_finite
from gateway.dialects.metadata import TensorSpec
from gateway.dialects.tensors import BYTES, Tensor, is_finite, nest, numbers, unnest

# From JSON to tensors


def is_base64(value: object) -> TypeGuard[dict[str, str]]:
    """Whether an object is `{"b64": "..."}`, a value and not a set of named values."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def read_base64(name: str, value: Mapping[str, str]) -> bytes:
    """Return what `{"b64": ...}` stands for; raises InvalidPrediction (wrong_dtype)."""
    try:
        return b64decode(value["b64"], validate=True)
    except ValueError as refusal:  # binascii.Error is one; non-ASCII text another
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} holds malformed base64") from refusal


def _is_named(value: object) -> bool:
    return type(value) is dict and not is_base64(value)


def read_rows(key: str, values: object, specs: tuple[TensorSpec, ...]) -> tuple[Tensor, ...]:
    """Read a list of rows: values of the only tensor declared, or objects with a member per tensor."""
    if type(values) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, f"'{key}' must be a list")
    if not values:
        return tuple(_tensor(spec, []) for spec in specs)
    if not _is_named(values[0]):
        return (_tensor(_only(specs), values),)
    names = list(values[0])
    for row, value in enumerate(values):
        if not _is_named(value) or value.keys() != values[0].keys():
            raise InvalidPrediction(WRONG_NAME, f"'{key}'[{row}] has not the members that '{key}'[0] has")
    chosen = _choose(names, specs)
    return tuple(_tensor(spec, [value[spec.name] for value in values]) for spec in chosen)


def read_columns(value: object, specs: tuple[TensorSpec, ...]) -> tuple[Tensor, ...]:
    """Read an object with a member per tensor, or the value of the only tensor declared."""
    if type(value) is dict and not is_base64(value):
        return tuple(_tensor(spec, value[spec.name]) for spec in _choose(list(value), specs))
    return (_tensor(_only(specs), value),)


def _only(specs: tuple[TensorSpec, ...]) -> TensorSpec:
    if len(specs) != 1:
        raise InvalidPrediction(WRONG_NAME, f"a value without a name stands where {len(specs)} are declared")
    return specs[0]


def _choose(names: list[str], specs: tuple[TensorSpec, ...]) -> list[TensorSpec]:
    """The declared tensors that were given, in the order declared.

    Raises wrong_name for an undeclared one.
    """
    chosen = [spec for spec in specs if spec.name in names]
    if len(chosen) < len(names):
        declared = {spec.name for spec in specs}
        stray = next(name for name in names if name not in declared)
        raise InvalidPrediction(WRONG_NAME, f"the model has no {stray!r}")
    return chosen


def _tensor(spec: TensorSpec, value: object) -> Tensor:
    shape, flat = unnest(spec.name, value)
    if not flat and spec.shape is not None and len(shape) < len(spec.shape):
        shape += tuple(max(dim, 0) for dim in spec.shape[len(shape) :])
    if spec.dtype == BYTES:
        return Tensor(spec.name, BYTES, shape, [_bytes(spec.name, each) for each in flat])
    return Tensor(spec.name, spec.dtype, shape, numbers(spec.name, spec.dtype, shape, flat))


def _bytes(name: str, value: object) -> bytes:
    if type(value) is str:
        return value.encode()
    if is_base64(value):
        return read_base64(name, value)
    if type(value) is list:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} is ragged: lists and values stand side by side")
    raise InvalidPrediction(WRONG_DTYPE, f'{name!r} is BYTES; give text or {{"b64": "..."}}')


# From tensors to JSON


def write_values(document: dict[str, object], tensors: Sequence[Tensor], *, non_finite: bool = True) -> bytes:
    """Write a document in which tensors stand for their values.

    non_finite: NaN and the infinities may stand as tokens, else they are refused (not_finite).
    """
    finite = all(map(is_finite, tensors))
    if not finite and not non_finite:
        raise InvalidPrediction(
            NOT_FINITE, "a tensor holds NaN or infinity; this protocol has no word for it"
        )
    resolved = {key: _resolve(value, finite) for key, value in document.items()}
    return write_json(resolved) if finite else write_non_finite(resolved)


def _resolve(value: object, finite: bool) -> object:
    """Replace tensors by values that the JSON writer takes: arrays while all is finite, else plain lists."""
    if isinstance(value, Tensor):
        return _value(value, finite)
    if isinstance(value, _Rows):
        names = [tensor.name for tensor in value.tensors]
        columns = [_value(tensor, finite) for tensor in value.tensors]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if type(value) is dict:
        return {name: _resolve(inner, finite) for name, inner in value.items()}
    return value


def _value(tensor: Tensor, finite: bool) -> object:
    data = tensor.data
    if isinstance(data, list):
        binary = tensor.name.endswith("_bytes")
        return nest([_text(element, binary) for element in data], tensor.shape)
    return data if finite and tensor.shape else data.tolist()


def _text(element: bytes, binary: bool) -> object:
    """Plain text where it is text, base64 where it is not, and always for names that end in `_bytes`."""
    if not binary:
        try:
            return element.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": b64encode(element).decode()}


class _Rows:
    """Several outputs to be written row by row."""

    __slots__ = ("tensors",)

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors


def rows_of(outputs: tuple[Tensor, ...]) -> object:
    """Return what `write_values` writes as a list of rows; raises InvalidPrediction (wrong_shape)."""
    lengths = {tensor.shape[0] if tensor.shape else -1 for tensor in outputs}
    if len(lengths) != 1 or -1 in lengths:
        raise InvalidPrediction(
            WRONG_SHAPE, "these tensors share no first dimension, so they have no rows; use a column form"
        )
    return outputs[0] if len(outputs) == 1 else _Rows(outputs)
