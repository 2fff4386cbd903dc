"""Kept answers as bytes, for a store that others write to as well: one line of JSON about it, then the body.

What is read is checked like anything from outside, because its fields end up in heads of answers: a blob that
no gateway can have written is none.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from gateway.http.message import Headers

FORMAT: Final = 2
_Window = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]  # s

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"[\t -~\x80-\xff]*")
_FRAMING: Final = frozenset((b"connection", b"content-length", b"transfer-encoding"))


class About(msgspec.Struct, frozen=True):
    """All of an answer but its body. stored: s since the epoch; windows: s, as in answers.Windows."""

    format: int
    stored: float
    windows: tuple[_Window, _Window, _Window]
    headers: tuple[tuple[str, str], ...]
    dialect: str
    style: str
    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    id: str | None
    tags: tuple[str, ...]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(About)


def text(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Return fields as they are written."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def write(about: About, body: bytes) -> bytes:
    """Return the blob."""
    return _encoder.encode(about) + b"\n" + body


def read(blob: bytes) -> tuple[About, Headers, bytes] | None:
    """Return what it says, the fields, and the body; None if no gateway wrote it."""
    line, _, body = blob.partition(b"\n")
    try:
        about = _decoder.decode(line)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in about.headers]
    except (msgspec.DecodeError, UnicodeError):
        return None
    if about.format != FORMAT or not all(_is_field(name, value) for name, value in headers):
        return None
    return about, headers, body


def _is_field(name: bytes, value: bytes) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _FRAMING and _VALUE.fullmatch(value) is not None
