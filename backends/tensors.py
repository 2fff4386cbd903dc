"""Tensors and their types: one table that says how ONNX, NumPy, KServe V2 and TensorFlow name the same
thing.

A tensor is a NumPy array in row-major order. Text (ONNX `string`, V2 `BYTES`) is an object array of str.
Sources: KServe Open Inference Protocol v2, "Tensor data types"; TensorFlow's DataType enum;
onnx.TensorProto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # the element type is only known at run time: it is in the TensorSpec
Tensors = Mapping[str, Array]

ANY = -1  # a dimension whose size is the request's choice


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. `kinds`: the NumPy kinds of parsed JSON values that may be converted to it."""

    name: str  # KServe V2
    onnx: str  # as ONNX Runtime writes it: tensor(float)
    tensorflow: str
    numpy: np.dtype[Any]
    kinds: str


DTYPES = tuple(
    DType(name, f"tensor({onnx})", tensorflow, np.dtype(numpy), kinds)
    for name, onnx, tensorflow, numpy, kinds in (
        ("BOOL", "bool", "DT_BOOL", np.bool_, "b"),
        ("UINT8", "uint8", "DT_UINT8", np.uint8, "iu"),
        ("UINT16", "uint16", "DT_UINT16", np.uint16, "iu"),
        ("UINT32", "uint32", "DT_UINT32", np.uint32, "iu"),
        ("UINT64", "uint64", "DT_UINT64", np.uint64, "iu"),
        ("INT8", "int8", "DT_INT8", np.int8, "iu"),
        ("INT16", "int16", "DT_INT16", np.int16, "iu"),
        ("INT32", "int32", "DT_INT32", np.int32, "iu"),
        ("INT64", "int64", "DT_INT64", np.int64, "iu"),
        ("FP16", "float16", "DT_HALF", np.float16, "iuf"),
        ("FP32", "float", "DT_FLOAT", np.float32, "iuf"),
        ("FP64", "double", "DT_DOUBLE", np.float64, "iuf"),
        ("BYTES", "string", "DT_STRING", np.object_, "U"),
    )
)
BY_NAME = {dtype.name: dtype for dtype in DTYPES}
BY_ONNX = {dtype.onnx: dtype for dtype in DTYPES}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, type and shape of one input or output; ANY in the shape is a free dimension."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = ",".join("n" if dim == ANY else str(dim) for dim in self.shape)
        return f"{self.name} {self.dtype.name} [{sizes}]"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether `shape` is one of the shapes that this spec allows."""
        return len(shape) == len(self.shape) and all(
            dim in (ANY, size) for dim, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batched(self) -> bool:
        """Whether rows of several requests may be joined: dimension 0 of every tensor is free."""
        return all(spec.shape[:1] == (ANY,) for spec in (*self.inputs, *self.outputs))

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"
