"""One request under way on an HTTP/2 connection to an instance: the port `Call`. RFC 9113 §8.

Its two bodies flow as http/h2_flows.py has it, both at once where the instance likes: that is what gRPC's
bidirectional streams are. While it is paused its deadline stands still, because nobody but its own reader
holds it up.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from gateway.http.h2_flows import Flow
from gateway.http.h2_frames import CANCEL, Field
from gateway.http.message import Headers, Request, Response
from gateway.http.outbox import Outbox
from gateway.http.parse import HeadLimits
from gateway.pipeline.ports import Cancellable, Sink, Timers

if TYPE_CHECKING:  # a connection carries calls, and a call knows who carries it
    from gateway.upstream.http2 import Http2Connection

WRITE_HIGH: Final = 64 * 1024  # bytes of a request's body that wait, above which the sink is told to stop


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


class Http2Call(Flow):
    """State of one call.

    Of the request: `sent` once its last byte was given. spare: seconds left when it was paused; idle: seconds
    of silence allowed, 0.0 while a deadline holds. fresh: nothing of an answer was heard, and the connection
    had been idle.
    """

    __slots__ = (
        "connection",
        "fields",
        "fresh",
        "head_told",
        "home",
        "idle",
        "interim",
        "patience",
        "request",
        "response",
        "sent",
        "sink",
        "spare",
        "stopped",
        "until",
    )

    def __init__(self, home: Home, request: Request, fields: list[Field], until: float, sink: Sink) -> None:
        super().__init__()
        self.home = home
        self.request = request
        self.fields = fields
        self.until = until
        self.sink = sink
        self.connection: Http2Connection | None = None
        self.patience: Cancellable | None = None  # while it waits for a connection
        self.sent = request.body is not None
        self.stopped = False  # the sink was told to stop sending
        self.fresh = True
        self.spare = 0.0
        self.idle = 0.0
        self.interim = 0
        self.response: Response | None = None
        self.head_told = False
        if request.body:
            self.put(request.body)
        if self.sent and request.trailers:
            self.out_trailers = request.trailers

    # The port

    def write(self, data: bytes, last: bool, trailers: Headers | None = None) -> None:
        """Send a piece of the body. Ignored once the call is over."""
        connection = self.connection
        if connection is None or self.sent:
            return
        if data:
            self.put(data)
        if last:
            self.sent = self.out_ended = True
            self.out_trailers = trailers
        connection.flows.pump(self)
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
            if self.connection is not None:
                self.connection.flows.resume(self)

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
            self.connection.drop(self, CANCEL)
        else:
            self.home.withdraw(self)

    def settle(self) -> None:
        """Its time of waiting for a connection is over."""
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None

    def touch(self, now: float) -> None:
        """A byte went by: silence begins anew."""
        if self.idle and not self.paused:
            self.until = now + self.idle

    # The flows

    def takes(self) -> bool:
        """Whether the sink may be told more of the response's body."""
        return self.head_told and not self.paused and self.connection is not None

    def on_piece(self, data: bytes, last: bool) -> None:
        """Tell a piece of the response's body; with the last one the call is over."""
        if last and self.connection is not None:
            self.connection.finish(self)
        self.sink.on_chunk(data, last)

    def on_sent(self, size: int) -> None:
        """A piece of the request's body went out."""
        if self.idle:
            self.touch(self.home.loop.time())
        if self.stopped and self.out_size <= WRITE_HIGH // 2:
            self.stopped = False
            self.sink.on_writable(True)

    def __repr__(self) -> str:
        place = "waiting" if self.connection is None else f"stream {self.id}"
        return f"<Http2Call {self.request!r} | {place}>"
