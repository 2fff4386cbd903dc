"""TensorFlow's TensorProto, both of its encodings.

Elements stand in `tensor_content` (row-major, little-endian), or in the repeated field of the datatype. Of
those fewer may stand than the shape has: the last one is meant for the rest, and none at all means zeros
(tensor.cc, FromProtoField): a million equal numbers are one. We write `tensor_content` for numbers and
`string_val` for strings, as TensorFlow's own clients do.

Source: tensorflow/core/framework/tensor.proto, tensor_shape.proto, types.proto; tensor_coding.cc for strings
in `tensor_content` (their lengths as varints, then their bytes).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Final

import numpy as np

from gateway.dialects import wire
from gateway.dialects.binary import from_binary, to_binary
from gateway.dialects.errors import WRONG_DTYPE, WRONG_SHAPE, InvalidPrediction
from gateway.dialects.tensors import BYTES, MAX_ELEMENTS, NUMPY, Array, Tensor, check_shape
from gateway.dialects.wire import Field

LARGEST_FILLED: Final = 16 * 1024 * 1024  # elements that a message of a few bytes may stand for

_CODES: Final[Mapping[str, int]] = {
    "FP32": 1,
    "FP64": 2,
    "INT32": 3,
    "UINT8": 4,
    "INT16": 5,
    "INT8": 6,
    BYTES: 7,
    "INT64": 9,
    "BOOL": 10,
    "UINT16": 17,
    "FP16": 19,
    "UINT32": 22,
    "UINT64": 23,
}
_DTYPES: Final[Mapping[int, str]] = {code: dtype for dtype, code in _CODES.items()}
_VALUES: Final[Mapping[str, int]] = {  # the repeated field by datatype
    "FP32": 5,
    "FP64": 6,
    "INT32": 7,
    "UINT8": 7,
    "INT16": 7,
    "INT8": 7,
    "UINT16": 7,
    BYTES: 8,
    "INT64": 10,
    "BOOL": 11,
    "FP16": 13,
    "UINT32": 16,
    "UINT64": 17,
}


def read_type(name: str, message: bytes, of_dtype: int, of_shape: int) -> tuple[str, tuple[int, ...] | None]:
    """Read a datatype and a shape (-1: any size; None: any rank) from the fields that hold them.

    Raises InvalidPrediction (wrong_dtype, malformed_request).
    """
    code, dims = 0, b""
    for field in wire.fields(message):
        if field[0] == of_dtype:
            code = wire.unsigned(field)
        elif field[0] == of_shape:
            dims = wire.nested(field)
    return _dtype(name, code), _read_shape(dims)


def read_tensor(name: str, message: bytes) -> Tensor:
    """Read TensorProto{1 dtype, 2 tensor_shape, 4 tensor_content, 5 … 17 values}.

    Raises InvalidPrediction.
    """
    code = 0
    dims = content = b""
    values: list[Field] = []
    for field in wire.fields(message):
        match field[0]:
            case 1:
                code = wire.unsigned(field)
            case 2:
                dims = wire.nested(field)
            case 4:
                content = wire.nested(field)
            case _:
                values.append(field)
    dtype = _dtype(name, code)
    known = _read_shape(dims)
    if known is None:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} has no shape")
    shape = check_shape(name, known)
    tag = _VALUES[dtype]
    values = [field for field in values if field[0] == tag]
    if dtype == BYTES:
        texts = _coded(content, prod(shape)) if content else [wire.nested(field) for field in values]
        return Tensor(name, dtype, shape, _filled(name, shape, texts))
    if content:
        return Tensor(name, dtype, shape, from_binary(name, dtype, shape, content))
    return Tensor(name, dtype, shape, _numbers(name, dtype, shape, values))


def _dtype(name: str, code: int) -> str:
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has TensorFlow's datatype {code}, not supported")
    return dtype


def _read_shape(message: bytes) -> tuple[int, ...] | None:
    """Read TensorShapeProto{2 dim{1 size}, 3 unknown_rank}."""
    sizes: list[int] = []
    for field in wire.fields(message):
        if field[0] == 3 and field[2]:
            return None
        if field[0] == 2:
            size = 0
            for inner in wire.fields(wire.nested(field)):
                if inner[0] == 1:
                    size = wire.signed(wire.unsigned(inner))
            sizes.append(max(-1, size))
    return tuple(sizes)


def _numbers(name: str, dtype: str, shape: tuple[int, ...], fields: list[Field]) -> Array:
    target = NUMPY[dtype]
    if dtype in ("FP32", "FP64"):
        parts = [wire.fixed(field, "<f4" if dtype == "FP32" else "<f8") for field in fields]
        values: Array = np.concatenate(parts) if parts else np.zeros(0, target)
    else:
        values = _narrowed(name, dtype, wire.all_varints(fields))
    count = prod(shape)
    if len(values) > count:
        raise _too_many(name, shape, len(values))
    if len(values) < count:
        _may_fill(name, count)
        filled = np.zeros(count, target)
        filled[: len(values)] = values
        if len(values):
            filled[len(values) :] = values[-1]
        values = filled
    return values.astype(target, copy=False).reshape(shape)


def _narrowed(name: str, dtype: str, whole: Array) -> Array:
    """Bring varints to the datatype: halves are their bits, the others numbers that must be in its range."""
    target = NUMPY[dtype]
    unsigned = whole.astype(np.uint64)
    if dtype == "FP16":
        return unsigned.astype(np.uint16).view(np.float16)
    if dtype == "BOOL":
        truth: Array = unsigned != 0
        return truth
    source = unsigned.view(np.int64) if target.kind == "i" or _VALUES[dtype] == 7 else unsigned
    narrow: Array = source.astype(target)
    if not bool((narrow.astype(source.dtype) == source).all()):
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} holds an integer out of the range of {dtype}")
    return narrow


def _filled(name: str, shape: tuple[int, ...], texts: list[bytes]) -> list[bytes]:
    count = prod(shape)
    if len(texts) > count:
        raise _too_many(name, shape, len(texts))
    if len(texts) < count:
        _may_fill(name, count)
        texts = texts + [texts[-1] if texts else b""] * (count - len(texts))
    return texts


def _may_fill(name: str, count: int) -> None:
    if count > LARGEST_FILLED:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} announces {count} elements and brings fewer")


def _too_many(name: str, shape: tuple[int, ...], have: int) -> InvalidPrediction:
    return InvalidPrediction(WRONG_SHAPE, f"{name!r} declares {list(shape)} and holds {have} values")


def _coded(content: bytes, count: int) -> list[bytes]:
    """Read strings of `tensor_content`: as many varint lengths as elements, then the bytes of all."""
    sizes, at = wire.leading_varints(content, min(count, MAX_ELEMENTS))
    texts: list[bytes] = []
    for size in sizes:
        texts.append(content[at : at + size])
        at += size
    if at != len(content):
        raise wire.Broken("its strings do not fill tensor_content")
    return texts


def write_type(tag: int, dtype: str) -> bytes:
    """Write a field of the enum DataType."""
    return wire.number(tag, _CODES[dtype])


def write_shape(shape: tuple[int, ...] | None) -> bytes:
    """Write a TensorShapeProto; None: any rank."""
    if shape is None:
        return wire.number(3, 1)
    return b"".join([wire.block(2, wire.number(1, size)) for size in shape])


def write_tensor(tensor: Tensor) -> bytes:
    """Write a TensorProto."""
    head = write_type(1, tensor.dtype) + wire.block(2, write_shape(tensor.shape))
    if isinstance(tensor.data, list):
        return head + b"".join([wire.block(8, element) for element in tensor.data])
    content = to_binary(tensor)
    return head + wire.block(4, content) if content else head
