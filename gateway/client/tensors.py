"""From numpy to the neutral tensors of dialects/, and back.

An array keeps its datatype: float64 for a model that takes FP32 is the caller's mistake, and V2 servers say
so (TensorFlow's JSON carries no datatypes). Plain lists have no datatype and take the model's. Text and bytes
are BYTES; they come back as an array of `bytes` objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.client.errors import Unreadable
from gateway.dialects.errors import WRONG_DTYPE, WRONG_NAME, WRONG_SHAPE
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.tensors import BYTES, NUMPY, InferResponse, Tensor

Array = npt.NDArray[np.generic]
Value = Array | Sequence[object]
Inputs = Value | Mapping[str, Value]

_NAMES: Final[Mapping[np.dtype[np.generic], str]] = {dtype: name for name, dtype in NUMPY.items()}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model answered. version: "" where the server did not say; outputs: by name, in its order."""

    model: str
    version: str
    outputs: Mapping[str, npt.NDArray[np.generic]]
    request_id: str = ""

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        return self.outputs[name]


def needs_signature(inputs: Inputs) -> bool:
    """Whether the inputs can't be named or typed without the model's signature."""
    if not isinstance(inputs, Mapping):
        return True
    return any(not isinstance(value, np.ndarray) for value in inputs.values())


def to_tensors(inputs: Inputs, signature: Signature | None) -> tuple[Tensor, ...]:
    """Name and type the inputs. Raises Unreadable (wrong_name, wrong_dtype, wrong_shape)."""
    specs = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    if not isinstance(inputs, Mapping):
        if len(specs) != 1:
            names = ", ".join(specs) or "none that is known"
            raise Unreadable(WRONG_NAME, f"the model's inputs are {names}: give a mapping of names to arrays")
        inputs = {next(iter(specs)): inputs}
    return tuple(_tensor(name, value, specs.get(name)) for name, value in inputs.items())


def _tensor(name: str, value: Value, spec: TensorSpec | None) -> Tensor:
    array = value if isinstance(value, np.ndarray) else _array(name, value, spec)
    if array.dtype.kind in "SUO":
        texts = [_bytes(name, each) for each in array.ravel().tolist()]
        return Tensor(name, BYTES, array.shape, texts)
    native = array.dtype.newbyteorder("=")
    dtype = _NAMES.get(native)
    if dtype is None:
        raise Unreadable(WRONG_DTYPE, f"{name!r} is {array.dtype}, which no dialect can carry")
    return Tensor(name, dtype, array.shape, np.asarray(array, native, order="C"))


def _array(name: str, value: Sequence[object], spec: TensorSpec | None) -> Array:
    wanted = None if spec is None else NUMPY.get(spec.dtype, np.dtype(np.object_))
    try:
        return np.asarray(value, wanted)
    except (ValueError, TypeError, OverflowError) as error:
        declared = "" if spec is None else f"; expected {spec.render()}"
        raise Unreadable(WRONG_SHAPE, f"{name!r} is no array: {error}{declared}") from error


def _bytes(name: str, value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise Unreadable(WRONG_DTYPE, f"{name!r} holds {type(value).__name__} where text or bytes are expected")


def to_prediction(response: InferResponse, model: str, request_id: str) -> Prediction:
    """Turn the answer's tensors into arrays that the caller may keep and write to."""
    outputs = {tensor.name: _output(tensor) for tensor in response.outputs}
    return Prediction(response.model or model, response.version, outputs, request_id)


def _output(tensor: Tensor) -> Array:
    if isinstance(tensor.data, list):
        texts = np.empty(len(tensor.data), np.object_)
        texts[:] = tensor.data
        return texts.reshape(tensor.shape)
    return tensor.data if tensor.data.flags.writeable else tensor.data.copy()
