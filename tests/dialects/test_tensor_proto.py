"""TensorProto in both encodings: golden bytes that TensorFlow's generated modules wrote, and its rules."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.dialects import wire
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.tensor_proto import read_tensor, write_shape, write_tensor
from gateway.dialects.tensors import Tensor
from tests.dialects.models import a_tensor

# tensor_pb2.TensorProto of tensorflow 2.21, SerializeToString().hex()
GOLDEN = {
    "float_val [1.5, -2]": ("0801120412020802" "2a080000c03f000000c0", "FP32", [1.5, -2.0]),
    "tensor_content of int64": (
        "0809120412020802" "2210" "ffffffffffffffff" "0200000000000000", "INT64", [-1, 2],
    ),
    "int_val of int8": ("0806120412020802" "3a0b" "80ffffffffffffffff01" "7f", "INT8", [-128, 127]),
    "half_val, the bits": ("0813120412020802" "6a05" "8078" "80f802", "FP16", [1.0, -1.0]),
    "bool_val": ("080a120412020802" "5a020100", "BOOL", [True, False]),
    "uint64_val": ("0817120412020802" "8a010b" "ffffffffffffffffff01" "00", "UINT64", [2**64 - 1, 0]),
    "one for all": ("0801120412020803" "2a040000803f", "FP32", [1.0, 1.0, 1.0]),
    "the last for the rest": ("0803120412020804" "3a020102", "INT32", [1, 2, 2, 2]),
    "none means zeros": ("0802120412020802", "FP64", [0.0, 0.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_are_read(name: str) -> None:
    message, dtype, values = GOLDEN[name]
    tensor = read_tensor("x", bytes.fromhex(message))
    assert (tensor.dtype, tensor.shape) == (dtype, (len(values),))
    assert list(tensor.data) == values


def test_strings_are_read_in_both_encodings() -> None:
    head = bytes.fromhex("0807120412020802")
    listed = head + wire.block(8, b"\xff") + wire.block(8, b"")
    content = head + wire.block(4, b"\x01\x00\xff")  # lengths 1 and 0, then the bytes
    for message in (listed, content):
        assert read_tensor("x", message).data == [b"\xff", b""]
    assert read_tensor("x", head + wire.block(8, b"a")).data == [b"a", b"a"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("0801120412020801" "2a080000c03f000000c0", "wrong_shape"),
        ("0801120412020802" "220400000000", "wrong_shape"),
        ("0808120412020802", "wrong_dtype"),
        ("120412020802", "wrong_dtype"),
        ("0801120b120908ffffffffffffffff01" "00", "malformed_request"),
        ("0806120412020801" "3a02ff01", "wrong_dtype"),
        ("0801120812060880c0eeb202", "wrong_shape"),
    ],
    ids=[
        "too many values", "too few bytes", "complex", "no datatype",
        "cut", "out of range", "a hundred million elements of none",
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_refused(message: str, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read_tensor("x", bytes.fromhex(message))
    assert refused.value.code == code


def test_a_shape_of_any_rank_and_free_dimensions_is_written() -> None:
    assert write_shape(None) == b"\x18\x01"
    assert write_shape((-1, 3)).hex() == "120b08ffffffffffffffffff01" + "12020803"


def test_numbers_are_written_as_content_and_strings_one_by_one() -> None:
    assert write_tensor(a_tensor("x", "FP32", [1.5, -2])).hex() == "080112041202080222080000c03f000000c0"
    assert write_tensor(Tensor("x", "BYTES", (1,), [b"a"])).hex() == "0807120412020801420161"
    scalar = Tensor("x", "INT64", (), np.array(5))
    assert read_tensor("x", write_tensor(scalar)).shape == ()
