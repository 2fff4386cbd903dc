"""A stream of predictions, each one a request of its own.

A client of KServe V2's ModelStreamInfer sends one prediction after the other on one HTTP/2 stream. Here each
of them becomes the request that it would have been alone: found, throttled, validated, cached, translated
and logged like any other, so its server may speak whatever it speaks. Answers go out in the order of the
requests, one for each: what failed says so, and the next one is asked.

One is under way at a time (a sequence's requests must not overtake one another); while it is, and while the
client reads too slowly, the client's next requests are not read: what waits is one message at most, bounded
like any body, and what its HTTP/2 window lets it send. A client that says nothing for `limits.stream_idle`
while nothing is under way is sent away. Whoever wants the stream itself to reach a server (decoupled models
of Triton) has an endpoint that matches the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.dialects import kserve_v2_stream, wire
from gateway.dialects.errors import InvalidPrediction
from gateway.http.grpc import GRPC, Status, read_message, status_of, write_message
from gateway.http.message import Headers, Request, Response, find
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.kept import Kept
from gateway.pipeline.ports import Cancellable, Downstream, Peer, Receiver
from gateway.pipeline.time_left import GRPC as TIME_LEFT
from gateway.pipeline.time_left import wished, with_time_left

HEAD = 5  # bytes before a message: compressed or not, and its size


class Begins(Protocol):
    """Makes the exchange of one request; as `exchange.begin`."""

    def __call__(self, gateway: Gateway, request: Request, peer: Peer, down: Downstream) -> Receiver:
        """Nothing happens before `Receiver.start`."""
        ...


class Calls:
    """The requests of one stream. over: called once, when it has ended. Implements ports.Cancellable."""

    __slots__ = (
        "_begin",
        "_begun",
        "_busy",
        "_came",
        "_ctx",
        "_deadline",
        "_down",
        "_ended",
        "_gateway",
        "_heard",
        "_last",
        "_limit",
        "_one",
        "_over",
        "_reads",
        "_timer",
    )

    def __init__(
        self, gateway: Gateway, ctx: Context, down: Downstream, begin: Begins, over: Callable[[], None]
    ) -> None:
        self._gateway = gateway
        self._ctx = ctx
        self._down = down
        self._begin = begin
        self._over = over
        bounds = [one.body_limit for one in ctx.snapshot.endpoints.values() if one.model]
        self._limit = max(bounds, default=0)
        self._came = bytearray()  # and was not asked yet
        self._last = False  # the client says no more
        self._reads = True  # the client takes what it is sent
        self._one: One | None = None  # under way
        self._busy = False
        self._begun = False
        self._ended = False
        self._heard = gateway.clock.now()
        seconds = _seconds(ctx.request)
        self._deadline = None if seconds is None else self._heard + seconds
        self._timer: Cancellable | None = None

    def start(self) -> None:
        """Let the client's messages in."""
        self._watch()
        body = self._ctx.request.body
        if body is not None:
            self.on_body(body, True)
        else:
            self._down.proceed()

    def on_body(self, data: bytes, last: bool) -> None:
        """A piece of the stream came in."""
        self._heard = self._gateway.clock.now()
        self._ctx.body_received += len(data)
        self._came += data
        self._last = last
        self._go_on()

    def on_writable(self, ready: bool) -> None:
        """The client reads too slowly (False), or again (True)."""
        self._reads = ready
        self._go_on()

    def cancel(self) -> None:
        """The client left, or its body broke: call off what is under way."""
        self._ended = True
        one, self._one = self._one, None
        if one is not None:
            one.leave()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answered(self, one: One, response: Response, trailers: Headers | None) -> None:
        """One call has ended. response: whole."""
        if one is not self._one:
            return
        self._one = None
        self._say(self._outcome(one, response, trailers))
        self._go_on()

    def failed(self, one: One, error: str) -> None:
        """One call's answer broke off."""
        if one is self._one:
            self._one = None
            self._say(kserve_v2_stream.failed(self._ctx.request.headers, one.frame, error))
            self._go_on()

    # One after the other

    def _go_on(self) -> None:
        """Ask what can be asked. A call may be answered before `_call` returns: then the loop goes on."""
        if self._busy:
            return
        self._busy = True
        while self._one is None and self._reads and not self._ended:
            frame = self._next()
            if frame is None:
                break
            self._call(frame)
        self._busy = False
        if self._ended:
            return
        if self._one is not None or not self._reads:
            self._down.pause_body()
        elif self._last:
            self._end(Status.OK if not self._came else Status.INVALID_ARGUMENT, "the last message is cut off")
        else:
            self._down.resume_body()

    def _next(self) -> bytes | None:
        """Take the next whole message, with its frame."""
        came = self._came
        if len(came) < HEAD:
            return None
        size = HEAD + int.from_bytes(came[1:HEAD], "big")
        if size > self._limit:
            self._end(Status.RESOURCE_EXHAUSTED, f"a message has more than {self._limit} bytes")
            return None
        if len(came) < size:
            return None
        frame = bytes(came[:size])
        del came[:size]
        return frame

    def _call(self, frame: bytes) -> None:
        asked = self._ctx.request
        path = kserve_v2_stream.path_of_one(asked.path)
        headers = [field for field in asked.headers if field[0] not in _OF_THE_STREAM]
        made = asked.rewritten(path, path, headers)
        if self._deadline is not None:
            left = self._deadline - self._gateway.clock.now()
            if left <= 0:
                self._end(Status.DEADLINE_EXCEEDED, "the stream's time is over")
                return
            made = with_time_left(made, TIME_LEFT, left)
        made.body, made.length, made.te_trailers = frame, len(frame), True
        made.host, made.minor = asked.host, asked.minor
        self._one = one = One(self, frame, self._ctx.snapshot.answer_limit)
        one.exchange = exchange = self._begin(self._gateway, made, self._ctx.peer, one)
        try:
            exchange.start()
        except Exception as bug:
            exchange.crash(bug)

    def _outcome(self, one: One, response: Response, trailers: Headers | None) -> bytes:
        """Return what the stream says of an answer."""
        status = status_of(response, trailers)
        headers = response.headers if trailers is None else response.headers + trailers
        message = read_message(find(headers, b"grpc-message") or b"")
        if status is Status.OK:
            try:
                return kserve_v2_stream.answered(wire.unframe(response.headers, response.body or b""))
            except InvalidPrediction as wrong:
                status, message = Status.INTERNAL, wrong.message
        error = f"{status.name}: {message}"
        return kserve_v2_stream.failed(self._ctx.request.headers, one.frame, error)

    # To the client

    def _say(self, message: bytes) -> None:
        self._open()
        self._heard = self._gateway.clock.now()  # it is the client's turn
        frame = wire.frame(message)
        self._ctx.body_sent += len(frame)
        self._down.write(frame)

    def _open(self) -> None:
        if not self._begun:
            self._begun = True
            self._ctx.status, self._ctx.first_byte = 200, self._gateway.clock.now()
            head: Headers = [(b"content-type", GRPC), (b"x-request-id", self._ctx.request_id)]
            self._down.begin(Response(200, head))

    def _end(self, status: Status, why: str) -> None:
        self._open()
        self._ctx.grpc_status = int(status)
        trailers = [(b"grpc-status", b"%d" % status)]
        if status is not Status.OK:
            trailers.append((b"grpc-message", write_message(why)))
        self.cancel()
        self._down.end(trailers)
        self._over()

    # Silence

    def _watch(self) -> None:
        self._timer = self._gateway.timers.at(self._heard + self._ctx.snapshot.stream_idle, self._look)

    def _look(self) -> None:
        now = self._gateway.clock.now()
        if self._one is not None:
            self._heard = now
        if now - self._heard >= self._ctx.snapshot.stream_idle:
            self._end(Status.DEADLINE_EXCEEDED, "the client said nothing for too long")
        else:
            self._watch()

    def __repr__(self) -> str:
        return f"<Calls | {'none' if self._one is None else 'one'} under way, {len(self._came)} bytes wait>"


class One:
    """The client's connection, as the exchange of one request of a stream sees it.

    Implements ports.Downstream: it keeps the answer until it is whole.
    """

    __slots__ = ("_calls", "_head", "_kept", "_limit", "_over", "exchange", "frame")

    def __init__(self, calls: Calls, frame: bytes, limit: int) -> None:
        self._calls = calls
        self.frame = frame
        self._limit = limit
        self._head: Response | None = None
        self._kept: Kept | None = None
        self._over = False
        self.exchange: Receiver | None = None

    def proceed(self) -> None:
        """The body is here."""

    def pause_body(self) -> None:
        """It is here, whole."""

    def resume_body(self) -> None:
        """It is here, whole."""

    def interim(self, response: Response) -> None:
        """A stream has no word for it."""

    def upgrade(self, response: Response, protocol: bytes) -> None:
        """No call asks for it."""

    def reply(self, response: Response) -> None:
        """A whole answer."""
        self._close(response, response.trailers)

    def begin(self, response: Response) -> None:
        """The head of one that comes in pieces."""
        self._head, self._kept = response, Kept(self._limit)

    def write(self, data: bytes) -> None:
        """A piece."""
        if self._kept is not None and not self._over and not self._kept.add(data):
            self._break("RESOURCE_EXHAUSTED: the answer is too large for a stream")
            self.leave()

    def end(self, trailers: Headers | None = None) -> None:
        """It is whole."""
        if self._head is not None and self._kept is not None:
            self._head.body = self._kept.whole()
            self._close(self._head, trailers)

    def abort(self, error: GatewayError | None = None) -> None:
        """It broke off."""
        self._break(f"UNAVAILABLE: {error or 'the answer broke off'}")

    def leave(self) -> None:
        """Nobody waits for it any more."""
        self._over = True
        if self.exchange is not None:
            self.exchange.on_client_gone()

    def _close(self, response: Response, trailers: Headers | None) -> None:
        if not self._over:
            self._over = True
            self._calls.answered(self, response, trailers)

    def _break(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._calls.failed(self, why)


def _seconds(request: Request) -> float | None:
    try:
        return wished(request)
    except ValueError:
        return None  # each call is told what is wrong with it


_OF_THE_STREAM = frozenset((b"grpc-accept-encoding", b"content-length"))
