"""One request under way on an HTTP/1.1 connection to an instance: the port `Call`.

It knows how much of the request's body is still to come, and when its time is over; the connection that
carries it (upstream/connection.py) knows the wire. A call that is paused waits for nobody but its own reader:
its deadline stands still meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.framing import encode_chunk
from gateway.http.message import Headers, Request, Response
from gateway.http.serialize import write_last_chunk
from gateway.pipeline.ports import Cancellable, Sink

if TYPE_CHECKING:  # a connection carries calls, and a call knows who carries it
    from gateway.upstream.connection import UpstreamConnection
    from gateway.upstream.connections import Connections


class HttpCall:
    """One request under way (the port `Call`). It lets go of its connection with the last byte or the error.

    left: bytes of the request's body still to be written, None when they are sent as chunks. sent: is the
    request complete. upgrade: the protocol that it asks to go on in. raw: the instance has agreed. idle:
    seconds of silence allowed, 0.0 while a deadline holds. spare: seconds left to the deadline when it was
    paused.
    """

    __slots__ = (
        "connection",
        "data",
        "home",
        "idle",
        "left",
        "method",
        "patience",
        "paused",
        "raw",
        "response",
        "sent",
        "sink",
        "spare",
        "until",
        "upgrade",
    )

    def __init__(self, home: Connections, request: Request, data: bytes, until: float, sink: Sink) -> None:
        self.home = home
        self.connection: UpstreamConnection | None = None
        self.data = data  # the head, and the body when it is whole
        self.response: Response | None = None  # a chunked one that is being read: it may get trailers
        self.method = request.method
        self.sent = request.body is not None
        self.left = request.length
        self.until = until
        self.sink = sink
        self.paused = False
        self.patience: Cancellable | None = None  # while it waits for a connection
        self.upgrade = request.upgrade
        self.raw = False
        self.idle = 0.0
        self.spare = 0.0

    def write(self, data: bytes, last: bool, trailers: Headers | None = None) -> None:
        """Send a piece of the body; trailers, which only chunks can carry, with the last one.

        Ignored once the call is over. Raises ValueError beyond the announced length.
        """
        connection = self.connection
        if connection is None or self.sent:
            return
        if self.raw:
            connection.say(self, data, last)
            return
        if self.left is None:
            data = encode_chunk(data)
            if last:
                data += write_last_chunk(trailers)
        else:
            self.left -= len(data)
            if self.left < 0 or (last and self.left):
                raise ValueError("the request's body is not as long as was announced")
        self.sent = last
        if data:
            self.home.outbox.post(connection.transport, data)

    def pause(self) -> None:
        """Stop reading the response; time stands still."""
        if not self.paused:
            self.paused = True
            if self.connection is not None:
                self.connection.hold(self)

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            if self.connection is not None:
                self.connection.transport.resume_reading()
                self.connection.watch(self.home.loop.time() + self.spare)

    def extend(self, until: float) -> None:
        """Move the deadline, earlier or later."""
        self.until = until
        if self.paused:
            self.spare = until - self.home.loop.time()
        elif self.connection is not None:
            self.connection.watch(until)

    def allow_silence(self, idle: float) -> None:
        """From here on no deadline but `idle` seconds without a byte."""
        self.idle = idle
        self.extend(self.home.loop.time() + idle)

    def cancel(self) -> None:
        """Give it up; nothing more is reported."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.drop()
        else:
            self.home.withdraw(self)

    def settle(self) -> None:
        """Its time of waiting for a connection is over."""
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None

    def __repr__(self) -> str:
        place = "waiting" if self.connection is None else repr(self.connection)
        return f"<HttpCall {self.method.decode()} | {place}>"
