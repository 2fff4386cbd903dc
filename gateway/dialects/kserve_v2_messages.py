"""The messages of V2 over gRPC: tensors, parameters and descriptions, read and written.

Field numbers stand beside what reads them. A tensor's elements stand in its typed contents, or all tensors'
in the raw ones (row-major, little-endian; BYTES with u32 lengths), never both. FP16 has no typed contents
(the protocol's own gap): raw only. Numbers out of a narrower datatype's range (300 as UINT8: they travel as
32-bit) are refused. Raw contents are written: they carry every datatype exactly, NaN and empty tensors too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

import numpy as np

from gateway.dialects import wire
from gateway.dialects.binary import from_binary, to_binary
from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    UNSUPPORTED,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    InvalidPrediction,
)
from gateway.dialects.metadata import TensorSpec
from gateway.dialects.tensors import BYTES, DTYPES, NOTHING, NUMPY, Array, Tensor, check_shape
from gateway.dialects.wire import Field

_CONTENTS: Final = {  # field of InferTensorContents by datatype
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    BYTES: 8,
}
_DTYPES: Final = frozenset(DTYPES)


# Reading


def read_tensors(infos: Sequence[bytes], raws: Sequence[bytes]) -> tuple[Tensor, ...]:
    """Read InferInputTensor or InferOutputTensor{1 name, 2 datatype, 3 shape, 4 parameters, 5 contents}."""
    if raws and len(raws) != len(infos):
        raise InvalidPrediction(
            MALFORMED_REQUEST, f"{len(raws)} raw contents stand beside {len(infos)} tensors"
        )
    tensors = tuple([_tensor(info, raws[place] if raws else None) for place, info in enumerate(infos)])
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidPrediction(WRONG_NAME, "two tensors have the same name")
    return tensors


def _tensor(info: bytes, raw: bytes | None) -> Tensor:
    name = dtype = ""
    dims: list[int] = []
    params: dict[str, object] = {}
    contents: bytes | None = None
    for field in wire.fields(info):
        match field[0]:
            case 1:
                name = wire.text(field)
            case 2:
                dtype = wire.text(field)
            case 3:
                dims += map(wire.signed, wire.varints(field))
            case 4:
                read_param(params, wire.nested(field))
            case 5:
                contents = (contents or b"") + wire.nested(field)  # two halves of a message are one
    if dtype not in _DTYPES:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has the unknown datatype {dtype!r:.40}")
    if "shared_memory_region" in params:
        raise InvalidPrediction(UNSUPPORTED, "shared memory can't be reached through a gateway")
    params.pop("binary_data_size", None)
    shape = check_shape(name, dims)
    if raw is not None:
        if contents:
            raise InvalidPrediction(MALFORMED_REQUEST, f"{name!r} has typed contents beside raw ones")
        return Tensor(name, dtype, shape, from_binary(name, dtype, shape, raw), params or NOTHING)
    return Tensor(name, dtype, shape, _typed(name, dtype, shape, contents or b""), params or NOTHING)


def _typed(name: str, dtype: str, shape: tuple[int, ...], contents: bytes) -> Array | list[bytes]:
    tag = _CONTENTS.get(dtype)
    if tag is None:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} is {dtype}, which only raw contents can carry")
    chosen = [field for field in wire.fields(contents) if field[0] in range(1, 9)]
    if any(field[0] != tag for field in chosen):
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} is {dtype}, its contents are of another datatype")
    count = prod(shape)
    if dtype == BYTES:
        texts = [wire.nested(field) for field in chosen]
        _require_count(name, shape, len(texts), count)
        return texts
    values = _numbers(dtype, chosen)
    _require_count(name, shape, len(values), count)
    return _narrowed(name, dtype, values).reshape(shape)


def _numbers(dtype: str, chosen: Sequence[Field]) -> Array:
    if dtype not in ("FP32", "FP64"):
        return wire.all_varints(chosen)
    parts = [wire.fixed(field, "<f4" if dtype == "FP32" else "<f8") for field in chosen]
    if not parts:
        return np.zeros(0, NUMPY[dtype])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _narrowed(name: str, dtype: str, values: Array) -> Array:
    """Bring varints (as uint64) or floats to the datatype; raises wrong_dtype out of its range."""
    target = NUMPY[dtype]
    if target.kind == "f":
        return values.astype(target, copy=False)
    if target.kind == "b":
        truth: Array = values != 0
        return truth
    whole = values.astype(np.uint64)
    if target.kind == "i":
        signed = whole.view(np.int64)
        narrow: Array = signed.astype(target)
        same = bool((narrow == signed).all())
    else:
        narrow = whole.astype(target)
        same = bool((narrow == whole).all())
    if not same:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} holds an integer out of the range of {dtype}")
    return narrow


def _require_count(name: str, shape: tuple[int, ...], have: int, want: int) -> None:
    if have != want:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} declares {list(shape)} and holds {have} values")


def read_output(message: bytes) -> str:
    """Return the name of InferRequestedOutputTensor{1 name, 2 parameters}; raises InvalidPrediction."""
    name = ""
    for field in wire.fields(message):
        if field[0] == 1:
            name = wire.text(field)
        elif field[0] == 2 and b"shared_memory_region" in wire.nested(field):
            raise InvalidPrediction(UNSUPPORTED, "shared memory can't be reached through a gateway")
        elif field[0] == 2 and b"classification" in wire.nested(field):
            raise InvalidPrediction(UNSUPPORTED, "classification of outputs is not supported")
    return name


def read_param(params: dict[str, object], entry: bytes) -> None:
    """Read an entry of map<string, InferParameter>: {1 key, 2 value}.

    InferParameter is one of {1 bool, 2 int64, 3 string, 4 double, 5 uint64}.
    """
    key = ""
    value: object = None
    for field in wire.fields(entry):
        if field[0] == 1:
            key = wire.text(field)
        elif field[0] == 2:
            for inner in wire.fields(wire.nested(field)):
                value = _param_value(inner)
    if value is not None:
        params[key] = value


def _param_value(field: Field) -> object:
    match field[0]:
        case 1:
            return wire.unsigned(field) != 0
        case 2:
            return wire.signed(wire.unsigned(field))
        case 3:
            return wire.text(field)
        case 4 if field[1] == wire.EIGHT:
            value: float = struct.unpack("<d", field[3])[0]
            return value
        case 5:
            return wire.unsigned(field)
        case _:
            return None


def read_spec(message: bytes) -> TensorSpec:
    """Read TensorMetadata{1 name, 2 datatype, 3 shape}."""
    name = dtype = ""
    dims: list[int] = []
    for field in wire.fields(message):
        match field[0]:
            case 1:
                name = wire.text(field)
            case 2:
                dtype = wire.text(field)
            case 3:
                dims += [max(-1, wire.signed(value)) for value in wire.varints(field)]
    if dtype not in _DTYPES:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has the unsupported datatype {dtype!r:.40}")
    return TensorSpec(name, dtype, tuple(dims))


# Writing


def write_tensors(tag: int, tensors: Sequence[Tensor]) -> bytes:
    """Write all but their elements."""
    return b"".join([wire.block(tag, _info(tensor)) for tensor in tensors])


def _info(tensor: Tensor) -> bytes:
    head = wire.string(1, tensor.name) + wire.string(2, tensor.dtype) + wire.packed(3, tensor.shape)
    return head + write_params(4, tensor.params)


def has_typed(tensor: Tensor) -> bool:
    """Whether the protocol has typed contents for it."""
    return tensor.dtype in _CONTENTS


def write_typed(tag: int, tensors: Sequence[Tensor]) -> bytes:
    """Write tensors with typed contents; raises InvalidPrediction (wrong_dtype) for FP16."""
    return b"".join(
        [wire.block(tag, _info(tensor) + wire.block(5, _write_contents(tensor))) for tensor in tensors]
    )


def _write_contents(tensor: Tensor) -> bytes:
    tag = _CONTENTS.get(tensor.dtype)
    if tag is None:
        raise InvalidPrediction(
            WRONG_DTYPE, f"{tensor.name!r} is {tensor.dtype}, which has no typed contents"
        )
    if isinstance(tensor.data, list):
        return b"".join([wire.block(tag, element) for element in tensor.data])
    if tensor.data.dtype.kind == "f":
        content = to_binary(tensor)
        return wire.block(tag, content) if content else b""
    return wire.packed(tag, tensor.data.reshape(-1).tolist())


def write_raw(tag: int, tensors: Sequence[Tensor]) -> bytes:
    """Write their elements, a field for each."""
    return b"".join([wire.block(tag, to_binary(tensor)) for tensor in tensors])


def write_params(tag: int, params: Mapping[str, object]) -> bytes:
    """Write what the protocol has a type for; unsupported: lists and objects."""
    parts = []
    for key, value in params.items():
        match value:
            case bool():
                inner = wire.varint(1 << 3) + wire.varint(int(value))
            case int() if -(1 << 63) <= value < 1 << 63:
                inner = wire.varint(2 << 3) + wire.varint(value)
            case str():
                inner = wire.block(3, value.encode())
            case int() | float():
                inner = wire.varint(4 << 3 | wire.EIGHT) + struct.pack("<d", value)
            case _:
                raise InvalidPrediction(UNSUPPORTED, f"the parameter {key!r:.60} has no place in gRPC's V2")
        parts.append(wire.block(tag, wire.string(1, key) + wire.block(2, inner)))
    return b"".join(parts)


def write_spec(spec: TensorSpec) -> bytes:
    """Write TensorMetadata."""
    shape = (-1,) if spec.shape is None else spec.shape  # the protocol has no word for any rank
    return wire.string(1, spec.name) + wire.string(2, spec.dtype) + wire.packed(3, shape)
