from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Invalid
from backends.tensors import ANY, BY_NAME, DTYPES, Signature, TensorSpec
from backends.validation import Validator, to_tensor

SIGNATURE = Signature(
    inputs=(TensorSpec("left", BY_NAME["FP32"], (ANY, 2)), TensorSpec("right", BY_NAME["FP32"], (ANY, 2))),
    outputs=(TensorSpec("sum", BY_NAME["FP32"], (ANY, 2)),),
)
VALIDATOR = Validator("add", SIGNATURE)
EXPECTED = "expected add(left FP32 [n,2], right FP32 [n,2]) -> (sum FP32 [n,2])"


def pairs(rows: int, columns: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.zeros((rows, columns), dtype=np.float32)


def refuse(message: str) -> Invalid:
    return Invalid(message)


def test_rows_are_counted() -> None:
    assert VALIDATOR.count_rows({"left": pairs(3), "right": pairs(3)}) == 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({"left": pairs(1)}, "missing input 'right'", id="missing"),
        pytest.param({"left": pairs(1, 3), "right": pairs(1)}, "input 'left' has shape [1, 3]", id="shape"),
        pytest.param({"left": pairs(1)[0], "right": pairs(1)}, "input 'left' has shape [2]", id="rank"),
        pytest.param({"left": pairs(1), "right": pairs(2)}, "different numbers of rows", id="rows differ"),
        pytest.param({"left": pairs(0), "right": pairs(0)}, "the request has no rows", id="no rows"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_signature(inputs: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        VALIDATOR.count_rows(inputs)
    assert message in str(caught.value)
    assert EXPECTED in str(caught.value)


def test_unknown_names_are_refused_with_the_signature() -> None:
    with pytest.raises(Invalid, match="unknown input 'lfet'; expected add"):
        VALIDATOR.spec("lfet")
    with pytest.raises(Invalid, match="unknown output 'product'; expected add"):
        VALIDATOR.outputs(["sum", "product"])


def test_a_model_without_rows_counts_as_one() -> None:
    spec = TensorSpec("x", BY_NAME["FP32"], (3,))
    validator = Validator("fixed", Signature((spec,), (spec,)))
    assert validator.count_rows({"x": np.zeros(3, dtype=np.float32)}) == 1


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("FP32", ["1"]),
        ("FP32", [None]),
        ("FP32", [True]),
        ("FP32", [[1], [1, 2]]),
        ("FP32", [{}]),
        ("FP32", [1e300]),
        ("FP16", [70000]),
        ("INT64", [1.5]),
        ("INT64", [2**63]),
        ("INT8", [128]),
        ("UINT8", [-1]),
        ("BOOL", [1]),
        ("BYTES", [1]),
    ],
)
def test_a_conversion_that_would_lose_meaning_is_refused(dtype: str, values: list[object]) -> None:
    with pytest.raises(Invalid, match="input 'x'"):
        to_tensor(values, TensorSpec("x", BY_NAME[dtype], (ANY,)), refuse)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("FP32", [1, 2.5]),
        ("FP16", [0.5]),
        ("INT8", [-128, 127]),
        ("UINT64", [2**63]),
        ("BOOL", [True]),
        ("BYTES", ["é"]),
    ],
)
def test_what_fits_keeps_its_value_and_gets_the_type(dtype: str, values: list[object]) -> None:
    tensor = to_tensor(values, TensorSpec("x", BY_NAME[dtype], (ANY,)), refuse)
    assert tensor.dtype == BY_NAME[dtype].numpy
    assert tensor.tolist() == values


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_an_empty_list_has_any_type(dtype: object) -> None:
    assert to_tensor([], TensorSpec("x", dtype, (ANY,)), refuse).dtype == dtype.numpy


@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=1), st.sampled_from(["INT8", "UINT16", "INT32", "INT64"])
)
def test_integers_arrive_unchanged_or_are_refused(values: list[int], name: str) -> None:
    limits = np.iinfo(BY_NAME[name].numpy)
    try:
        tensor = to_tensor(values, TensorSpec("x", BY_NAME[name], (ANY,)), refuse)
    except Invalid:
        assert not all(limits.min <= value <= limits.max for value in values)
    else:
        assert tensor.tolist() == values
