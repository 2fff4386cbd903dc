"""One request and its response on an HTTP/2 connection: the port `Downstream`. RFC 9113 §5, §8.

A stream is to HTTP/2 what a connection's turn is to HTTP/1 (server/stream.py), and the exchange can't tell
them apart. What differs: many live at once on one connection, each with a window of its own both ways; a
response that can't be completed resets the stream, not the connection; and a gRPC client gets every answer
in gRPC's form (http/grpc.py), whoever gave it.

What waits here is bounded: of the request's body no more than the stream's window (it is opened again when
bytes are handed on), of the response no more than one piece beyond `write_high`, when the exchange is told
to stop.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gateway.http.grpc import Status, as_grpc, is_grpc, trailers_only
from gateway.http.h2_heads import Field, write_response, write_trailers
from gateway.http.message import Headers, Request, Response
from gateway.http.trailers import announced
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Receiver


class Streams(Protocol):
    """What a stream needs of its connection."""

    def send_head(self, stream: Http2Stream, fields: list[Field], last: bool) -> None:
        """Send a block of fields: a head, an interim head, or trailers."""
        ...

    def pump(self, stream: Http2Stream) -> None:
        """Send what of `stream.out` the windows allow."""
        ...

    def consume(self, stream: Http2Stream) -> None:
        """The body is wanted: hand on what has come, soon."""
        ...

    def responded(self, stream: Http2Stream) -> None:
        """The response was handed over whole; some of it may still wait for a window."""
        ...

    def reset(self, stream: Http2Stream) -> None:
        """Break the stream, so that the client can't take what it has for the whole."""
        ...

    def date(self) -> bytes:
        """The Date field's value now."""
        ...

    @property
    def write_high(self) -> int:
        """Bytes that may wait for the client before the exchange is told to stop."""
        ...


class _Nobody:
    """The receiver of a request that is over, or was refused before it had one."""

    __slots__ = ()

    def start(self) -> None:
        pass

    def on_body(self, data: bytes, last: bool) -> None:
        pass

    def on_body_error(self, error: GatewayError) -> None:
        pass

    def on_writable(self, ready: bool) -> None:
        pass

    def on_client_gone(self) -> None:
        pass

    def crash(self, bug: Exception) -> None:
        pass


NOBODY = _Nobody()


class Http2Stream:
    """State of one request.

    Of the request's body: `pieces` have come and wait (bytes, and bytes that they took of the window),
    `ended` once the client sent the last one. Of the response: `out` waits for a window, `out_ended` once the
    exchange said the last of it, then `out_trailers` follow. over: both sides are done with the stream.
    """

    __slots__ = (
        "_grpc",
        "_left",
        "_mute",
        "_streams",
        "_trailing",
        "begun",
        "body_clock",
        "done",
        "ended",
        "id",
        "last_sent",
        "out",
        "out_ended",
        "out_size",
        "out_trailers",
        "over",
        "paused",
        "pieces",
        "received",
        "receiver",
        "request",
        "started",
        "stopped",
        "waiting",
        "wanted",
    )

    def __init__(self, streams: Streams, request: Request, id: int) -> None:
        self._streams = streams
        self.id = id
        self.request = request
        self.receiver: Receiver = NOBODY
        self.started = False  # the exchange has begun: body bytes before that are kept
        self.pieces: deque[tuple[bytes, int]] = deque()
        self.ended = request.body is not None
        self.received = 0  # bytes of body that have come
        self.wanted = False  # proceed() was called
        self.paused = False
        self.body_clock = 0.0  # when the client last sent a piece, or was asked for one
        self.begun = False  # the response's head is out
        self.done = False  # the exchange may send no more
        self.over = False
        self.out: deque[memoryview] = deque()
        self.out_size = 0
        self.out_ended = False
        self.out_trailers: Headers | None = None
        self.stopped = False  # the exchange was told to stop
        self.waiting = False  # the connection holds bytes of it back
        self.last_sent = 0.0  # when a byte of the response last went out, or began to wait
        self._grpc = is_grpc(request.headers)
        self._left: int | None = None
        self._mute = False  # the response has no body, whatever is written
        self._trailing = request.te_trailers or self._grpc

    # The request's body

    def proceed(self) -> None:
        """Let the body in. `100 Continue` is for clients that wait for it."""
        if self.wanted or self.done:
            return
        self.wanted = True
        if self.request.expect_continue and not (self.begun or self.pieces or self.ended):
            self._streams.send_head(self, [(b":status", b"100")], False)
        if not self.paused:
            self._streams.consume(self)

    def pause_body(self) -> None:
        """Hand on no more: the client may fill the stream's window and then has to wait."""
        self.paused = True

    def resume_body(self) -> None:
        """Go on."""
        if self.paused:
            self.paused = False
            if self.wanted and not self.done:
                self._streams.consume(self)

    @property
    def awaits_body(self) -> bool:
        """Is it the client's turn to send?"""
        return self.wanted and not (self.ended or self.paused or self.done)

    # The response

    def reply(self, response: Response) -> None:
        """Send a whole response."""
        if self.done:
            return
        if self._grpc:
            response = as_grpc(response)
        body = response.body or b""
        length: int | None = len(body)
        if self._is_bodiless(response.status):
            length, body = self._announced(response), b""
        elif self._grpc:
            length = None
        trailers = response.trailers if self._trailing or response.trailers is None else None
        fields = write_response(response, length, self._streams.date())
        self.begun = True
        last = not body and not trailers
        self._streams.send_head(self, fields, last)
        self.detach()
        self.out_ended = True
        if not last:
            self.out_trailers = trailers
            self._put(body)
            self._streams.pump(self)
        self._streams.responded(self)

    def interim(self, response: Response) -> None:
        """Send an interim head (102, 103 …) before the final one."""
        if not (self.done or self.begun):
            self._streams.send_head(self, write_response(response, None, b""), False)

    def upgrade(self, response: Response, protocol: bytes) -> None:
        """Never asked for: HTTP/2 has no Upgrade, and requests that carry it are malformed (§8.2.2, §8.6)."""
        self.abort()

    def begin(self, response: Response) -> None:
        """Send the head."""
        if self.done or self.begun:
            return
        if self._grpc:
            converted = as_grpc(response)
            if converted is not response:
                self._mute = True
                response = converted
        length = response.length
        if self._is_bodiless(response.status):
            self._mute = True
            length = self._announced(response)
        elif self._grpc:
            length = None
        if not self._trailing and response.header(b"trailer") is not None:
            self._trailing = bool(announced(response.headers))
        fields = write_response(response, length, self._streams.date())
        self._left = None if self._mute else length
        self.begun = True
        self._streams.send_head(self, fields, self._mute)

    def write(self, data: bytes) -> None:
        """Send a piece of the body. More than was announced breaks the stream."""
        if self.done or self._mute or not data:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
                return
        self._put(data)
        self._streams.pump(self)
        if self.out_size > self._streams.write_high and not self.stopped:
            self.stopped = True
            self.receiver.on_writable(False)

    def end(self, trailers: Headers | None = None) -> None:
        """The body is complete. Less than was announced breaks the stream."""
        if self.done:
            return
        if self._left:
            self.abort()
            return
        self.detach()
        self.out_ended = True
        if not self._mute:
            self.out_trailers = trailers if self._trailing else None
            self._streams.pump(self)
        self._streams.responded(self)

    def abort(self) -> None:
        """Break the stream; a gRPC client, whose messages say themselves where they end, gets a status."""
        if self.done:
            return
        self.detach()
        self.out.clear()
        self.out_size = 0
        if self._grpc and self.begun and not self._mute:
            self.out_ended = True
            self.out_trailers = trailers_only(Status.UNAVAILABLE, "the answer broke off")[1:]
            self._streams.pump(self)
            self._streams.responded(self)
        else:
            self._streams.reset(self)

    def detach(self) -> Receiver:
        """Nothing more is said by or to the receiver, which is returned (see server/stream.py)."""
        receiver, self.receiver = self.receiver, NOBODY
        self.done = True
        return receiver

    def end_fields(self) -> list[Field]:
        """Take the block that ends the response."""
        trailers, self.out_trailers = self.out_trailers, None
        return write_trailers(trailers or [])

    def _put(self, data: bytes) -> None:
        if data:
            self.out.append(memoryview(data))
            self.out_size += len(data)

    def _is_bodiless(self, status: int) -> bool:
        return self.request.method == b"HEAD" or status == 204 or status == 304

    def _announced(self, response: Response) -> int | None:
        """Content-Length of a response without a body: RFC 9110 §8.6."""
        if response.status == 204 or (response.status == 304 and not response.length):
            return None
        return response.length

    def __repr__(self) -> str:
        body = "body read" if self.ended else f"{self.received} B of body"
        answer = "answered" if self.done else "answering" if self.begun else "waiting"
        return f"<Http2Stream {self.id} {self.request!r} | {body}, {answer}, {self.out_size} B held back>"
