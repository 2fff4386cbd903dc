"""HTTP/2's frames as bytes, its error codes and settings, and what a connection's frames mean to us: events.
RFC 9113 §4, §6, §7. Sans-io.

Frames are written here and read in h2_machine.py. An `Event` is what remains of them when windows, tables
and states have been seen to.
"""

from __future__ import annotations

from typing import Final

Field = tuple[bytes, bytes]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = 9  # bytes before a frame's payload (§4.1)

# Types (§6)
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags
END_STREAM: Final = 0x01
ACK: Final = 0x01
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
PRIORITIZED: Final = 0x20

# Error codes (§7)
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
SETTINGS_TIMEOUT: Final = 4
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
CONNECT_ERROR: Final = 10
ENHANCE_YOUR_CALM: Final = 11
INADEQUATE_SECURITY: Final = 12
HTTP_1_1_REQUIRED: Final = 13

# Settings (§6.5.2, RFC 8441 §3)
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6
ENABLE_CONNECT_PROTOCOL: Final = 8

MAX_WINDOW: Final = (1 << 31) - 1


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes before a payload."""
    return ((((length << 8 | kind) << 8) | flags) << 32 | stream_id).to_bytes(9, "big")


def window_update(stream_id: int, size: int) -> bytes:
    """Let the peer send `size` bytes more; stream 0: on all streams together."""
    return frame_head(4, WINDOW_UPDATE, 0, stream_id) + size.to_bytes(4, "big")


def rst_stream(stream_id: int, code: int) -> bytes:
    """End a stream before its time."""
    return frame_head(4, RST_STREAM, 0, stream_id) + code.to_bytes(4, "big")


def goaway(last_stream_id: int, code: int) -> bytes:
    """Say that no stream above the last one named is looked at."""
    return frame_head(8, GOAWAY, 0, 0) + last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big")


def settings(values: dict[int, int]) -> bytes:
    """Say what we keep to."""
    payload = b"".join([key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items()])
    return frame_head(len(payload), SETTINGS, 0, 0) + payload


# Events


class Event:
    """Something that the peer's frames say, on a stream or (0) on the connection."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class HeadReceived(Event):
    """A request's head, a response's, or an interim one of a response. ended: nothing follows it."""

    __slots__ = ("ended", "fields", "is_interim")

    def __init__(self, stream_id: int, fields: list[Field], ended: bool, is_interim: bool) -> None:
        self.stream_id = stream_id
        self.fields = fields
        self.ended = ended
        self.is_interim = is_interim


class DataReceived(Event):
    """A piece of a body. taken: bytes that it takes of the windows until they are acknowledged."""

    __slots__ = ("data", "ended", "taken")

    def __init__(self, stream_id: int, data: bytes, taken: int, ended: bool) -> None:
        self.stream_id = stream_id
        self.data = data
        self.taken = taken
        self.ended = ended


class TrailersReceived(Event):
    """The block that ends a message."""

    __slots__ = ("fields",)

    def __init__(self, stream_id: int, fields: list[Field]) -> None:
        self.stream_id = stream_id
        self.fields = fields


class StreamReset(Event):
    """A stream is over. is_theirs: the peer reset it; else we did, because a frame of theirs was wrong."""

    __slots__ = ("code", "is_theirs")

    def __init__(self, stream_id: int, code: int, is_theirs: bool) -> None:
        self.stream_id = stream_id
        self.code = code
        self.is_theirs = is_theirs


class RoomReceived(Event):
    """A window grew: the stream's, or all of them."""

    __slots__ = ()


class PingAnswered(Event):
    """Our PING came back."""

    __slots__ = ()


class GoneAway(Event):
    """The peer accepts no new streams; those up to `last_stream_id` go on (§6.8)."""

    __slots__ = ("code", "last_stream_id")

    def __init__(self, last_stream_id: int, code: int) -> None:
        self.stream_id = 0
        self.last_stream_id = last_stream_id
        self.code = code
