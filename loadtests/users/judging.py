"""What a right answer is: the outputs that the model declares, for so many rows, with the values known.

Numbers in JSON have passed through decimal text and perhaps another version of the model, so floats are
compared with a tolerance.
"""

from __future__ import annotations

import numpy as np

from gateway.client.tensors import Prediction
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.tensors import NUMPY
from loadtests.users.tensors import Array, Batch, is_batched

RELATIVE, ABSOLUTE = 1e-3, 1e-4  # tolerance of floats


def fault(found: Prediction, batch: Batch, signature: Signature) -> str | None:
    """Tell what is wrong with an answer; None: nothing."""
    declared = {spec.name: spec for spec in signature.outputs}
    if declared and set(found.outputs) != set(declared):
        return f"outputs {sorted(found.outputs)}, declared are {sorted(declared)}"
    for name, array in found.outputs.items():
        wrong = None if name not in declared else _misfit(array, declared[name], batch, signature)
        if wrong:
            return f"output '{name}' {wrong}"
        if name in batch.expected and not _same(array, batch.expected[name]):
            return f"output '{name}' is {array.tolist()}, expected {batch.expected[name].tolist()}"
    return None


def _misfit(array: Array, spec: TensorSpec, batch: Batch, signature: Signature) -> str | None:
    dtype = NUMPY.get(spec.dtype)
    if dtype is not None and array.dtype != dtype:
        return f"is {array.dtype}, declared is {spec.dtype}"
    if spec.shape is None:
        return None
    has_rows = is_batched(signature) and spec.shape[:1] == (-1,)
    want = (batch.rows, *spec.shape[1:]) if has_rows else spec.shape
    fits = len(want) == array.ndim and all(w in (-1, h) for w, h in zip(want, array.shape, strict=True))
    return None if fits else f"has shape {list(array.shape)}, expected {list(want)}"


def _same(found: Array, expected: Array) -> bool:
    if found.shape != expected.shape:
        return False
    if found.dtype.kind in "OSU" or expected.dtype.kind in "OSU":
        return bool(np.array_equal(_text(found), _text(expected)))
    if "f" in (found.dtype.kind, expected.dtype.kind):
        return bool(np.allclose(found, expected, RELATIVE, ABSOLUTE, equal_nan=True))
    return bool(np.array_equal(found, expected))


def _text(array: Array) -> Array:
    texts = [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel().tolist()]
    return np.array(texts, np.object_)
