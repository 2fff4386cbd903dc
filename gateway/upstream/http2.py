"""One HTTP/2 connection to an instance, and the calls that it carries side by side. RFC 9113, the client's
side.

    connecting --> open --GOAWAY, or no stream number left--> retiring: finishes its calls --> closed
    open --the instance broke the rules, fell silent, or left--> closed: its calls fail

Unlike HTTP/1's (upstream/connection.py), a connection outlives whatever befalls one call: giving a call up,
or an instance that resets one, ends that stream and nothing else. A request body may flow while the
response does, which is what gRPC's bidirectional streams are.

Errors say what another try may do: UpstreamRefused where the instance says that it processed nothing
(REFUSED_STREAM, or a GOAWAY that leaves the stream out, §8.7), UpstreamClosedIdle where a connection that
was idle died before a byte was heard, UpstreamReset in all other cuts.

What waits is bounded: of a response no more than its stream's window (the connection's window is as large
as all its streams' together, so that one slow client can't hold the others' answers back), of a request's
body one piece beyond `WRITE_HIGH`, when the sink is told to stop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from math import inf
from typing import Final, Protocol, cast

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import NoAvailableStreamIDError, ProtocolError

from gateway.http.h2_heads import Field, Malformed, read_response, read_trailers, write_trailers
from gateway.http.h2_machine import STREAM_WINDOW, STREAMS, Broken, GoneAway, Machine
from gateway.http.message import Headers, Request, Response
from gateway.http.outbox import Outbox
from gateway.http.parse import HeadLimits
from gateway.pipeline.errors import (
    GatewayError,
    UpstreamClosedIdle,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.ports import Cancellable, Sink, Timers

WRITE_HIGH: Final = 64 * 1024  # bytes of a request's body that wait, above which the sink is told to stop
SILENCE: Final = 30.0  # s without a byte, while calls are under way, after which the instance is asked (PING)
ANSWER: Final = 10.0  # s for the answer to that; then it counts as dead
PATIENCE_WITH_PINGS: Final = 300.0  # s until it is asked again: gRPC servers take more for an attack
_BATCH: Final = 64 * 1024  # bytes of frames gathered before they are written
_MAX_INTERIM: Final = 16


class Home(Protocol):
    """Where a connection belongs: the HTTP/2 connections to one instance."""

    @property
    def timers(self) -> Timers:
        """Deadlines."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, for its clock and `call_soon`."""
        ...

    @property
    def outbox(self) -> Outbox:
        """Where frames wait for the end of the burst."""
        ...

    @property
    def limits(self) -> HeadLimits:
        """Bounds of a response's head."""
        ...

    def opened(self, connection: Http2Connection) -> None:
        """The connection takes calls."""
        ...

    def freed(self, connection: Http2Connection) -> None:
        """A call is over: there is room for another, or nothing left to do."""
        ...

    def lost(self, connection: Http2Connection) -> None:
        """The connection takes no more calls. May be said twice."""
        ...

    def withdraw(self, call: Http2Call) -> None:
        """A call that still waits for a connection was given up."""
        ...


class Http2Call:
    """One request under way (the port `Call`).

    Of the request: `out` waits for a window, `sent` once its last byte was given. Of the response: `pieces`
    have come and wait while the call is paused. spare: seconds left when it was paused; idle: seconds of
    silence allowed, 0.0 while a deadline holds.
    """

    __slots__ = (
        "connection",
        "fields",
        "fresh",
        "head_is_out",
        "home",
        "id",
        "idle",
        "interim",
        "out",
        "out_size",
        "patience",
        "paused",
        "pieces",
        "request",
        "response",
        "response_ended",
        "sent",
        "sink",
        "spare",
        "stopped",
        "trailers",
        "until",
    )

    def __init__(self, home: Home, request: Request, fields: list[Field], until: float, sink: Sink) -> None:
        self.home = home
        self.request = request
        self.fields = fields
        self.until = until
        self.sink = sink
        self.connection: Http2Connection | None = None
        self.id = 0
        self.patience: Cancellable | None = None  # while it waits for a connection
        self.out: deque[memoryview] = deque()
        self.out_size = 0
        self.trailers: Headers | None = None
        self.sent = request.body is not None
        self.head_is_out = False
        self.stopped = False  # the sink was told to stop sending
        self.fresh = True  # nothing of an answer was heard, and the connection had been idle
        self.paused = False
        self.spare = 0.0
        self.idle = 0.0
        self.interim = 0
        self.response: Response | None = None
        self.response_ended = False
        self.pieces: deque[tuple[bytes, int]] = deque()
        if request.body:
            self.out.append(memoryview(request.body))
            self.out_size = len(request.body)
        if self.sent and request.trailers:
            self.trailers = request.trailers

    def write(self, data: bytes, last: bool, trailers: Headers | None = None) -> None:
        """Send a piece of the body. Ignored once the call is over."""
        connection = self.connection
        if connection is None or self.sent:
            return
        if data:
            self.out.append(memoryview(data))
            self.out_size += len(data)
        if last:
            self.sent = True
            self.trailers = trailers
        connection.pump(self)
        if self.out_size > WRITE_HIGH and not (self.stopped or self.sent):
            self.stopped = True
            self.sink.on_writable(False)

    def pause(self) -> None:
        """Take no more of the response; time stands still."""
        if not self.paused:
            self.paused = True
            self.spare = self.until - self.home.loop.time()
            self.until = inf

    def resume(self) -> None:
        """Go on."""
        if self.paused:
            self.paused = False
            self.extend(self.home.loop.time() + self.spare)
            if self.connection is not None and self.pieces:
                self.connection.hand_on_soon(self)

    def extend(self, until: float) -> None:
        """Move the deadline, earlier or later."""
        if self.paused:
            self.spare = until - self.home.loop.time()
            return
        self.until = until
        if self.connection is not None:
            self.connection.watch(until)

    def allow_silence(self, idle: float) -> None:
        """From here on no deadline but `idle` seconds without a byte."""
        self.idle = idle
        self.extend(self.home.loop.time() + idle)

    def cancel(self) -> None:
        """Give it up; nothing more is reported."""
        if self.connection is not None:
            self.connection.drop(self, ErrorCodes.CANCEL)
        else:
            self.home.withdraw(self)

    def settle(self) -> None:
        """Its time of waiting for a connection is over."""
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None

    def __repr__(self) -> str:
        place = "waiting" if self.connection is None else f"stream {self.id}"
        return f"<Http2Call {self.request!r} | {place}>"


class Http2Connection(asyncio.Protocol):
    """The protocol of one connection."""

    def __init__(self, home: Home) -> None:
        self._home = home
        now = home.loop.time()
        self._machine = Machine(True, now, home.limits.head, STREAMS * STREAM_WINDOW)
        self._calls: dict[int, Http2Call] = {}
        self._held: dict[int, Http2Call] = {}  # calls with bytes that wait for a window
        self._heads: list[Http2Call] = []  # whose response came in this burst and was not told yet
        self._ready: list[Http2Call] = []  # may hand on their responses' pieces
        self._bursting = False
        self._announced = False
        self._gathered = 0
        self._blocked = False  # the instance doesn't read
        self._retiring = False  # takes no more calls
        self._closed = False
        self._timer: Cancellable | None = None
        self._timer_at = inf
        self._heard = now  # when a byte last came
        self._asked = inf  # when a PING was sent that was not answered yet
        self._ask_after = 0.0  # no PING before that
        self.agreed = False  # the instance speaks HTTP/2, as far as its handshake tells
        self.idle_since = now
        self.carried = 0

    # Carrying calls

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    def has_room(self) -> bool:
        """May it take another call?"""
        if self._retiring or self._closed:
            return False
        bound = self._machine.remote_settings.max_concurrent_streams
        return len(self._calls) < min(bound, STREAMS)

    def carry(self, call: Http2Call) -> bool:
        """Send the call's request. False: this connection has no number left for it."""
        machine = self._machine
        try:
            call.id = stream_id = machine.get_next_available_stream_id()
            ended = call.sent and not call.out and call.trailers is None
            machine.send_headers(stream_id, call.fields, ended)
        except (NoAvailableStreamIDError, ProtocolError):
            self._retire()
            return False
        call.settle()
        call.connection = self
        call.fields = []
        call.head_is_out = True
        call.fresh = not self._calls and self.carried > 0
        self.carried += 1
        if not self._calls:
            self._heard = self._home.loop.time()
        self._calls[stream_id] = call
        if not ended:
            self.pump(call)
        self._ask_flush()
        self.watch(call.until)
        self.watch(self._heard + SILENCE)
        if not call.sent:
            # Not from within Upstream.send: the sink's owner would not have the call yet.
            self._home.loop.call_soon(self._tell_ready, call)
        return True

    def _tell_ready(self, call: Http2Call) -> None:
        if call.connection is self and not call.sent:
            call.sink.on_ready()

    # What the loop reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands: preface and settings go first, calls may follow at once (§3.4)."""
        self.transport = tcp = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        tcp.set_write_buffer_limits(high=WRITE_HIGH)
        tls = tcp.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":  # §3.2: over TLS only by agreement
            tcp.abort()
            return
        self.agreed = True
        self._machine.open()
        self._flush()
        self._home.opened(self)

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of them."""
        if self._closed:
            return
        self._heard = now = self._home.loop.time()
        self._bursting = True
        try:
            self._handle(self._machine.feed(data, now))
        except Broken as broken:
            self._bursting = False
            self._fail_all(UpstreamProtocolError(f"the instance's answer is malformed: {broken}"))
            return
        finally:
            self._bursting = False
            self._flush()
        self._end_if_retired()

    def connection_lost(self, exc: Exception | None) -> None:
        """The instance closed, or the network did."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._home.lost(self)
        for call in self._take_calls():
            if call.fresh:
                call.sink.on_error(UpstreamClosedIdle("the instance closed a kept-alive connection"))
            else:
                call.sink.on_error(
                    UpstreamReset("the instance closed the connection before its answer was complete")
                )

    def pause_writing(self) -> None:
        """The send buffer is full: what comes waits in its call."""
        self._blocked = True

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self._blocked = False
        self._send_held()

    # Events

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                self._on_data(cast(DataReceived, event))
            elif kind is ResponseReceived:
                self._on_head(cast(ResponseReceived, event))
            elif kind is TrailersReceived:
                self._on_trailers(cast(TrailersReceived, event))
            elif kind is WindowUpdated or kind is RemoteSettingsChanged:
                self._send_held()
            elif kind is StreamReset:
                self._on_reset(cast(StreamReset, event))
            elif kind is InformationalResponseReceived:
                self._on_interim(cast(InformationalResponseReceived, event))
            elif kind is GoneAway:
                self._on_goaway(cast(GoneAway, event))
            elif kind is PingAckReceived:
                self._asked = inf
        heads, self._heads = self._heads, []
        for call in heads:
            if call.connection is self:
                self._tell_head(call)
        self._hand_on()

    def _read_head(self, call: Http2Call, fields: list[Field]) -> Response | None:
        try:
            return read_response(fields, self._home.limits)
        except Malformed as error:
            self.drop(call, ErrorCodes.PROTOCOL_ERROR)
            call.sink.on_error(UpstreamProtocolError(f"the instance's answer is malformed: {error}"))
            return None

    def _on_interim(self, event: InformationalResponseReceived) -> None:
        call = self._calls.get(event.stream_id)
        response = None if call is None else self._read_head(call, event.headers)
        if call is None or response is None:
            return
        call.fresh = False
        call.interim += 1
        if call.interim > _MAX_INTERIM or response.status == 101:
            self.drop(call, ErrorCodes.PROTOCOL_ERROR)
            call.sink.on_error(
                UpstreamProtocolError("the instance sends interim answers that nobody asked for")
            )
        elif response.status != 100:
            call.sink.on_interim(response)

    def _on_head(self, event: ResponseReceived) -> None:
        call = self._calls.get(event.stream_id)
        response = None if call is None else self._read_head(call, event.headers)
        if call is None or response is None:
            return
        call.fresh = False
        call.response = response
        call.response_ended = event.stream_ended is not None
        self._touch(call)
        self._heads.append(call)

    def _tell_head(self, call: Http2Call) -> None:
        """Tell the head; a response that came whole in one read is told whole."""
        response = call.response
        assert response is not None
        if call.response_ended:
            response.body = b"".join([piece for piece, _ in call.pieces])
            if response.length is None or call.request.method != b"HEAD":
                response.length = len(response.body)
            self._release_window(call)
            self._finish(call)
            call.sink.on_response(response)
            return
        call.sink.on_response(response)
        if call.pieces and not call.paused:
            self._ready.append(call)

    def _on_data(self, event: DataReceived) -> None:
        call = self._calls.get(event.stream_id)
        taken = event.flow_controlled_length or 0
        if call is None:
            self._machine.acknowledge_received_data(taken, event.stream_id)
            return
        self._touch(call)
        call.response_ended = event.stream_ended is not None
        call.pieces.append((event.data or b"", taken))
        if not call.paused:
            self._ready.append(call)

    def _on_trailers(self, event: TrailersReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is None or call.response is None:
            return
        try:
            call.response.trailers = read_trailers(event.headers, strict=False) or None
        except Malformed as error:
            self.drop(call, ErrorCodes.PROTOCOL_ERROR)
            call.sink.on_error(UpstreamProtocolError(f"the instance's trailers are malformed: {error}"))
            return
        call.response_ended = True
        call.pieces.append((b"", 0))
        if not call.paused:
            self._ready.append(call)

    def _on_reset(self, event: StreamReset) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            return
        if call.response_ended:  # §8.1: the answer is whole, and the rest of the request is not wanted
            call.sent = True
            call.out.clear()
            call.out_size = 0
            return
        self._forget(call)
        if not event.remote_reset:
            call.sink.on_error(UpstreamProtocolError("the instance's answer is malformed"))
        elif event.error_code == ErrorCodes.REFUSED_STREAM:
            call.sink.on_error(UpstreamRefused("the instance refused the request before reading it"))
        else:
            call.sink.on_error(UpstreamReset("the instance gave its answer up"))

    def _on_goaway(self, event: GoneAway) -> None:
        """Calls that the instance will not look at may go elsewhere; the others are finished here (§6.8)."""
        self._retire()
        for call in [call for id, call in self._calls.items() if id > event.last_stream_id]:
            self._forget(call)
            call.sink.on_error(UpstreamRefused("the instance was about to go before it read the request"))

    # The response

    def hand_on_soon(self, call: Http2Call) -> None:
        """The sink goes on reading, but not from within its own call."""
        self._ready.append(call)
        self._ask_flush()

    def _hand_on(self) -> None:
        while self._ready:
            call = self._ready.pop()
            if call in self._heads:
                continue
            pieces = call.pieces
            while pieces and not call.paused and call.connection is self:
                piece, taken = pieces.popleft()
                if taken:
                    self._machine.acknowledge_received_data(taken, call.id)
                if call.response_ended and not pieces:
                    self._finish(call)
                    call.sink.on_chunk(piece, True)
                elif piece:
                    call.sink.on_chunk(piece, False)

    def _release_window(self, call: Http2Call) -> None:
        taken = sum([one for _, one in call.pieces])
        call.pieces.clear()
        if taken:
            self._machine.acknowledge_received_data(taken, call.id)

    def _touch(self, call: Http2Call) -> None:
        """A byte came: silence begins anew."""
        if call.idle and not call.paused:
            call.until = self._heard + call.idle

    # The request's body

    def pump(self, call: Http2Call) -> None:
        """Send what the windows allow."""
        while self._send_one(call):
            pass

    def _send_one(self, call: Http2Call) -> bool:
        """Send one frame of a call. False: nothing is left, or it must wait."""
        if call.connection is not self or not (call.out or call.sent):
            return False
        if self._blocked or not self._send_frame(call):
            self._held[call.id] = call
            return False
        self._ask_flush()
        if call.stopped and call.out_size <= WRITE_HIGH // 2:
            call.stopped = False
            call.sink.on_writable(True)
        return bool(call.out) and call.connection is self

    def _send_frame(self, call: Http2Call) -> bool:
        machine = self._machine
        try:
            if call.out:
                room = machine.room(call.id)
                if not room:
                    return False
                piece = call.out[0]
                if len(piece) > room:
                    call.out[0] = piece[room:]
                    piece = piece[:room]
                else:
                    call.out.popleft()
                call.out_size -= len(piece)
                ends = call.sent and not call.out
                machine.send_piece(call.id, piece, ends and call.trailers is None)
                self._gathered += len(piece)
                if call.idle:
                    self._touch(call)
                if self._gathered >= _BATCH:
                    self._flush()
                if ends and call.trailers is not None:
                    machine.send_headers(call.id, write_trailers(call.trailers), True)
            elif call.trailers is not None:
                machine.send_headers(call.id, write_trailers(call.trailers), True)
            else:
                machine.send_piece(call.id, b"", True)
        except ProtocolError:  # the instance has reset it, or has said all that it had to say
            call.out.clear()
            call.out_size = 0
        return True

    def _send_held(self) -> None:
        """There is room again: a frame of each call in turn, so that none starves."""
        going = True
        while going and self._held and not self._blocked:
            going = False
            for call in tuple(self._held.values()):
                del self._held[call.id]
                if self._send_one(call):
                    self._held[call.id] = call
                    going = True
        self._ask_flush()

    # The end of a call

    def _finish(self, call: Http2Call) -> None:
        """The response is complete. What is left of the request nobody reads (§8.1)."""
        if not call.sent or call.out:
            with suppress(ProtocolError):  # it is closed already
                self._machine.reset_stream(call.id, ErrorCodes.NO_ERROR)
            self._ask_flush()
        self._forget(call)

    def drop(self, call: Http2Call, code: ErrorCodes) -> None:
        """End a call's stream; nothing more is reported."""
        if call.connection is not self:
            return
        self._release_window(call)
        with suppress(ProtocolError):
            self._machine.reset_stream(call.id, code)
        self._ask_flush()
        self._forget(call)

    def _forget(self, call: Http2Call) -> None:
        call.connection = None
        call.out.clear()
        call.out_size = 0
        call.pieces.clear()
        self._held.pop(call.id, None)
        if self._calls.pop(call.id, None) is not None:
            if not self._calls:
                self.idle_since = self._home.loop.time()
                if self._retiring:
                    self._ask_flush()
            self._home.freed(self)

    def _take_calls(self) -> list[Http2Call]:
        """Let go of all calls; returns them."""
        calls = list(self._calls.values())
        self._calls.clear()
        self._held.clear()
        for call in calls:
            call.connection = None
        return calls

    def _fail_all(self, error: GatewayError) -> None:
        """The connection is of no use any more."""
        calls = self._take_calls()
        self.close()
        for call in calls:
            call.sink.on_error(error)

    # Deadlines

    def watch(self, deadline: float) -> None:
        """Look at the clock at `deadline`, if not before. A timer that fires early looks again."""
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._home.timers.at(deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        self._timer_at = inf
        if self._closed:
            return
        now = self._home.loop.time()
        for call in [call for call in self._calls.values() if now >= call.until]:
            self.drop(call, ErrorCodes.CANCEL)
            call.sink.on_error(UpstreamTimeout("the instance did not answer in time"))
        if not self._calls:
            return
        if now >= self._asked + ANSWER:
            self._fail_all(UpstreamReset("the instance does not answer any more"))
            return
        if now >= max(self._heard + SILENCE, self._ask_after) and self._asked == inf:
            self._asked = now
            self._ask_after = now + PATIENCE_WITH_PINGS
            self._machine.ping(b"headgate")
            self._ask_flush()
        nearest = min(call.until for call in self._calls.values())
        asked = self._asked + ANSWER if self._asked != inf else max(self._heard + SILENCE, self._ask_after)
        self.watch(min(nearest, asked))

    # Sending, and the end of the connection

    def _ask_flush(self) -> None:
        if not (self._bursting or self._announced):
            self._announced = True
            self._home.loop.call_soon(self._end_burst)

    def _end_burst(self) -> None:
        self._announced = False
        if self._closed:
            return
        self._bursting = True
        try:
            self._hand_on()
        finally:
            self._bursting = False
            self._flush()
        self._end_if_retired()

    def _flush(self) -> None:
        self._gathered = 0
        data = self._machine.data_to_send()
        if data:
            self._home.outbox.post(self.transport, data)

    def _retire(self) -> None:
        if not self._retiring:
            self._retiring = True
            self._home.lost(self)
            self._ask_flush()

    def _end_if_retired(self) -> None:
        if self._retiring and not self._calls and not self._closed:
            self.close()

    def close(self) -> None:
        """Close; calls under way are forgotten."""
        if self._closed:
            return
        self._closed = True
        self._take_calls()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._machine.say_goodbye()
        self._flush()
        self._home.outbox.flush()
        self.transport.close()
        self._home.lost(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "retiring" if self._retiring else "open"
        return f"<Http2Connection | {state}, {len(self._calls)} calls>"
