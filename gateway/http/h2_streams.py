"""The streams of one HTTP/2 connection, their windows, and all that is sent on them. RFC 9113 §5. Sans-io.

    idle --HEADERS--> open --END_STREAM--> half closed --END_STREAM--> closed
                       any --RST_STREAM--> closed

Two windows bound what may be sent each way, a stream's and the connection's (§5.2); ours are opened again by
what has been acknowledged, not by what has come. A closed stream is forgotten but for how it was closed, and
of that the last `_REMEMBERED`. What comes in is h2_machine.py's.
"""

from __future__ import annotations

from typing import Final

from gateway.http.h2_frames import (
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    NO_ERROR,
    PING,
    PREFACE,
    Field,
    frame_head,
    goaway,
    rst_stream,
    settings,
    window_update,
)
from gateway.http.h2_patience import Patience
from gateway.http.hpack_plain import PlainEncoder

STREAM_WINDOW: Final = 65_535  # bytes that a peer may send ahead on one stream: what it is before SETTINGS
CONNECTION_WINDOW: Final = 1024 * 1024  # … and on all together
FRAME: Final = 16 * 1024  # bytes of a frame's payload, both ways
STREAMS: Final = 100  # that a peer may have open
_REMEMBERED: Final = 512  # closed streams of which is known how they were closed
_LAST_STREAM: Final = (1 << 31) - 1

SMALL_GAIN: Final = 0.125  # a frame of data pays for the window updates and pings around it
LARGE_GAIN: Final = 0.5
SMALL: Final = 256  # bytes

# How a stream was closed.
BY_END: Final = 1
BY_US: Final = 2
BY_THEM: Final = 3


class Stream:
    """One stream that is not closed.

    window: bytes that we may send; theirs: bytes that the peer may; taken: those that were given back and not
    told yet. expected: bytes that the peer's Content-Length announced, -1 for none; received: of its body.
    """

    __slots__ = (
        "expected",
        "has_head",
        "is_bodiless",
        "local_ended",
        "received",
        "remote_ended",
        "taken",
        "theirs",
        "window",
    )

    def __init__(self, window: int) -> None:
        self.window = window
        self.theirs = STREAM_WINDOW
        self.taken = 0
        self.expected = -1
        self.received = 0
        self.has_head = False  # the peer's final head came
        self.is_bodiless = False  # the peer's answer has no body, whatever it announces
        self.local_ended = False
        self.remote_ended = False


class Streams:
    """Those of one connection, and what is to be sent. client: which side we are."""

    __slots__ = (
        "_client",
        "_closed",
        "_encoder",
        "_first_window",
        "_header_list",
        "_highest_in",
        "_highest_out",
        "_out",
        "_streams",
        "_taken",
        "_theirs",
        "_window",
        "_window_size",
        "bound",
        "connect_protocol",
        "patience",
    )

    def __init__(self, client: bool, now: float, header_list: int, window: int) -> None:
        self.patience = Patience(1000.0, 100.0, now)
        self.bound = MAX_WINDOW  # streams that the peer lets us open at once
        self.connect_protocol = False  # the peer takes extended CONNECT (RFC 8441 §3)
        self._client = client
        self._header_list = header_list
        self._window_size = window
        self._out: list[bytes | memoryview] = []
        self._encoder = PlainEncoder()
        self._streams: dict[int, Stream] = {}
        self._closed: dict[int, int] = {}  # how the last ones were closed
        self._highest_in = 0
        self._highest_out = 0
        self._first_window = STREAM_WINDOW  # of a new stream, towards the peer
        self._window = STREAM_WINDOW  # bytes that we may send on all streams together
        self._theirs = window  # bytes that the peer may
        self._taken = 0

    def open(self, connect_protocol: bool = False) -> None:
        """Say how it begins (§3.4). connect_protocol: clients may ask for extended CONNECT."""
        values = {
            ENABLE_PUSH: 0,
            MAX_CONCURRENT_STREAMS: STREAMS,
            INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            MAX_FRAME_SIZE: FRAME,
            MAX_HEADER_LIST_SIZE: self._header_list,
        }
        if connect_protocol:
            values[ENABLE_CONNECT_PROTOCOL] = 1
        if self._client:
            self._out.append(PREFACE)
        else:
            del values[ENABLE_PUSH]  # it is the client's to say
        self._out.append(settings(values))
        self._out.append(window_update(0, self._window_size - STREAM_WINDOW))

    def data_to_send(self) -> bytes:
        """Take the bytes that are to be sent."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return b"".join(out)

    # Sending

    def begin(self, fields: list[Field], ended: bool) -> int:
        """Open a stream with a request's head; returns its number, 0 when there is none left."""
        stream_id = self._highest_out + 2 if self._highest_out else 1
        if stream_id > _LAST_STREAM:
            return 0
        self._highest_out = stream_id
        self._streams[stream_id] = stream = Stream(self._first_window)
        stream.is_bodiless = fields[0][1] == b"HEAD"
        self._send_block(stream_id, fields, ended)
        if ended:
            stream.local_ended = True
        return stream_id

    def send_headers(self, stream_id: int, fields: list[Field], ended: bool) -> bool:
        """Send a head, or trailers. False: the stream is closed for us."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return False
        self._send_block(stream_id, fields, ended)
        if ended:
            self._end_local(stream_id, stream)
        return True

    def _send_block(self, stream_id: int, fields: list[Field], ended: bool) -> None:
        block = self._encoder.encode(fields)
        flags = END_STREAM if ended else 0
        out = self._out
        if len(block) <= FRAME:
            out.append(frame_head(len(block), HEADERS, flags | END_HEADERS, stream_id))
            out.append(block)
            return
        kind = HEADERS
        for at in range(0, len(block), FRAME):
            piece = block[at : at + FRAME]
            last = END_HEADERS if at + FRAME >= len(block) else 0
            out.append(frame_head(len(piece), kind, flags | last, stream_id))
            out.append(piece)
            kind, flags = CONTINUATION, 0

    def room(self, stream_id: int) -> int:
        """Bytes of data that may be sent on a stream now, in one frame."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return 0
        return max(0, min(stream.window, self._window, FRAME))

    def send_piece(self, stream_id: int, data: bytes | memoryview, ended: bool) -> bool:
        """Send one frame of data that `room` allows. False: the stream is closed for us."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return False
        size = len(data)
        self.patience.earn(LARGE_GAIN if size >= SMALL else SMALL_GAIN)
        stream.window -= size
        self._window -= size
        self._out.append(frame_head(size, DATA, END_STREAM if ended else 0, stream_id))
        if size:
            self._out.append(data)
        if ended:
            self._end_local(stream_id, stream)
        return True

    def is_open(self, stream_id: int) -> bool:
        """May we still send on the stream?"""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.local_ended

    def reset_stream(self, stream_id: int, code: int) -> bool:
        """End a stream now. False: it was closed already."""
        if stream_id not in self._streams:
            return False
        self._close(stream_id, BY_US)
        self._out.append(rst_stream(stream_id, code))
        return True

    def acknowledge(self, size: int, stream_id: int) -> None:
        """Let the peer send as much again: what it sent has been handed on."""
        self._give_back(size)
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.remote_ended:
            stream.taken += size
            if stream.taken >= STREAM_WINDOW // 2:
                self._out.append(window_update(stream_id, stream.taken))
                stream.theirs += stream.taken
                stream.taken = 0

    def _give_back(self, size: int) -> None:
        """Open the connection's window again; told when a quarter of it is to be given back."""
        self._taken += size
        if self._taken >= self._window_size // 4:
            self._out.append(window_update(0, self._taken))
            self._theirs += self._taken
            self._taken = 0

    def ping(self, data: bytes) -> None:
        """Ask whether the peer lives. data: 8 bytes."""
        self._out.append(frame_head(8, PING, 0, 0) + data)

    def say_goodbye(self, code: int = NO_ERROR, last_stream_id: int | None = None) -> None:
        """Send GOAWAY without ending anything (§6.8)."""
        self._out.append(goaway(self._highest_in if last_stream_id is None else last_stream_id, code))

    # Streams end

    def _is_idle(self, stream_id: int) -> bool:
        ours = stream_id % 2 == int(self._client)
        return stream_id > (self._highest_out if ours else self._highest_in)

    def _end_remote(self, stream_id: int, stream: Stream) -> None:
        stream.remote_ended = True
        if stream.local_ended:
            self._close(stream_id, BY_END)

    def _end_local(self, stream_id: int, stream: Stream) -> None:
        stream.local_ended = True
        if stream.remote_ended:
            self._close(stream_id, BY_END)

    def _close(self, stream_id: int, how: int) -> None:
        del self._streams[stream_id]
        closed = self._closed
        closed[stream_id] = how
        if len(closed) > _REMEMBERED:
            del closed[next(iter(closed))]
