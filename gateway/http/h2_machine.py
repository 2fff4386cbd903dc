"""HTTP/2's frames as they come in, and what a connection makes of them. RFC 9113 §4 to §6. Sans-io, strict.

    bytes --feed--> events           send_headers, send_piece, … --data_to_send--> bytes

Written for the edge: whatever a peer can make us keep or do is bounded, and the peer pays.

* A frame is refused by its first nine bytes, a header block by what it has grown to: nothing is buffered
  that will not be read.
* Frames that are cheap to send and dear to read cost something of an allowance (`Patience`).
* What is wrong with one message ends its stream; what is wrong with the connection (§5.4.1) raises `Broken`
  with the code that §4 to §6 name, and a GOAWAY that says so is ready to be sent.
* GOAWAY ends nothing by itself: streams up to the last one named are finished (§6.8).

Streams, windows and all that is sent are h2_streams.py's. Of frames on a closed stream those that came after
*our* reset crossed our word and are ignored; all others are an error of the peer (§5.1).

`h2` did this before and took 170 of a gRPC call's 290 µs (docs/adr/0033-own-http2-machine.md); it is what
tests/http/test_h2_machine.py holds this against.
"""

from __future__ import annotations

from typing import Final

from gateway.http.h2_frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEAD,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    DataReceived,
    Event,
    Field,
    GoneAway,
    HeadReceived,
    PingAnswered,
    RoomReceived,
    StreamReset,
    TrailersReceived,
    frame_head,
    rst_stream,
)
from gateway.http.h2_streams import (
    BY_END,
    BY_THEM,
    BY_US,
    CONNECTION_WINDOW,
    FRAME,
    LARGE_GAIN,
    SMALL,
    SMALL_GAIN,
    Stream,
    Streams,
)
from gateway.http.hpack_read import BadBlock, HpackReader

_BLOCK_FRAMES: Final = 16  # that one header block may come in

# What frames cost of the allowance.
_COSTS: Final = {
    PRIORITY: 1.0,
    RST_STREAM: 0.5,
    SETTINGS: 5.0,
    PING: 1.0,
    WINDOW_UPDATE: 0.25,
    CONTINUATION: 1.0,
}
_UNKNOWN_COST: Final = 1.0
_EMPTY_COST: Final = 1.0
_REQUEST_GAIN: Final = 1.0


class Broken(Exception):
    """The peer broke the protocol, or our patience; the connection is over. A GOAWAY is in `data_to_send`."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Machine(Streams):
    """One connection. client: which side we are."""

    __slots__ = (
        "_block",
        "_block_ends",
        "_block_frames",
        "_block_limit",
        "_block_of",
        "_block_size",
        "_now",
        "_pending",
        "_preface",
        "_reader",
        "_settled",
    )

    def __init__(
        self, client: bool, now: float, header_list: int = 32 * 1024, window: int = CONNECTION_WINDOW
    ) -> None:
        """window: bytes that the peer may send ahead on all streams together.

        header_list: bytes of one message's fields as HPACK counts them (§10.5.1). The peer is told of it; up
        to twice as much is still decoded, so that it can be told 431 instead of losing the connection.
        """
        super().__init__(client, now, header_list, window)
        self._now = now
        self._pending = b""
        self._preface = b"" if client else PREFACE  # what of it has not come yet
        self._settled = False  # the peer's first SETTINGS came
        self._reader = HpackReader(2 * header_list)
        self._block: list[bytes] = []  # a header block that is unfinished
        self._block_of = 0  # the stream that it belongs to
        self._block_ends = False  # it ends its stream
        self._block_size = 0
        self._block_frames = 0
        self._block_limit = 2 * header_list

    def feed(self, data: bytes, now: float) -> list[Event]:
        """Return what `data` means. Raises Broken; events before the fault are lost with the connection."""
        self._now = now
        if self._pending:
            data = self._pending + data
        at, size = 0, len(data)
        if self._preface:
            at = self._read_preface(data)
        events: list[Event] = []
        while size - at >= HEAD:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind, flags = data[at + 3], data[at + 4]
            stream_id = (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            self._check(kind, flags, stream_id, length)
            at += HEAD
            end = at + length
            if end > size:
                at -= HEAD
                break
            self._settled = True
            if kind == DATA:
                self._on_data(flags, stream_id, data[at:end], events)
            elif kind == HEADERS:
                self._on_headers(flags, stream_id, data[at:end], events)
            else:
                self._on_other(kind, flags, stream_id, data[at:end], events)
            at = end
        self._pending = data[at:] if at < size else b""
        return events

    def _read_preface(self, data: bytes) -> int:
        preface = self._preface
        part = data[: len(preface)]
        if preface[: len(part)] != part:
            raise self._broken(PROTOCOL_ERROR, "the connection does not begin as HTTP/2")
        self._preface = preface[len(part) :]
        return len(part)

    def _check(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Refuse a frame by its head alone."""
        if length > FRAME:
            raise self._broken(FRAME_SIZE_ERROR, "a frame is longer than 16384 bytes")
        if not self._settled and (kind != SETTINGS or flags & ACK):
            raise self._broken(PROTOCOL_ERROR, "the first frame is not SETTINGS")  # §3.4
        if self._block_of and (kind != CONTINUATION or stream_id != self._block_of):
            raise self._broken(PROTOCOL_ERROR, "a header block is interrupted")  # §4.3
        if kind <= HEADERS:
            if stream_id == 0:
                raise self._broken(PROTOCOL_ERROR, "a message on stream 0")
        elif kind <= CONTINUATION:
            self._check_rare(kind, flags, stream_id, length)

    def _check_rare(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        wrong = False  # its length is
        if kind == SETTINGS:
            wrong = length % 6 != 0 or (bool(flags & ACK) and length != 0)
        elif kind == GOAWAY:
            wrong = length < 8
        elif kind == PING:
            wrong = length != 8
        elif kind == PRIORITY:
            wrong = length != 5
        elif kind in (RST_STREAM, WINDOW_UPDATE):
            wrong = length != 4
        if kind in (SETTINGS, PING, GOAWAY):
            if stream_id:
                raise self._broken(PROTOCOL_ERROR, "a frame of the connection on a stream")
        elif kind != WINDOW_UPDATE and not stream_id:
            raise self._broken(PROTOCOL_ERROR, "a stream's frame on stream 0")
        if wrong:
            raise self._broken(FRAME_SIZE_ERROR, "a frame does not have its type's length")

    def _spend(self, cost: float) -> None:
        if not self.patience.spend(cost, self._now):
            raise self._broken(ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    # Bodies

    def _on_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        taken = len(payload)
        ended = flags & END_STREAM != 0
        if taken or ended:
            self.patience.earn(LARGE_GAIN if taken >= SMALL else SMALL_GAIN)
        else:
            self._spend(_EMPTY_COST)
        self._theirs -= taken
        if self._theirs < 0:
            raise self._broken(FLOW_CONTROL_ERROR, "more data than the connection's window")
        if flags & PADDED:
            payload = self._unpad(payload)
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_ended:
            self._give_back(taken)
            self._on_closed(stream_id, events)
            return
        if not stream.has_head:
            raise self._broken(PROTOCOL_ERROR, "data before a head")
        stream.theirs -= taken
        if stream.theirs < 0:
            raise self._broken(FLOW_CONTROL_ERROR, "more data than the stream's window")
        stream.received += len(payload)
        if stream.expected >= 0 and (
            stream.received > stream.expected or (ended and stream.received != stream.expected)
        ):
            self._give_back(taken)  # it counts for the connection's window all the same
            self._fail_stream(stream_id, PROTOCOL_ERROR, events)  # §8.1.1
            return
        if ended:
            self._end_remote(stream_id, stream)
        events.append(DataReceived(stream_id, payload, taken, ended))

    def _unpad(self, payload: bytes) -> bytes:
        """Return what is between the padding's length and the padding (§6.1)."""
        if not payload or payload[0] >= len(payload):
            raise self._broken(PROTOCOL_ERROR, "a frame is shorter than its padding")
        return payload[1 : len(payload) - payload[0]]

    # Header blocks

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        if size or flags & END_STREAM:
            self.patience.earn(_REQUEST_GAIN)
        else:
            self._spend(_EMPTY_COST)
        if size > self._block_limit:
            raise self._broken(ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & PADDED:
            payload = self._unpad(payload)
        if flags & PRIORITIZED:
            if len(payload) < 5:
                raise self._broken(FRAME_SIZE_ERROR, "a frame does not have its type's length")
            self._check_priority(stream_id, payload)
            payload = payload[5:]
        ends = flags & END_STREAM != 0
        if flags & END_HEADERS:
            self._on_block(stream_id, payload, ends, events)
            return
        self._block_of = stream_id
        self._block_ends = ends
        self._block_size = size
        self._block_frames = 1
        self._block.append(payload)

    def _check_priority(self, stream_id: int, payload: bytes) -> None:
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
            raise self._broken(PROTOCOL_ERROR, "a stream that depends on itself")

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        """Keep a header block within bounds while it comes in (CONTINUATION flood, CVE-2024-27316 et al.)."""
        if not self._block_of:
            raise self._broken(PROTOCOL_ERROR, "CONTINUATION without a header block")
        self._block_size += len(payload)
        self._block_frames += 1
        if self._block_size > self._block_limit or self._block_frames > _BLOCK_FRAMES:
            raise self._broken(ENHANCE_YOUR_CALM, "a header block is too large")
        self._block.append(payload)
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), []
            self._block_of = 0
            self._on_block(stream_id, block, self._block_ends, events)

    def _on_block(self, stream_id: int, block: bytes, ends: bool, events: list[Event]) -> None:
        """Read a whole header block, whatever becomes of it: the tables must stay the same (§4.3)."""
        try:
            fields = self._reader.read(block)
        except BadBlock as bad:
            code = ENHANCE_YOUR_CALM if bad.is_large else COMPRESSION_ERROR
            raise self._broken(code, str(bad)) from bad
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._opened_by_peer(stream_id)
        if stream is None or stream.remote_ended:
            self._on_closed(stream_id, events)
        elif stream.has_head:
            self._on_trailers(stream_id, stream, fields, ends, events)
        else:
            self._on_head(stream_id, stream, fields, ends, events)

    def _opened_by_peer(self, stream_id: int) -> Stream | None:
        """Return a new stream; None for one that was closed. §5.1.1 says which can't be opened."""
        if self._client or stream_id % 2 == 0:
            if self._is_idle(stream_id):
                raise self._broken(PROTOCOL_ERROR, "a stream that the peer may not open")
            return None
        if stream_id <= self._highest_in:
            if stream_id not in self._closed:
                raise self._broken(PROTOCOL_ERROR, "a stream below one that was opened before")
            return None
        self._highest_in = stream_id
        self._streams[stream_id] = stream = Stream(self._first_window)
        return stream

    def _on_head(
        self, stream_id: int, stream: Stream, fields: list[Field], ends: bool, events: list[Event]
    ) -> None:
        status = b""
        length = -1
        for name, value in fields:
            if name == b"content-length":
                if value.isdigit() and len(value) <= 18:
                    length = int(value)
            elif name == b":status":
                status = value
        if self._client and status[:1] == b"1":
            if ends:
                self._fail_stream(stream_id, PROTOCOL_ERROR, events)  # §8.1: an interim head ends nothing
            else:
                events.append(HeadReceived(stream_id, fields, False, True))
            return
        if self._client and (stream.is_bodiless or status == b"304" or status == b"204"):
            length = 0 if length >= 0 else -1
        stream.has_head = True
        stream.expected = length
        if ends:
            if self._client and length > 0:
                self._fail_stream(stream_id, PROTOCOL_ERROR, events)  # §8.1.1
                return
            self._end_remote(stream_id, stream)
        events.append(HeadReceived(stream_id, fields, ends, False))

    def _on_trailers(
        self, stream_id: int, stream: Stream, fields: list[Field], ends: bool, events: list[Event]
    ) -> None:
        if not ends or (stream.expected >= 0 and stream.received != stream.expected):  # §8.1, §8.1.1
            self._fail_stream(stream_id, PROTOCOL_ERROR, events)
            return
        self._end_remote(stream_id, stream)
        events.append(TrailersReceived(stream_id, fields))

    # All the other frames

    def _on_other(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._spend(_COSTS.get(kind, _UNKNOWN_COST))
        if kind == WINDOW_UPDATE:
            self._on_window_update(stream_id, int.from_bytes(payload, "big") & MAX_WINDOW, events)
        elif kind == RST_STREAM:
            self._on_rst_stream(stream_id, int.from_bytes(payload, "big"), events)
        elif kind == SETTINGS:
            if not flags & ACK:
                self._on_settings(payload, events)
        elif kind == PING:
            if flags & ACK:
                events.append(PingAnswered(0))
            else:
                self._out.append(frame_head(8, PING, ACK, 0) + payload)
        elif kind == CONTINUATION:
            self._on_continuation(flags, stream_id, payload, events)
        elif kind == GOAWAY:
            last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
            events.append(GoneAway(last, int.from_bytes(payload[4:8], "big")))
        elif kind == PRIORITY:
            self._check_priority(stream_id, payload)
        elif kind == PUSH_PROMISE:
            raise self._broken(PROTOCOL_ERROR, "a push that was not allowed")

    def _on_window_update(self, stream_id: int, size: int, events: list[Event]) -> None:
        if stream_id == 0:
            self._window += size
            if size == 0 or self._window > MAX_WINDOW:
                code = FLOW_CONTROL_ERROR if size else PROTOCOL_ERROR
                raise self._broken(code, "a window that does not grow, or too far")  # §6.9, §6.9.1
            events.append(RoomReceived(0))
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise self._broken(PROTOCOL_ERROR, "a frame on an idle stream")  # §5.1
            return
        stream.window += size
        if size == 0 or stream.window > MAX_WINDOW:
            self._fail_stream(stream_id, FLOW_CONTROL_ERROR if size else PROTOCOL_ERROR, events)
        else:
            events.append(RoomReceived(stream_id))

    def _on_rst_stream(self, stream_id: int, code: int, events: list[Event]) -> None:
        if stream_id in self._streams:
            self._close(stream_id, BY_THEM)
            events.append(StreamReset(stream_id, code, True))
        elif self._is_idle(stream_id):
            raise self._broken(PROTOCOL_ERROR, "a frame on an idle stream")  # §5.1

    def _on_settings(self, payload: bytes, events: list[Event]) -> None:
        """Take the peer's settings in their order and say so (§6.5.3)."""
        for at in range(0, len(payload), 6):
            key = payload[at] << 8 | payload[at + 1]
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == INITIAL_WINDOW_SIZE:
                self._set_first_window(value)
            elif key == MAX_CONCURRENT_STREAMS:
                self.bound = value
            elif key == MAX_FRAME_SIZE:
                if not FRAME <= value < 1 << 24:
                    raise self._broken(PROTOCOL_ERROR, "a setting that is not allowed")
            elif key == ENABLE_PUSH:
                if value > 1 or (self._client and value):
                    raise self._broken(PROTOCOL_ERROR, "a setting that is not allowed")
            elif key == ENABLE_CONNECT_PROTOCOL:
                if value > 1 or (self.connect_protocol and not value):
                    raise self._broken(PROTOCOL_ERROR, "a setting that is not allowed")  # RFC 8441 §3
                self.connect_protocol = value == 1
        self._out.append(frame_head(0, SETTINGS, ACK, 0))
        events.append(RoomReceived(0))

    def _set_first_window(self, size: int) -> None:
        """Change the windows of all streams by the difference (§6.9.2); they may be below zero then."""
        if size > MAX_WINDOW:
            raise self._broken(FLOW_CONTROL_ERROR, "a window that is too large")
        more = size - self._first_window
        self._first_window = size
        for stream in self._streams.values():
            stream.window += more
            if stream.window > MAX_WINDOW:
                raise self._broken(FLOW_CONTROL_ERROR, "a window that grows too far")

    # What is wrong

    def _fail_stream(self, stream_id: int, code: int, events: list[Event]) -> None:
        """End one stream, because of a frame of theirs (§5.4.2)."""
        self.reset_stream(stream_id, code)
        events.append(StreamReset(stream_id, code, False))

    def _on_closed(self, stream_id: int, events: list[Event]) -> None:
        """Data or fields came after a stream's end: what crossed our reset is nobody's fault (§5.1)."""
        if stream_id in self._streams:
            self._fail_stream(stream_id, STREAM_CLOSED, events)
        elif self._is_idle(stream_id):
            raise self._broken(PROTOCOL_ERROR, "a frame on an idle stream")
        elif self._closed.get(stream_id, BY_END) != BY_US:
            self._closed[stream_id] = BY_US
            self._out.append(rst_stream(stream_id, STREAM_CLOSED))
            events.append(StreamReset(stream_id, STREAM_CLOSED, False))

    def _broken(self, code: int, why: str) -> Broken:
        self.say_goodbye(code)
        return Broken(code, why)

    def __repr__(self) -> str:
        return f"<Machine {'client' if self._client else 'server'} | {len(self._streams)} streams>"
