"""HTTP/2's frames and states (RFC 9113), by the `h2` library, and what a hardened peer needs on top. Sans-io.

`h2` keeps the states of connection and streams, both flow-control windows and the HPACK tables. It was made
for applications, not for the edge of one, so this adds:

* bounds before anything is buffered: a frame's announced length, and what its header block has grown to,
  are checked with the first nine bytes (h2 buffers up to 16 MiB first);
* an allowance for frames that are cheap to send and dear to read (`Patience`);
* stream errors that stay stream errors (§5.4.2): h2 ends the whole connection, and with it every other
  request on it, over one malformed message;
* the error codes that §4.2, §4.3, §5.1 and §6 name, where h2 has a more general one;
* GOAWAY without the end: h2 forgets every stream when either side says it goes (§6.8), but streams up to
  the last one named must be finished;
* an encoder without a table (hpack_plain.py).

Frames go in by `feed`, events come back; bytes to send are taken by `data_to_send`.
"""

from __future__ import annotations

from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, StreamReset
from h2.exceptions import InvalidBodyLengthError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from gateway.http.h2_patience import Patience
from gateway.http.hpack_plain import PlainEncoder

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

STREAM_WINDOW: Final = 65_535  # bytes that a peer may send ahead on one stream: what it is before SETTINGS
CONNECTION_WINDOW: Final = 1024 * 1024  # … and on all together
FRAME: Final = 16 * 1024  # bytes of a frame's payload, both ways
STREAMS: Final = 100  # that a peer may have open
_REMEMBERED: Final = 512  # closed streams of which h2 remembers how they were closed
_PRUNE: Final = 32  # streams, closed ones among them, before h2 is made to look through them

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_END_STREAM: Final = 0x1
_ACK: Final = 0x1
_END_HEADERS: Final = 0x4
_LENGTHS: Final = {_PRIORITY: 5, _RST: 4, _PING: 8, _WINDOW: 4}  # §6: frames of one length

# What frames cost of the allowance.
_COSTS: Final = {_PRIORITY: 1.0, _RST: 0.5, _SETTINGS: 5.0, _PING: 1.0, _WINDOW: 0.25, _CONTINUATION: 1.0}
_UNKNOWN_COST: Final = 1.0
_EMPTY_COST: Final = 1.0
_GAINS: Final = (
    0.125,
    0.5,
)  # a small or a larger frame of data pays for the window updates and pings around it
_SMALL: Final = 256  # bytes
_REQUEST_GAIN: Final = 1.0


class Broken(Exception):
    """The peer broke the protocol, or our patience; the connection is over. A GOAWAY is in `data_to_send`."""

    def __init__(self, code: ErrorCodes, why: str) -> None:
        super().__init__(why)
        self.code = code


class GoneAway(Event):
    """The peer accepts no new streams; those up to `last_stream_id` go on (§6.8)."""

    def __init__(self, last_stream_id: int, code: int) -> None:
        self.last_stream_id = last_stream_id
        self.code = code


def _parse(frame: bytes) -> Frame:
    """Read one whole frame. Raises hyperframe's errors."""
    view = memoryview(frame)
    parsed, _ = Frame.parse_frame_header(view[:9])
    parsed.parse_body(view[9:])
    return parsed


class Machine(H2Connection):
    """One connection's frames. client: which side we are."""

    MAX_CLOSED_STREAMS = _REMEMBERED

    def __init__(
        self, client: bool, now: float, header_list: int = 32 * 1024, window: int = CONNECTION_WINDOW
    ) -> None:
        """window: bytes that the peer may send ahead on all streams together.

        header_list: bytes of one message's fields as HPACK counts them (§10.5.1). The peer is told of it; up
        to twice as much is still decoded, so that it can be told 431 instead of losing the connection.
        """
        super().__init__(
            H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_inbound_headers=False,  # h2_heads.py is stricter, and a stream's error stays one
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.encoder = PlainEncoder()
        self.decoder.max_header_list_size = 2 * header_list
        self.patience = Patience(1000.0, 100.0, now)
        self._client = client
        self._window = window
        self._now = now
        self._pending = b""
        self._preface = b"" if client else PREFACE
        self._settled = False  # the peer's first SETTINGS came
        self._block_of = 0  # the stream whose header block is unfinished
        self._block_size = 0
        self._block_frames = 0
        self._block_limit = 2 * header_list
        self.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: header_list,
                SettingCodes.ENABLE_PUSH: 0,
            },
        )

    def open(self) -> None:
        """Send our preface and settings, and open the connection's window."""
        self.initiate_connection()
        self.increment_flow_control_window(self._window - STREAM_WINDOW)

    @property
    def open_inbound_streams(self) -> int:
        """None, as far as h2 is asked: it ends a connection that has one too many; the edge refuses a stream.

        The look through all streams, which forgets the closed ones, is left out while there are few.
        """
        if len(self.streams) > _PRUNE:
            self._open_streams(0)
        return 0

    @property
    def is_block_open(self) -> bool:
        """Is a header block under way that has not ended? Nothing else may come before it does (§4.3)."""
        return self._block_of != 0

    # Receiving

    def feed(self, data: bytes, now: float) -> list[Event]:
        """Return what `data` means. Raises Broken; events before the fault are lost with the connection."""
        self._now = now
        if self._pending:
            data = self._pending + data
        at, size = 0, len(data)
        if self._preface:
            at = self._read_preface(data)
        events: list[Event] = []
        while size - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            kind, flags = data[at + 3], data[at + 4]
            stream_id = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            self._check(kind, flags, stream_id, length)
            end = at + 9 + length
            if end > size:
                break
            self._take(kind, flags, stream_id, data[at:end], events)
            at = end
        self._pending = data[at:] if at < size else b""
        return events

    def _read_preface(self, data: bytes) -> int:
        preface = self._preface
        part = data[: len(preface)]
        if preface[: len(part)] != part:
            raise self._broken(ErrorCodes.PROTOCOL_ERROR, "the connection does not begin as HTTP/2")
        self._preface = preface[len(part) :]
        try:
            super().receive_data(part)
        except ProtocolError as error:
            raise Broken(ErrorCodes.PROTOCOL_ERROR, str(error)) from error
        return len(part)

    def _check(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Refuse a frame by its head alone."""
        if length > FRAME:
            raise self._broken(ErrorCodes.FRAME_SIZE_ERROR, "a frame is longer than 16384 bytes")
        wanted = _LENGTHS.get(kind)
        if wanted is not None and length != wanted:
            raise self._broken(ErrorCodes.FRAME_SIZE_ERROR, "a frame does not have its type's length")
        if kind == _SETTINGS and (length % 6 or (flags & _ACK and length)):
            raise self._broken(ErrorCodes.FRAME_SIZE_ERROR, "a SETTINGS frame has an odd length")
        if kind == _GOAWAY and (length < 8 or stream_id):
            code = ErrorCodes.PROTOCOL_ERROR if stream_id else ErrorCodes.FRAME_SIZE_ERROR
            raise self._broken(code, "a GOAWAY frame is malformed")
        if not self._settled and (kind != _SETTINGS or flags & _ACK):
            raise self._broken(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")  # §3.4
        if self._block_of and (kind != _CONTINUATION or stream_id != self._block_of):
            raise self._broken(ErrorCodes.PROTOCOL_ERROR, "a header block is interrupted")  # §4.3

    def _take(self, kind: int, flags: int, stream_id: int, frame: bytes, events: list[Event]) -> None:
        self._settled = True
        self._charge(kind, flags, len(frame) - 9)
        if kind in (_HEADERS, _CONTINUATION):
            self._follow_block(kind, flags, stream_id, len(frame) - 9)
        elif kind == _GOAWAY:
            last = int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF
            events.append(GoneAway(last, int.from_bytes(frame[13:17], "big")))
            return
        elif kind in (_RST, _WINDOW) and stream_id and self._is_idle(stream_id):
            raise self._broken(ErrorCodes.PROTOCOL_ERROR, "a frame on an idle stream")  # §5.1
        elif kind == _WINDOW and stream_id and not int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF:
            events.extend(self._fail_stream(stream_id, ErrorCodes.PROTOCOL_ERROR))  # §6.9
            return
        try:
            if kind == _DATA or (kind == _HEADERS and flags & _END_HEADERS and not self._block_frames > 1):
                events.extend(self._receive_frame(_parse(frame)))  # whole, so that h2 need not keep it
            else:
                events.extend(super().receive_data(frame))
        except ProtocolError as error:
            raise self._mapped(error) from error
        except HyperframeError as error:
            raise self._broken(ErrorCodes.PROTOCOL_ERROR, "a frame is malformed") from error

    def _charge(self, kind: int, flags: int, length: int) -> None:
        if kind in (_DATA, _HEADERS):
            if length or flags & _END_STREAM:
                self.patience.earn(_GAINS[length >= _SMALL] if kind == _DATA else _REQUEST_GAIN)
                return
            cost = _EMPTY_COST
        else:
            cost = _COSTS.get(kind, _UNKNOWN_COST)
        if not self.patience.spend(cost, self._now):
            raise self._broken(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _follow_block(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Keep a header block within bounds while it comes in (CONTINUATION flood, CVE-2024-27316 et al.)."""
        if kind == _HEADERS:
            self._block_size = self._block_frames = 0
        self._block_size += length
        self._block_frames += 1
        if self._block_size > self._block_limit or self._block_frames > 16:
            raise self._broken(ErrorCodes.ENHANCE_YOUR_CALM, "a header block is too large")
        self._block_of = 0 if flags & _END_HEADERS else stream_id

    def _is_idle(self, stream_id: int) -> bool:
        ours = stream_id % 2 == int(self._client)
        return stream_id > (self.highest_outbound_stream_id if ours else self.highest_inbound_stream_id)

    def _receive_frame(self, frame: Frame) -> list[Event]:
        """Handle one frame; an error of one stream ends that stream alone (§5.4.2, §8.1.1)."""
        try:
            return super()._receive_frame(frame)
        except InvalidBodyLengthError:
            assert isinstance(frame, DataFrame)
            gone = frame.flow_controlled_length  # it counts for the connection's window all the same
            events = self._fail_stream(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)
            self.acknowledge_received_data(gone, frame.stream_id)
            return events
        except StreamClosedError:
            raise
        except ProtocolError as error:
            if (
                type(error) is ProtocolError
                and isinstance(frame, HeadersFrame)
                and frame.stream_id in self.streams
                and not isinstance(error.__cause__, HPACKError)
            ):
                return self._fail_stream(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)
            raise

    def _fail_stream(self, stream_id: int, code: ErrorCodes) -> list[Event]:
        stream = self.streams.get(stream_id)
        if stream is None:
            return []
        try:
            self.reset_stream(stream_id, code)
        except ProtocolError:  # its state is closed already, by the very frame that was wrong
            frame = RstStreamFrame(stream_id)
            frame.error_code = code
            self._prepare_for_sending([frame])
        return [StreamReset(stream_id=stream_id, error_code=code, remote_reset=False)]

    def _mapped(self, error: ProtocolError) -> Broken:
        code = ErrorCodes(error.error_code)
        if isinstance(error.__cause__, HPACKError) and code is ErrorCodes.PROTOCOL_ERROR:
            code = ErrorCodes.COMPRESSION_ERROR  # §4.3
        self.clear_outbound_data_buffer()  # h2 may have said its own goodbye
        return self._broken(code, str(error))

    def _broken(self, code: ErrorCodes, why: str) -> Broken:
        self.say_goodbye(code)
        return Broken(code, why)

    # Sending

    def room(self, stream_id: int) -> int:
        """Bytes of data that may be sent on a stream now, in one frame."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        window = stream.outbound_flow_control_window
        if window > self.outbound_flow_control_window:
            window = self.outbound_flow_control_window
        if window <= 0:
            return 0
        return min(window, FRAME)

    def send_piece(self, stream_id: int, data: bytes | memoryview, last: bool) -> None:
        """Send one frame of data that `room` allows."""
        self.patience.earn(_GAINS[len(data) >= _SMALL])
        self.send_data(stream_id, data, last)

    def say_goodbye(self, code: ErrorCodes = ErrorCodes.NO_ERROR, last_stream_id: int | None = None) -> None:
        """Send GOAWAY without ending anything (§6.8)."""
        frame = GoAwayFrame(0)
        frame.last_stream_id = self.highest_inbound_stream_id if last_stream_id is None else last_stream_id
        frame.error_code = code
        self._prepare_for_sending([frame])

    def __repr__(self) -> str:
        return f"<Machine {'client' if self._client else 'server'} | {len(self.streams)} streams>"
