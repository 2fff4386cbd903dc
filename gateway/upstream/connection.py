"""One connection to one instance: HTTP/1.1, the client's side. RFC 9112. Its call is in http_call.py.

    connecting --> idle --send--> waiting for the head --> reading the body --> idle | closed

A connection is used again only when nothing at all was odd: the request was sent to its end, the response
was read to its end, no byte came after it, both sides want to stay, and nobody gave the call up. In every
other case the next request could get the last one's answer, so the connection is closed. `100 Continue` is
skipped, because nobody here waits for one; other interim responses are told. 101 is a protocol error unless
it agrees to the very protocol that was asked for; then the connection is a tunnel's end until both sides
have said all (RFC 9110 §7.8), and never a connection for requests again.

Errors say what another try may do: UpstreamClosedIdle only if the connection was used before and not one
byte of an answer came (the race of a server that closes while we write), UpstreamReset in all other cuts.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final, cast

from gateway.http.framing import (
    CHUNKED,
    BadFraming,
    BodyReader,
    ChunkedReader,
    CloseReader,
    LengthReader,
    reader_for,
)
from gateway.http.message import Response, find_all
from gateway.http.parse import (
    BadResponse,
    check_unfinished_response,
    parse_response_head,
    read_response_ahead,
)
from gateway.pipeline.errors import (
    GatewayError,
    UpstreamClosedIdle,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.ports import Cancellable
from gateway.upstream.http_call import HttpCall

if TYPE_CHECKING:  # connections belong to their group, which makes them
    from gateway.upstream.connections import Connections

WRITE_HIGH: Final = 64 * 1024  # bytes waiting to be sent, above which `Sink.on_writable(False)` is told
_MAX_INTERIM: Final = 16  # 1xx responses before one final one


class UpstreamConnection:
    """The protocol of one connection: asyncio's by shape, because a base class could not be compiled."""

    __slots__ = (
        "_buffer",
        "_call",
        "_deadline",
        "_ended",
        "_heard",
        "_home",
        "_interim",
        "_keep_alive",
        "_reader",
        "_timer",
        "_timer_at",
        "calls",
        "idle_since",
        "transport",
    )
    transport: asyncio.Transport

    def __init__(self, home: Connections) -> None:
        self._home = home
        self._call: HttpCall | None = None
        self._buffer = b""
        self._reader: BodyReader | None = None
        self._keep_alive = False
        self._ended = False  # a tunnel's instance says no more
        self._heard = False
        self._interim = 0
        self._deadline = inf
        self._timer: Cancellable | None = None
        self._timer_at = inf
        self.calls = 0
        self.idle_since = 0.0

    # Carrying a call

    def carry(self, call: HttpCall) -> None:
        """Send the call's request."""
        if call.patience is not None:
            call.settle()
        call.connection = self
        self._call = call
        self._heard = False
        self._interim = 0
        self.calls += 1
        self._home.outbox.post(self.transport, call.data)
        call.data = b""
        self.watch(call.until)
        if not call.sent:
            # Not from within Upstream.send: the sink's owner would not have the call yet.
            self._home.loop.call_soon(self._ready, call)
        if call.paused:
            self.hold(call)

    def hold(self, call: HttpCall) -> None:
        """Stop reading, and the clock with it."""
        self.transport.pause_reading()
        call.spare = self._deadline - self._home.loop.time()
        self._deadline = inf

    def say(self, call: HttpCall, data: bytes, last: bool) -> None:
        """Send what the client said through the tunnel; last: it says no more."""
        if data:
            self._home.outbox.post(self.transport, data)
            self._touch(call)
        if not last:
            return
        call.sent = True
        self._home.outbox.flush()
        if self._ended:
            self._hang_up(call)
        elif self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS knows no half: closing is the only way to say that no more will come
            self.transport.close()

    def _hang_up(self, call: HttpCall) -> None:
        """Close: both sides of the tunnel have said all."""
        self._let_go(call)
        self._forget_timer()
        self.transport.close()
        self._home.lost(self)

    def _touch(self, call: HttpCall) -> None:
        """A byte went by: silence begins anew. The timer looks by itself where it has moved."""
        if call.idle and not call.paused:
            self._deadline = self._home.loop.time() + call.idle

    def _ready(self, call: HttpCall) -> None:
        if self._call is call:
            call.sink.on_ready()

    def watch(self, until: float) -> None:
        """Set the deadline.

        The timer is left alone where it comes early enough: it looks again when it fires.
        """
        self._deadline = until
        if until < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = until
            self._timer = self._home.timers.at(until, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        self._timer_at = inf
        if self._call is None:
            return
        if self._home.loop.time() < self._deadline:
            self.watch(self._deadline)
        else:
            self._fail(UpstreamTimeout("the instance did not answer in time"))

    def drop(self) -> None:
        """Close at once; whatever was under way is forgotten."""
        self._call = None
        self._forget_timer()
        self.transport.abort()
        self._home.lost(self)

    def is_usable(self) -> bool:
        """May an idle connection take another call?"""
        return not self.transport.is_closing()

    # What the loop reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection stands."""
        self.transport = tcp = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        tcp.set_write_buffer_limits(high=WRITE_HIGH)
        self._home.opened(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of the response."""
        call = self._call
        if call is None:  # said without being asked: whatever it is, it is no answer to the next request
            self.drop()
            return
        self._heard = True
        if self._reader is None:
            self._read_head(call, self._buffer + data if self._buffer else data)
        else:
            if call.idle:
                self._touch(call)
            self._read_body(call, self._reader, data)

    def eof_received(self) -> bool:
        """The instance says no more: a tunnel's other half goes on, everything else is over."""
        call = self._call
        if call is None or not call.raw:
            return False
        self._ended = True
        call.sink.on_chunk(b"", True)
        if self._call is call and call.sent:
            self._hang_up(call)
        return self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """The instance closed, or the network did."""
        call = self._call
        self._forget_timer()
        self._home.lost(self)
        if call is None:
            return
        if call.raw and not (call.sent and exc is None and not self._ended):
            self._fail(UpstreamReset("the instance broke the tunnel"))
        elif isinstance(self._reader, CloseReader) and exc is None:
            self._let_go(call)
            call.sink.on_chunk(b"", True)
        elif self.calls > 1 and not self._heard:
            self._fail(UpstreamClosedIdle("the instance closed a kept-alive connection"))
        else:
            self._fail(UpstreamReset("the instance closed the connection before its answer was complete"))

    def pause_writing(self) -> None:
        """The send buffer is full."""
        if self._call is not None and not self._call.sent:
            self._call.sink.on_writable(False)

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        if self._call is not None and not self._call.sent:
            self._call.sink.on_writable(True)

    # Reading the response

    def _read_head(self, call: HttpCall, data: bytes) -> None:
        limits = self._home.limits
        while True:
            ahead = read_response_ahead(data, call.method, limits)
            if ahead is not None:
                response, framing, keep_alive, size = ahead
            else:
                size = data.find(b"\r\n\r\n") + 4
                try:
                    if size < 4:
                        check_unfinished_response(data, limits)
                        self._buffer = data
                        return
                    response, framing, keep_alive = parse_response_head(data[:size], call.method, limits)
                except BadResponse as error:
                    self._fail(UpstreamProtocolError(f"the instance's answer is malformed: {error}"))
                    return
            data = data[size:]
            if response.status >= 200:
                break
            if response.status == 101:
                self._switch(call, response, data)
                return
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                self._fail(UpstreamProtocolError("the instance sends interim answers without end"))
                return
            if response.status != 100:
                call.sink.on_interim(response)
                if self._call is not call:
                    return
        self._buffer = b""
        self._keep_alive = keep_alive
        if framing == len(data):  # the usual case: all of it in one read
            response.body = data
            self._finish(call, keep_alive)
            call.sink.on_response(response)
        else:
            self._begin_body(call, response, framing, data)

    def _switch(self, call: HttpCall, response: Response, data: bytes) -> None:
        """Begin a tunnel, if this is the protocol that was asked for. RFC 9110 §15.2.2."""
        agreed = b", ".join(find_all(response.headers, b"upgrade")).lower()
        if not call.upgrade or agreed != call.upgrade.lower():
            self._fail(UpstreamProtocolError("the instance changed to a protocol that nobody asked for"))
            return
        self._buffer = b""
        self._keep_alive = False
        self._reader = CloseReader()
        call.raw = True
        call.sent = False
        response.length = None
        call.sink.on_response(response)
        if data and self._call is call:
            call.sink.on_chunk(data, False)

    def _begin_body(self, call: HttpCall, response: Response, framing: int, data: bytes) -> None:
        reader = LengthReader(framing) if framing >= 0 else reader_for(framing)
        try:
            piece = reader.feed(data)
        except BadFraming as error:
            self._fail(UpstreamProtocolError(f"the instance's answer is malformed: {error}"))
            return
        if reader.done:
            response.body = piece
            if framing < 0:
                response.length = len(piece)
            if isinstance(reader, ChunkedReader):
                response.trailers = reader.trailers
            self._finish(call, self._keep_alive and not reader.rest)
            call.sink.on_response(response)
            return
        self._reader = reader
        if framing == CHUNKED:
            call.response = response
        call.sink.on_response(response)
        if piece and self._call is call:
            call.sink.on_chunk(piece, False)

    def _read_body(self, call: HttpCall, reader: BodyReader, data: bytes) -> None:
        try:
            piece = reader.feed(data)
        except BadFraming as error:
            self._fail(UpstreamProtocolError(f"the instance's answer is malformed: {error}"))
            return
        if reader.done:
            if isinstance(reader, ChunkedReader) and call.response is not None:
                call.response.trailers = reader.trailers
            self._finish(call, self._keep_alive and not reader.rest)
            call.sink.on_chunk(piece, True)
        elif piece:
            call.sink.on_chunk(piece, False)

    # The end of a call

    def _finish(self, call: HttpCall, clean: bool) -> None:
        """The response is complete.

        The connection is free before the sink hears of it: it may want another.
        """
        self._let_go(call)
        if clean and call.sent and not self.transport.is_closing():
            if call.paused:
                self.transport.resume_reading()
            self._home.released(self)
        else:
            self._forget_timer()
            self.transport.abort()
            self._home.lost(self)

    def _fail(self, error: GatewayError) -> None:
        call = self._call
        assert call is not None
        self._let_go(call)
        self.drop()
        call.sink.on_error(error)

    def _let_go(self, call: HttpCall) -> None:
        self._call = None
        self._reader = None
        self._deadline = inf
        call.connection = None

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = inf

    def __repr__(self) -> str:
        state = "idle" if self._call is None else "reading" if self._reader is not None else "waiting"
        return f"<UpstreamConnection | {state}, call {self.calls}>"
