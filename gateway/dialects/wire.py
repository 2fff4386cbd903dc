"""Protocol Buffers on the wire, and gRPC's frame around one message: what two dialects need of them, no more.

A message is a sequence of fields: a tag (number * 8 + wire type) and a varint (0), eight bytes (1), a length
and so many bytes (2), or four bytes (5). Groups (3, 4) are in none of our messages and refused. A repeated
number may stand packed (one field of type 2) or one by one, and readers take both. Unknown fields are
skipped, defaults are not written, and of a field that may stand once the last one counts: proto3's rules.

Why not the protobuf package: its repeated fields are Python objects one by one. The typed contents of a
224 x 224 image (150,528 floats) take 12 ms to become an array there and 2 ms here, where packed numbers are
an array already (docs/adr/0029-own-protobuf-reader.md).

Source: protobuf.dev, "Encoding"; gRPC's PROTOCOL-HTTP2.md for the frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from math import copysign
from typing import Final

import numpy as np

from gateway.dialects.errors import MALFORMED_REQUEST, UNSUPPORTED, InvalidPrediction
from gateway.dialects.tensors import Array
from gateway.http.codings import BadCoding, TooMuch, UnknownCoding, decoded
from gateway.http.message import Headers, find

VARINT: Final = 0
EIGHT: Final = 1
LENGTH: Final = 2
FOUR: Final = 5

LARGEST: Final = 64 * 1024 * 1024  # bytes that a compressed message may become

Field = tuple[int, int, int, bytes]
"""Number, wire type, value of a varint (else 0), bytes of every other type (else b"")."""


class Broken(InvalidPrediction):
    """The bytes are no message."""

    def __init__(self, why: str) -> None:
        super().__init__(MALFORMED_REQUEST, f"the message is malformed: {why}")


# Reading


def fields(data: bytes) -> Iterator[Field]:
    """Yield a message's fields in order; raises Broken."""
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(data, at - 1)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Broken("a field has no valid number")
        if kind == LENGTH:
            if at < end and data[at] < 0x80:
                size, at = data[at], at + 1
            else:
                size, at = _varint(data, at)
            stop = at + size
            if stop > end:
                raise Broken("a field is longer than the message")
            yield number, kind, 0, data[at:stop]
            at = stop
        elif kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value, b""
        elif kind in (EIGHT, FOUR):
            stop = at + (8 if kind == EIGHT else 4)
            if stop > end:
                raise Broken("a field is longer than the message")
            yield number, kind, 0, data[at:stop]
            at = stop
        else:
            raise Broken(f"wire type {kind} is not used")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise Broken("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise Broken("a number is longer than ten bytes")


def nested(field: Field) -> bytes:
    """Return a field's bytes where it must be a message, text or bytes; raises Broken."""
    if field[1] != LENGTH:
        raise Broken(f"field {field[0]} has the wrong type")
    return field[3]


def text(field: Field) -> str:
    """Return a field's text; raises Broken where it is no UTF-8."""
    try:
        return nested(field).decode()
    except UnicodeDecodeError as refusal:
        raise Broken(f"field {field[0]} is not UTF-8") from refusal


def unsigned(field: Field) -> int:
    """Return the value of a varint field; raises Broken."""
    if field[1] != VARINT:
        raise Broken(f"field {field[0]} has the wrong type")
    return field[2]


def signed(value: int) -> int:
    """Return what an int32 or int64 of this varint is: two's complement in 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def varints(field: Field) -> list[int]:
    """Return the numbers of a repeated varint field, packed or a single one; unsigned. Raises Broken."""
    if field[1] == VARINT:
        return [field[2]]
    data = nested(field)
    found: list[int] = []
    at = 0
    while at < len(data):
        byte = data[at]
        if byte < 0x80:
            found.append(byte)
            at += 1
        else:
            value, at = _varint(data, at)
            found.append(value)
    return found


def leading_varints(data: bytes, count: int) -> tuple[list[int], int]:
    """Return the first `count` varints of the bytes and where the rest begins; raises Broken."""
    found: list[int] = []
    at = 0
    for _ in range(min(count, len(data))):
        value, at = _varint(data, at)
        found.append(value)
    if len(found) < count:
        raise Broken("it ends inside a number")
    return found, at


def many_varints(data: bytes) -> Array:
    """Return packed varints as uint64, without a loop over them: each ends at its byte below 0x80.

    Raises Broken.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if not len(raw):
        return np.zeros(0, np.uint64)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise Broken("it ends inside a number")
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
    sizes = ends - starts + 1
    if int(sizes.max()) > 10:
        raise Broken("a number is longer than ten bytes")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(sizes.max())):
        has = sizes > place
        part = (raw[starts[has] + place] & 0x7F).astype(np.uint64)
        values[has] |= part << np.uint64(7 * place)
    return values


def entry(message: bytes) -> tuple[str, bytes]:
    """Read an entry of a map from texts to messages; raises Broken."""
    key, value = "", b""
    for field in fields(message):
        if field[0] == 1:
            key = text(field)
        elif field[0] == 2:
            value = nested(field)
    return key, value


def all_varints(fields: Sequence[Field]) -> Array:
    """Return the numbers of a repeated varint field, however its parts stand, as uint64; raises Broken."""
    parts = [
        many_varints(field[3]) if field[1] == LENGTH else np.array([unsigned(field)], np.uint64)
        for field in fields
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def fixed(field: Field, dtype: str) -> Array:
    """Return the numbers of a repeated float or double field, packed or a single one. dtype: `<f4`, `<f8`.

    Raises Broken.
    """
    size = np.dtype(dtype).itemsize
    if field[1] not in (LENGTH, FOUR if size == 4 else EIGHT) or len(field[3]) % size:
        raise Broken(f"field {field[0]} has the wrong type")
    return np.frombuffer(field[3], dtype)


# Writing


def varint(value: int) -> bytes:
    """Write a number of up to 64 bits; a negative one as its two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(tag: int, value: int) -> bytes:
    """Write a varint field, nothing where it is 0."""
    return varint(tag << 3) + varint(value) if value else b""


def block(tag: int, data: bytes) -> bytes:
    """Write a message, text or bytes field, empty ones too."""
    return varint(tag << 3 | LENGTH) + varint(len(data)) + data


def string(tag: int, value: str) -> bytes:
    """Write a text field, nothing where it is empty."""
    return block(tag, value.encode()) if value else b""


def float32(tag: int, value: float) -> bytes:
    """Write a float field, nothing where it is 0. value: one that a float can hold."""
    if value == 0 and copysign(1.0, value) > 0:
        return b""
    return varint(tag << 3 | FOUR) + struct.pack("<f", value)


def packed(tag: int, values: Iterable[int]) -> bytes:
    """Write a repeated varint field, packed; nothing where there are none."""
    data = b"".join([varint(value) for value in values])
    return block(tag, data) if data else b""


def again(field: Field) -> bytes:
    """Write a field as it was read."""
    tag, kind, value, data = field
    if kind == VARINT:
        return varint(tag << 3) + varint(value)
    if kind == LENGTH:
        return block(tag, data)
    return varint(tag << 3 | kind) + data


# gRPC's frame


def unframe(headers: Headers, body: bytes) -> bytes:
    """Return the one message of a unary call's body, decompressed; raises InvalidPrediction."""
    if len(body) < 5 or len(body) != 5 + int.from_bytes(body[1:5], "big"):
        raise Broken("the body does not hold exactly one message")
    if body[0] == 0:
        return body[5:]
    coding = find(headers, b"grpc-encoding")
    if body[0] != 1 or coding is None:
        raise Broken("its frame's flag is unknown")
    try:
        return decoded(coding, body[5:], LARGEST)
    except UnknownCoding as unknown:
        raise InvalidPrediction(UNSUPPORTED, f"a message's coding is not supported: {unknown}") from unknown
    except (TooMuch, BadCoding) as wrong:
        raise Broken("it can't be decompressed") from wrong


def frame(message: bytes) -> bytes:
    """Return a message as the body of a unary call."""
    return b"\0" + len(message).to_bytes(4, "big") + message
