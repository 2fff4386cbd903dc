"""Where a body ends: Content-Length, chunks, or the end of the connection. Sans-io.

Two parties who disagree on where a body ends disagree on where the next message begins: request smuggling.
So the rules of RFC 9112 §6.3 are applied in their narrowest reading: one Content-Length of plain digits, or
one Transfer-Encoding that is exactly `chunked`, never both. Chunks are decoded and encoded anew, never
passed through; extensions are bounded and dropped. Trailers are bounded and kept; one that would change
framing, routing or identity makes a request malformed and is dropped from a response (trailers.py).

Three readers share one shape: `feed(data)` returns what of the body is in `data`, `done` turns true with
the last byte, and `rest` then holds the bytes after the end.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.http.message import Headers
from gateway.http.trailers import may_trail

# A response's body, where it isn't a number of bytes.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

LAST_CHUNK: Final = b"0\r\n\r\n"

_MAX_DIGITS = 18  # a length below 2**63 whatever the digits: no overflow in whoever reads it after us
# No possessive groups, `(?:…)*+`: Python before 3.11.5 takes what they do not match (cpython#106052).
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15}+)((?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?)*)" % (_TOKEN, _TOKEN, _QUOTED)
)
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15}+)\r\n")
_TRAILER_LINE = re.compile(rb"(%b):([\t -~\x80-\xff]*+)" % _TOKEN)
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class BadFraming(ValueError):
    """The bytes don't say in exactly one way where the body ends."""


def read_length(value: bytes) -> int:
    """Return the bytes that a Content-Length announces. Raises BadFraming for anything but plain digits."""
    if not value.isdigit() or len(value) > _MAX_DIGITS or (value[0] == 0x30 and len(value) > 1):
        raise BadFraming("Content-Length is not one plain number")
    return int(value)


def body_of_response(method: bytes, status: int, length: int | None, chunked: bool) -> int:
    """Return the bytes of a response's body, CHUNKED, or UNTIL_CLOSE. RFC 9112 §6.3, items 1 to 8.

    method: the request's. length: what Content-Length announced, None without one.
    """
    if method == b"HEAD" or status < 200 or status == 204 or status == 304:
        return 0
    if chunked:
        return CHUNKED
    return UNTIL_CLOSE if length is None else length


def encode_chunk(data: bytes) -> bytes:
    """Return `data` as one chunk; b"" for no data, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class LengthReader:
    """Counts down a body of `length` bytes."""

    __slots__ = ("done", "left", "rest")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the part of `data` that is body."""
        size = len(data)
        if size < self.left:
            self.left -= size
            return data
        if size > self.left:
            self.rest = data[self.left :]
            data = data[: self.left]
        self.left = 0
        self.done = True
        return data

    def __repr__(self) -> str:
        return f"<LengthReader | {self.left} B left>"


class CloseReader:
    """A body that ends when the connection does; the connection's owner sets `done`."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """All of it is body."""
        return data


class ChunkedReader:
    """Decodes a chunked body (RFC 9112 §7.1), strictly and in bounded memory.

    max_extra: bytes of extensions and of trailers, each, over the whole body. max_chunks: None = no bound.
    of_response: drop trailers that may not be there, instead of refusing the message. trailers: in the order
    received, None while there is none.
    size --hex line--> data --all bytes--> data_end --CRLF--> size; size --0--> trailers --empty line--> done
    """

    __slots__ = (
        "_chunks",
        "_extra",
        "_left",
        "_max_chunks",
        "_max_extra",
        "_of_response",
        "_pending",
        "_state",
        "done",
        "rest",
        "trailers",
    )

    def __init__(
        self, max_extra: int = 8192, max_chunks: int | None = None, of_response: bool = False
    ) -> None:
        self._state = "size"
        self._left = 0
        self._pending = b""
        self._chunks = 0
        self._extra = 0
        self._max_extra = max_extra
        self._max_chunks = max_chunks
        self._of_response = of_response
        self.done = False
        self.rest = b""
        self.trailers: Headers | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes decoded from `data`.

        Raises BadFraming; the reader is of no use afterwards.
        """
        if self._pending:
            data, self._pending = self._pending + data, b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while True:
            if self._state == "data":
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if self._left:
                    break
                self._state = "data_end"
            elif self._state == "data_end":
                if size - at < 2:
                    if data[at:] not in (b"", b"\r"):
                        raise BadFraming("a chunk is longer than its size")
                    self._pending = data[at:]
                    break
                if data[at : at + 2] != b"\r\n":
                    raise BadFraming("a chunk is longer than its size")
                at += 2
                self._state = "size"
            elif self.done:
                self.rest = data[at:]
                break
            else:
                if self._state == "size":
                    at = self._read_plain(data, at, pieces)
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._wait_for_line(data[at:])
                    break
                self._read_line(data[at:end])
                at = end + 2
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def _read_plain(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Read chunks that are all there and say nothing but their size; return where the first other begins.

        So a body of a million one-byte chunks costs 0.5 µs for each of them, and not four times that.
        """
        size = len(data)
        most = size if self._max_chunks is None else self._max_chunks - self._chunks
        read = 0
        while read < most:
            match = _PLAIN_SIZE.match(data, at)
            if match is None:
                break
            start = match.end()
            end = start + int(match[1], 16)
            if end + 2 > size or end == start or data[end] != 13 or data[end + 1] != 10:
                break
            pieces.append(data[start:end])
            at = end + 2
            read += 1
        self._chunks += read
        return at

    def _wait_for_line(self, part: bytes) -> None:
        if len(part) > self._max_extra or _BARE.search(part):
            raise BadFraming("a chunk's size line or trailer is malformed or too long")
        self._pending = part

    def _read_line(self, line: bytes) -> None:
        if self._state == "trailers":
            self._read_trailer(line)
        else:
            self._read_size(line)

    def _read_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadFraming("a chunk's size line is malformed")
        self._spend(len(match[2]))
        self._chunks += 1
        if self._max_chunks is not None and self._chunks > self._max_chunks:
            raise BadFraming("the body has too many chunks")
        self._left = int(match[1], 16)
        self._state = "data" if self._left else "trailers"
        if not self._left:
            self._extra = 0

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            self._state = "done"
            return
        self._spend(len(line))
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise BadFraming("a trailer is malformed")
        name = match[1].lower()
        if not may_trail(name) or (b"_" in name and not self._of_response):
            if self._of_response:
                return
            raise BadFraming("a trailer field is not allowed there")
        if self.trailers is None:
            self.trailers = []
        self.trailers.append((name, match[2].strip(b" \t")))

    def _spend(self, size: int) -> None:
        self._extra += size
        if self._extra > self._max_extra:
            raise BadFraming("chunk extensions or trailers are too long")

    def __repr__(self) -> str:
        return f"<ChunkedReader | {self._state}, {self._left} B left of this chunk, {self._chunks} chunks>"


BodyReader = LengthReader | CloseReader | ChunkedReader


def reader_for(framing: int) -> BodyReader:
    """Return the reader of an upstream's body: a number of bytes, CHUNKED or UNTIL_CLOSE."""
    if framing == CHUNKED:
        return ChunkedReader(of_response=True)
    return CloseReader() if framing == UNTIL_CLOSE else LengthReader(framing)
