"""Where the tensors of a load test come from: random ones that fit the signature, or the user's own. No I/O
but reading the user's file once.

A user's file is one of
    NAME.npy      an array whose first axis is a pool of rows to draw from; for the model's only input
    NAME.json     the same as nested lists, or a list of records that name inputs and, where known, outputs:
                  [{"input": [64 numbers], "label": 3}, …]     an answer is then checked against the outputs
A random tensor is different each time, so no cache can answer it; a row of the user's file comes back again
and again. `noise` makes such a row new without changing what it shows: so much, of the value's size, is
added to each element of floating-point inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.tensors import BYTES, NUMPY

Array = npt.NDArray[np.generic]
Tensors = Mapping[str, Array]


class BadInput(ValueError):
    """The user's tensors don't fit the model or can't be read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request asks. expected: outputs by name, rows first, as far as they are known."""

    inputs: Tensors
    rows: int
    expected: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RandomTensors:
    """Numbers between low and high; `length` stands for dimensions that are open, but for the batch."""

    signature: Signature
    low: float = 0.0
    high: float = 1.0
    length: int = 8

    def draw(self, rows: int, rng: np.random.Generator) -> Batch:
        """Return a new batch; a model without a batch dimension gets one row."""
        rows = rows if is_batched(self.signature) else 1
        return Batch({spec.name: self._tensor(spec, rows, rng) for spec in self.signature.inputs}, rows)

    def _tensor(self, spec: TensorSpec, rows: int, rng: np.random.Generator) -> Array:
        shape = _fill(spec, rows, self.length)
        if spec.dtype == BYTES:
            return np.array([f"text-{number}" for number in rng.integers(1 << 30, size=shape).flat]).reshape(
                shape
            )
        dtype = NUMPY[spec.dtype]
        if dtype.kind == "b":
            return rng.integers(2, size=shape).astype(dtype)
        if dtype.kind == "f":
            return rng.uniform(self.low, self.high, size=shape).astype(dtype)
        top = max(round(self.high), round(self.low) + 1)
        return rng.integers(round(self.low), top, size=shape).astype(dtype)


@dataclass(frozen=True, slots=True)
class Records:
    """Rows of the user's: per input (and known output) one array, its first axis the rows to draw from."""

    inputs: Tensors
    outputs: Tensors
    count: int

    def draw(self, rows: int, rng: np.random.Generator, noise: float = 0.0) -> Batch:
        """Return so many rows, picked by chance."""
        picked = rng.integers(self.count, size=rows)
        inputs = {name: _shaken(array[picked], noise, rng) for name, array in self.inputs.items()}
        return Batch(inputs, rows, {name: array[picked] for name, array in self.outputs.items()})


def is_batched(signature: Signature) -> bool:
    """Whether several rows fit into one request."""
    return all(_leads(spec) for spec in signature.inputs)


def load(path: Path, signature: Signature) -> Records:
    """Read the user's file for this model. Raises BadInput."""
    try:
        if path.suffix == ".npy":
            return _rows(np.load(path, allow_pickle=False), signature, path)
        content = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{path} is neither .npy nor JSON: {error}") from error
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return _records(content, signature, path)
    return _rows(content, signature, path)


def _rows(content: object, signature: Signature, path: Path) -> Records:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise BadInput(f"{path}: the model has several inputs ({names}); give a JSON list of records")
    spec = signature.inputs[0]
    array = _column(content, spec, path)
    return Records({spec.name: array}, {}, len(array))


def _records(content: list[dict[str, object]], signature: Signature, path: Path) -> Records:
    inputs = {}
    for spec in signature.inputs:
        if any(spec.name not in record for record in content):
            raise BadInput(f"{path}: a record lacks the input '{spec.name}'")
        inputs[spec.name] = _column([record[spec.name] for record in content], spec, path)
    outputs = {
        spec.name: _column([record[spec.name] for record in content], spec, path)
        for spec in signature.outputs
        if all(spec.name in record for record in content)
    }
    return Records(inputs, outputs, len(content))


def _column(content: object, spec: TensorSpec, path: Path) -> Array:
    try:
        array = np.asarray(content, dtype=NUMPY.get(spec.dtype))
    except (ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"{path}: '{spec.name}' is no {spec.dtype} array: {error}") from error
    if array.ndim == 0 or not len(array):
        raise BadInput(f"{path}: no rows for '{spec.name}'")
    if spec.shape is not None and not _fits(array.shape[1:], spec.shape[1:] if _leads(spec) else spec.shape):
        raise BadInput(
            f"{path}: a row of '{spec.name}' has shape {array.shape[1:]}, the model's {spec.shape}"
        )
    return array


def _leads(spec: TensorSpec) -> bool:
    """Whether the first dimension is the client's to choose: the rows."""
    return bool(spec.shape) and spec.shape is not None and spec.shape[0] < 0


def _fits(found: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(found) == len(declared) and all(
        want < 0 or have == want for have, want in zip(found, declared, strict=True)
    )


def _fill(spec: TensorSpec, rows: int, length: int) -> tuple[int, ...]:
    shape = spec.shape or ()
    return tuple(
        size if size >= 0 else rows if axis == 0 and _leads(spec) else length
        for axis, size in enumerate(shape)
    )


def _shaken(array: Array, noise: float, rng: np.random.Generator) -> Array:
    if not noise or not np.issubdtype(array.dtype, np.floating):
        return array
    floats = array.astype(np.float64)
    scale = noise * max(1.0, float(np.abs(floats).max()))
    return (floats + rng.uniform(-scale, scale, size=array.shape)).astype(array.dtype)
