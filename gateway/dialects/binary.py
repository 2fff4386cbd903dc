"""Tensors as raw bytes, and Triton's binary tensor extension of V2 that carries them behind the JSON.

Raw bytes are row-major and little-endian. BOOL is one byte an element; BYTES is, for each element, its length
as u32 and then its bytes. In the extension the header `Inference-Header-Content-Length` says where the JSON
ends, and `parameters.binary_data_size` how many of the bytes behind it belong to a tensor, in the order
of the JSON.
"""

from __future__ import annotations

from math import prod
from typing import Final

import numpy as np

from gateway.dialects.errors import MALFORMED_REQUEST, UNSUPPORTED, WRONG_SHAPE, InvalidPrediction
from gateway.dialects.tensors import BYTES, NUMPY, Array, Tensor
from gateway.http.message import Headers, find

JSON_LENGTH: Final = b"inference-header-content-length"


def from_binary(name: str, dtype: str, shape: tuple[int, ...], raw: bytes) -> Array | list[bytes]:
    """Read a tensor's raw bytes: row-major, little-endian; BYTES as u32 length and bytes; BOOL one byte each.

    Raises InvalidPrediction (wrong_shape) unless raw holds exactly prod(shape) elements.
    """
    if dtype == BYTES:
        return _split_binary(name, prod(shape), raw)
    target = NUMPY[dtype]
    if len(raw) != prod(shape) * target.itemsize:
        need = prod(shape) * target.itemsize
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} needs {need} bytes of binary data and has {len(raw)}")
    if dtype == "BOOL":  # any byte but 0 is true; numpy must never see another bit pattern than 0 and 1
        truth: Array = np.frombuffer(raw, np.uint8) != 0
        return truth.reshape(shape)
    return np.frombuffer(raw, target.newbyteorder("<")).astype(target, copy=False).reshape(shape)


def _split_binary(name: str, count: int, raw: bytes) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        if start > len(raw) or at > len(raw):
            break
        elements.append(raw[start:at])
    if at != len(raw) or len(elements) != count:
        raise InvalidPrediction(WRONG_SHAPE, f"{name!r} does not hold {count} length-prefixed byte strings")
    return elements


def to_binary(tensor: Tensor) -> bytes:
    """Write a tensor's raw bytes, as `from_binary` reads them."""
    if isinstance(tensor.data, list):
        return b"".join(len(element).to_bytes(4, "little") + element for element in tensor.data)
    return little_endian(tensor.data)


def little_endian(array: Array) -> bytes:
    """Return prod(shape) * itemsize bytes, row-major, little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


# The extension


class BinaryTail:
    """The binary tensors behind the JSON, taken from the front."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes, at: int) -> None:
        self._body = body
        self._at = at

    def take(self, name: str, size: object) -> bytes:
        """Take the next `size` bytes; raises InvalidPrediction (malformed_request)."""
        if type(size) is not int or not 0 <= size <= len(self._body) - self._at:
            raise InvalidPrediction(MALFORMED_REQUEST, f"binary_data_size of {name!r} reaches past the body")
        start = self._at
        self._at += size
        return self._body[start : self._at]

    def finish(self) -> None:
        """Raise InvalidPrediction (malformed_request) if bytes are left over."""
        if self._at != len(self._body):
            raise InvalidPrediction(MALFORMED_REQUEST, "bytes are left over behind the last binary tensor")


def split(headers: Headers, body: bytes) -> tuple[bytes, BinaryTail | None]:
    """Split a body into its JSON and the tensors behind it; None where the header announces none.

    Raises InvalidPrediction: malformed_request for a length outside the body, unsupported for a raw request.
    """
    announced = find(headers, JSON_LENGTH)
    if announced is None:
        return body, None
    if not announced.isdigit() or len(announced) > 18 or int(announced) > len(body):
        raise InvalidPrediction(
            MALFORMED_REQUEST, "Inference-Header-Content-Length is no length inside the body"
        )
    length = int(announced)
    if not length:
        raise InvalidPrediction(UNSUPPORTED, "raw binary requests, without JSON, are not supported")
    return body[:length], BinaryTail(body, length)
