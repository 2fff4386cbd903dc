"""One request and its response on an HTTP/2 connection: the port `Downstream`. RFC 9113 §5, §8.

A stream is to HTTP/2 what a connection's turn is to HTTP/1 (server/stream.py), and the exchange can't tell
them apart. What differs: many live at once on one connection, each with a window of its own both ways; a
response that can't be completed resets the stream, not the connection; and a gRPC client gets every answer
in gRPC's form (http/grpc.py), whoever gave it. A tunnel (extended CONNECT, http/h2_connect.py) is a stream
whose two bodies are not HTTP any more.

What waits here is bounded: of the request's body no more than the stream's window (it is opened again when
bytes are handed on), of the response no more than one piece beyond `write_high`, when the exchange is told
to stop.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.http.grpc import Status, as_grpc, is_grpc, status_of_refusal, trailers_only
from gateway.http.h2_connect import agrees, write_tunnel_response
from gateway.http.h2_flows import Flow, Flows
from gateway.http.h2_frames import CANCEL, CONNECT_ERROR, INTERNAL_ERROR, Field
from gateway.http.h2_heads import write_response
from gateway.http.message import Headers, Request, Response
from gateway.http.trailers import announced
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Receiver
from gateway.server.nobody import Nobody
from gateway.server.problem import problem
from gateway.server.settings import ServerSettings

_NOBODY: Final = Nobody()


class Streams(Protocol):
    """What a stream needs of its connection."""

    @property
    def flows(self) -> Flows:
        """Where its bodies flow."""
        ...

    def send_head(self, stream: Http2Stream, fields: list[Field], last: bool) -> None:
        """Send a block of fields: a head or an interim head."""
        ...

    def consume(self, stream: Http2Stream) -> None:
        """The body is wanted: hand on what has come, soon."""
        ...

    def responded(self, stream: Http2Stream) -> None:
        """The response was handed over whole; some of it may still wait for a window."""
        ...

    def reset(self, stream: Http2Stream, code: int) -> None:
        """Break the stream, so that the client can't take what it has for the whole."""
        ...

    def held_back(self, stream: Http2Stream) -> None:
        """Some of the response has begun to wait."""
        ...

    def answered(self, stream: Http2Stream) -> None:
        """The response's last byte is out."""
        ...

    def over(self, stream: Http2Stream) -> None:
        """Nothing more comes or goes."""
        ...

    def crash(self, receiver: Receiver, bug: Exception) -> None:
        """A bug escaped from a receiver."""
        ...

    def date(self) -> bytes:
        """The Date field's value now."""
        ...

    def now(self) -> float:
        """Seconds."""
        ...

    @property
    def settings(self) -> ServerSettings:
        """Bounds and patience."""
        ...


class Http2Stream(Flow):
    """State of one request.

    is_connect: it asked for a tunnel (extended CONNECT, RFC 8441); is_tunnel: it has one. shut: the exchange
    says no more through it; heard_out: nor does the client. is_over: both sides are done with the stream.
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
        "heard_out",
        "is_connect",
        "is_over",
        "is_tunnel",
        "last_sent",
        "received",
        "receiver",
        "request",
        "shut",
        "started",
        "stopped",
        "wanted",
    )

    def __init__(self, streams: Streams, request: Request, id: int) -> None:
        super().__init__()
        self._streams = streams
        self.id = id
        self.request = request
        self.receiver: Receiver = _NOBODY
        self.started = False  # the exchange has begun: body bytes before that are kept
        self.is_connect = request.upgrade != b""
        self.in_ended = request.body is not None and not self.is_connect
        self.received = 0  # bytes of body that have come
        self.wanted = False  # proceed() was called
        self.body_clock = 0.0  # when the client last sent a piece, or was asked for one
        self.begun = False  # the response's head is out
        self.done = False  # the exchange may send no more
        self.is_over = False
        self.stopped = False  # the exchange was told to stop
        self.last_sent = 0.0  # when a byte of the response last went out, or began to wait
        self.is_tunnel = False
        self.shut = False
        self.heard_out = False
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
        if self.request.expect_continue and not (self.begun or self.pieces or self.in_ended):
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
        return self.wanted and not (self.in_ended or self.paused or self.done)

    def takes(self) -> bool:
        """Whether the exchange may be told more of the body."""
        return self.wanted and self.started and not (self.paused or self.done)

    def on_piece(self, data: bytes, last: bool) -> None:
        """Tell the exchange a piece of the body, or of what the client says through the tunnel."""
        receiver = self.receiver
        try:
            receiver.on_body(data, last)
        except Exception as bug:
            self._streams.crash(receiver, bug)
            return
        if last and self.is_tunnel:
            self.heard_out = True
            self._end_tunnel()

    # The response

    def reply(self, response: Response) -> None:
        """Send a whole response."""
        if self.done:
            return
        if self._grpc:
            response = as_grpc(response)
        elif self.is_connect:
            response = _declined(response)
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
        if not last:
            self.out_ended = True
            self.out_trailers = trailers
            if body:
                self.put(body)
            self._streams.flows.pump(self)
        self._streams.responded(self)

    def interim(self, response: Response) -> None:
        """Send an interim head (102, 103 …) before the final one."""
        if not (self.done or self.begun):
            self._streams.send_head(self, write_response(response, None, b""), False)

    def upgrade(self, response: Response, protocol: bytes) -> None:
        """Open the tunnel: 200 says what 101 says in HTTP/1 (RFC 8441 §5)."""
        if self.done or self.begun:
            return
        if not agrees(self.request, response):
            receiver = self.detach()
            self._streams.reset(self, CONNECT_ERROR)
            receiver.on_client_gone()
            return
        self.begun = self.is_tunnel = self.wanted = True
        self._streams.send_head(self, write_tunnel_response(response, self._streams.date()), False)
        self._streams.consume(self)

    def begin(self, response: Response) -> None:
        """Send the head."""
        if self.done or self.begun:
            return
        if self.is_connect and _declined(response) is not response:
            receiver = self.receiver
            self.reply(response)
            receiver.on_client_gone()
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
        self.put(data)
        streams = self._streams
        streams.flows.pump(self)
        if self.out_size > streams.settings.write_high and not self.stopped:
            self.stopped = True
            self.receiver.on_writable(False)

    def end(self, trailers: Headers | None = None) -> None:
        """The body is complete. Less than was announced breaks the stream."""
        if self.done or self.shut:
            return
        if self._left:
            self.abort()
            return
        if self.is_tunnel:
            self.shut = self.out_ended = True
            self._streams.flows.pump(self)
            self._end_tunnel()
            return
        self.detach()
        if not self._mute:
            self.out_ended = True
            self.out_trailers = trailers if self._trailing else None
            self._streams.flows.pump(self)
        self._streams.responded(self)

    def _end_tunnel(self) -> None:
        """Each half ends by itself; the tunnel is over when both have."""
        if self.shut and self.heard_out and not self.done:
            self.detach()
            self._streams.responded(self)

    def abort(self, error: GatewayError | None = None) -> None:
        """Break the stream; a gRPC client, whose messages say themselves where they end, gets a status.

        error: what happened; without it the answer broke off, and nobody knows why.
        """
        if self.done:
            return
        self.detach()
        self.drop_out()
        if self._grpc and self.begun and not self._mute:
            status, why = Status.UNAVAILABLE, "the answer broke off"
            if error is not None:
                status, why = status_of_refusal(error.status, error.code), error.code
            self.out_ended = True
            self.out_trailers = trailers_only(status, why)[1:]
            self._streams.flows.pump(self)
            self._streams.responded(self)
        else:
            self._streams.reset(self, CANCEL if self.is_tunnel else INTERNAL_ERROR)

    def detach(self) -> Receiver:
        """Nothing more is said by or to the receiver, which is returned (see server/stream.py)."""
        receiver, self.receiver = self.receiver, _NOBODY
        self.done = True
        return receiver

    # What flows out

    def on_wait(self) -> None:
        """Bytes of the response have begun to wait."""
        self.last_sent = self._streams.now()
        self._streams.held_back(self)

    def on_sent(self, size: int) -> None:
        """Bytes of the response went out."""
        streams = self._streams
        if self.waiting:  # a slow reader gains time by each byte, one that takes single bytes hardly any
            gain = size / streams.settings.body_rate
            self.last_sent = min(self.last_sent + gain, streams.now())
        if self.stopped and not self.done and self.out_size <= streams.settings.write_high // 2:
            self.stopped = False
            receiver = self.receiver
            try:
                receiver.on_writable(True)
            except Exception as bug:
                streams.crash(receiver, bug)

    def on_end_sent(self) -> None:
        """The response's last byte is out."""
        self._streams.answered(self)

    def on_out_lost(self) -> None:
        """The client reset the stream, and the response had been given whole."""
        self._streams.over(self)

    def _is_bodiless(self, status: int) -> bool:
        return self.request.method == b"HEAD" or status == 204 or status == 304

    def _announced(self, response: Response) -> int | None:
        """Content-Length of a response without a body: RFC 9110 §8.6."""
        if response.status == 204 or (response.status == 304 and not response.length):
            return None
        return response.length

    def __repr__(self) -> str:
        body = "body read" if self.in_ended else f"{self.received} B of body"
        answer = "answered" if self.done else "answering" if self.begun else "waiting"
        return f"<Http2Stream {self.id} {self.request!r} | {body}, {answer}, {self.out_size} B held back>"


def _declined(response: Response) -> Response:
    """Return what a client gets that asked for a tunnel and has none: a 200 would say that it has one."""
    if not 200 <= response.status < 300:
        return response
    request_id = response.header(b"x-request-id") or b""
    return problem(501, "upgrade_declined", "the instance does not go on in that protocol", request_id)
