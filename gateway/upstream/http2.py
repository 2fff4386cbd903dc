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
from math import inf
from typing import Final, cast

from gateway.http.h2_flows import Flows
from gateway.http.h2_frames import (
    CANCEL,
    NO_ERROR,
    PROTOCOL_ERROR,
    DataReceived,
    Event,
    Field,
    GoneAway,
    HeadReceived,
    PingAnswered,
    RoomReceived,
    StreamReset,
    TrailersReceived,
)
from gateway.http.h2_heads import Malformed, read_response, read_trailers
from gateway.http.h2_machine import Broken, Machine
from gateway.http.h2_streams import STREAM_WINDOW, STREAMS
from gateway.http.message import Response
from gateway.pipeline.errors import (
    GatewayError,
    UpstreamClosedIdle,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.ports import Cancellable
from gateway.upstream.http2_call import WRITE_HIGH, Home, Http2Call
from gateway.upstream.http2_resets import error_of_goaway, error_of_reset

SILENCE = 30.0  # s without a byte, while calls are under way, after which the instance is asked (PING)
ANSWER = 10.0  # s for the answer to that; then it counts as dead
PATIENCE_WITH_PINGS: Final = 300.0  # s until it is asked again: gRPC servers take more for an attack
_MAX_INTERIM: Final = 16


class Http2Connection:
    """The protocol of one connection: asyncio's by shape, because a base class could not be compiled."""

    __slots__ = (
        "_ask_after",
        "_asked",
        "_calls",
        "_closed",
        "_heads",
        "_heard",
        "_home",
        "_machine",
        "_retiring",
        "_timer",
        "_timer_at",
        "agreed",
        "carried",
        "flows",
        "idle_since",
        "transport",
    )
    transport: asyncio.Transport

    def __init__(self, home: Home) -> None:
        self._home = home
        now = home.loop.time()
        self._machine = Machine(True, now, home.limits.head, STREAMS * STREAM_WINDOW)
        self.flows = Flows(self._machine, home.outbox, home.loop.call_soon, self._end_if_retired)
        self._calls: dict[int, Http2Call] = {}
        self._heads: list[Http2Call] = []  # whose response came in this burst and was not told yet
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
        return len(self._calls) < min(self._machine.bound, STREAMS)

    def carry(self, call: Http2Call) -> bool:
        """Send the call's request. False: this connection has no number left for it."""
        ended = call.sent and not call.out and call.out_trailers is None
        stream_id = self._machine.begin(call.fields, ended)
        if not stream_id:
            self._retire()
            return False
        if call.patience is not None:
            call.settle()
        call.id = stream_id
        call.connection = self
        call.fields = []
        calls = self._calls
        if not calls:
            call.fresh = self.carried > 0
            self._heard = self._home.loop.time()
        else:
            call.fresh = False
        self.carried += 1
        calls[stream_id] = call
        if not ended:
            call.out_ended = call.sent
            self.flows.pump(call)
        self.flows.wake()
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
        self.flows.transport = tcp
        self._machine.open()
        self.flows.flush()
        self._home.opened(self)

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of them."""
        if self._closed:
            return
        self._heard = now = self._home.loop.time()
        self.flows.begin_burst()
        try:
            self._handle(self._machine.feed(data, now))
        except Broken as broken:
            self._fail_all(UpstreamProtocolError(f"the instance's answer is malformed: {broken}"))
            return
        finally:
            self.flows.end_burst()
        self._end_if_retired()

    def eof_received(self) -> bool:
        """The instance says no more; neither do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The instance closed, or the network did."""
        self._closed = True
        self.flows.transport = None
        self._forget_timer()
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
        self.flows.blocked = True

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self.flows.blocked = False
        self.flows.pump_held()

    # Events

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            call = self._calls.get(event.stream_id)
            if isinstance(event, DataReceived):
                self._on_data(call, event)
            elif isinstance(event, RoomReceived):
                self.flows.pump_held()
            elif isinstance(event, PingAnswered):
                self._asked = inf
            elif isinstance(event, GoneAway):
                self._on_goaway(event)
            elif call is None:
                continue
            elif isinstance(event, HeadReceived):
                self._on_head(call, event)
            elif isinstance(event, TrailersReceived):
                self._on_trailers(call, event)
            elif isinstance(event, StreamReset):
                self._on_reset(call, event)
        if self._heads:
            heads, self._heads = self._heads, []
            for call in heads:
                if call.connection is self:
                    self._tell_head(call)
        self.flows.hand_on()

    def _read_head(self, call: Http2Call, fields: list[Field]) -> Response | None:
        try:
            return read_response(fields, self._home.limits)
        except Malformed as error:
            self._fail(call, f"the instance's answer is malformed: {error}")
            return None

    def _fail(self, call: Http2Call, why: str) -> None:
        """The instance broke the rules in one call."""
        self.drop(call, PROTOCOL_ERROR)
        call.sink.on_error(UpstreamProtocolError(why))

    def _on_head(self, call: Http2Call, event: HeadReceived) -> None:
        response = self._read_head(call, event.fields)
        if response is None:
            return
        call.fresh = False
        if not event.is_interim:
            call.response = response
            call.in_ended = event.ended
            call.touch(self._heard)
            self._heads.append(call)
            return
        call.interim += 1
        if call.interim > _MAX_INTERIM or response.status == 101:
            self._fail(call, "the instance sends interim answers that nobody asked for")
        elif response.status != 100:
            call.sink.on_interim(response)

    def _tell_head(self, call: Http2Call) -> None:
        """Tell the head; a response that came whole in one read is told whole."""
        response = call.response
        assert response is not None
        if call.in_ended:
            response.body = self.flows.take_whole(call)
            if response.length is None or call.request.method != b"HEAD":
                response.length = len(response.body)
            self.finish(call)
            call.sink.on_response(response)
            return
        call.head_told = True
        call.sink.on_response(response)
        if call.pieces and call.takes():
            self.flows.ready.append(call)

    def _on_data(self, call: Http2Call | None, event: DataReceived) -> None:
        if call is None:
            self._machine.acknowledge(event.taken, event.stream_id)
            return
        call.touch(self._heard)
        call.in_ended = event.ended
        self.flows.take(call, event.data, event.taken)

    def _on_trailers(self, call: Http2Call, event: TrailersReceived) -> None:
        if call.response is None:
            return
        try:
            call.response.trailers = read_trailers(event.fields, strict=False) or None
        except Malformed as error:
            self._fail(call, f"the instance's trailers are malformed: {error}")
            return
        call.in_ended = True
        self.flows.take(call, b"", 0)

    def _on_reset(self, call: Http2Call, event: StreamReset) -> None:
        if call.in_ended:  # §8.1: the answer is whole, and the rest of the request is not wanted
            call.sent = True
            call.drop_out()
            return
        self._forget(call)
        call.sink.on_error(error_of_reset(event))

    def _on_goaway(self, event: GoneAway) -> None:
        """Calls that the instance will not look at may go elsewhere; the others are finished here (§6.8)."""
        self._retire()
        for call in [call for id, call in self._calls.items() if id > event.last_stream_id]:
            self._forget(call)
            call.sink.on_error(error_of_goaway())

    # The end of a call

    def finish(self, call: Http2Call) -> None:
        """The response is complete. What is left of the request nobody reads (§8.1)."""
        if not call.sent or call.out:
            self._machine.reset_stream(call.id, NO_ERROR)
            self.flows.wake()
        self._forget(call)

    def drop(self, call: Http2Call, code: int) -> None:
        """End a call's stream; nothing more is reported."""
        if call.connection is not self:
            return
        self.flows.discard(call)
        self._machine.reset_stream(call.id, code)
        self.flows.wake()
        self._forget(call)

    def _forget(self, call: Http2Call) -> None:
        call.connection = None
        call.drop_out()
        if call.pieces:
            self.flows.discard(call)
        if call.waiting:
            self.flows.release(call)
        if self._calls.pop(call.id, None) is not None:
            if not self._calls:
                self.idle_since = self._home.loop.time()
                if self._retiring:
                    self.flows.wake()
            self._home.freed(self)

    def _take_calls(self) -> list[Http2Call]:
        """Let go of all calls; returns them."""
        calls = list(self._calls.values())
        self._calls.clear()
        self.flows.forget()
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
            self.drop(call, CANCEL)
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
            self.flows.wake()
        nearest = min(call.until for call in self._calls.values())
        asked = self._asked + ANSWER if self._asked != inf else max(self._heard + SILENCE, self._ask_after)
        self.watch(min(nearest, asked))

    # The end of the connection

    def _retire(self) -> None:
        if not self._retiring:
            self._retiring = True
            self._home.lost(self)
            self.flows.wake()

    def _end_if_retired(self) -> None:
        if self._retiring and not self._calls and not self._closed:
            self.close()

    def close(self) -> None:
        """Close; calls under way are forgotten."""
        if self._closed:
            return
        self._closed = True
        self._take_calls()
        self._forget_timer()
        self._machine.say_goodbye()
        self.flows.flush()
        self._home.outbox.flush()
        self.flows.transport = None
        self.transport.close()
        self._home.lost(self)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "retiring" if self._retiring else "open"
        return f"<Http2Connection | {state}, {len(self._calls)} calls>"
