"""How the bodies of one exchange flow, while exchange.py decides what becomes of it.

    the client's      read whole, up to a limit, where somebody needs it whole; else piece by piece through
                      the chunk filters to the instance, once that asks for it
    the instance's    in one piece with its head; or read whole where somebody needs that; or piece by piece
                      through the chunk filters to the client, held while a filter still has the head
    a stream's        message by message, each a request of its own (calls.py)
    a tunnel          both ways, as it comes (tunnel.py)

Whoever reads too slowly holds back the other side. This is the exchange's base class; where a body leads to
a decision it calls one of four methods that the exchange has: _collected, _answered, fail, _done.
"""

from __future__ import annotations

from gateway.http.message import Response
from gateway.pipeline.asker import Asker
from gateway.pipeline.calls import Calls
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    BodyTooLarge,
    GatewayError,
    Outcome,
    UpstreamAnswerTooLarge,
    UpstreamReset,
)
from gateway.pipeline.forward import Forward, is_stream, trailers
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.kept import Kept
from gateway.pipeline.pacing import Pace
from gateway.pipeline.phase import COLLECTING, DECIDING, DONE, NEW, STREAMING, TUNNELLING, Phase
from gateway.pipeline.ports import Downstream
from gateway.pipeline.tries import Tries
from gateway.pipeline.tunnel import Tunnel

ERROR_LIMIT = 64 * 1024  # bytes of an error that is read whole, because only it says who is to blame


class Bodies(Asker):
    """The bytes of one exchange."""

    __slots__ = (
        "_calls",
        "_client_is_slow",
        "_complete",
        "_down",
        "_forward",
        "_gateway",
        "_head",
        "_instance_is_slow",
        "_kept",
        "_tries",
        "_tunnel",
        "_whole",
        "ctx",
        "phase",
    )

    def __init__(self, ctx: Context, down: Downstream, gateway: Gateway) -> None:
        super().__init__()
        self.ctx = ctx
        self._down = down
        self._gateway = gateway
        self.phase: Phase = NEW
        self._forward: Forward | None = None
        self._tries: Tries | None = None  # at the pool that has the request now
        self._head: Response | None = None  # the instance's, while its body streams; it gets the trailers
        self._whole: Response | None = None  # a head whose body is being read whole
        self._kept: Kept | None = None  # of a body, the client's or the instance's
        self._complete = False  # what is kept is the answer's body, to its end
        self._tunnel: Tunnel | None = None
        self._calls: Calls | None = None  # the body is a stream of requests
        self._client_is_slow = False
        self._instance_is_slow = False

    # What the exchange makes of it

    def _collected(self) -> None:
        """The client's body is there, whole."""

    def _answered(self, response: Response) -> None:
        """The instance's answer can go on to the client: whole, or its body streams."""

    def fail(self, error: GatewayError) -> None:
        """The request failed."""

    def _done(self, now: float | None = None) -> None:
        """It is over. now: the instant, where it was read just before."""

    # The client's body

    def _collect(self, limit: int) -> None:
        length = self.ctx.request.length
        if length is not None and length > limit:
            self.fail(BodyTooLarge(f"the body has {length} bytes; at most {limit} are allowed here"))
            return
        self.phase = COLLECTING
        self._kept = Kept(limit)
        self._down.proceed()

    def _collect_chunk(self, data: bytes, last: bool) -> None:
        kept = self._kept
        assert kept is not None
        if not kept.add(data):
            self._kept = None
            self.fail(BodyTooLarge(f"the body is larger than the {kept.limit} bytes allowed here"))
        elif last:
            self._kept = None
            self.ctx.request.body = kept.whole()
            self.ctx.request.length = kept.size
            self.phase = DECIDING
            self._collected()

    def on_body(self, data: bytes, last: bool) -> None:
        """A piece of the request's body came in; once there is a tunnel, of what the client says in it."""
        if self.phase is COLLECTING:
            self.ctx.now = self._gateway.clock.now()
            self._collect_chunk(data, last)
        elif self._tunnel is not None:
            self._tunnel.from_client(data, last)
            if self._tries is not None:
                self._tries.write(data, last, None)
            self._close_tunnel()
        elif self._tries is not None and self.phase is not DONE:
            assert self.ctx.endpoint is not None
            self.ctx.body_received += len(data)
            for on_chunk in self.ctx.endpoint.chain.on_request_chunk:
                data = on_chunk(self.ctx, data, last)
            self._tries.write(data, last, trailers(self.ctx) if last else None)
            if self.ctx.pace is not None and not last:
                self._hold_body(self.ctx.pace)
        elif self._calls is not None and self.phase is not DONE:
            self._calls.on_body(data, last)

    def on_upstream_ready(self) -> None:
        """The instance takes the body: let the client send it."""
        self.body_begun = True
        self._down.proceed()

    # The instance's

    def on_upstream_response(self, response: Response) -> None:
        """The head of an answer (its body too, when it came in one piece)."""
        assert self._forward is not None
        if response.body is None:
            self._head = response
            limit = self._forward.answer_limit
            bound = limit or (0 if is_stream(response) else self.ctx.want_whole)
            if not bound and response.status >= 500 and self.ctx.pool is not None:
                bound = ERROR_LIMIT if self.ctx.pool.must_be_read(response) else 0
            if bound and (response.length is None or response.length <= bound):
                self._whole = response
                self._kept = Kept(bound)
                return
            if limit:
                self._too_large()
                return
        else:
            self._end_tries(response)
        self._answered(response)

    def on_upstream_chunk(self, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""
        if self._whole is not None:
            self._gather(self._whole, data, last)
        elif self.phase is STREAMING:
            self._stream(data, last)
        elif self._tunnel is not None:
            self._tunnel.from_instance(data, last)
            self._close_tunnel()
        else:  # the head is still with a filter that asked for time: hold what comes meanwhile
            if self._kept is None:
                self._kept = Kept(0)
            self._kept.add(data)
            if last:
                self._end_tries(None)
                self._complete = True
            elif self._tries is not None:
                self._tries.pause()

    def _gather(self, head: Response, data: bytes, last: bool) -> None:
        assert self._forward is not None
        assert self._kept is not None
        fits = self._kept.add(data)
        if last:
            head.body = self._held()
            head.length = len(head.body)
            self._whole = None
            self._end_tries(head)
            self._answered(head)
        elif not fits:
            self._whole = None
            if self._forward.answer_limit:
                self._too_large()
            else:  # nobody can have it whole: let it stream
                self._answered(head)

    def _too_large(self) -> None:
        self._drop_tries(Outcome.SUCCESS)
        self.fail(UpstreamAnswerTooLarge("the answer is too large to be translated"))

    def _held(self) -> bytes:
        kept, self._kept = self._kept, None
        return b"" if kept is None else kept.whole()

    def _begin_stream(self, response: Response) -> None:
        """The head goes out; its body follows as it comes, after what was held."""
        ctx = self.ctx
        self.phase = STREAMING
        self._down.begin(response)
        if response.length is None and self._tries is not None and not ctx.hurried:
            self._tries.allow_silence(ctx.snapshot.stream_idle)
        held, complete = self._held(), self._complete
        if held or complete:
            self._stream(held, complete)
        if self._tries is not None and (ctx.pace is None or not ctx.pace.holds_answer):
            self._tries.resume()

    def _stream(self, data: bytes, last: bool) -> None:
        ctx = self.ctx
        assert ctx.endpoint is not None
        for on_chunk in ctx.endpoint.chain.on_response_chunk:
            data = on_chunk(ctx, data, last)
        if data:
            ctx.body_sent += len(data)
            self._down.write(data)
        if last:
            self._end_tries(None)
            self._down.end(None if self._head is None else self._head.trailers)
            self._done(self._gateway.clock.now())
        elif ctx.pace is not None:
            self._hold_answer(ctx.pace)

    # A tunnel: client and instance go on in another protocol

    def _open_tunnel(self, response: Response) -> None:
        ctx = self.ctx
        tries = self._tries
        if tries is None or not tries.under_way:
            self.fail(UpstreamReset("the instance left as soon as it had agreed to another protocol"))
            return
        self.phase = TUNNELLING
        self._tunnel = Tunnel(self._gateway.tunnels, ctx, self._down)
        tries.allow_silence(ctx.snapshot.tunnel_idle)
        self._down.upgrade(response, ctx.upgrade)
        held = self._held()
        if held:
            self._tunnel.from_instance(held, False)
        tries.resume()

    def _close_tunnel(self) -> None:
        if self._tunnel is not None and self._tunnel.is_over:
            self.ctx.now = now = self._gateway.clock.now()
            self._end_tries(None)
            self._done(now)

    # Backpressure

    def on_writable(self, ready: bool) -> None:
        """The client reads too slowly (False), or again (True): so do we."""
        self._client_is_slow = not ready
        if self._tries is not None:
            if not ready:
                self._tries.pause()
            elif self.ctx.pace is None or not self.ctx.pace.holds_answer:
                self._tries.resume()
        elif self._calls is not None and self.phase is not DONE:
            self._calls.on_writable(ready)

    def on_upstream_writable(self, ready: bool) -> None:
        """The instance reads too slowly (False), or again (True): so does the client's connection."""
        self._instance_is_slow = not ready
        if not ready:
            self._down.pause_body()
        elif self.ctx.pace is None or not self.ctx.pace.holds_body:
            self._down.resume_body()

    def _hold_answer(self, pace: Pace) -> None:
        """A policy lets no more of the answer pass for now: don't read it."""
        if self._tries is not None and pace.hold_answer(
            self._gateway.timers, self._gateway.clock.now(), self._read_on
        ):
            self._tries.pause()

    def _read_on(self) -> None:
        if self._tries is not None and not self._client_is_slow:
            self._tries.resume()

    def _hold_body(self, pace: Pace) -> None:
        """A policy lets no more of the client's body pass for now: don't read it."""
        if pace.hold_body(self._gateway.timers, self._gateway.clock.now(), self._take_on):
            self._down.pause_body()

    def _take_on(self) -> None:
        if self.phase is not DONE and not self._instance_is_slow:
            self._down.resume_body()

    # The tries, over

    def _end_tries(self, response: Response | None) -> None:
        tries, self._tries = self._tries, None  # they hold each other: the collector should not part them
        if tries is not None:
            tries.finish(response)

    def _drop_tries(self, outcome: Outcome) -> None:
        if self._tries is not None:
            self._tries.drop(outcome)
