from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.rows import Row, count, pick, put_together, row_keys, separable, take_apart, unpack
from gateway.dialects.tensors import NOTHING, NUMPY, InferRequest, InferResponse, Tensor

NUMERIC = sorted(NUMPY)


def request(*tensors: Tensor, **how: object) -> InferRequest:
    fields: dict[str, object] = {"outputs": None, "params": NOTHING, "style": "named", **how}
    return InferRequest(None, "m", None, None, "", tensors, **fields)  # type: ignore[arg-type]


def column(name: str, dtype: str, values: object) -> Tensor:
    array = np.ascontiguousarray(np.array(values, NUMPY[dtype]))
    return Tensor(name, dtype, array.shape, array)


def keys(infer: InferRequest) -> list[bytes]:
    return row_keys(infer, "m", "1", b"")


@pytest.mark.parametrize(
    ("inputs", "outputs", "fits"),
    [
        ([(-1, 4)], [(-1,), (-1, 10)], True),
        ([(-1, -1)], [(-1, 10)], True),
        ([(-1, 4)], [(-1, -1)], False),
        ([(8, 4)], [(-1,)], False),
        ([(-1, 4)], [(10,)], False),
        ([(-1, 4), (3,)], [(-1,)], False),
        ([None], [(-1,)], False),
        ([(-1, 4)], [()], False),
        ([], [(-1,)], False),
    ],
)
def test_only_models_whose_tensors_share_a_free_first_axis_are_separable(
    inputs: list[tuple[int, ...] | None], outputs: list[tuple[int, ...] | None], fits: bool
) -> None:
    signature = Signature(
        tuple(TensorSpec(f"i{n}", "FP32", shape) for n, shape in enumerate(inputs)),
        tuple(TensorSpec(f"o{n}", "FP32", shape) for n, shape in enumerate(outputs)),
    )
    assert separable(signature) is fits


def test_inputs_that_disagree_have_no_rows() -> None:
    assert count(request(column("a", "FP32", [[1], [2]]), column("b", "FP32", [[1]]))) == 0
    assert count(request(column("a", "FP32", [[1], [2]]))) == 2
    assert count(request(Tensor("a", "FP32", (), np.array(1.0, np.float32)))) == 0


def test_a_row_has_one_key_in_whatever_batch_it_stands() -> None:
    batch = keys(request(column("x", "FP32", [[1, 2], [3, 4], [1, 2]])))
    assert batch[0] == batch[2] != batch[1]
    assert keys(request(column("x", "FP32", [[3, 4]]))) == [batch[1]]


def test_nan_and_zero_have_one_key() -> None:
    assert len(set(keys(request(column("x", "FP32", [[0.0], [-0.0]]))))) == 1
    other = np.array([[0x7FC00001], [0x7FC00000]], np.uint32).view(np.float32)
    assert len(set(keys(request(Tensor("x", "FP32", (2, 1), other))))) == 1


def test_strings_do_not_run_into_each_other() -> None:
    tensor = Tensor("x", "BYTES", (2, 2), [b"ab", b"c", b"a", b"bc"])
    assert len(set(keys(request(tensor)))) == 2


@pytest.mark.parametrize(
    "other",
    [
        request(column("y", "FP32", [[1, 2]])),
        request(column("x", "FP64", [[1, 2]])),
        request(column("x", "FP32", [[[1], [2]]])),
        request(column("x", "FP32", [[1, 2]]), outputs=("a",)),
        request(column("x", "FP32", [[1, 2]]), params={"k": 1}),
        request(column("x", "FP32", [[1, 2]]), column("z", "FP32", [[1]])),
    ],
    ids=["name", "dtype", "shape", "outputs", "params", "more"],
)
def test_another_question_has_another_key(other: InferRequest) -> None:
    assert keys(other) != keys(request(column("x", "FP32", [[1, 2]])))


def test_rows_are_picked_in_the_order_given() -> None:
    infer = request(column("x", "INT32", [[1], [2], [3]]), Tensor("s", "BYTES", (3, 1), [b"a", b"b", b"c"]))
    picked = pick(infer, [2, 0])
    assert np.asarray(picked.inputs[0].data).tolist() == [[3], [1]]
    assert (picked.inputs[1].data, picked.inputs[1].shape) == ([b"c", b"a"], (2, 1))


@st.composite
def answers(draw: st.DrawFn) -> InferResponse:
    rows = draw(st.integers(1, 5))
    tensors = []
    for number in range(draw(st.integers(1, 3))):
        shape = (rows, *draw(st.lists(st.integers(0, 3), max_size=2)))
        dtype = draw(st.sampled_from([*NUMERIC, "BYTES"]))
        size = int(np.prod(shape))
        if dtype == "BYTES":
            data = draw(st.lists(st.binary(max_size=6), min_size=size, max_size=size))
            tensors.append(Tensor(f"o{number}", dtype, shape, data))
        else:
            raw = draw(
                st.binary(min_size=size * NUMPY[dtype].itemsize, max_size=size * NUMPY[dtype].itemsize)
            )
            array = np.frombuffer(bytes(b & 1 for b in raw) if dtype == "BOOL" else raw, NUMPY[dtype])
            tensors.append(Tensor(f"o{number}", dtype, shape, array.reshape(shape)))
    return InferResponse(None, "m", "1", tuple(tensors), NOTHING)


@given(answers())
def test_taken_apart_and_put_together_is_the_same_to_the_bit(response: InferResponse) -> None:
    rows = response.outputs[0].shape[0]
    again = put_together([unpack(row.pack()) for row in take_apart(response, rows)], "id")
    assert (again.id, again.model, again.version) == ("id", "m", "1")
    for before, after in zip(response.outputs, again.outputs, strict=True):
        assert (before.name, before.dtype, before.shape) == (after.name, after.dtype, after.shape)
        if isinstance(before.data, list):
            assert before.data == after.data
        else:
            assert before.data.tobytes() == np.asarray(after.data).tobytes()


def test_undefined_numbers_come_back_as_they_were() -> None:
    response = InferResponse(None, "m", "", (column("o", "FP32", [[math.nan], [math.inf]]),), NOTHING)
    (tensor,) = put_together(take_apart(response, 2)[::-1], None).outputs
    data = np.asarray(tensor.data).ravel()
    assert (math.isinf(data[0]), math.isnan(data[1])) == (True, True)


def test_an_answer_with_other_rows_is_refused() -> None:
    response = InferResponse(None, "m", "", (column("o", "FP32", [[1], [2]]),), NOTHING)
    for rows in (1, 3):
        with pytest.raises(InvalidPrediction):
            take_apart(response, rows)


@pytest.mark.parametrize(
    "about",
    [
        b"[]",
        b"{}",
        b'{"outputs": 1}',
        b'{"outputs": [["y", "FP99", []]], "model": "m", "version": ""}',
        b'{"outputs": [["y", "FP32", ["a"]]], "model": "m", "version": ""}',
        b'{"outputs": [["y", "FP32", [-1]]], "model": "m", "version": ""}',
        b'{"outputs": [["y", "FP32", 3]], "model": "m", "version": ""}',
        b'{"outputs": [["y", "FP32", [9223372036854775807, 9]]], "model": "m", "version": ""}',
        b'{"outputs": [["y", "BYTES", [2]]], "model": "m", "version": ""}',
    ],
)
@pytest.mark.parametrize("content", [b"", b"\x04", b"\x04\0\0\0abcd", b"\xff\xff\xff\xffab"])
def test_damaged_rows_are_refused(about: bytes, content: bytes) -> None:
    with pytest.raises(InvalidPrediction):
        put_together([Row(about, content)] * 2, None)


def test_rows_of_unlike_answers_are_not_put_together() -> None:
    one = take_apart(InferResponse(None, "m", "", (column("o", "FP32", [[1]]),), NOTHING), 1)
    other = take_apart(InferResponse(None, "m", "", (column("o", "FP32", [[1, 2]]),), NOTHING), 1)
    with pytest.raises(InvalidPrediction):
        put_together(one + other, None)
    with pytest.raises(InvalidPrediction):
        put_together([Row(b"nothing", b"")], None)
