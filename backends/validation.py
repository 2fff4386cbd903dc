"""Validation before queueing: only tensors that fit the signature reach a batch.

One bad tensor in a joined batch would fail its neighbours, so everything that can be known from the
signature is checked here: names, types, shapes, and that all inputs count the same rows. Every error
shows the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from backends.errors import Invalid
from backends.tensors import Array, Signature, Tensors, TensorSpec


class Validator:
    """Checks requests for one model version; what depends only on the signature is decided once."""

    __slots__ = ("_batched", "_specs", "signature", "signature_text")

    def __init__(self, name: str, signature: Signature) -> None:
        self.signature = signature
        self.signature_text = f"{name}{signature}"
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._batched = signature.batched

    def spec(self, name: str) -> TensorSpec:
        """Return the spec of input `name`. Invalid when the model has none of that name."""
        found = self._specs.get(name)
        if found is None:
            raise self.refuse(f"unknown input {name!r}")
        return found

    def refuse(self, message: str) -> Invalid:
        """Return the error that says what is wrong and what was expected."""
        return Invalid(f"{message}; expected {self.signature_text}")

    def count_rows(self, inputs: Tensors) -> int:
        """Return the rows of a request, at least 1. Invalid for missing inputs or bad shapes."""
        for spec in self.signature.inputs:
            tensor = inputs.get(spec.name)
            if tensor is None:
                raise self.refuse(f"missing input {spec.name!r}")
            if not spec.fits(tensor.shape):
                raise self.refuse(f"input {spec.name!r} has shape {list(tensor.shape)}")
        if not self._batched:
            return 1
        counts = {len(tensor) for tensor in inputs.values()}
        if len(counts) != 1:
            raise self.refuse("inputs have different numbers of rows")
        (rows,) = counts
        if rows == 0:
            raise self.refuse("the request has no rows")
        return rows

    def outputs(self, names: Iterable[str]) -> tuple[TensorSpec, ...]:
        """Return the specs of the outputs that were asked for. Invalid for an unknown name."""
        known = {spec.name: spec for spec in self.signature.outputs}
        chosen = []
        for name in names:
            if name not in known:
                raise self.refuse(f"unknown output {name!r}")
            chosen.append(known[name])
        return tuple(chosen)


def to_tensor(values: object, spec: TensorSpec, refuse: Callable[[str], Invalid]) -> Array:
    """Turn nested lists of parsed JSON into a tensor of the spec's type; the shape is the nesting's.

    The conversion never loses meaning: fractions do not become integers, numbers not text, null not NaN,
    and what does not fit the integer's range is refused.
    """
    try:
        parsed = np.array(values)
    except (ValueError, OverflowError) as e:
        raise refuse(f"input {spec.name!r} is ragged or holds no values") from e
    dtype = spec.dtype
    if parsed.dtype.kind not in dtype.kinds:
        if parsed.size == 0:
            return parsed.astype(dtype.numpy)
        raise refuse(f"input {spec.name!r} holds values that are not {dtype.name}")
    if dtype.kinds == "iu" and not _in_range(parsed, dtype.numpy):
        raise refuse(f"input {spec.name!r} holds values beyond {dtype.name}")
    try:
        with np.errstate(over="raise"):
            return parsed.astype(dtype.numpy, copy=False)
    except FloatingPointError as e:
        raise refuse(f"input {spec.name!r} holds values beyond {dtype.name}") from e


def _in_range(parsed: Array, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return parsed.size == 0 or bool(int(parsed.min()) >= limits.min and int(parsed.max()) <= limits.max)
