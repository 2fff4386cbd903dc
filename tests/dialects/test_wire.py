"""Protocol Buffers against Google's own writer and reader."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.internal import encoder
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import wire
from gateway.dialects.errors import InvalidPrediction
from tests.dialects.models import caught

U64 = st.integers(0, 2**64 - 1)


@given(st.integers(-(2**63), 2**64 - 1))
def test_a_number_is_written_as_google_writes_it(value: int) -> None:
    parts: list[bytes] = []
    encoder._VarintEncoder()(parts.append, value & (2**64 - 1))  # type: ignore[attr-defined]
    assert wire.varint(value) == b"".join(parts)


@given(st.lists(U64))
def test_packed_numbers_are_read_at_once_as_one_by_one(values: list[int]) -> None:
    data = b"".join(map(wire.varint, values))
    assert wire.many_varints(data).tolist() == values
    assert wire.varints((1, wire.LENGTH, 0, data)) == values


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_wrapped_number_is_read(value: int) -> None:
    (*fields,) = wire.fields(wrappers_pb2.Int64Value(value=value).SerializeToString())
    assert [wire.signed(wire.unsigned(field)) for field in fields] == ([value] if value else [])


@given(st.binary(max_size=40))
def test_bytes_are_a_message_or_refused_and_a_message_is_written_again(data: bytes) -> None:
    fields: list[wire.Field] = []
    wrong = caught(lambda: fields.extend(wire.fields(data)))
    assert wrong is None or wrong.code == "malformed_request"
    assert wrong or list(wire.fields(b"".join(map(wire.again, fields)))) == fields


@pytest.mark.parametrize(
    "data",
    [b"\x08", b"\x0a\x05ab", b"\x0d\x00", b"\x09\x00", b"\x0b", b"\x0c", b"\x00\x00", b"\x08" + b"\xff" * 11],
    ids=[
        "cut",
        "too short",
        "cut float",
        "cut double",
        "group",
        "end of a group",
        "number 0",
        "eleven bytes",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        list(wire.fields(data))
    assert refused.value.code == "malformed_request"


@pytest.mark.parametrize("data", [b"\xff", b"\x01\xff", b"\xff" * 10 + b"\x01"])
def test_packed_numbers_that_do_not_end_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPrediction):
        wire.many_varints(data)


def test_packed_floats_are_an_array() -> None:
    values = np.array([0.5, np.nan, -np.inf], "<f4")
    assert wire.fixed((6, wire.LENGTH, 0, values.tobytes()), "<f4").tobytes() == values.tobytes()
    with pytest.raises(InvalidPrediction):
        wire.fixed((6, wire.LENGTH, 0, b"123"), "<f4")


def test_a_frame_holds_one_message() -> None:
    assert wire.unframe([], wire.frame(b"abc")) == b"abc"
    packed = gzip.compress(b"abc")
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    assert wire.unframe([(b"grpc-encoding", b"gzip")], body) == b"abc"
    for wrong in (b"", b"\0\0\0\0\1", wire.frame(b"a") * 2, body, b"\2" + wire.frame(b"a")[1:]):
        with pytest.raises(InvalidPrediction):
            wire.unframe([], wrong)
    with pytest.raises(InvalidPrediction) as refused:
        wire.unframe([(b"grpc-encoding", b"snappy")], body)
    assert refused.value.code == "unsupported"
