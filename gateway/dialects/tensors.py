"""The neutral form of a prediction: named tensors, as every dialect reads and writes them.

Each dialect translates to and from this form only, so N dialects are N files, not N². Datatypes have the
names of KServe V2 (BOOL, INT8 … FP64, BYTES). Numbers live in numpy arrays in native order; BYTES elements
are byte strings in a flat row-major list, because JSON text, base64 and length-prefixed binary all end
there.

Reading numbers is strict where precision or meaning could be lost, and tolerant where the protocols' JSON is
ambiguous by nature:
- A float datatype takes any JSON number; one too large for it is refused, not turned into infinity.
- An integer datatype takes integers in its range, and numbers like `1.0` or `1e0` up to 2^53 (JSON knows one
  kind of number). int64 and uint64 never pass through a float.
- BOOL takes true and false only. null, and numbers written as strings, are refused.
FP32 goes through decimal text unharmed: orjson writes the shortest decimal that names the float32, and
reading that decimal as a double and rounding once more lands on the same float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from gateway.dialects.errors import WRONG_DTYPE, WRONG_SHAPE, InvalidPrediction

Array = npt.NDArray[np.generic]
Style = Literal["row", "column", "named", "binary", "classify", "regress"]

BYTES: Final = "BYTES"
MAX_RANK: Final = 32  # numpy's own bound before 2.0
MAX_ELEMENTS: Final = 1 << 40  # announced, not held: keeps the sizes of hostile shapes inside 64 bits
MAX_EMPTY: Final = (
    1 << 20
)  # the other dimensions of an empty tensor: [10^11, 0] is no data, and 10^11 empty lists

NUMPY: Final[Mapping[str, np.dtype[np.generic]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
_RANGE: Final = {
    name: (0, 256**dtype.itemsize - 1)
    if dtype.kind == "u"
    else (-(256**dtype.itemsize) // 2, 256**dtype.itemsize // 2 - 1)
    for name, dtype in NUMPY.items()
    if dtype.kind in "iu"
}
DTYPES: Final = (*NUMPY, BYTES)

NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One named tensor.

    data: an array of `shape` and of the numpy type of `dtype`, C-contiguous and native; for BYTES a flat
    row-major list of prod(shape) byte strings. params: what the sender said about this tensor alone (V2
    only).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Array | list[bytes]
    params: Mapping[str, object] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A prediction asked for.

    version and label: as the client's URL chose them, None if it left the choice. signature: TensorFlow's
    signature name, "" for the default one. outputs: the names wanted, None for all. params: V2's request
    parameters. style: the form of the answer that the client expects (TensorFlow Serving: row, column, or
    what its classify and regress return; V2: named or binary).
    """

    id: str | None
    model: str
    version: str | None
    label: str | None
    signature: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] | None
    params: Mapping[str, object]
    style: Style


@dataclass(frozen=True, slots=True, eq=False)
class InferResponse:
    """A prediction made. version: "" when the backend did not say."""

    id: str | None
    model: str
    version: str
    outputs: tuple[Tensor, ...]
    params: Mapping[str, object]


def rows(request: InferRequest) -> int:
    """Rows to be paid for.

    The largest first dimension of the inputs; a scalar is one row, an empty batch none.
    """
    return max((tensor.shape[0] if tensor.shape else 1 for tensor in request.inputs), default=0)


# From JSON values to tensors


def unnest(name: str, data: object) -> tuple[tuple[int, ...], list[object]]:
    """Split nested lists into their shape and their scalars in row-major order. A bare value has shape ().

    Raises InvalidPrediction (wrong_shape) if the nesting is ragged or deeper than 32.
    """
    if type(data) is not list:
        return (), [data]
    flat: list[object] = data
    shape = [len(flat)]
    while flat and type(flat[0]) is list:
        width = len(flat[0])
        if set(map(type, flat)) != {list} or set(map(len, flat)) != {width}:  # type: ignore[arg-type]
            raise InvalidPrediction(
                WRONG_SHAPE, f"{name!r} is ragged: its lists at depth {len(shape)} differ"
            )
        if len(shape) == MAX_RANK:
            raise InvalidPrediction(WRONG_SHAPE, f"{name!r} is nested deeper than {MAX_RANK} levels")
        flat = list(chain.from_iterable(flat))  # type: ignore[arg-type]
        shape.append(width)
    return tuple(shape), flat


def check_shape(name: str, shape: Sequence[object]) -> tuple[int, ...]:
    """Return a declared shape as a tuple; raises InvalidPrediction (wrong_shape) on a hostile one."""
    if len(shape) > MAX_RANK:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} has more than {MAX_RANK} dimensions")
    size = 1
    dims: list[int] = []
    for dim in shape:
        if type(dim) is not int or not 0 <= dim < MAX_ELEMENTS:
            raise InvalidPrediction(WRONG_SHAPE, f"{name!r}: a dimension must be a natural number")
        size *= dim or 1
        dims.append(dim)
    if size > (MAX_EMPTY if 0 in dims else MAX_ELEMENTS):
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r}: the shape announces more elements than can exist")
    return tuple(dims)


def numbers(name: str, dtype: str, shape: tuple[int, ...], flat: list[object]) -> Array:
    """Make the array of a numeric or BOOL tensor from JSON scalars, prod(shape) == len(flat).

    Raises InvalidPrediction (wrong_dtype) for values of another kind or out of the datatype's range.
    """
    target = NUMPY[dtype]
    kind = target.kind
    types = set(map(type, flat))
    if kind == "f":
        if not types <= {float, int}:
            raise _misfit(name, dtype, flat, (float, int))
        return _floats(name, dtype, flat, target).reshape(shape)
    if kind == "b":
        if not types <= {bool}:
            raise _misfit(name, dtype, flat, (bool,))
        return np.array(flat, target).reshape(shape)
    if not types <= {int}:
        flat = _whole(name, dtype, flat)
    if flat:
        low, high = _RANGE[dtype]
        if min(flat) < low or max(flat) > high:  # type: ignore[type-var, operator]
            raise InvalidPrediction(WRONG_DTYPE, f"{name!r} holds an integer out of the range of {dtype}")
    return np.array(flat, target).reshape(shape)


def _floats(name: str, dtype: str, flat: list[object], target: np.dtype[np.generic]) -> Array:
    try:
        doubles = np.array(flat, np.float64)
    except OverflowError as too_large:
        raise InvalidPrediction(
            WRONG_DTYPE, f"{name!r} holds a number out of the range of {dtype}"
        ) from too_large
    if target.itemsize == 8:
        return doubles
    with np.errstate(over="ignore", under="ignore"):
        narrowed = doubles.astype(target)
    if not np.isfinite(narrowed).all() and np.isfinite(doubles[np.isinf(narrowed)]).any():
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} holds a number out of the range of {dtype}")
    return narrowed


def _whole(name: str, dtype: str, flat: list[object]) -> list[object]:
    """Accept floats that are integers and exact: 1.0 and 1e0 are 1, as in JSON's one kind of number."""
    whole: list[object] = []
    for value in flat:
        if type(value) is float and value.is_integer() and abs(value) <= 2**53:
            whole.append(int(value))
        elif type(value) is int:
            whole.append(value)
        else:
            raise _misfit(name, dtype, [value], ())
    return whole


def _misfit(name: str, dtype: str, flat: list[object], allowed: tuple[type, ...]) -> InvalidPrediction:
    wrong = next(value for value in flat if type(value) not in allowed)
    if type(wrong) is list:
        return InvalidPrediction(WRONG_SHAPE, f"{name!r} is ragged: lists and values stand side by side")
    return InvalidPrediction(WRONG_DTYPE, f"{name!r} is {dtype}, and holds {_describe(wrong)}")


def _describe(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "a string"
        case dict():
            return "an object"
        case _:
            return f"the number {value!r:.40}"


# From tensors to JSON values


def nest(flat: Sequence[object], shape: tuple[int, ...]) -> object:
    """Fold scalars in row-major order into nested lists of `shape`; a scalar for shape ()."""
    if not shape:
        return flat[0]
    folded: list[object] = list(flat)
    for depth in range(len(shape) - 1, 0, -1):
        width = shape[depth]
        count = prod(shape[:depth])
        folded = [folded[start * width : (start + 1) * width] for start in range(count)]
    return folded


def is_finite(tensor: Tensor) -> bool:
    """Whether the tensor holds neither NaN nor an infinity."""
    data = tensor.data
    return isinstance(data, list) or data.dtype.kind != "f" or bool(np.isfinite(data).all())
