from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.binary import from_binary, little_endian, split, to_binary
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.tensors import Tensor
from tests.dialects.models import assert_same, tensors


@given(tensors())
def test_binary_and_back_is_the_same_tensor(tensor: Tensor) -> None:
    raw = to_binary(tensor)
    again = Tensor(
        tensor.name, tensor.dtype, tensor.shape, from_binary(tensor.name, tensor.dtype, tensor.shape, raw)
    )
    assert_same(again, tensor)


@given(tensors(), st.binary(min_size=1, max_size=9))
def test_binary_of_another_length_is_refused(tensor: Tensor, more: bytes) -> None:
    raw = to_binary(tensor)
    if tensor.dtype == "BYTES":  # what follows may be an element of its own: one too many
        more = len(more).to_bytes(4, "little") + more
    with pytest.raises(InvalidPrediction) as caught:
        from_binary(tensor.name, tensor.dtype, tensor.shape, raw + more)
    assert caught.value.code == "wrong_shape"


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_as_binary_strings_are_read_or_refused(raw: bytes, count: int) -> None:
    try:
        elements = from_binary("x", "BYTES", (count,), raw)
    except InvalidPrediction:
        return
    assert len(elements) == count
    assert to_binary(Tensor("x", "BYTES", (count,), elements)) == raw


def test_binary_booleans_are_true_for_any_byte_but_zero() -> None:
    read = from_binary("x", "BOOL", (3,), b"\x00\x01\xff")
    assert isinstance(read, np.ndarray)
    assert read.tolist() == [False, True, True]
    assert read.view(np.uint8).tolist() == [0, 1, 1]


def test_raw_bytes_are_little_endian_whatever_the_array() -> None:
    assert (
        little_endian(np.array([1, 2], ">u2"))
        == little_endian(np.array([1, 2], "<u2"))
        == b"\x01\x00\x02\x00"
    )


def test_the_json_ends_where_the_header_says() -> None:
    text, tail = split([(b"inference-header-content-length", b"2")], b"{}abcdef")
    assert text == b"{}"
    assert tail is not None
    assert tail.take("x", 4) == b"abcd"
    with pytest.raises(InvalidPrediction, match="left over"):
        tail.finish()
    with pytest.raises(InvalidPrediction, match="past the body"):
        tail.take("y", 3)
    assert tail.take("y", 2) == b"ef"
    tail.finish()
    assert split([], b"{}abc") == (b"{}abc", None)
