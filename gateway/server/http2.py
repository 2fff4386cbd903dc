"""One client's HTTP/2 connection: frames in, exchanges run side by side, frames out. RFC 9113.

The states of frames and windows are http/h2_machine.py's, what a head means is http/h2_heads.py's. Here
they meet the event loop: each stream is a `Downstream` with an exchange of its own
(server/http2_stream.py), so that everything above can't tell HTTP/2 from HTTP/1. There is no task and no
timer per stream.

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
from contextlib import suppress
from math import inf
from typing import Final

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from gateway.http.h2_heads import Field, Malformed, read_request, read_trailers
from gateway.http.h2_machine import STREAMS, Broken, GoneAway, Machine
from gateway.http.h2_patience import Patience
from gateway.http.message import Request
from gateway.http.parse import BadRequest
from gateway.pipeline.errors import BodyTimeout, BodyTooLarge, GatewayError
from gateway.pipeline.ports import Cancellable, Peer, Receiver
from gateway.server.host import Host
from gateway.server.http2_stream import Http2Stream
from gateway.server.problem import new_request_id, problem

_EVERYTHING: Final = 2**31 - 1  # a GOAWAY that refuses nothing yet
_BATCH: Final = 64 * 1024  # bytes of frames gathered before they are written


class Http2Connection(asyncio.Protocol):
    """The protocol of one connection."""

    def __init__(self, host: Host, transport: asyncio.Transport, peer: Peer) -> None:
        """It takes a connection over from `ServerConnection`, which was admitted; see `take_over`."""
        self.peer = peer
        self.transport = transport
        self._host = host
        now = host.loop.time()
        self._machine = Machine(False, now, host.settings.head.head)
        self._streams: dict[int, Http2Stream] = {}
        self._held: dict[int, Http2Stream] = {}  # streams with bytes that wait for a window
        self._fresh: list[Http2Stream] = []  # begun in this burst, their exchanges not yet
        self._ready: list[Http2Stream] = []  # may hand on their bodies
        self._resets = Patience(200.0, 20.0, now)
        self._bursting = False  # events are being handled: what goes out is gathered
        self._announced = False  # a flush was asked for
        self._gathered = 0  # bytes of data that wait for it
        self._blocked = False  # the client doesn't read: the send buffer is full
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
        self._machine.open()
        self._host.admit(self, self.peer.address)
        self._deadline = self._host.loop.time() + self._host.settings.head_timeout
        self._arm(self._deadline)
        self._flush()
        if data:
            self.data_received(data)
        if self._host.draining:
            self.drain()

    @property
    def stream(self) -> Http2Stream | None:
        """One of the requests being answered, None between requests."""
        return next(iter(self._streams.values()), None)

    # What the loop reports

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of them."""
        if self._closing:
            return
        self._bursting = True
        try:
            self._handle(self._machine.feed(data, self._host.loop.time()))
        except Broken as broken:
            self._break(broken)
        finally:
            self._bursting = False
            self._flush()
        self._end_if_idle()

    def eof_received(self) -> bool:
        """The client sends no more; what is under way is answered."""
        self._going = True
        for stream in tuple(self._streams.values()):
            if not stream.ended:
                self._lose(stream)
        self._end_if_idle()
        return not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended, whoever ended it."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._host.leave(self, self.peer.address)
        streams, self._streams = self._streams, {}
        self._held.clear()
        for stream in streams.values():
            self._leave(stream)

    def pause_writing(self) -> None:
        """The send buffer is full: what comes waits in its stream."""
        self._blocked = True
        self._unsent = self.transport.get_write_buffer_size()
        self._arm(self._host.loop.time() + self._host.settings.send_timeout)

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self._blocked = False
        self._send_held()

    # Events

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                self._on_data(event)  # type: ignore[arg-type]  # that is what was tested
            elif kind is RequestReceived:
                self._on_request(event)  # type: ignore[arg-type]
            elif kind is WindowUpdated or kind is RemoteSettingsChanged:
                self._send_held()
            elif kind is TrailersReceived:
                self._on_trailers(event)  # type: ignore[arg-type]
            elif kind is StreamReset:
                self._on_reset(event)  # type: ignore[arg-type]
            elif kind is GoneAway:
                self._going = True
        fresh, self._fresh = self._fresh, []
        for stream in fresh:
            if not stream.over:
                self._start(stream)
        self._hand_on()

    def _on_request(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        self._last_begun = max(self._last_begun, stream_id)
        if self._leaving == 0.0 or len(self._streams) >= STREAMS:
            self._machine.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)  # §8.7: safe to send elsewhere
            self._spend_reset()
            return
        ended = event.stream_ended is not None
        try:
            request = read_request(event.headers, self._host.settings.head, ended)
            if request.length is not None and request.length > self._host.settings.body_limit:
                raise BadRequest(413, "body_too_large", "the request's body is too large")
        except Malformed as error:
            self._tell_refused("malformed", 400)
            self._machine.reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)  # §8.1.1
            self._spend_reset(str(error))
            return
        except BadRequest as bad:
            self._refuse(stream_id, bad, event.headers, ended)
            return
        stream = Http2Stream(self, request, stream_id)
        self._streams[stream_id] = stream
        self._fresh.append(stream)

    def _start(self, stream: Http2Stream) -> None:
        """Begin the exchange. A body that came whole in the same read is handed over with the head."""
        request = stream.request
        if stream.ended and request.body is None:
            request.body = b"".join([piece for piece, _ in stream.pieces])
            request.length = len(request.body)
            self._release_window(stream)
        stream.started = True
        stream.body_clock = self._host.loop.time()
        receiver = stream.receiver = self._host.begin(request, self.peer, stream)
        try:
            receiver.start()
        except Exception as bug:
            self._crash(receiver, bug)

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        taken = event.flow_controlled_length or 0
        if stream is None or stream.done:
            self._machine.acknowledge_received_data(taken, event.stream_id)
            if stream is not None and event.stream_ended is not None:
                stream.ended = True
                self._finish(stream)
            return
        data = event.data or b""
        stream.received += len(data)
        stream.body_clock = self._host.loop.time()
        stream.pieces.append((data, taken))
        stream.ended = event.stream_ended is not None
        if stream.received > self._host.settings.body_limit:
            self._fail_body(stream, BodyTooLarge("the request's body is too large"))
        elif stream.started and stream.wanted and not stream.paused:
            self._ready.append(stream)

    def _on_trailers(self, event: TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        try:
            trailers = read_trailers(event.headers, strict=True)
        except Malformed as error:
            self._tell_refused("malformed", 400)
            self._spend_reset(str(error))
            self._machine.reset_stream(stream.id, ErrorCodes.PROTOCOL_ERROR)
            self._lose(stream)
            return
        stream.request.trailers = trailers or None
        stream.ended = True
        if stream.done:
            self._finish(stream)
            return
        stream.pieces.append((b"", 0))
        if stream.started and stream.wanted and not stream.paused:
            self._ready.append(stream)

    def _on_reset(self, event: StreamReset) -> None:
        """The client gave a stream up, or made us reset it."""
        stream = self._streams.get(event.stream_id)
        if stream is not None or not event.remote_reset:
            self._spend_reset("" if event.remote_reset else "malformed frames")
        if stream is not None:
            self._lose(stream)

    def _spend_reset(self, why: str = "") -> None:
        if not self._resets.spend(1.0, self._host.loop.time()):
            self._machine.say_goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
            raise Broken(ErrorCodes.ENHANCE_YOUR_CALM, f"too many streams end in resets {why}")

    def _refuse(self, stream_id: int, bad: BadRequest, fields: list[Field], ended: bool) -> None:
        """Answer what never became a request."""
        request_id = self._tell_refused(bad.code, bad.status)
        pseudo = dict(fields[:4])
        kept = [(name, value) for name, value in fields if name == b"content-type"]
        method = pseudo.get(b":method", b"GET")
        stream = Http2Stream(self, Request(method, b"/", kept, minor=2), stream_id)
        stream.ended = ended
        self._streams[stream_id] = stream
        stream.reply(problem(bad.status, bad.code, str(bad), request_id))

    def _tell_refused(self, code: str, status: int) -> bytes:
        request_id = new_request_id()
        if self._host.on_refused is not None:
            self._host.on_refused(code, status, self.peer.address, request_id)
        return request_id

    # The request's body

    def consume(self, stream: Http2Stream) -> None:
        """Hand on what has come, but not from within the caller."""
        stream.body_clock = now = self._host.loop.time()
        self._arm(now + self._host.settings.body_timeout)
        if stream.pieces:
            self._ready.append(stream)
            self._ask_flush()

    def _hand_on(self) -> None:
        """Give the bodies' pieces to the exchanges that want them."""
        while self._ready:
            stream = self._ready.pop()
            pieces = stream.pieces
            while pieces and not (stream.paused or stream.done):
                piece, taken = pieces.popleft()
                if taken:
                    self._machine.acknowledge_received_data(taken, stream.id)
                last = stream.ended and not pieces
                if piece or last:
                    receiver = stream.receiver
                    try:
                        receiver.on_body(piece, last)
                    except Exception as bug:
                        self._crash(receiver, bug)

    def _release_window(self, stream: Http2Stream) -> None:
        """Give the window back that bytes took which nobody will be handed."""
        taken = sum([one for _, one in stream.pieces])
        stream.pieces.clear()
        if taken:
            self._machine.acknowledge_received_data(taken, stream.id)

    def _fail_body(self, stream: Http2Stream, error: GatewayError) -> None:
        """The rest of the body is not wanted: the exchange answers, and the stream is over."""
        self._release_window(stream)
        receiver = stream.receiver
        if not stream.started:
            self._start(stream)
            receiver = stream.receiver
        try:
            receiver.on_body_error(error)
        except Exception as bug:
            self._crash(receiver, bug)

    # What a stream asks for

    @property
    def write_high(self) -> int:
        """Bytes of a response that may wait."""
        return self._host.settings.write_high

    def date(self) -> bytes:
        """The Date field's value now."""
        return self._host.date()

    def send_head(self, stream: Http2Stream, fields: list[Field], last: bool) -> None:
        """Send a block of fields. To a stream that is gone already, nothing: its end is among the events."""
        try:
            self._machine.send_headers(stream.id, fields, last)
        except ProtocolError:
            stream.out.clear()
            stream.out_size = 0
        self._ask_flush()

    def pump(self, stream: Http2Stream) -> None:
        """Send what the windows allow, in order."""
        while self._send_one(stream):
            pass

    def _send_one(self, stream: Http2Stream) -> bool:
        """Send one frame of a stream. False: nothing is left, or it must wait."""
        if stream.over or not (stream.out or stream.out_ended):
            return False
        if self._blocked or not self._send_frame(stream):
            if not stream.waiting:
                stream.waiting = True
                stream.last_sent = self._host.loop.time()
                self._held[stream.id] = stream
                self._arm(stream.last_sent + self._host.settings.send_timeout)
            return False
        self._ask_flush()
        if stream.stopped and not stream.done and stream.out_size <= self.write_high // 2:
            stream.stopped = False
            receiver = stream.receiver
            try:
                receiver.on_writable(True)
            except Exception as bug:
                self._crash(receiver, bug)
        return bool(stream.out) and not stream.over

    def _send_frame(self, stream: Http2Stream) -> bool:
        """Send data or the end. False: there is no room in a window."""
        try:
            if stream.out:
                room = self._machine.room(stream.id)
                if not room:
                    return False
                piece = stream.out[0]
                last = False
                if len(piece) > room:
                    stream.out[0] = piece[room:]
                    piece = piece[:room]
                else:
                    stream.out.popleft()
                    last = stream.out_ended and not stream.out and stream.out_trailers is None
                stream.out_size -= len(piece)
                self._machine.send_piece(stream.id, piece, last)
                self._count_sent(stream, len(piece))
            elif stream.out_trailers is not None:
                last = True
                self._machine.send_headers(stream.id, stream.end_fields(), True)
            else:
                last = True
                self._machine.send_piece(stream.id, b"", True)
            if not last and stream.out_ended and not stream.out:
                last = True  # the trailers
                self._machine.send_headers(stream.id, stream.end_fields(), True)
        except ProtocolError:  # the client reset it: that event is on its way
            stream.out.clear()
            stream.out_size = 0
            self._over(stream)
            return True
        if last:
            self._answered(stream)
        return True

    def _count_sent(self, stream: Http2Stream, size: int) -> None:
        self._gathered += size
        if self._gathered >= _BATCH:
            self._flush()  # which may find the client's buffer full
        if (
            stream.waiting
        ):  # a reader that is slow gains time by each byte, one that takes single bytes hardly any
            gain = size / self._host.settings.body_rate
            stream.last_sent = min(stream.last_sent + gain, self._host.loop.time())

    def _send_held(self) -> None:
        """There is room again: one frame of each stream that waits, and once more, so that none starves."""
        going = True
        while going and self._held and not self._blocked:
            going = False
            for stream in tuple(self._held.values()):
                if self._send_one(stream):
                    going = True
                elif not (stream.out or stream.out_ended):
                    stream.waiting = False
                    self._held.pop(stream.id, None)
        self._ask_flush()

    def responded(self, stream: Http2Stream) -> None:
        """The exchange said its last; the stream may still hold bytes back."""
        if not stream.over and not stream.out and not stream.waiting:
            self._answered(stream)

    def _answered(self, stream: Http2Stream) -> None:
        """The response's last byte is out."""
        stream.out_ended = False
        self._resets.earn(0.5)
        self._finish(stream)

    def _finish(self, stream: Http2Stream) -> None:
        """Both sides are done, or the client may stop: nobody reads the rest of its body (§8.1)."""
        if stream.over or stream.out or stream.out_ended:
            return
        if not stream.done:
            return
        if not stream.ended:
            self._release_window(stream)
            self._try_reset(stream, ErrorCodes.NO_ERROR)
        self._over(stream)

    def reset(self, stream: Http2Stream) -> None:
        """Break a stream off."""
        self._try_reset(stream, ErrorCodes.INTERNAL_ERROR)
        self._release_window(stream)
        self._over(stream)

    def _try_reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        with suppress(ProtocolError):  # it is closed already
            self._machine.reset_stream(stream.id, code)
        self._ask_flush()

    # The end of a stream

    def _lose(self, stream: Http2Stream) -> None:
        """The client gave the stream up."""
        self._release_window(stream)
        self._over(stream)
        self._leave(stream)

    def _leave(self, stream: Http2Stream) -> None:
        if not stream.done:
            receiver = stream.detach()
            try:
                receiver.on_client_gone()
            except Exception as bug:
                self._crash(receiver, bug)

    def _over(self, stream: Http2Stream) -> None:
        stream.over = True
        stream.out.clear()
        stream.out_size = 0
        stream.out_ended = False
        self._held.pop(stream.id, None)
        if self._streams.pop(stream.id, None) is not None and not self._streams and not self._closing:
            self._deadline = self._host.loop.time() + (
                self._host.settings.farewell if self._host.draining else self._host.settings.idle_timeout
            )
            self._arm(self._deadline)
            if self._going:
                self._ask_flush()

    def _crash(self, receiver: Receiver, bug: Exception) -> None:
        """A bug escaped from a receiver: the one place that hands it over."""
        try:
            receiver.crash(bug)
        except Exception as second:
            self._host.loop.call_exception_handler(
                {"message": "an exchange failed twice", "exception": second}
            )
            self.transport.abort()

    # Sending

    def _ask_flush(self) -> None:
        """What is gathered leaves at the end of the burst."""
        if not (self._bursting or self._announced):
            self._announced = True
            self._host.loop.call_soon(self._end_burst)

    def _end_burst(self) -> None:
        self._announced = False
        if self._closing:
            return
        self._bursting = True
        try:
            self._hand_on()
        finally:
            self._bursting = False
            self._flush()
        self._end_if_idle()

    def _flush(self) -> None:
        self._gathered = 0
        data = self._machine.data_to_send()
        if data:
            self._host.outbox.post(self.transport, data)

    # The end of the connection

    def drain(self) -> None:
        """The listener stops: say so, and a moment later, when what crossed that word has come, for good."""
        if self._closing or self._leaving != inf:
            return
        self._machine.say_goodbye(ErrorCodes.NO_ERROR, _EVERYTHING)  # §6.8: graceful shutdown
        self._leaving = self._host.loop.time() + self._host.settings.farewell
        self._arm(self._leaving)
        self._flush()

    def _leave_for_good(self) -> None:
        self._leaving = 0.0
        self._going = True
        self._machine.say_goodbye(ErrorCodes.NO_ERROR, self._last_begun)
        self._flush()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._going and not self._streams and not self._closing:
            self._close()

    def _close(self) -> None:
        """Close when the send buffer is empty."""
        self._closing = True
        self._flush()
        self._host.outbox.flush()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._arm(self._host.loop.time() + self._host.settings.send_timeout)

    def _break(self, broken: Broken) -> None:
        """The peer broke the rules: say which, give everything up, and linger so that it can read that."""
        calm = broken.code is ErrorCodes.ENHANCE_YOUR_CALM
        self._tell_refused("enhance_your_calm" if calm else "http2_error", 429 if calm else 400)
        self._closing = True
        streams, self._streams = self._streams, {}
        self._held.clear()
        self._fresh.clear()
        self._ready.clear()
        for stream in streams.values():
            stream.over = True
            self._leave(stream)
        self._flush()
        self._host.outbox.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self._host.loop.time() + self._host.settings.linger
        self._arm(self._deadline)

    def abort(self) -> None:
        """The listener's patience is over."""
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
        self._bursting = True
        try:
            self._expire(now)
        except Broken as broken:
            self._break(broken)
        finally:
            self._bursting = False
            self._flush()
        self._end_if_idle()
        if not self._closing:
            self._arm(self._next_deadline())

    def _expire(self, now: float) -> None:
        settings = self._host.settings
        if 0.0 < self._leaving <= now:
            self._leave_for_good()
        if self._blocked:
            unsent = self.transport.get_write_buffer_size()
            if unsent >= self._unsent:
                self.transport.abort()
                return
            self._unsent = unsent  # slow, but alive
        for stream in tuple(self._streams.values()):
            if stream.waiting and not self._blocked and now >= stream.last_sent + settings.send_timeout:
                self._try_reset(stream, ErrorCodes.CANCEL)
                self._lose(stream)
            elif stream.awaits_body and now >= self._body_deadline(stream):
                self._fail_body(stream, BodyTimeout("the request's body took too long"))
        if not self._streams and now >= self._deadline:
            self._machine.say_goodbye()
            self._close()

    def _next_deadline(self) -> float:
        settings = self._host.settings
        deadline = self._leaving if self._leaving > 0.0 else inf
        if self._blocked:
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
