"""How a client's HTTP/2 connection, and each stream on it, comes to its end; deadlines among the ways.
RFC 9113 §5.4, §6.8.

    open --idle too long--> closing
    open --drain: GOAWAY for later, GOAWAY for good--> no streams left --> closing
    open --the peer broke the rules: GOAWAY--> lingering --> closed

A stream ends when both sides have said all, when either gives it up, or when the client keeps it waiting too
long; what it still held of the windows is given back. There is one timer per connection, which looks again
where it fired early.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final

from gateway.http.h2_flows import Flows
from gateway.http.h2_frames import CANCEL, ENHANCE_YOUR_CALM, NO_ERROR
from gateway.http.h2_machine import Broken, Machine
from gateway.pipeline.errors import BodyTimeout, GatewayError
from gateway.pipeline.ports import Cancellable, Peer, Receiver
from gateway.server.host import Host
from gateway.server.http2_stream import Http2Stream
from gateway.server.problem import new_request_id

_EVERYTHING: Final = 2**31 - 1  # a GOAWAY that refuses nothing yet


class Http2Ending:
    """What a connection knows of its end; server/http2.py adds what it does until then."""

    __slots__ = (
        "_closing",
        "_deadline",
        "_fresh",
        "_going",
        "_host",
        "_last_begun",
        "_leaving",
        "_machine",
        "_streams",
        "_timer",
        "_timer_at",
        "_unsent",
        "flows",
        "peer",
        "transport",
    )

    def __init__(self, host: Host, transport: asyncio.Transport, peer: Peer) -> None:
        self.peer = peer
        self.transport = transport
        self._host = host
        self._machine = Machine(False, host.loop.time(), host.settings.head.head)
        self.flows = Flows(self._machine, host.outbox, host.loop.call_soon, self._end_if_idle)
        self.flows.transport = transport
        self._streams: dict[int, Http2Stream] = {}
        self._fresh: list[Http2Stream] = []  # begun in this burst, their exchanges not yet
        self._unsent = 0  # bytes in the send buffer when that was last looked at
        self._going = False  # GOAWAY was said, or heard: no new streams
        self._leaving = inf  # when a drain says GOAWAY for good
        self._closing = False  # nothing is read any more
        self._last_begun = 0
        self._deadline = inf
        self._timer: Cancellable | None = None
        self._timer_at = inf

    def start(self, stream: Http2Stream) -> None:
        """Begin a stream's exchange."""

    @property
    def stream(self) -> Http2Stream | None:
        """One of the requests being answered, None between requests."""
        return next(iter(self._streams.values()), None)

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

    def _fail_body(self, stream: Http2Stream, error: GatewayError) -> None:
        """The rest of the body is not wanted: the exchange answers, and the stream is over."""
        self.flows.discard(stream)
        if not stream.started:
            self.start(stream)
        receiver = stream.receiver
        try:
            receiver.on_body_error(error)
        except Exception as bug:
            self.crash(receiver, bug)

    def _tell_refused(self, code: str, status: int) -> bytes:
        request_id = new_request_id()
        if self._host.on_refused is not None:
            self._host.on_refused(code, status, self.peer.address, request_id)
        return request_id
