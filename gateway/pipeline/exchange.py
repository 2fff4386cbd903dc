"""One request, from its head to its last byte. Start reading here.

    start            find the endpoint                                        snapshot.py
    on_request       its filters in their fixed order; each may answer,
                     refuse, or ask for time (a Promise)                      chain.py, filters/, waiting.py
    tries            pick an instance, send, wait; another instance when
                     one failed and nothing of an answer went out, or a
                     second one beside the first when that takes long         tries.py, attempt.py
    on_response      the filters that were reached, in reverse; then the
                     answer goes out, whole or chunk by chunk                 bodies.py
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
from functools import partial
from typing import TypeVar, cast

from gateway.dialects.errors import InvalidPrediction
from gateway.http.hop_by_hop import end_to_end, hops_left
from gateway.http.message import Request, Response
from gateway.pipeline import answer
from gateway.pipeline.bodies import Bodies
from gateway.pipeline.calls import Calls
from gateway.pipeline.context import Context
from gateway.pipeline.errors import BodyTooLarge, GatewayError, NoInstance, Outcome, Refusal
from gateway.pipeline.forward import Forward, forward, goes_whole
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.graphs import GraphPool, Run
from gateway.pipeline.identify import identify
from gateway.pipeline.phase import ANSWERING, ATTEMPTING, DECIDING, DONE, STREAMING, TUNNELLING
from gateway.pipeline.pool import Pool
from gateway.pipeline.ports import Cancellable, Downstream, Peer
from gateway.pipeline.prediction import is_prediction
from gateway.pipeline.promise import Promise
from gateway.pipeline.tries import Tries
from gateway.pipeline.waiting import Wait

T = TypeVar("T")

LOCATE = -1  # where to go on once the body is whole: its endpoint is still to be found


def begin(gateway: Gateway, request: Request, peer: Peer, down: Downstream) -> Exchange:
    """Make the exchange of one request; nothing happens before `start`. Partly applied: a ports.Begin."""
    return Exchange(Context(request, peer, gateway.snapshot, gateway.clock.now()), down, gateway)


class Exchange(Bodies):
    """One request through the gateway. Implements ports.Receiver."""

    __slots__ = ("_entered", "_reached", "_resume", "_softer", "_wait")

    def __init__(self, ctx: Context, down: Downstream, gateway: Gateway) -> None:
        super().__init__(ctx, down, gateway)
        self._entered = -1  # position of the last filter whose on_request ran
        self._reached = -1  # filters up to here see the answer
        self._resume = 0  # index in chain.on_request to go on with once the body is whole
        self._softer: tuple[Pool, ...] | None = ()  # lesser pools tried; None: nothing may soften it
        self._wait: Cancellable | None = None  # for a promise

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
        if found.models is not None:
            self._locate()
            return
        if found.endpoint is None and answer.is_stream_of_calls(found):
            self._take_calls()
            return
        if found.endpoint is None:
            nowhere = answer.without_endpoint(ctx, found)
            if isinstance(nowhere, Refusal):
                self._refuse(nowhere, "find")
            else:
                self._answer(nowhere)
            return
        ctx.endpoint = found.endpoint
        ctx.pool = found.endpoint.pool
        self._decide(0)

    def _take_calls(self) -> None:
        """The body is a stream of requests, each for a model's endpoint: it ends when they have."""
        self.phase = STREAMING
        self._calls = calls = Calls(self._gateway, self.ctx, self._down, begin, self._done)
        self._wait = calls
        calls.start()

    def _locate(self) -> None:
        """Find the endpoint of a call whose message names the model, once that is here."""
        ctx = self.ctx
        models = ctx.snapshot.find_endpoint(ctx.request).models
        target, body = ctx.target, ctx.request.body
        assert models is not None
        assert target is not None
        if body is None:
            self._resume = LOCATE
            self._collect(max(endpoint.body_limit for endpoint in models.values()))
            return
        try:
            ctx.target = target = target.dialect.locate(target, ctx.request.headers, body)
        except InvalidPrediction as wrong:
            self._refuse(Refusal(wrong.status, wrong.code, wrong.message), "find")
            return
        endpoint = models.get(target.model)
        if endpoint is None:
            message = f"no endpoint serves the model '{target.model}'"
            self._refuse(Refusal(404, "unknown_model", message), "find")
        elif len(body) > endpoint.body_limit:
            limit = endpoint.body_limit
            self.fail(BodyTooLarge(f"the body has {len(body)} bytes; at most {limit} are allowed here"))
        else:
            ctx.endpoint = endpoint
            ctx.pool = endpoint.pool
            self._decide(0)

    # The filters, on the way in

    def _decide(self, step: int) -> None:
        ctx = self.ctx
        assert ctx.endpoint is not None
        steps = ctx.endpoint.chain.on_request
        for position, needs_body, name, on_request in steps[step:] if step else steps:
            if needs_body and ctx.request.body is None:
                self._resume = step
                self._collect(ctx.endpoint.body_limit)
                return
            self._entered = position
            step += 1
            verdict = on_request(ctx)
            if verdict is None:
                continue
            if isinstance(verdict, Promise):
                self._wait_for(verdict, partial(self._decided, step, name))
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

    def _collected(self) -> None:
        if self._resume == LOCATE:
            self._locate()
        else:
            self._decide(self._resume)

    def on_body_error(self, error: GatewayError) -> None:
        """The client's body is malformed, too large or too slow: no instance is to blame."""
        if self.phase is DONE:
            return
        if self.phase in (STREAMING, TUNNELLING):
            self._drop_tries(Outcome.IGNORED)
            self._break_off(error)
            return
        self._softer = None  # there is no request that another pool could get
        self.fail(error)

    # To an instance

    def _route(self) -> None:
        """All filters passed: make the request that goes upstream, which may take the model's signature."""
        ctx = self.ctx
        request = ctx.request
        if ctx.pool is None:
            self.fail(NoInstance("no pool is configured to serve this request"))
            return
        if request.method == b"OPTIONS" and hops_left(request.headers) == 0:
            self._answer(answer.of_gateway())
            return
        if ctx.pool.is_graph and not is_prediction(ctx):
            ctx.pool = ctx.pool.front
        if ctx.pool.queue is not None and ctx.trail is None:
            crowded = ctx.pool.queue.refuses(ctx)
            if crowded is not None:
                self.fail(crowded)
                return
        if request.body is None and goes_whole(ctx, ctx.pool):
            assert ctx.endpoint is not None
            self._resume = len(ctx.endpoint.chain.on_request)
            self._collect(ctx.endpoint.body_limit)
            return
        if ctx.pool.is_graph:
            self._ask_graph(cast(GraphPool, ctx.pool))
            return
        try:
            made = forward(ctx, ctx.pool, self._gateway.signatures)
        except GatewayError as error:
            self.fail(error)
            return
        if isinstance(made, Promise):
            self._wait_for(made, self._ready_to_send)
        else:
            self._ready_to_send(made)

    def _ask_graph(self, pool: GraphPool) -> None:
        self.phase = ATTEMPTING
        if self.ctx.dry:
            self._answer(answer.would_ask(self.ctx, pool.config.members))
            return
        run = Run(self.ctx, self._gateway)
        self._wait_for(run.predict(pool), self._graph_answered, run.cancel)

    def _graph_answered(self, said: Response | Refusal) -> None:
        if isinstance(said, Refusal):
            self._refuse(said, "graph")
        else:
            self._answer(said)

    def _ready_to_send(self, made: Forward | Refusal) -> None:
        if not isinstance(made, Forward):
            self._refuse(made, "translate")
        else:
            self._forward = made
            ctx = self.ctx
            assert ctx.pool is not None
            self.phase = ATTEMPTING
            self._tries = tries = Tries(self, ctx.pool, made.request, ctx, self._gateway)
            tries.start()
            if ctx.dry and self._tries is not None and self._tries.under_way:
                self._drop_tries(Outcome.IGNORED)
                self._answer(answer.would_send(ctx, made.request))

    def on_upstream_interim(self, response: Response) -> None:
        """The instance has something to say before its answer: a proxy passes it on (RFC 9110 §15.2)."""
        if self.phase is ATTEMPTING and self._forward is not None and not self._forward.answer_limit:
            response.headers = end_to_end(response.headers)
            self._down.interim(response)

    def on_upstream_error(self, error: GatewayError) -> None:
        """No attempt is under way any more; this is how the last one failed. Try again, or fail."""
        if self.phase in (STREAMING, TUNNELLING) or (self.phase is ANSWERING and self._whole is None):
            self._break_off(error)
            return
        self._whole = None
        assert self._tries is not None
        if not self._tries.again(error):
            self.fail(error)

    def _break_off(self, error: GatewayError) -> None:
        """Part of an answer is out, and the rest will not come."""
        self.ctx.error = error
        self._down.abort(error)
        self._done()

    # The answer, on the way out

    def _answered(self, response: Response) -> None:
        assert self._forward is not None
        try:
            answered = self._forward.back(response)
        except GatewayError as error:
            self.fail(error)
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
                self._wait_for(changed, partial(self._finish_filters, step))
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
        elif response.status == 101:
            self._open_tunnel(response)
        else:
            self._begin_stream(response)

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

    def fail(self, error: GatewayError) -> None:
        """Answer a failure: of the upstream, of the client's body, of time."""
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

    # Waiting for a promise. A connection guards its own calls; waiting.py guards these.

    def _wait_for(
        self, promise: Promise[T], go_on: Callable[[T], None], undo: Callable[[], None] | None = None
    ) -> None:
        """Go on with what the promise brings, within the request's time and unless the client left."""
        if self._wait is not None:
            self._wait.cancel()
        self._wait = wait = Wait(self, self._gateway, go_on, undo)
        promise.then(wait.arrived, wait.failed)

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
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        if self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None
        if self.ctx.pace is not None:
            self.ctx.pace.close()
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
