"""One request, from its head to its last byte. Start reading here.

    start            find the endpoint                                        snapshot.py
    on_request       its filters in their fixed order; each may answer,
                     refuse, or ask for time (a Promise)                      chain.py, filters/
    tries            pick an instance, send, wait; another instance when
                     one failed and nothing of an answer went out, or a
                     second one beside the first when that takes long         tries.py, attempt.py
    on_response      the filters that were reached, in reverse; then the
                     answer goes out, whole or chunk by chunk
    on_refusal       a refusal or a failure may be softened, step by step:
    on_error         a lesser answer, or another pool to try                  filters/degrade.py
    on_done          exactly once, always: release, settle, record

The exchange is sans-io. It is called (by the client's connection: start, on_body, on_writable,
on_client_gone; by the tries: on_upstream_*), it calls ports, and every method returns at once. It never
reads a socket, a clock of its own or a random number, so a test drives it event by event and pins the order
of everything.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TypeVar

from gateway.http.hop_by_hop import end_to_end, hops_left
from gateway.http.message import Request, Response
from gateway.pipeline import answer
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    BodyTooLarge,
    GatewayError,
    NoInstance,
    Outcome,
    Refusal,
    UpstreamAnswerTooLarge,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.forward import Forward, forward, is_stream, trailers, translates
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.identify import identify
from gateway.pipeline.pool import Pool
from gateway.pipeline.ports import Cancellable, Downstream, Peer
from gateway.pipeline.promise import Promise
from gateway.pipeline.tries import Tries
from gateway.pipeline.tunnel import Tunnel

T = TypeVar("T")


class Phase(Enum):
    """Where in its life a request is."""

    NEW = "new"
    DECIDING = "deciding"  # on_request filters
    COLLECTING = "collecting"  # reading the body whole
    ATTEMPTING = "attempting"  # an instance has it
    ANSWERING = "answering"  # on_response filters
    STREAMING = "streaming"  # the answer's head is out
    TUNNELLING = "tunnelling"  # a 101 is out
    DONE = "done"


# A member of an Enum costs a look-up in its class each time; a global costs none.
NEW, DECIDING, COLLECTING, ATTEMPTING, ANSWERING, STREAMING, TUNNELLING, DONE = Phase


def begin(gateway: Gateway, request: Request, peer: Peer, down: Downstream) -> Exchange:
    """Make the exchange of one request; nothing happens before `start`. Partly applied: a ports.Begin."""
    return Exchange(Context(request, peer, gateway.snapshot, gateway.clock.now()), down, gateway)


class Exchange:
    """One request through the gateway. Implements ports.Receiver."""

    __slots__ = (
        "_collected",
        "_collected_size",
        "_complete",
        "_down",
        "_entered",
        "_forward",
        "_gateway",
        "_head",
        "_reached",
        "_resume",
        "_softer",
        "_timer",
        "_tries",
        "_tunnel",
        "_waiting",
        "_whole",
        "body_begun",
        "ctx",
        "phase",
    )

    def __init__(self, ctx: Context, down: Downstream, gateway: Gateway) -> None:
        self.ctx = ctx
        self._down = down
        self._gateway = gateway
        self.phase = NEW
        self._entered = -1  # position of the last filter whose on_request ran
        self._reached = -1  # filters up to here see the answer
        self._resume = 0  # index in chain.on_request to go on with
        self._collected: list[bytes] | None = None
        self._collected_size = 0
        self._complete = False  # what is collected is the answer's body, to its end
        self._forward: Forward | None = None
        self._tries: Tries | None = None  # at the pool that has the request now
        self._head: Response | None = None  # the instance's, while its body streams; it gets the trailers
        self._softer: tuple[Pool, ...] | None = ()  # lesser pools tried; None: nothing may soften it
        self.body_begun = False  # an instance gets the body as it comes: it can't be sent to another one
        self._whole: Response | None = None  # a head whose body is being read whole
        self._tunnel: Tunnel | None = None
        self._timer: Cancellable | None = None  # guards what no connection guards: waiting
        self._waiting = 0  # ticket: a late promise with an old ticket is ignored

    # Finding the endpoint

    def start(self) -> None:
        """Begin: the request's head is complete, its body too or still on its way."""
        ctx = self.ctx
        self._gateway.pressure.in_flight += 1
        self.phase = DECIDING
        identify(ctx, self._gateway.ids)
        found = ctx.snapshot.find_endpoint(ctx.request)
        ctx.target = found.target
        ctx.dialect = None if found.target is None else found.target.dialect
        if found.endpoint is None and found.target is not None and not found.target.model:
            self._answer(answer.of_server(ctx, found.target))
            return
        if found.endpoint is None and ctx.request.path == b"*":
            self._answer(answer.of_gateway())
            return
        if found.endpoint is None:
            self._refuse(answer.not_found(ctx, found), "find")
            return
        ctx.endpoint = found.endpoint
        ctx.pool = found.endpoint.pool
        self._decide(0)

    # The filters, on the way in

    def _decide(self, step: int) -> None:
        ctx = self.ctx
        assert ctx.endpoint is not None
        steps = ctx.endpoint.chain.on_request
        for position, needs_body, name, on_request in steps[step:] if step else steps:
            if needs_body and ctx.request.body is None:
                self._collect(step, ctx.endpoint.body_limit)
                return
            self._entered = position
            step += 1
            verdict = on_request(ctx)
            if verdict is None:
                continue
            if isinstance(verdict, Promise):
                self._wait(verdict, partial(self._decided, step, name))
            else:
                self._decided(step, name, verdict)
            return
        self._reached = len(ctx.endpoint.chain.filters)
        self._route()

    def _decided(self, step: int, name: str, verdict: Response | Refusal | None) -> None:
        if verdict is None:
            self._decide(step)
        elif isinstance(verdict, Refusal):
            self._refuse(verdict, name)
        else:
            self.ctx.answered_by = name
            self._reached = self._entered
            self._answer(verdict)

    # The body, when somebody needs it whole

    def _collect(self, step: int, limit: int) -> None:
        request = self.ctx.request
        if request.length is not None and request.length > limit:
            self._fail(BodyTooLarge(f"the body has {request.length} bytes; at most {limit} are allowed here"))
            return
        self.phase = COLLECTING
        self._resume = step
        self._down.proceed()

    def _collect_chunk(self, data: bytes, last: bool) -> None:
        assert self.ctx.endpoint is not None
        if data:
            self._keep(data)
        if self._collected_size > self.ctx.endpoint.body_limit:
            limit = self.ctx.endpoint.body_limit
            self._fail(BodyTooLarge(f"the body is larger than the {limit} bytes allowed here"))
        elif last:
            self.ctx.request.body = body = self._take_kept()
            self.ctx.request.length = len(body)
            self.phase = DECIDING
            self._decide(self._resume)

    def _keep(self, data: bytes) -> None:
        if self._collected is None:
            self._collected = []
        self._collected.append(data)
        self._collected_size += len(data)

    def _take_kept(self) -> bytes:
        kept, self._collected, self._collected_size = self._collected, None, 0
        return b"".join(kept) if kept else b""

    def on_body(self, data: bytes, last: bool) -> None:
        """A piece of the request's body came in."""
        if self.phase is COLLECTING:
            self.ctx.now = self._gateway.clock.now()
            self._collect_chunk(data, last)
        elif self.phase is TUNNELLING:
            self._tunnel_from_client(data, last)
        elif self._tries is not None and self.phase is not DONE:
            assert self.ctx.endpoint is not None
            self.ctx.body_received += len(data)
            for on_chunk in self.ctx.endpoint.chain.on_request_chunk:
                data = on_chunk(self.ctx, data, last)
            self._tries.write(data, last, trailers(self.ctx) if last else None)

    def on_body_error(self, error: GatewayError) -> None:
        """The client's body is malformed, too large or too slow: no instance is to blame."""
        if self.phase is DONE:
            return
        self._drop_tries(Outcome.IGNORED)
        self._softer = None  # there is no request that another pool could get
        self._fail(error)

    # To an instance

    def _route(self) -> None:
        """All filters passed: make the request that goes upstream, which may take the model's signature."""
        ctx = self.ctx
        request = ctx.request
        if ctx.pool is None:
            self._fail(NoInstance("no pool is configured to serve this request"))
            return
        if request.method == b"OPTIONS" and hops_left(request.headers) == 0:
            self._answer(answer.of_gateway())
            return
        if request.body is None and (
            (request.length is not None and request.length <= ctx.snapshot.replay_limit)
            or translates(ctx, ctx.pool)
        ):
            assert ctx.endpoint is not None
            self._collect(len(ctx.endpoint.chain.on_request), ctx.endpoint.body_limit)
            return
        try:
            made = forward(ctx, ctx.pool, self._gateway.signatures)
        except GatewayError as error:
            self._fail(error)
            return
        if isinstance(made, Promise):
            self._wait(made, self._ready_to_send)
        else:
            self._ready_to_send(made)

    def _ready_to_send(self, made: Forward | Refusal) -> None:
        if isinstance(made, Refusal):
            self._refuse(made, "translate")
        else:
            self._forward = made
            ctx = self.ctx
            assert ctx.pool is not None
            self.phase = ATTEMPTING
            self._tries = Tries(self, ctx.pool, made.request, ctx, self._gateway)
            self._tries.start()
            if ctx.dry and self._tries is not None and self._tries.under_way:
                self._drop_tries(Outcome.IGNORED)
                self._answer(answer.would_send(ctx, made.request))

    def on_upstream_ready(self) -> None:
        """The instance takes the body: let the client send it."""
        self.body_begun = True
        self._down.proceed()

    def on_upstream_interim(self, response: Response) -> None:
        """The instance has something to say before its answer: a proxy passes it on (RFC 9110 §15.2)."""
        if self.phase is ATTEMPTING and self._forward is not None and not self._forward.answer_limit:
            response.headers = end_to_end(response.headers)
            self._down.interim(response)

    def on_upstream_response(self, response: Response) -> None:
        """The head of an answer (its body too, when it came in one piece)."""
        ctx = self.ctx
        assert self._forward is not None
        if response.body is None:
            self._head = response
            bound = self._forward.answer_limit or (0 if is_stream(response) else ctx.want_whole)
            if bound and (response.length is None or response.length <= bound):
                self._whole = response
                self._take_kept()
                return
            if self._forward.answer_limit:
                self._drop_tries(Outcome.SUCCESS)
                self._fail(UpstreamAnswerTooLarge("the answer is too large to be translated"))
                return
        else:
            self._end_tries(response)
        self._translate(response)

    def on_upstream_chunk(self, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""
        if self._whole is not None:
            self._gather(self._whole, data, last)
        elif self.phase is STREAMING:
            self._stream(data, last)
        elif self.phase is TUNNELLING:
            self._tunnel_from_instance(data, last)
        else:  # the head is still with a filter that asked for time: hold what comes meanwhile
            self._keep(data)
            if last:
                self._end_tries(None)
                self._complete = True
            elif self._tries is not None:
                self._tries.pause()

    def on_upstream_error(self, error: GatewayError) -> None:
        """No attempt is under way any more; this is how the last one failed. Try again, or fail."""
        if self.phase in (STREAMING, TUNNELLING) or (self.phase is ANSWERING and self._whole is None):
            self.ctx.error = error
            self._down.abort()
            self._done()
            return
        self._whole = None
        assert self._tries is not None
        if not self._tries.again(error):
            self._fail(error)

    def _end_tries(self, response: Response | None) -> None:
        tries, self._tries = self._tries, None  # they hold each other: the collector should not part them
        if tries is not None:
            tries.finish(response)

    def _drop_tries(self, outcome: Outcome) -> None:
        if self._tries is not None:
            self._tries.drop(outcome)

    # The answer, on the way out

    def _gather(self, head: Response, data: bytes, last: bool) -> None:
        assert self._forward is not None
        self._keep(data)
        if last:
            head.body = self._take_kept()
            head.length = len(head.body)
            self._whole = None
            self._end_tries(head)
            self._translate(head)
        elif self._collected_size > (self._forward.answer_limit or self.ctx.want_whole):
            self._whole = None
            if self._forward.answer_limit:
                self._drop_tries(Outcome.SUCCESS)
                self._fail(UpstreamAnswerTooLarge("the answer is too large to be translated"))
            else:  # nobody can have it whole: let it stream
                self._translate(head)

    def _translate(self, response: Response) -> None:
        assert self._forward is not None
        try:
            answered = self._forward.back(response)
        except GatewayError as error:
            self._fail(error)
            return
        self._answer(answered)

    def _answer(self, response: Response) -> None:
        self.phase = ANSWERING
        ctx = self.ctx
        if ctx.endpoint is not None and ctx.endpoint.chain.on_response:
            self._finish_filters(0, response)
        else:
            self._deliver(response)

    def _finish_filters(self, step: int, response: Response) -> None:
        ctx = self.ctx
        steps = () if ctx.endpoint is None else ctx.endpoint.chain.on_response
        while step < len(steps):
            position, on_response = steps[step]
            step += 1
            if position > self._reached:
                continue
            changed = on_response(ctx, response)
            if isinstance(changed, Promise):
                self._wait(changed, partial(self._finish_filters, step))
                return
            response = changed
        self._deliver(response)

    def _deliver(self, response: Response) -> None:
        ctx = self.ctx
        ctx.status = response.status
        ctx.now = ctx.first_byte = self._gateway.clock.now()
        response.headers.append((b"x-request-id", ctx.request_id))
        if ctx.degraded:
            response.headers.append((b"x-degraded", ctx.degraded.encode("latin-1", "replace")))
        if response.body is not None:
            ctx.body_sent = len(response.body)
            self._down.reply(response)
            self._done(ctx.now)
            return
        if response.status == 101:
            self._open_tunnel(response)
            return
        self.phase = STREAMING
        self._down.begin(response)
        if response.length is None and self._tries is not None and not ctx.hurried:
            self._tries.allow_silence(ctx.snapshot.stream_idle)
        held, complete = self._take_kept(), self._complete
        if held or complete:
            self._stream(held, complete)
        if self._tries is not None:
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
            self._done()

    # A tunnel: client and instance go on in another protocol

    def _open_tunnel(self, response: Response) -> None:
        ctx = self.ctx
        tries = self._tries
        if tries is None or not tries.under_way:
            self._fail(UpstreamReset("the instance left as soon as it had agreed to another protocol"))
            return
        self.phase = TUNNELLING
        self._tunnel = Tunnel(self._gateway.tunnels, ctx)
        tries.allow_silence(ctx.snapshot.tunnel_idle)
        self._down.upgrade(response, ctx.upgrade)
        held = self._take_kept()
        if held:
            self._tunnel_from_instance(held, False)
        tries.resume()

    def _tunnel_from_client(self, data: bytes, last: bool) -> None:
        assert self._tunnel is not None
        self._tunnel.from_client(data, last)
        if self._tries is not None:
            self._tries.write(data, last, None)
        self._close_tunnel(self._tunnel)

    def _tunnel_from_instance(self, data: bytes, last: bool) -> None:
        assert self._tunnel is not None
        self._tunnel.from_instance(data, last)
        if data:
            self._down.write(data)
        if last:
            self._down.end()
        self._close_tunnel(self._tunnel)

    def _close_tunnel(self, tunnel: Tunnel) -> None:
        if tunnel.is_over and self.phase is TUNNELLING:
            self.ctx.now = self._gateway.clock.now()
            self._end_tries(None)
            self._done(self.ctx.now)

    # Backpressure

    def on_writable(self, ready: bool) -> None:
        """The client reads too slowly (False), or again (True): so do we."""
        if self._tries is not None:
            if ready:
                self._tries.resume()
            else:
                self._tries.pause()

    def on_upstream_writable(self, ready: bool) -> None:
        """The instance reads too slowly (False), or again (True): so does the client's connection."""
        if ready:
            self._down.resume_body()
        else:
            self._down.pause_body()

    # Refusals and failures, and what may soften them

    def _refuse(self, refusal: Refusal, name: str) -> None:
        ctx = self.ctx
        ctx.refusal = refusal
        ctx.answered_by = name
        self._reached = max(self._reached, self._entered)
        if ctx.trail is not None:
            ctx.note(name, f"refused: {refusal.code}", refusal.policy, numbers=refusal.details)
        if self._softer is not None and ctx.endpoint is not None:
            for on_refusal in ctx.endpoint.chain.on_refusal:
                if self._soften(on_refusal(ctx, refusal)):
                    return
        self._answer(answer.refused(ctx, refusal))

    def _fail(self, error: GatewayError) -> None:
        self._drop_tries(Outcome.IGNORED)
        ctx = self.ctx
        ctx.error = error
        self._reached = max(self._reached, self._entered)
        if ctx.trail is not None:
            ctx.note("attempt", f"failed: {error.code}", numbers={"message": str(error)})
        if self._softer is not None and ctx.endpoint is not None:
            for on_error in ctx.endpoint.chain.on_error:
                if self._soften(on_error(ctx, error)):
                    return
        self._answer(answer.failed(ctx, error))

    def _soften(self, lesser: Response | Pool | None) -> bool:
        """Take what is offered: an answer, which is the last word, or another pool, each at most once."""
        if lesser is None or self._softer is None:
            return False
        if isinstance(lesser, Response):
            self._softer = None
            self._answer(lesser)
            return True
        if lesser in self._softer or (self.body_begun and self.ctx.request.body is None):
            return False
        self._softer += (lesser,)
        self.ctx.pool = lesser
        self._route()
        return True

    def _broke(self, error: Exception) -> None:
        if isinstance(error, GatewayError):
            self._fail(error)
        else:
            raise error

    # Waiting: a promise, or a body. Connections guard their own calls; this guards the rest.

    def _wait(self, promise: Promise[T], go_on: Callable[[T], None]) -> None:
        """Go on with what the promise brings, within the request's time and unless the client left."""
        ticket = self._start_waiting()

        def arrived(value: T) -> None:
            if self._stop_waiting(ticket):
                self._guard(lambda: go_on(value))

        def failed(error: Exception) -> None:
            if self._stop_waiting(ticket):
                self._guard(lambda: self._broke(error))

        promise.then(arrived, failed)

    def _start_waiting(self) -> int:
        self._forget_waiting()
        self._timer = self._gateway.timers.at(self.ctx.deadline, self._out_of_time)
        return self._waiting

    def _forget_waiting(self) -> None:
        self._waiting += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_waiting(self, ticket: int) -> bool:
        """Tell whether the exchange still waits for this one."""
        if ticket != self._waiting or self.phase is DONE:
            return False
        self._forget_waiting()
        self.ctx.now = self._gateway.clock.now()
        return True

    def _out_of_time(self) -> None:
        if self.phase is DONE:
            return
        self._waiting += 1
        self._timer = None
        self._drop_tries(Outcome.IGNORED)
        self._guard(lambda: self._fail(UpstreamTimeout("the request's time was used up while it waited")))

    def _guard(self, step: Callable[[], None]) -> None:
        """Run a step that no connection called: a bug ends this request, not the event loop's turn."""
        try:
            step()
        except Exception as bug:
            self.crash(bug)

    # The end

    def on_client_gone(self) -> None:
        """The client left: give everything back. Says nothing about the instance."""
        if self.phase is DONE:
            return
        self.ctx.status = self.ctx.status or 499
        self._drop_tries(Outcome.IGNORED)
        self._done()

    def crash(self, bug: Exception) -> None:
        """A bug: answer 500, or break the connection if part of an answer is out; release and record."""
        if self.phase is DONE:
            return
        self._gateway.observer.on_bug(self.ctx, bug)
        self._drop_tries(Outcome.IGNORED)
        if self.phase in (STREAMING, TUNNELLING):
            self._down.abort()
        else:
            response = answer.crashed(self.ctx)
            self.ctx.status = response.status
            self._down.reply(response)
        self._done()

    def _done(self, now: float | None = None) -> None:
        """Exactly once: filters release and settle, observers record.

        now: the instant, where it was read just before.
        """
        if self.phase is DONE:
            return
        self.phase = DONE
        if self._timer is not None:
            self._forget_waiting()
        if self._tunnel is not None:
            self._tunnel.close()
        if self._tries is not None:
            self._tries.drop(Outcome.IGNORED)  # a filter gave another answer than the one under way
            self._tries = None
        ctx = self.ctx
        ctx.now = ctx.finished = self._gateway.clock.now() if now is None else now
        self._gateway.pressure.in_flight -= 1
        if ctx.endpoint is not None:
            for position, on_done in ctx.endpoint.chain.on_done:
                if position <= self._entered:
                    on_done(ctx)
        self._gateway.observer.on_done(ctx)
        ctx.forget()

    def __repr__(self) -> str:
        return f"<Exchange {self.phase.value} | {self.ctx!r}>"
