"""One request and its response on a client's connection: the port `Downstream`.

A stream is made per request, not per connection, so that an exchange which speaks too late (after its end,
after the client left) speaks to nobody instead of into the next response. It knows how the response is
framed: announced lengths are kept to the byte, unknown ones become chunks, or run until the close for
HTTP/1.0; a response that can't be completed breaks the connection (RFC 9112 §6.3, §8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.http.framing import encode_chunk
from gateway.http.message import Headers, Request, Response, find
from gateway.http.serialize import (
    continue_head,
    write_last_chunk,
    write_response_head,
    write_upgrade_head,
)
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Receiver
from gateway.server.body import Body, body_of, tunnel_body
from gateway.server.nobody import Nobody

_NOBODY: Final = Nobody()
_COPY_BELOW: Final = (
    16 * 1024
)  # a chunk up to this size is copied into one piece, a larger one is written as three


class Line(Protocol):
    """What a stream needs of its connection."""

    def send(self, data: bytes) -> None:
        """Put bytes into the send buffer."""
        ...

    def send_all(self, pieces: Sequence[bytes]) -> None:
        """Put several pieces into the send buffer without copying them together."""
        ...

    def may_stay(self) -> bool:
        """May the connection go on after this response?"""
        ...

    def date(self) -> bytes:
        """The Date field's value now."""
        ...

    def body_wanted(self, stream: Stream, body: Body) -> None:
        """The body's reading was let go: deliver what is there, soon, and read on."""
        ...

    def body_paused(self, stream: Stream, body: Body) -> None:
        """Stop reading."""
        ...

    def has_buffered(self) -> bool:
        """Have bytes after the head come already?"""
        ...

    def may_drain(self, body: Body) -> bool:
        """Is the rest of the body small enough to be read away?"""
        ...

    def hang_up(self, stream: Stream) -> None:
        """The tunnel's instance says no more: nor do we."""
        ...

    def responded(self, stream: Stream, keep_alive: bool) -> None:
        """The response's last byte is in the send buffer."""
        ...

    def break_off(self) -> None:
        """Break the connection now."""
        ...


class Stream:
    """State of one request. body: what is still to come of it, None once it has been read to the end.

    is_tunnel: a 101 was sent. shut: nothing more will be sent through the tunnel.
    """

    __slots__ = (
        "_chunked",
        "_left",
        "_line",
        "_mute",
        "_trailing",
        "begun",
        "body",
        "done",
        "is_tunnel",
        "keep_alive",
        "receiver",
        "request",
        "shut",
    )

    def __init__(self, line: Line, request: Request, chunk_limit: int) -> None:
        self._line = line
        self.request = request
        self.receiver: Receiver = _NOBODY
        self.body = None if request.body is not None else body_of(request, chunk_limit)
        self.begun = False
        self.done = False  # nothing more may be sent
        self.is_tunnel = False
        self.shut = False
        self.keep_alive = request.keep_alive
        self._left: int | None = None
        self._chunked = False
        self._trailing = False  # trailers are welcome
        self._mute = False  # the response has no body, whatever is written

    # The request's body

    def proceed(self) -> None:
        """Let the body in. `100 Continue` is for clients that wait; one whose body is coming doesn't."""
        body = self.body
        if body is None or body.wanted or self.done:
            return
        body.wanted = True
        if self.request.expect_continue and not self.begun and not self._line.has_buffered():
            self._line.send(continue_head())
        if not body.paused:
            self._line.body_wanted(self, body)

    def pause_body(self) -> None:
        """Stop reading the body."""
        body = self.body
        if body is not None and not (body.paused or self.done):
            body.paused = True
            if body.wanted:
                self._line.body_paused(self, body)

    def resume_body(self) -> None:
        """Read on."""
        body = self.body
        if body is not None and body.paused and not self.done:
            body.paused = False
            if body.wanted:
                self._line.body_wanted(self, body)

    # The response

    def reply(self, response: Response) -> None:
        """Send a whole response: head and body in one write."""
        if self.done:
            return
        if response.trailers is not None and self._may_end_with(response):
            self._reply_in_chunks(response)
            return
        body = response.body or b""
        length: int | None = len(body)
        if self._is_bodiless(response.status):
            length, body = self._announced(response), b""
        if self.body is not None and not self._can_drain(self.body):
            self.keep_alive = False
        data = self._head(response, length, chunked=False, content=body)
        self.detach()
        self._line.send(data)
        self._line.responded(self, self.keep_alive)

    def _reply_in_chunks(self, response: Response) -> None:
        """Send a whole response that has trailers: only chunks can carry them."""
        body, response.body, response.length = response.body or b"", None, None
        self.begin(response)
        self.write(body)
        self.end(response.trailers)

    def interim(self, response: Response) -> None:
        """Send an interim response, unless the client is too old for it (RFC 9110 §15.2)."""
        if not (self.done or self.begun) and self.request.minor:
            self._line.send(write_response_head(response, length=None))

    def upgrade(self, response: Response, protocol: bytes) -> None:
        """Agree to another protocol: from here on bytes pass as they are, until both sides have ended.

        What the client sent after its head (it should not have, RFC 9110 §7.8) is the tunnel's first.
        """
        if self.done or self.begun:
            return
        self.begun = self.is_tunnel = True
        self.keep_alive = False
        self._line.send(write_upgrade_head(response, protocol, self._line.date()))
        self.body = body = tunnel_body()
        self._line.body_wanted(self, body)

    def begin(self, response: Response) -> None:
        """Send the head."""
        if self.done or self.begun:
            return
        length = response.length
        if self._is_bodiless(response.status):
            self._mute = True
            length = self._announced(response)
        elif length is None:
            self._chunked = self.request.minor == 1
            self.keep_alive = self.keep_alive and self._chunked
            self._trailing = self._chunked and self._may_end_with(response)
        if self.body is not None and not self.body.wanted and not self._can_drain(self.body):
            self.keep_alive = False
        head = self._head(response, length, chunked=self._chunked)
        self._left = None if self._mute else length
        self.begun = True
        self._line.send(head)

    def write(self, data: bytes) -> None:
        """Send a piece of the body. More than was announced breaks the connection."""
        if self.done or self._mute or not data:
            return
        if self._chunked:
            if len(data) < _COPY_BELOW:
                self._line.send(encode_chunk(data))
            else:
                self._line.send_all((b"%x\r\n" % len(data), data, b"\r\n"))
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
                return
        self._line.send(data)

    def end(self, trailers: Headers | None = None) -> None:
        """The body is complete. Less than was announced breaks the connection."""
        if self.done:
            return
        if self.is_tunnel:
            self.shut = True
            self._line.hang_up(self)
            return
        if self._left:
            self.abort()
            return
        self.detach()
        if self._chunked:
            self._line.send(write_last_chunk(trailers if self._trailing else None))
        keep_alive = self.keep_alive and (self.body is None or self._can_drain(self.body))
        self._line.responded(self, keep_alive)

    def abort(self, error: GatewayError | None = None) -> None:
        """Break the connection, so that the client can't take what it has for the whole."""
        if not self.done:
            self.detach()
            self._line.break_off()

    def detach(self) -> Receiver:
        """Nothing more is sent, and nothing more is told to the receiver, which is returned.

        It also takes apart the cycle of stream and exchange: with it every request would wait for the garbage
        collector, and its sweeps were a third of the cost of a request.
        """
        receiver, self.receiver = self.receiver, _NOBODY
        self.done = True
        return receiver

    # Framing

    def _is_bodiless(self, status: int) -> bool:
        return self.request.method == b"HEAD" or status == 204 or status == 304

    def _may_end_with(self, response: Response) -> bool:
        """Tell whether the response's trailers go to this client (http/trailers.py)."""
        request = self.request
        if request.minor == 0 or self._is_bodiless(response.status):
            return False
        return request.te_trailers or find(response.headers, b"trailer") is not None

    def _announced(self, response: Response) -> int | None:
        """Content-Length of a response without a body: RFC 9110 §8.6."""
        if response.status == 204 or (response.status == 304 and not response.length):
            return None
        return response.length

    def _can_drain(self, body: Body) -> bool:
        """Is the rest of the body known to come, and small?

        Whoever expects `100 Continue` and gets a final answer may send the body or not: both are right, and
        the next bytes can't be told apart (RFC 9110 §10.1.1).
        """
        if (
            self.request.expect_continue
            and not body.received
            and not (body.wanted or self._line.has_buffered())
        ):
            return False
        return self._line.may_drain(body)

    def _head(self, response: Response, length: int | None, chunked: bool, content: bytes = b"") -> bytes:
        self.keep_alive = keep_alive = self.keep_alive and self._line.may_stay()
        stays = b"" if self.request.minor else b"keep-alive"
        connection = stays if keep_alive else b"close"
        return write_response_head(
            response,
            length=length,
            chunked=chunked,
            connection=connection,
            date=self._line.date(),
            content=content,
        )

    def __repr__(self) -> str:
        body = "body read" if self.body is None else repr(self.body)
        answer = "answered" if self.done else "answering" if self.begun else "waiting"
        return f"<Stream {self.request!r} | {body}, {answer}>"
