"""Content codings: what a client accepts, and bodies that were compressed. RFC 9110 §8.4, §12.5.3. Pure.

gzip is spoken both ways, deflate (the zlib format, RFC 1950) is read too: the standard library has both, and
every client has gzip. Reading is bounded twice, because a kilobyte may hold a megabyte: by the bytes that may
come out, and by how many may come out of one that went in.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final, Protocol

READABLE: Final = b"gzip, deflate"  # an Accept-Encoding for answers that refuse something else

_WINDOW: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # zlib: 15, and 16 more for gzip's frame
_RATIO: Final = 100  # bytes out per byte in
_FREE: Final = 64 * 1024  # bytes out that need no such account: short bodies of zeros are honest
_MEMBER = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*[qQ]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?[ \t]*"
)


class BadCoding(ValueError):
    """The body is not what its Content-Encoding says."""


class UnknownCoding(ValueError):
    """The Content-Encoding names something else than one coding that is read here."""


class TooMuch(ValueError):
    """More comes out of the body than may."""


class Compressor(Protocol):
    """Of zlib.compressobj, what is used."""

    def compress(self, data: bytes, /) -> bytes:
        """Take bytes in; return what comes out so far."""
        ...

    def flush(self, mode: int = ..., /) -> bytes:
        """Return the rest: all of it with Z_FINISH, up to a readable point with Z_SYNC_FLUSH."""
        ...


def compressor(level: int) -> Compressor:
    """Return a new gzip stream. It holds 256 KiB until it is let go (zlib.h, deflateInit2)."""
    return zlib.compressobj(level, zlib.DEFLATED, 31)


@lru_cache(maxsize=256)
def accepts_gzip(field: bytes) -> bool:
    """Whether an Accept-Encoding value (several joined with commas) prefers gzip to the body as it is.

    A member that is malformed counts as absent. gzip must weigh more than nothing, and no less than
    `identity` where that is named.
    """
    weights: dict[bytes, float] = {}
    for text in field.split(b",") if len(field) <= 1024 else ():
        member = _MEMBER.fullmatch(text)
        if member is not None:
            coding = member[1].lower()
            weights[b"gzip" if coding == b"x-gzip" else coding] = float(member[2] or b"1")
    weight = weights.get(b"gzip", weights.get(b"*", 0.0))
    return weight > 0 and weight >= weights.get(b"identity", 0.0)


def decoded(field: bytes, body: bytes, limit: int) -> bytes:
    """Return the body without the coding that its Content-Encoding names.

    limit: bytes that may come out. Raises UnknownCoding, BadCoding, TooMuch; never allocates more than limit
    and one byte.
    """
    coding = field.strip(b" \t").lower()
    if coding == b"identity" or not coding:
        return body
    window = _WINDOW.get(coding)
    if window is None:
        raise UnknownCoding("the body's coding is not read here")
    most = min(limit, max(_FREE, _RATIO * len(body)))
    reader = zlib.decompressobj(window)
    try:
        plain = reader.decompress(body, most + 1)
    except zlib.error:
        raise BadCoding("the body is not what its Content-Encoding says") from None
    if len(plain) > most:
        raise TooMuch("the body is too large once it is decompressed")
    if not reader.eof or reader.unused_data:
        raise BadCoding("the compressed body is incomplete, or something follows it")
    return plain
