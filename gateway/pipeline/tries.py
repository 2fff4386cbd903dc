"""All tries of one request at one pool: which are under way, which one answers, whether there is another.

    start ─► first try ──head──────────────────────────────► the exchange has an answer
              │  │ failed, or a status that is worth it
              │  └─► pause? ─► another try, at an instance that was not tried   retrying.py
              │ takes longer than most                                           governance/hedging.py
              └─► hedge: a second try beside the first; the first good answer wins, the other is cut off

Once the exchange has an answer's head, everything that follows comes from that one attempt. A failure is
told to the exchange only when no other attempt is under way; the exchange knows whether anything of an
answer went out already, and asks for another try (`again`) only where nothing did. At most one hedge, only
beside the first try, never for a body that was not kept. What an attempt took it gives back once
(attempt.py), however many there are: each is in `_attempt` or `_other` until it is over.
"""

from __future__ import annotations

from typing import Final

from gateway.governance.fair_queue import Waiting
from gateway.governance.hedging import Hedging
from gateway.http.message import Headers, Request, Response
from gateway.pipeline.asker import Asker
from gateway.pipeline.attempt import Attempt, Owner
from gateway.pipeline.context import Context, Tried
from gateway.pipeline.errors import (
    GatewayError,
    Outcome,
    Overloaded,
    UpstreamConnectError,
    UpstreamTimeout,
)
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Full, Instance, Pool
from gateway.pipeline.pool_queue import Waiter
from gateway.pipeline.ports import Cancellable
from gateway.pipeline.retrying import after_answer, after_error, cause_of, others, repeatable

ATTEMPT = b"x-headgate-attempt"  # 2, 3 … on every try but the first, so that instances can tell them apart

# As in phase.py: a Final costs no look-up.
FAILURE: Final = Outcome.FAILURE
IGNORED: Final = Outcome.IGNORED
SUCCESS: Final = Outcome.SUCCESS


class Tries(Owner):
    """The tries of one request at one pool."""

    __slots__ = (
        "_asker",
        "_attempt",
        "_ctx",
        "_gateway",
        "_hedge",
        "_made",
        "_other",
        "_pool",
        "_request",
        "_timer",
        "_tried",
        "_waiting",
    )

    def __init__(self, asker: Asker, pool: Pool, request: Request, ctx: Context, gateway: Gateway) -> None:
        self._asker = asker
        self._pool = pool
        self._request = request
        self._ctx = ctx
        self._gateway = gateway
        self._attempt: Attempt | None = None  # whose answer it will be, as far as is known
        self._other: Attempt | None = None  # under way beside it
        self._hedge: Attempt | None = None  # which of the two is the hedge
        self._timer: Cancellable | None = None  # until the hedge, or until the pause is over
        self._tried: tuple[Instance, ...] = ()
        self._made = 0  # tries, the hedge not counted
        self._waiting: Waiting[Waiter] | None = None  # our place in the pool's queue

    # Trying

    def start(self) -> None:
        """Start a try: the pool picks an instance that was not tried yet, and the upstream sends.

        With the first one, plan a hedge where the pool has them.
        """
        ctx = self._ctx
        ctx.now = self._gateway.clock.now()
        if ctx.now >= ctx.deadline:
            late = UpstreamTimeout("the request's time was used up before it could be sent")
            self._asker.on_upstream_error(late)
            return
        pool = self._pool
        instance = pool.acquire(ctx, self._tried)
        if not isinstance(instance, Instance):
            if isinstance(instance, Full):
                self._wait(instance)
            else:
                self._asker.on_upstream_error(instance)
            return
        self._made += 1
        ctx.attempts += 1
        ctx.instance = instance
        self._tried += (instance,)
        self._attempt = attempt = Attempt(self, pool, instance, ctx, self._gateway)
        if not ctx.dry:
            attempt.send(self._request if ctx.attempts == 1 else self._numbered())
        if pool.hedging is not None and self._made == 1:
            self._plan_hedge(pool.hedging)

    # Waiting for a place in a full pool. Implements pool_queue.Waiter.

    def _wait(self, full: Full) -> None:
        """Get into the pool's queue; fail where it has none, or won't let us in."""
        ctx, gateway = self._ctx, self._gateway
        queue = self._pool.waiting_room(gateway.clock, gateway.timers)
        if queue is None:
            self._asker.on_upstream_error(Overloaded(str(full), 2.0 * gateway.ids.chance()))
            return
        place = queue.wait(self, ctx)
        if isinstance(place, Overloaded):
            self._note_wait(str(place))
            self._asker.on_upstream_error(place)
        else:
            self._waiting = place
            queue.tell(ctx.now)

    def on_turn(self) -> None:
        """A place became free."""
        self._stop_waiting()
        if self._pool.queue is not None:
            self._pool.queue.waits.observe(self._ctx.waited)
        try:
            self.start()
        except Exception as bug:  # whoever released knows nothing of this request
            self._asker.crash(bug)

    def on_turned_away(self, error: Overloaded) -> None:
        """The queue gave it up."""
        if self._waiting is None:
            return  # it left before it was told
        self._stop_waiting()
        self._note_wait(str(error))
        try:
            self._asker.on_upstream_error(error)
        except Exception as bug:  # whoever made it leave knows nothing of this request
            self._asker.crash(bug)

    def _stop_waiting(self) -> None:
        place, self._waiting = self._waiting, None
        if place is not None:
            ctx = self._ctx
            ctx.now = self._gateway.clock.now()
            ctx.waited += ctx.now - place.arrived

    def _note_wait(self, verdict: str) -> None:
        if self._ctx.trail is not None:
            self._ctx.note("queue", verdict, numbers={"waited_ms": round(self._ctx.waited * 1000, 3)})

    def _numbered(self) -> Request:
        """Return the request with the number of this attempt; the first one has none."""
        headers = [*self._request.headers, (ATTEMPT, b"%d" % self._ctx.attempts)]
        return self._request.with_headers(headers)

    def again(self, error: GatewayError) -> bool:
        """Try again after this failure, now or after a pause; False: it is not worth it, or not allowed."""
        ctx = self._ctx
        ctx.now = self._gateway.clock.now()
        if ctx.instance is None or not self._replayable():
            return False
        pause = after_error(self._pool, error, ctx, ctx.instance, self._tried, self._made)
        if pause < 0.0:
            return False
        self._go_on(pause)
        return True

    def _again_instead(self, attempt: Attempt, response: Response) -> bool:
        """Try again instead of passing this answer on."""
        if not self._replayable():
            return False
        wall = self._gateway.clock.wall()
        pause = after_answer(self._pool, response, self._ctx, self._tried, self._made, wall)
        if pause < 0.0:
            return False
        self._note(attempt, str(response.status))
        self._attempt = None
        attempt.cancel(FAILURE)
        self._go_on(pause)
        return True

    def _replayable(self) -> bool:
        """All of the body is here, or nothing of it was asked for yet."""
        return self._request.body is not None or not self._asker.body_begun

    def _go_on(self, pause: float) -> None:
        ctx = self._ctx
        if ctx.tries:
            ctx.tries[-1].again = True
        if pause > 0.0:
            self._timer = self._gateway.timers.punctual(ctx.now + pause, self._pause_over)
        else:
            self.start()

    def _pause_over(self) -> None:
        self._timer = None
        if not others(self._pool, self._tried, self._gateway.clock.now()):
            self._tried = ()  # the same one again
        try:
            self.start()
        except Exception as bug:  # no connection called: nobody else would tell the client
            self._asker.crash(bug)

    # A second try beside the first

    def _plan_hedge(self, hedging: Hedging) -> None:
        ctx = self._ctx
        if self._attempt is None or self._request.body is None or ctx.upgrade or not repeatable(ctx):
            return
        delay = hedging.delay()
        if ctx.trail is not None:
            ctx.note(
                "hedge",
                "too little is measured yet" if delay is None else "a second instance would be asked",
                numbers={} if delay is None else {"after_ms": round(delay * 1000, 3)},
            )
        if delay is not None and not ctx.dry and ctx.now + delay < ctx.deadline:
            self._timer = self._gateway.timers.punctual(ctx.now + delay, self._hedge_now)

    def _hedge_now(self) -> None:
        """The first try takes long: ask a second instance, if there is one, and budget and load allow it."""
        self._timer = None
        ctx = self._ctx
        pool = self._pool
        hedging = pool.hedging
        if self._attempt is None or hedging is None:
            return
        ctx.now = now = self._gateway.clock.now()
        if now >= ctx.deadline or self._gateway.pressure.level > 0.0:
            return
        if pool.in_flight >= pool.limit * hedging.below or not others(pool, self._tried, now):
            return
        if not pool.retry_budget.spend(now):
            return
        instance = pool.acquire(ctx, self._tried)
        if isinstance(instance, GatewayError):
            return
        ctx.attempts += 1
        self._tried += (instance,)
        self._hedge = self._other = attempt = Attempt(self, pool, instance, ctx, self._gateway)
        try:
            attempt.send(self._numbered())
        except Exception as bug:  # no connection called: nobody else would tell the client
            self._asker.crash(bug)

    def _decides(self, attempt: Attempt, response: Response, hedging: Hedging) -> bool:
        """An answer came where there is, or was to be, a hedge: tell whether it is the one that counts."""
        ctx = self._ctx
        self._forget_timer()
        other = self._beside(attempt)
        if other is not None:
            if attempt.outcome is FAILURE:  # the other one may do better
                self._note(attempt, str(response.status))
                self._attempt, self._other = other, None
                attempt.cancel(FAILURE)
                return False
            if other is not self._hedge:  # for so long it was waited; how long it would take nobody learns
                hedging.observe(other.elapsed(ctx.now), ctx.now)
            self._note(other, "slower")
            self._attempt, self._other = attempt, None
            other.cancel(IGNORED)
        if attempt.outcome is SUCCESS:
            hedging.observe(attempt.latency, ctx.now)
        if self._hedge is not None:
            ctx.instance = attempt.instance
            if response.status < 500:
                self._note(attempt, "answered")
        return True

    def _beside(self, attempt: Attempt) -> Attempt | None:
        return self._other if attempt is self._attempt else self._attempt

    # What becomes of the attempts (attempt.Owner)

    def on_ready(self, attempt: Attempt) -> None:
        """The instance takes the body."""
        self._asker.on_upstream_ready()

    def on_interim(self, attempt: Attempt, response: Response) -> None:
        """Something before the answer; of two attempts nobody knows yet whose answer it will be."""
        if self._other is None:
            self._asker.on_upstream_interim(response)

    def on_response(self, attempt: Attempt, response: Response) -> None:
        """A head came in: it is the answer, or worth another try, or another attempt may do better."""
        hedging = self._pool.hedging
        if hedging is not None and not self._decides(attempt, response, hedging):
            return
        if (response.status >= 500 or self._pool.is_grpc) and self._again_instead(attempt, response):
            return
        self._asker.on_upstream_response(response)

    def on_chunk(self, attempt: Attempt, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""
        self._asker.on_upstream_chunk(data, last)

    def on_error(self, attempt: Attempt, error: GatewayError) -> None:
        """An attempt failed. Where another one is under way, that one decides."""
        ctx = self._ctx
        ctx.now = now = self._gateway.clock.now()
        if now >= ctx.deadline and isinstance(error, UpstreamConnectError | Overloaded):
            error = UpstreamTimeout("the request's time was used up before there was a connection")
        self._note(attempt, cause_of(error))
        other = self._beside(attempt)
        self._attempt, self._other = other, None
        if other is None:
            self._forget_timer()
            ctx.instance = attempt.instance
            self._asker.on_upstream_error(error)

    def on_writable(self, attempt: Attempt, ready: bool) -> None:
        """The instance has room for more of the body, or not."""
        self._asker.on_upstream_writable(ready)

    def crash(self, bug: Exception) -> None:
        """A bug met while an attempt reported."""
        self._asker.crash(bug)

    # What the exchange wants of the attempt that answers

    @property
    def under_way(self) -> bool:
        """Tell whether an attempt is under way."""
        return self._attempt is not None

    def write(self, data: bytes, last: bool, trailers: Headers | None) -> None:
        """Send a piece of a streamed request body; trailers with the last one."""
        if self._attempt is not None:
            self._attempt.write(data, last, trailers)

    def pause(self) -> None:
        """Stop reading the answer."""
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        """Read on."""
        if self._attempt is not None:
            self._attempt.resume()

    def allow_silence(self, idle: float) -> None:
        """Let the answer take as long as it likes; only silence of `idle` seconds ends it."""
        if self._attempt is not None:
            self._attempt.allow_silence(idle)

    def finish(self, response: Response | None) -> None:
        """The answer is complete; response: whole, when it was read whole."""
        attempt, self._attempt = self._attempt, None
        self._hedge = None
        if attempt is not None:
            attempt.finish(response)

    def drop(self, outcome: Outcome) -> None:
        """Give up whatever is under way, now or planned. outcome: what that means for the instance asked."""
        attempt, other = self._attempt, self._other
        if attempt is not None and other is not None:
            self._note(attempt, "dropped")
            self._note(other, "dropped")
        self._attempt = self._other = self._hedge = None
        self._forget_timer()
        if self._waiting is not None and self._pool.queue is not None:
            place, self._waiting = self._waiting, None
            self._ctx.waited += self._gateway.clock.now() - place.arrived
            self._pool.queue.withdraw(place)
        if attempt is not None:
            attempt.cancel(outcome)
        if other is not None:
            other.cancel(IGNORED)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The record

    def _note(self, attempt: Attempt, ended: str) -> None:
        """Keep how an attempt ended, where there is more to tell than one attempt that answered."""
        ctx = self._ctx
        kind = "hedge" if attempt is self._hedge else "retry" if self._made > 1 else "first"
        tried = Tried(self._pool.name, attempt.instance.id, kind, ended, attempt.elapsed(ctx.now))
        if ctx.tries is None:
            ctx.tries = []
        ctx.tries.append(tried)
        if ctx.trail is not None:
            numbers = {"instance": tried.instance, "ms": round(tried.seconds * 1000, 3)}
            ctx.note("try", f"{kind}: {ended}", numbers=numbers)

    def __repr__(self) -> str:
        under_way = [attempt for attempt in (self._attempt, self._other) if attempt is not None]
        return f"<Tries at {self._pool.name} | {self._made} made, {len(under_way)} under way>"
