from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.compare import compare
from gateway.dialects.tensors import InferResponse, Tensor


def answer(*tensors: Tensor) -> InferResponse:
    return InferResponse(None, "m", "", tensors, {})


def floats(values: Any, name: str = "probabilities", dtype: str = "FP32") -> Tensor:
    data = np.array(values, np.float32 if dtype == "FP32" else np.float64)
    return Tensor(name, dtype, data.shape, data)


def integers(values: Any, name: str = "label") -> Tensor:
    data = np.array(values, np.int64)
    return Tensor(name, "INT64", data.shape, data)


def text(*values: bytes) -> Tensor:
    return Tensor("word", "BYTES", (len(values),), list(values))


BASE = [[0.1, 0.9], [0.6, 0.4]]


@pytest.mark.parametrize(
    ("stable", "candidate", "why"),
    [
        (floats(BASE), floats(BASE), ""),
        (floats(BASE), floats([[0.1005, 0.8995], [0.6, 0.4]]), ""),
        (floats(BASE), floats([[0.2, 0.8], [0.6, 0.4]]), "values apart by up to 0.1"),
        (floats(BASE), floats([[0.1, float("nan")], [0.6, 0.4]]), "NaN or infinity"),
        (floats(BASE), floats([[0.1, float("inf")], [0.6, 0.4]]), "NaN or infinity"),
        (floats([[float("nan"), 1.0]]), floats([[float("nan"), 1.0]]), ""),
        (floats([[float("nan"), 1.0]]), floats([[0.0, 1.0]]), "NaN or infinity"),
        (floats([float("inf")]), floats([float("-inf")]), "NaN or infinity"),
        (floats(BASE), floats(BASE, dtype="FP64"), "FP32 became FP64"),
        (floats(BASE), floats([0.1, 0.9, 0.6, 0.4]), r"shape \[2, 2\] became \[4\]"),
        (floats(BASE), floats(BASE, name="scores"), "outputs: probabilities became scores"),
        (integers([1, 7]), integers([1, 7]), ""),
        (integers([1, 7]), integers([1, 1]), "values apart by up to 6"),
        (text(b"a", b"b"), text(b"a", b"b"), ""),
        (text(b"a", b"b"), text(b"a", b"c"), "other text"),
        (floats([]), floats([]), ""),
    ],
    ids=range(16),
)
def test_what_counts_as_different(stable: Tensor, candidate: Tensor, why: str) -> None:
    import re

    found = compare(answer(stable), answer(candidate))
    assert found.differs == bool(why)
    assert re.search(why, found.why)


def test_a_relative_tolerance_is_of_stables_value() -> None:
    large, moved = floats([1000.0, 1.0]), floats([1005.0, 1.0])
    assert compare(answer(large), answer(moved)).differs
    assert not compare(answer(large), answer(moved), max_rel=0.01).differs
    assert compare(answer(large), answer(moved), max_rel=0.01).max_rel == pytest.approx(0.005)


def test_a_row_flips_when_another_class_wins_however_narrowly() -> None:
    found = compare(answer(floats([[0.5001, 0.5], [0.9, 0.1]])), answer(floats([[0.5, 0.5001], [0.9, 0.1]])))
    assert (found.differs, found.rows, found.flips) == (False, 2, 1)


def test_rows_that_cant_flip_are_not_counted() -> None:
    found = compare(
        answer(floats([0.1, 0.2]), integers([[1, 2]])), answer(floats([0.1, 0.2]), integers([[1, 2]]))
    )
    assert (found.rows, found.flips) == (0, 0)


def test_of_a_large_tensor_the_first_rows_are_compared() -> None:
    data = np.zeros((100, 10), np.float32)
    late, early = data.copy(), data.copy()
    late[99, 0] = early[0, 0] = 1.0

    def differs(other: np.ndarray[Any, Any]) -> bool:
        return compare(answer(floats(data)), answer(floats(other)), most=50).differs

    assert (differs(early), differs(late)) == (True, False)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.floats(0.001, 10.0))
def test_an_answer_never_differs_from_itself_and_always_from_one_moved_too_far(
    values: list[float], tolerance: float
) -> None:
    data = np.array(values, np.float64)
    one = answer(Tensor("x", "FP64", data.shape, data))
    assert not compare(one, one, tolerance).differs
    moved = data.copy()
    moved[0] += tolerance * 1.01
    assert compare(one, answer(Tensor("x", "FP64", data.shape, moved)), tolerance).differs
