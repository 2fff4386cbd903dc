"""How a client's HTTP/1 connection comes to its end, and the deadlines that bring it there. RFC 9112 §9.

    a refusal, or an answer that closes --> lingering: input is thrown away for a while --> closed
    nothing moves within its deadline --> 408, or closed
    drain --> closed after the response under way, or the next one, if it comes soon

Whoever closes while bytes still come in makes the peer's kernel throw away what it has not read yet (§9.6).
So the last answer goes out, our half is closed, and the rest is read away before the connection is.

There is one deadline at a time (the comment at `_arm` says which), and one timer that is moved only when it
fires: a request on a kept-alive connection costs no timer at all.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from math import inf
from typing import Final

from gateway.http.message import Request
from gateway.http.serialize import write_response_head
from gateway.pipeline.errors import BodyTimeout, GatewayError
from gateway.pipeline.identify import REQUEST_ID
from gateway.pipeline.ports import Cancellable, Peer, Receiver
from gateway.server.body import Body
from gateway.server.heads import Heads
from gateway.server.host import Host
from gateway.server.problem import new_request_id, problem
from gateway.server.stream import Stream

_NEXT_TURN: Final = 0.001  # s: by then the loop has read what waits


class Ending:
    """What a connection knows of its end; server/connection.py adds what it does until then."""

    __slots__ = (
        "_admitted",
        "_blocked",
        "_blocked_size",
        "_buffer",
        "_closing",
        "_deadline",
        "_eof",
        "_first",
        "_heads",
        "_host",
        "_lingering",
        "_met",
        "_reading",
        "_running",
        "_timer",
        "_timer_at",
        "peer",
        "stream",
        "transport",
    )
    transport: asyncio.Transport
    peer: Peer

    def __init__(self, host: Host, met: Peer | None = None) -> None:
        """met: who it is, where PROXY protocol or TLS came first."""
        self._host = host
        self._met = met
        self.stream: Stream | None = None
        self._buffer = b""  # read, not yet understood
        self._heads = Heads()
        self._reading = True
        self._running = False
        self._blocked = False  # the client doesn't read: the send buffer is full
        self._blocked_size = 0
        self._eof = False
        self._first = True  # no request was read yet
        self._closing = False  # no further request is read
        self._lingering = False  # the last answer is out, input is thrown away
        self._admitted = False
        self._deadline = inf
        self._timer: Cancellable | None = None
        self._timer_at = inf

    # Reading, or not

    def _balance(self) -> None:
        """Read from the socket only while there is room for what comes."""
        stream = self.stream
        reading = not self._buffer or len(self._buffer) < self._host.settings.read_ahead
        if stream is not None and stream.body is not None and stream.body.paused:
            reading = False
        if reading is not self._reading and not self.transport.is_closing():
            self._reading = reading
            if reading:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _fail_body(self, stream: Stream, body: Body, error: GatewayError) -> None:
        """No byte after this one can be understood."""
        stream.body = None
        stream.keep_alive = False
        self._closing = True
        self._buffer = b""
        self._deadline = inf
        if body.draining:
            self._close()
        elif not stream.done:
            stream.receiver.on_body_error(error)

    # The end

    def _refuse(self, status: int, code: str, detail: str, request: Request | None = None) -> None:
        """Answer what never became a request, and close. It has an id, to be found by in the log."""
        request_id = b"" if request is None else request.header(b"x-request-id") or b""
        if not REQUEST_ID.fullmatch(request_id):
            request_id = new_request_id()
        if self._host.on_refused is not None:
            self._host.on_refused(code, status, self.peer.address, request_id)
        response = problem(status, code, detail, request_id)
        body = b"" if request is not None and request.method == b"HEAD" else response.body or b""
        head = write_response_head(
            response, length=response.length, connection=b"close", date=self._host.date()
        )
        self._host.outbox.post(self.transport, head + body)
        self._close(unread=True)

    def _close(self, unread: bool = False) -> None:
        """Close when the send buffer is empty. unread: the client may still be sending; linger."""
        if self.transport.is_closing():
            return
        self._closing = True
        self._buffer = b""
        self._host.outbox.flush()
        settings = self._host.settings
        if unread and not self._eof:
            self._lingering = True
            self.transport.write_eof()
            self._balance()
            self._arm(self._host.loop.time() + settings.linger)
        else:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._arm(self._host.loop.time() + settings.send_timeout)

    def drain(self) -> None:
        """The listener stops: close after the response under way, or after the next one, if it comes soon."""
        if self.stream is None and not (self._buffer or self._blocked or self._lingering):
            self._arm(min(self._deadline, self._host.loop.time() + self._host.settings.farewell))

    def abort(self) -> None:
        """The listener's patience is over. A tunnel is closed, so that what was said still arrives."""
        if self.stream is not None and self.stream.is_tunnel and not self._blocked:
            self._host.outbox.flush()
            self.transport.close()
        else:
            self.transport.abort()

    def _crash(self, receiver: Receiver | None, bug: Exception) -> None:
        """A bug escaped from a receiver: the one place that hands it over."""
        if receiver is None:
            self._host.loop.call_exception_handler({"message": "no exchange could begin", "exception": bug})
            self._refuse(500, "internal", "the gateway failed")
            return
        try:
            receiver.crash(bug)
        except Exception as second:
            self._host.loop.call_exception_handler(
                {"message": "an exchange failed twice", "exception": second}
            )
            self.transport.abort()

    # Deadlines

    def _next_deadline(self) -> float:
        """The instant by which the client must have done what is awaited of it; inf while it waits for us."""
        settings = self._host.settings
        stream = self.stream
        if stream is None:
            return self._host.loop.time() + (settings.head_timeout if self._buffer else settings.idle_timeout)
        if stream.body is None:
            return inf
        return self._deadline if stream.body.draining else stream.body.deadline(settings)

    def _arm(self, deadline: float) -> None:
        """Set the deadline: a head's end, the next request, a body's progress, a stalled send, or a
        linger's end.

        A timer that fires earlier is left alone; it looks again.
        """
        self._deadline = deadline
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._host.timers.at(deadline, self._look_at_clock)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = inf

    def _look_at_clock(self) -> None:
        self._timer = None
        self._timer_at = inf
        if self._deadline == inf:
            return
        if self._host.loop.time() < self._deadline:
            self._arm(self._deadline)
        else:
            self._deadline = inf
            self._expire()

    def _expire(self) -> None:
        stream = self.stream
        if self._lingering or self.transport.is_closing():
            self.transport.abort()
        elif self._blocked:
            size = self.transport.get_write_buffer_size()
            if size < self._blocked_size:  # slow, but alive
                self._blocked_size = size
                self._arm(self._host.loop.time() + self._host.settings.send_timeout)
            else:
                self.transport.abort()
        elif stream is None:
            if self._buffer:
                self._refuse(408, "head_timeout", "the request's head took too long")
            elif _unread(self.transport):  # it came while the loop was busy: to close now would lose it
                self._arm(self._host.loop.time() + _NEXT_TURN)
            else:
                self._close()
        elif stream.body is None:
            pass
        elif stream.body.draining:
            self.stream = None
            self._close(unread=True)
        else:
            receiver = stream.receiver
            try:
                self._fail_body(stream, stream.body, BodyTimeout("the request's body took too long"))
            except Exception as bug:
                self._crash(receiver, bug)


def _unread(transport: asyncio.Transport) -> bool:
    """Whether bytes wait in the socket that the loop has not read yet."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return False
    try:
        waiting: bytes = fcntl.ioctl(connected.fileno(), termios.FIONREAD, bytes(4))
    except OSError:
        return False
    return any(waiting)
