"""One client's HTTP/2 connection: frames in, exchanges run side by side, frames out. RFC 9113.

The states of frames and windows are http/h2_machine.py's, how bodies flow is http/h2_flows.py's, what a
head means is http/h2_heads.py's. Here they meet the event loop: each stream is a `Downstream` with an
exchange of its own (server/http2_stream.py), so that everything above can't tell HTTP/2 from HTTP/1. There
is no task and no timer per stream.

    open --idle too long--> closing
    open --drain: GOAWAY for later, GOAWAY for good--> no streams left --> closing
    open --the peer broke the rules: GOAWAY--> lingering --> closed

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
from math import inf
from typing import Final

from gateway.http.h2_flows import Flows
from gateway.http.h2_frames import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
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
from gateway.http.h2_machine import Broken, Machine
from gateway.http.h2_patience import Patience
from gateway.http.h2_streams import STREAMS
from gateway.http.parse import BadRequest
from gateway.pipeline.errors import BodyTimeout, BodyTooLarge, GatewayError
from gateway.pipeline.ports import Cancellable, Peer, Receiver
from gateway.server.host import Host
from gateway.server.http2_requests import read, turned_away
from gateway.server.http2_stream import Http2Stream
from gateway.server.problem import new_request_id
from gateway.server.settings import ServerSettings

_EVERYTHING: Final = 2**31 - 1  # a GOAWAY that refuses nothing yet


class Http2Connection:
    """The protocol of one connection: asyncio's by shape, because a base class could not be compiled."""

    __slots__ = (
        "_closing",
        "_deadline",
        "_fresh",
        "_going",
        "_host",
        "_last_begun",
        "_leaving",
        "_machine",
        "_offers_tunnels",
        "_resets",
        "_streams",
        "_timer",
        "_timer_at",
        "_unsent",
        "flows",
        "peer",
        "transport",
    )

    def __init__(self, host: Host, transport: asyncio.Transport, peer: Peer) -> None:
        """It takes a connection over from `ServerConnection`, which was admitted; see `take_over`."""
        self.peer = peer
        self.transport = transport
        self._host = host
        now = host.loop.time()
        self._machine = Machine(False, now, host.settings.head.head)
        self.flows = Flows(self._machine, host.outbox, host.loop.call_soon, self._end_if_idle)
        self.flows.transport = transport
        self._offers_tunnels = host.upgrades
        self._streams: dict[int, Http2Stream] = {}
        self._fresh: list[Http2Stream] = []  # begun in this burst, their exchanges not yet
        self._resets = Patience(200.0, 20.0, now)
        self._unsent = 0  # bytes in the send buffer when that was last looked at
        self._going = False  # GOAWAY was said, or heard: no new streams
        self._leaving = inf  # when a drain says GOAWAY for good
        self._closing = False  # nothing is read any more
        self._last_begun = 0
        self._deadline = inf
        self._timer: Cancellable | None = None
        self._timer_at = inf

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

    @property
    def stream(self) -> Http2Stream | None:
        """One of the requests being answered, None between requests."""
        return next(iter(self._streams.values()), None)

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

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended, whoever ended it."""
        self._closing = True
        self.flows.transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._host.leave(self, self.peer.address)
        streams, self._streams = self._streams, {}
        self.flows.forget()
        for stream in streams.values():
            self._leave(stream)

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
                    self._start(stream)
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

    def _start(self, stream: Http2Stream) -> None:
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

    def _tell_refused(self, code: str, status: int) -> bytes:
        request_id = new_request_id()
        if self._host.on_refused is not None:
            self._host.on_refused(code, status, self.peer.address, request_id)
        return request_id

    def _fail_body(self, stream: Http2Stream, error: GatewayError) -> None:
        """The rest of the body is not wanted: the exchange answers, and the stream is over."""
        self.flows.discard(stream)
        if not stream.started:
            self._start(stream)
        receiver = stream.receiver
        try:
            receiver.on_body_error(error)
        except Exception as bug:
            self.crash(receiver, bug)

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

    # The end of a stream

    def _finish(self, stream: Http2Stream) -> None:
        """Both sides are done, or the client may stop: nobody reads the rest of its body (§8.1)."""
        if stream.is_over or not stream.done or stream.out or stream.out_ended:
            return
        if not stream.in_ended:
            self._machine.reset_stream(stream.id, NO_ERROR)
            self.flows.wake()
        self.over(stream)

    def _lose(self, stream: Http2Stream) -> None:
        """The client gave the stream up."""
        self.over(stream)
        self._leave(stream)

    def _leave(self, stream: Http2Stream) -> None:
        if not stream.done:
            receiver = stream.detach()
            try:
                receiver.on_client_gone()
            except Exception as bug:
                self.crash(receiver, bug)

    def over(self, stream: Http2Stream) -> None:
        """Nothing more comes or goes: forget the stream, and give the windows back what it held."""
        stream.is_over = True
        stream.drop_out()
        if stream.pieces:
            self.flows.discard(stream)
        if stream.waiting:
            self.flows.release(stream)
        if self._streams.pop(stream.id, None) is not None and not self._streams and not self._closing:
            settings = self._host.settings
            patience = settings.farewell if self._host.draining else settings.idle_timeout
            self._deadline = self._host.loop.time() + patience
            self._arm(self._deadline)
            if self._going:
                self.flows.wake()

    def crash(self, receiver: Receiver, bug: Exception) -> None:
        """A bug escaped from a receiver: the one place that hands it over."""
        try:
            receiver.crash(bug)
        except Exception as second:
            self._host.loop.call_exception_handler(
                {"message": "an exchange failed twice", "exception": second}
            )
            self.transport.abort()

    # The end of the connection

    def drain(self) -> None:
        """The listener stops: say so, and a moment later, when what crossed that word has come, for good."""
        if self._closing or self._leaving != inf:
            return
        self._machine.say_goodbye(NO_ERROR, _EVERYTHING)  # §6.8: graceful shutdown
        self._leaving = self._host.loop.time() + self._host.settings.farewell
        self._arm(self._leaving)
        self.flows.flush()

    def _leave_for_good(self) -> None:
        self._leaving = 0.0
        self._going = True
        self._machine.say_goodbye(NO_ERROR, self._last_begun)
        self.flows.flush()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._going and not self._streams and not self._closing:
            self._close()

    def _close(self) -> None:
        """Close when the send buffer is empty."""
        self._closing = True
        self.flows.flush()
        self._host.outbox.flush()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._arm(self._host.loop.time() + self._host.settings.send_timeout)

    def _break(self, broken: Broken) -> None:
        """The peer broke the rules: say which, give everything up, and linger so that it can read that."""
        calm = broken.code == ENHANCE_YOUR_CALM
        self._tell_refused("enhance_your_calm" if calm else "http2_error", 429 if calm else 400)
        self._closing = True
        streams, self._streams = self._streams, {}
        self.flows.forget()
        self._fresh.clear()
        for stream in streams.values():
            stream.is_over = True
            self._leave(stream)
        self.flows.flush()
        self._host.outbox.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self._host.loop.time() + self._host.settings.linger
        self._arm(self._deadline)

    def abort(self) -> None:
        """The listener's patience is over. With tunnels it is closed, so that what was said still arrives."""
        if not self.flows.blocked and any(stream.is_tunnel for stream in self._streams.values()):
            self.flows.flush()
            self._host.outbox.flush()
            self.transport.close()
        else:
            self.transport.abort()

    # Deadlines

    def _arm(self, deadline: float) -> None:
        """Look again at `deadline`, if not before. A timer that fires early looks and arms itself anew."""
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._host.timers.at(deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        self._timer_at = inf
        now = self._host.loop.time()
        if self._closing:
            if now >= self._deadline or self.transport.is_closing():
                self.transport.abort()
            else:
                self._arm(self._deadline)
            return
        self.flows.begin_burst()
        try:
            self._expire(now)
        except Broken as broken:
            self._break(broken)
        finally:
            self.flows.end_burst()
        self._end_if_idle()
        if not self._closing:
            self._arm(self._next_deadline())

    def _expire(self, now: float) -> None:
        settings = self._host.settings
        if 0.0 < self._leaving <= now:
            self._leave_for_good()
        if self.flows.blocked:
            unsent = self.transport.get_write_buffer_size()
            if unsent >= self._unsent:
                self.transport.abort()
                return
            self._unsent = unsent  # slow, but alive
        for stream in tuple(self._streams.values()):
            if stream.waiting and not self.flows.blocked and now >= stream.last_sent + settings.send_timeout:
                self._machine.reset_stream(stream.id, CANCEL)
                self._lose(stream)
            elif stream.awaits_body and now >= self._body_deadline(stream):
                self._fail_body(stream, BodyTimeout("the request's body took too long"))
        if not self._streams and now >= self._deadline:
            self._machine.say_goodbye()
            self._close()

    def _next_deadline(self) -> float:
        settings = self._host.settings
        deadline = self._leaving if self._leaving > 0.0 else inf
        if self.flows.blocked:
            deadline = min(deadline, self._host.loop.time() + settings.send_timeout)
        for stream in self._streams.values():
            if stream.waiting:
                deadline = min(deadline, stream.last_sent + settings.send_timeout)
            elif stream.awaits_body:
                deadline = min(deadline, self._body_deadline(stream))
        return deadline if self._streams else min(deadline, self._deadline)

    def _body_deadline(self, stream: Http2Stream) -> float:
        """The instant by which the client must have sent more of its body.

        Once the response has begun both directions may go on for as long as the exchange's own deadline lets
        them: that is what streams of gRPC are.
        """
        return inf if stream.begun else stream.body_clock + self._host.settings.body_timeout

    def __repr__(self) -> str:
        state = "closing" if self._closing else "going" if self._going else "open"
        return (
            f"<Http2Connection {self.peer.address}:{self.peer.port} | {state}, {len(self._streams)} streams>"
        )
