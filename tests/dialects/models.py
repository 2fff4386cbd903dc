"""The models that the dialects' tests talk about, and what they compare with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.tensors import NOTHING, NUMPY, InferRequest, InferResponse, Tensor

DIGITS = Signature(
    inputs=(TensorSpec("input", "FP32", (-1, 64)),),
    outputs=(TensorSpec("probabilities", "FP32", (-1, 10)), TensorSpec("label", "INT64", (-1,))),
)
HALF = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
PAIR = Signature(
    (TensorSpec("a", "INT64", (-1, 2)), TensorSpec("words", "BYTES", (-1,))),
    (TensorSpec("sum", "INT64", (-1,)),),
)


def a_request(*inputs: Tensor, model: str = "digits", style: str = "named", **fields: object) -> InferRequest:
    values: dict[str, object] = {
        "id": None,
        "model": model,
        "version": None,
        "label": None,
        "signature": "",
        "inputs": inputs,
        "outputs": None,
        "params": NOTHING,
        "style": style,
    }
    return InferRequest(**{**values, **fields})  # type: ignore[arg-type]


def a_response(*outputs: Tensor, model: str = "digits", version: str = "1") -> InferResponse:
    return InferResponse(None, model, version, outputs, NOTHING)


def a_tensor(name: str, dtype: str, values: object) -> Tensor:
    array = np.array(values, NUMPY[dtype])
    return Tensor(name, dtype, array.shape, array)


def assert_same(one: Tensor, other: Tensor) -> None:
    """The same tensor: name, datatype, shape and every bit of every element (all NaNs are one)."""
    assert (one.name, one.dtype, one.shape) == (other.name, other.dtype, other.shape)
    if isinstance(one.data, list) or isinstance(other.data, list):
        assert one.data == other.data
        return
    assert one.data.dtype == other.data.dtype
    assert one.data.shape == other.data.shape == one.shape
    np.testing.assert_array_equal(one.data, other.data)
    if one.data.dtype.kind == "f":
        kept = ~np.isnan(one.data)
        np.testing.assert_array_equal(np.signbit(one.data)[kept], np.signbit(other.data)[kept])


def caught(call: Callable[[], object]) -> InvalidPrediction | None:
    """What the call refused, None if it did not; any other exception is a failure of the test."""
    try:
        call()
    except InvalidPrediction as refusal:
        return refusal
    return None


SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(
    draw: st.DrawFn,
    name: str = "input",
    finite: bool = False,
    text: bool = False,
    shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES,
) -> Tensor:
    """Any tensor. finite: no NaN or infinity. text: BYTES are UTF-8."""
    dtype = draw(st.sampled_from([*NUMPY, "BYTES"]))
    shape = draw(shapes)
    if dtype == "BYTES":
        element = st.text(max_size=8).map(str.encode) if text else st.binary(max_size=8)
        size = int(np.prod(shape))
        return Tensor(name, dtype, shape, draw(st.lists(element, min_size=size, max_size=size)))
    elements = None
    if finite and NUMPY[dtype].kind == "f":
        elements = {"allow_nan": False, "allow_infinity": False}
    return Tensor(name, dtype, shape, draw(hnp.arrays(NUMPY[dtype], shape, elements=elements)))


def signature_of(*inputs: Tensor) -> Signature:
    """A signature that fits these tensors, the first dimension free."""
    specs = tuple(
        TensorSpec(each.name, each.dtype, (-1, *each.shape[1:]) if each.shape else ()) for each in inputs
    )
    return Signature(specs, specs)
