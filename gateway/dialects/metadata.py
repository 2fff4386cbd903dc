"""What a model takes and gives: its signature, and the check of a request against it.

TensorFlow Serving's JSON carries neither datatypes nor (for a single input) names, so a request in it can be
read only with the model's signature, which is fetched once per model from a backend. The same signature is
the text of every complaint: a client that sent the wrong tensor sees what would have been right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    SIGNATURE_UNKNOWN,
    UNKNOWN_SIGNATURE,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    InvalidPrediction,
)
from gateway.dialects.tensors import DTYPES, InferRequest, Tensor

DEFAULT_SIGNATURE: Final = "serving_default"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output as the model declares it.

    Shape: -1 for a dimension that may vary; None: any rank.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    def render(self) -> str:
        """Return e.g. `input: FP32[-1,64]`."""
        dims = "..." if self.shape is None else ",".join(map(str, self.shape))
        return f"{self.name}: {self.dtype}[{dims}]"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may be given."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(want in (-1, have) for want, have in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs, in the order declared.

    name: TensorFlow's name of the signature. others: the model's further signatures, if it has any.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str = DEFAULT_SIGNATURE
    others: tuple[Signature, ...] = ()

    def render(self) -> str:
        """Return e.g. `input: FP32[-1,64] -> probabilities: FP32[-1,10], label: INT64[-1]`."""
        return f"{_list(self.inputs)} -> {_list(self.outputs)}"

    def named(self, name: str) -> Signature:
        """Return the signature asked for.

        "" is the default one. Raises InvalidPrediction (unknown_signature).
        """
        if name in ("", self.name):
            return self
        for other in self.others:
            if other.name == name:
                return other
        raise InvalidPrediction(
            UNKNOWN_SIGNATURE,
            f'Serving signature name: "{name}" not found in signature def; the model has '
            + ", ".join(signature.name for signature in (self, *self.others)),
        )


def require_signature(signature: Signature | None) -> Signature:
    """Return the signature if it is known; raises InvalidPrediction (signature_unknown)."""
    if signature is None:
        raise InvalidPrediction(SIGNATURE_UNKNOWN, "the model's signature is not known yet")
    return signature


def tells_none() -> InvalidPrediction:
    """Return the complaint about a server that describes no model."""
    return InvalidPrediction(MALFORMED_REQUEST, "this server tells no signature; write it in the policy")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a backend tells of a model. versions: those it serves, empty if it does not say."""

    signature: Signature
    versions: tuple[str, ...] = ()


def parse_signature(text: str) -> Signature:
    """Read what `Signature.render` writes: `input: FP32[-1,64] -> label: INT64[-1]`; ValueError otherwise."""
    inputs, arrow, outputs = text.partition("->")
    if not arrow:
        raise ValueError("expected INPUTS -> OUTPUTS")
    return Signature(_parse_specs(inputs), _parse_specs(outputs))


_SPEC: Final = re.compile(r"\s*([^\s:,\[\]]+)\s*:\s*([A-Z0-9]+)\s*\[([-0-9,\s]*|\.\.\.)\]\s*")


def _parse_specs(text: str) -> tuple[TensorSpec, ...]:
    specs: list[TensorSpec] = []
    for part in re.split(r",(?![^\[]*\])", text):
        match = _SPEC.fullmatch(part)
        if match is None or match[2] not in DTYPES:
            raise ValueError(f"expected e.g. `name: FP32[-1,64]`, found {part.strip()!r}")
        dims = match[3].replace(" ", "")
        try:
            shape = None if dims == "..." else tuple(max(-1, int(dim)) for dim in dims.split(",") if dim)
        except ValueError as wrong:
            raise ValueError(
                f"expected numbers for the dimensions of {match[1]!r}, found {dims!r}"
            ) from wrong
        specs.append(TensorSpec(match[1], match[2], shape))
    return tuple(specs)


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(spec.render() for spec in specs)


def dimension(name: str, size: object) -> int:
    """Read one declared dimension, -1 where it may vary; text where a server prints protobuf's int64.

    Raises InvalidPrediction (malformed_request).
    """
    if type(size) is str and re.fullmatch(r"-?[0-9]{1,18}", size, re.ASCII):
        size = int(size)
    if type(size) is not int:
        raise InvalidPrediction(MALFORMED_REQUEST, f"the shape of {name!r} is malformed")
    return max(-1, size)


def as_declared(outputs: tuple[Tensor, ...], signature: Signature | None) -> tuple[Tensor, ...]:
    """Return a backend's outputs with the ranks declared: MLServer makes [n,1] of a vector, [n]."""
    vectors = {spec.name for spec in signature.outputs if spec.shape == (-1,)} if signature else ()
    if not vectors:
        return outputs
    return tuple([_vector(each) if each.name in vectors else each for each in outputs])


def _vector(tensor: Tensor) -> Tensor:
    if len(tensor.shape) != 2 or tensor.shape[1] != 1:
        return tensor
    data = tensor.data if isinstance(tensor.data, list) else tensor.data.reshape(-1)
    return Tensor(tensor.name, tensor.dtype, tensor.shape[:1], data, tensor.params)


def wrong(code: str, message: str, signature: Signature) -> InvalidPrediction:
    """Return the complaint with the expected signature in its text and in its details."""
    expected = signature.render()
    return InvalidPrediction(code, f"{message}; expected {expected}", {"expected": expected})


def explain(error: InvalidPrediction, signature: Signature | None) -> InvalidPrediction:
    """Return the same complaint with the expected signature added, where one helps and is known."""
    if signature is None or "expected" in error.details or error.code not in _ABOUT_TENSORS:
        return error
    return wrong(error.code, error.message, signature)


_ABOUT_TENSORS: Final = frozenset((WRONG_NAME, WRONG_DTYPE, WRONG_SHAPE))


def check(request: InferRequest, signature: Signature) -> None:
    """Compare a request's names, datatypes and shapes with what the model declares.

    Raises InvalidPrediction: wrong_name (an input unknown, missing or given twice; an output unknown),
    wrong_dtype, wrong_shape, unknown_signature.
    """
    signature = signature.named(request.signature)
    specs: Mapping[str, TensorSpec] = {spec.name: spec for spec in signature.inputs}
    seen: set[str] = set()
    for tensor in request.inputs:
        spec = specs.get(tensor.name)
        if spec is None:
            raise wrong(WRONG_NAME, f"the model has no input {tensor.name!r}", signature)
        if tensor.name in seen:
            raise wrong(WRONG_NAME, f"input {tensor.name!r} is given twice", signature)
        seen.add(tensor.name)
        if tensor.dtype != spec.dtype:
            raise wrong(WRONG_DTYPE, f"input {tensor.name!r} is {tensor.dtype}", signature)
        if not spec.fits(tensor.shape):
            raise wrong(WRONG_SHAPE, f"input {tensor.name!r} has shape {list(tensor.shape)}", signature)
    if len(seen) < len(specs):
        missing = next(name for name in specs if name not in seen)
        raise wrong(WRONG_NAME, f"input {missing!r} is missing", signature)
    if request.outputs is not None:
        known = {spec.name for spec in signature.outputs}
        for name in request.outputs:
            if name not in known:
                raise wrong(WRONG_NAME, f"the model has no output {name!r}", signature)
