"""One client's HTTP/2 connection: frames in, exchanges run side by side, frames out. RFC 9113.

The states of frames and windows are http/h2_machine.py's, how bodies flow is http/h2_flows.py's, what a
head means is http/h2_heads.py's. Here they meet the event loop: each stream is a `Downstream` with an
exchange of its own (server/http2_stream.py), so that everything above can't tell HTTP/2 from HTTP/1. There
is no task and no timer per stream. How connections and streams end is server/http2_ending.py's.

What a client can make us do is bounded: streams, windows, header blocks and cheap frames by the machine;
and here each stream that ends badly costs something of an allowance, whether the client reset it (rapid
reset) or made us reset it (MadeYouReset); an exchange is begun only after everything that came in the same
read was looked at, so that a request which was reset at once never was one. A client that reads nothing, or
only byte by byte, holds `write_high` bytes per stream back, and is given up when nothing moves for
`send_timeout`.

What goes out is gathered over a burst of events and leaves in one write.
"""

from __future__ import annotations

import asyncio

from gateway.http.h2_frames import (
    ENHANCE_YOUR_CALM,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    DataReceived,
    Event,
    Field,
    GoneAway,
    HeadReceived,
    RoomReceived,
    StreamReset,
    TrailersReceived,
)
from gateway.http.h2_heads import Malformed, read_trailers
from gateway.http.h2_machine import Broken
from gateway.http.h2_patience import Patience
from gateway.http.h2_streams import STREAMS
from gateway.http.parse import BadRequest
from gateway.pipeline.errors import BodyTooLarge
from gateway.pipeline.ports import Peer
from gateway.server.host import Host
from gateway.server.http2_ending import Http2Ending
from gateway.server.http2_requests import read, turned_away
from gateway.server.http2_stream import Http2Stream
from gateway.server.settings import ServerSettings


class Http2Connection(Http2Ending):
    """The protocol of one connection: asyncio's by shape, because asyncio's base could not be compiled."""

    __slots__ = ("_offers_tunnels", "_resets")

    def __init__(self, host: Host, transport: asyncio.Transport, peer: Peer) -> None:
        """It takes a connection over from `ServerConnection`, which was admitted; see `take_over`."""
        super().__init__(host, transport, peer)
        self._offers_tunnels = host.upgrades
        self._resets = Patience(200.0, 20.0, host.loop.time())

    def take_over(self, data: bytes) -> None:
        """Begin: everything that was read so far is `data`."""
        self._machine.open(self._offers_tunnels)
        self._host.admit(self, self.peer.address)
        self._deadline = self._host.loop.time() + self._host.settings.head_timeout
        self._arm(self._deadline)
        self.flows.flush()
        if data:
            self.data_received(data)
        if self._host.draining:
            self.drain()

    # What the loop reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never told: the transport had another protocol when it was made."""

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of them."""
        if self._closing:
            return
        self.flows.begin_burst()
        try:
            self._handle(self._machine.feed(data, self._host.loop.time()))
        except Broken as broken:
            self._break(broken)
        finally:
            self.flows.end_burst()
        self._end_if_idle()

    def eof_received(self) -> bool:
        """The client sends no more; what is under way is answered."""
        self._going = True
        for stream in tuple(self._streams.values()):
            if not stream.in_ended:
                self._lose(stream)
        self._end_if_idle()
        return not self._closing

    def pause_writing(self) -> None:
        """The send buffer is full: what comes waits in its stream."""
        self.flows.blocked = True
        self._unsent = self.transport.get_write_buffer_size()
        self._arm(self._host.loop.time() + self._host.settings.send_timeout)

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self.flows.blocked = False
        self.flows.pump_held()

    # Events

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                self._on_data(event)
            elif isinstance(event, HeadReceived):
                self._on_request(event)
            elif isinstance(event, RoomReceived):
                self.flows.pump_held()
            elif isinstance(event, TrailersReceived):
                self._on_trailers(event)
            elif isinstance(event, StreamReset):
                self._on_reset(event)
            elif isinstance(event, GoneAway):
                self._going = True
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            for stream in fresh:
                if not stream.is_over:
                    self.start(stream)
        self.flows.hand_on()

    def _on_request(self, event: HeadReceived) -> None:
        stream_id = event.stream_id
        if stream_id > self._last_begun:
            self._last_begun = stream_id
        if self._leaving == 0.0 or len(self._streams) >= STREAMS:
            self._machine.reset_stream(stream_id, REFUSED_STREAM)  # §8.7: safe to send elsewhere
            self._spend_reset("")
            return
        try:
            request = read(event, self._host.settings, self._offers_tunnels)
        except Malformed as error:
            self._tell_refused("malformed", 400)
            self._machine.reset_stream(stream_id, PROTOCOL_ERROR)  # §8.1.1
            self._spend_reset(str(error))
            return
        except BadRequest as bad:
            self._refuse(event, bad)
            return
        stream = Http2Stream(self, request, stream_id)
        stream.in_ended = event.ended
        self._streams[stream_id] = stream
        self._fresh.append(stream)

    def start(self, stream: Http2Stream) -> None:
        """Begin the exchange. A body that came whole in the same read is handed over with the head."""
        request = stream.request
        if stream.in_ended and request.body is None:
            request.body = self.flows.take_whole(stream)
            request.length = len(request.body)
        stream.started = True
        stream.body_clock = self._host.loop.time()
        receiver = stream.receiver = self._host.begin(request, self.peer, stream)
        try:
            receiver.start()
        except Exception as bug:
            self.crash(receiver, bug)

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.done:
            self._machine.acknowledge(event.taken, event.stream_id)
            if stream is not None and event.ended:
                stream.in_ended = True
                self._finish(stream)
            return
        stream.received += len(event.data)
        stream.body_clock = self._host.loop.time()
        stream.in_ended = event.ended
        self.flows.take(stream, event.data, event.taken)
        if stream.received > self._host.settings.body_limit and not stream.is_connect:
            self._fail_body(stream, BodyTooLarge("the request's body is too large"))

    def _on_trailers(self, event: TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        try:
            trailers = read_trailers(event.fields, strict=True)
        except Malformed as error:
            self._tell_refused("malformed", 400)
            self._spend_reset(str(error))
            self._machine.reset_stream(stream.id, PROTOCOL_ERROR)
            self._lose(stream)
            return
        stream.request.trailers = trailers or None
        stream.in_ended = True
        if stream.done:
            self._finish(stream)
            return
        self.flows.take(stream, b"", 0)

    def _on_reset(self, event: StreamReset) -> None:
        """The client gave a stream up, or made us reset it."""
        stream = self._streams.get(event.stream_id)
        if stream is not None or not event.is_theirs:
            self._spend_reset("" if event.is_theirs else "malformed frames")
        if stream is not None:
            self._lose(stream)

    def _spend_reset(self, why: str) -> None:
        if not self._resets.spend(1.0, self._host.loop.time()):
            self._machine.say_goodbye(ENHANCE_YOUR_CALM)
            raise Broken(ENHANCE_YOUR_CALM, f"too many streams end in resets {why}")

    def _refuse(self, event: HeadReceived, bad: BadRequest) -> None:
        """Answer what never became a request."""
        request_id = self._tell_refused(bad.code, bad.status)
        stand_in, answer = turned_away(event.fields, bad, request_id)
        stream = Http2Stream(self, stand_in, event.stream_id)
        stream.in_ended = event.ended
        self._streams[event.stream_id] = stream
        stream.reply(answer)

    # What a stream asks for

    @property
    def settings(self) -> ServerSettings:
        """Bounds and patience."""
        return self._host.settings

    def now(self) -> float:
        """Seconds, by the loop's clock."""
        return self._host.loop.time()

    def date(self) -> bytes:
        """The Date field's value now."""
        return self._host.date()

    def consume(self, stream: Http2Stream) -> None:
        """Hand on what has come, but not from within the caller."""
        stream.body_clock = now = self._host.loop.time()
        self._arm(now + self._host.settings.body_timeout)
        self.flows.resume(stream)

    def send_head(self, stream: Http2Stream, fields: list[Field], last: bool) -> None:
        """Send a block of fields. To a stream that is gone already, nothing: its end is among the events."""
        if not self._machine.send_headers(stream.id, fields, last):
            stream.drop_out()
        self.flows.wake()

    def held_back(self, stream: Http2Stream) -> None:
        """The client must open a window, or read, within `send_timeout`."""
        self._arm(stream.last_sent + self._host.settings.send_timeout)

    def responded(self, stream: Http2Stream) -> None:
        """The exchange said its last; the stream may still hold bytes back."""
        if not (stream.is_over or stream.out or stream.out_ended):
            self.answered(stream)

    def answered(self, stream: Http2Stream) -> None:
        """The response's last byte is out."""
        self._resets.earn(0.5)
        self._finish(stream)

    def reset(self, stream: Http2Stream, code: int) -> None:
        """Break a stream off."""
        self._machine.reset_stream(stream.id, code)
        self.flows.wake()
        self.over(stream)

    def __repr__(self) -> str:
        state = "closing" if self._closing else "going" if self._going else "open"
        return (
            f"<Http2Connection {self.peer.address}:{self.peer.port} | {state}, {len(self._streams)} streams>"
        )
