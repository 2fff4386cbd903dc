from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.tensors import (
    NUMPY,
    Tensor,
    check_shape,
    is_finite,
    nest,
    numbers,
    rows,
    unnest,
)
from tests.dialects.models import SHAPES, a_request, a_tensor


@pytest.mark.parametrize(
    ("shapes", "count"),
    [([(3, 64)], 3), ([()], 1), ([(0, 64)], 0), ([(1, 2), (5,)], 5), ([], 0)],
    ids=["a batch", "a scalar is one row", "an empty batch", "the largest input counts", "no input"],
)
def test_rows_are_the_first_dimension(shapes: list[tuple[int, ...]], count: int) -> None:
    inputs = [Tensor(f"t{i}", "FP32", shape, np.zeros(shape, np.float32)) for i, shape in enumerate(shapes)]
    assert rows(a_request(*inputs)) == count


@given(SHAPES)
def test_nesting_and_unnesting_are_inverse_up_to_what_empty_lists_lose(shape: tuple[int, ...]) -> None:
    flat: list[object] = list(range(int(np.prod(shape))))
    again, values = unnest("x", nest(flat, shape))
    assert values == flat
    assert again == (shape if 0 not in shape else shape[: shape.index(0) + 1])


def test_a_bare_value_is_a_scalar() -> None:
    assert unnest("x", 5) == ((), [5])
    assert nest([5], ()) == 5


@pytest.mark.parametrize(
    "data",
    [[[1], [1, 2]], [[1], 2], [[[1]], [1]], [[1], []]],
    ids=["lengths", "mixed", "depths", "empty beside full"],
)
def test_ragged_data_has_no_shape(data: object) -> None:
    with pytest.raises(InvalidPrediction, match="ragged") as caught:
        unnest("x", data)
    assert caught.value.code == "wrong_shape"


def test_a_value_before_a_list_is_ragged_too() -> None:
    shape, flat = unnest("x", [1.0, [2.0]])
    with pytest.raises(InvalidPrediction, match="ragged"):
        numbers("x", "FP32", shape, flat)


def test_nesting_deeper_than_numpy_can_is_refused() -> None:
    data: object = 1
    for _ in range(40):
        data = [data]
    with pytest.raises(InvalidPrediction, match="deeper than 32"):
        unnest("x", data)


@pytest.mark.parametrize(
    "shape",
    [[-1], [1.0], [True], ["1"], [None], [1] * 33, [1 << 41], [1 << 30, 1 << 30], [10**11, 0], [0, 10**11]],
    ids=str,
)
def test_hostile_shapes_are_refused_before_anything_is_built(shape: list[object]) -> None:
    with pytest.raises(InvalidPrediction) as caught:
        check_shape("x", shape)
    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("FP32", None),
        ("FP32", "1.5"),
        ("FP32", True),
        ("FP32", {}),
        ("FP32", 1e39),
        ("FP32", -1e39),
        ("FP16", 65520.0),
        ("FP64", 10**400),
        ("INT8", 128),
        ("INT8", -129),
        ("UINT8", -1),
        ("UINT8", 256),
        ("UINT64", -1),
        ("UINT64", 1 << 64),
        ("INT64", 1 << 63),
        ("INT64", 1.5),
        ("INT64", float("nan")),
        ("INT64", float("inf")),
        ("INT64", 1e300),
        ("INT64", 2.0**53 + 2),
        ("INT64", True),
        ("INT64", "1"),
        ("BOOL", 1),
        ("BOOL", 0.0),
        ("BOOL", "true"),
        ("BOOL", None),
    ],
)
def test_a_value_that_the_datatype_cannot_hold_is_refused(dtype: str, value: object) -> None:
    with pytest.raises(InvalidPrediction) as caught:
        numbers("x", dtype, (2,), [value, value])
    assert caught.value.code == "wrong_dtype"


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("FP32", [1, 1.0, -0.0], [1.0, 1.0, -0.0]),
        ("INT64", [1.0, 2, 1e0], [1, 2, 1]),
        ("INT64", [(1 << 63) - 1, -(1 << 63)], [(1 << 63) - 1, -(1 << 63)]),
        ("UINT64", [(1 << 64) - 1, (1 << 53) + 1], [(1 << 64) - 1, (1 << 53) + 1]),
        ("INT8", [-128, 127], [-128, 127]),
        ("FP16", [65504.0, 65519.0], [65504.0, 65504.0]),
        ("FP32", [float("inf"), float("-inf"), 3.4e38], [float("inf"), float("-inf"), 3.4e38]),
        ("FP32", [1e-60], [0.0]),
    ],
    ids=[
        "mixed",
        "whole floats",
        "int64",
        "uint64",
        "int8",
        "rounds below the limit",
        "infinities",
        "underflow",
    ],
)
def test_numbers_are_read_exactly(dtype: str, values: list[object], expected: list[object]) -> None:
    read = numbers("x", dtype, (len(values),), values)
    assert read.dtype == NUMPY[dtype]
    np.testing.assert_array_equal(read, np.array(expected, NUMPY[dtype]))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_fp32_survives_decimal_text_in_every_usual_spelling(values: list[float]) -> None:
    exact = np.array(values, np.float32)
    shortest = write_json(exact)
    nine_digits = ("[" + ",".join(f"{value:.8e}" for value in values) + "]").encode()
    as_doubles = write_json(values)
    for spelling in (shortest, nine_digits, as_doubles):
        flat = read_json(spelling)
        assert isinstance(flat, list)
        assert numbers("x", "FP32", exact.shape, flat).tobytes() == exact.tobytes()


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (float("nan"), False), (float("-inf"), False)])
def test_finiteness_sees_nan_and_infinity(value: float, finite: bool) -> None:
    assert is_finite(a_tensor("x", "FP16", [0.0, value])) is finite
    assert is_finite(a_tensor("x", "INT8", [1]))
