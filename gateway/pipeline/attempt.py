"""One try of one request at one instance: what it took from the pool it gives back exactly once.

An attempt is the Sink of one upstream call. It measures the time to the head, judges the answer (a 5xx that
does not mean bad input is the instance's failure), feeds that one outcome to the pool, and passes events on
to its owner. Breaker, ejection and concurrency live here and below, per try; limits and quotas live in the
exchange, per request. A try's time is the pool's `per_try_timeout`, or what is left of the request's; where
the policy says so the instance is told (time_left.py). An instance that was not given the time it usually
needs is not to blame for not answering in it.
"""

from __future__ import annotations

from typing import Final

from gateway.http.grpc import status_of
from gateway.http.message import Headers, Request, Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    GatewayError,
    Outcome,
    Source,
    UpstreamClosedIdle,
    UpstreamConnectError,
    UpstreamTimeout,
)
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Instance, Pool
from gateway.pipeline.ports import Call
from gateway.pipeline.time_left import with_time_left

# As in phase.py: a Final costs no look-up.
FAILURE: Final = Outcome.FAILURE
IGNORED: Final = Outcome.IGNORED

AMPLE: Final = (
    2.0  # a timeout is held against an instance that had so many times what its last good answer took
)
UNKNOWN: Final = 0.5  # s: what an answer takes of an instance that gave none yet


class Owner:
    """Who made an attempt and hears of it: a request's tries, or a mirrored copy. Says nothing by itself."""

    __slots__ = ()

    def on_ready(self, attempt: Attempt) -> None:
        """The instance takes the body."""

    def on_interim(self, attempt: Attempt, response: Response) -> None:
        """The instance says something before its answer (1xx)."""

    def on_response(self, attempt: Attempt, response: Response) -> None:
        """The head is in, and judged."""

    def on_chunk(self, attempt: Attempt, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""

    def on_error(self, attempt: Attempt, error: GatewayError) -> None:
        """It failed, and has released its instance."""

    def on_writable(self, attempt: Attempt, ready: bool) -> None:
        """The instance's connection has room for more of the body (True), or not (False)."""

    def crash(self, bug: Exception) -> None:
        """A bug escaped from one of these."""


class Attempt:
    """One try. Implements ports.Sink.

    latency: s until the head, 0.0 while it isn't there. outcome: what the head alone says.
    """

    __slots__ = (
        "_answer",
        "_call",
        "_ctx",
        "_gateway",
        "_over",
        "_owner",
        "_permit",
        "_pool",
        "_pool_permit",
        "_sent",
        "instance",
        "latency",
        "outcome",
    )

    def __init__(self, owner: Owner, pool: Pool, instance: Instance, ctx: Context, gateway: Gateway) -> None:
        """instance: acquired from the pool just now."""
        self._owner = owner
        self._pool = pool
        self.instance = instance
        self._ctx = ctx
        self._gateway = gateway
        self._permit = None if instance.breaker is None else instance.admit(ctx.now)
        self._pool_permit = None if pool.breaker is None else pool.breaker.admit(ctx.now)
        self._answer: Response | None = None  # of gRPC, whose outcome comes last
        self._call: Call | None = None
        self._sent = ctx.now
        self.latency = 0.0
        self.outcome = IGNORED
        self._over = False

    def send(self, request: Request) -> None:
        """Hand the request to the upstream, with the instant by which this try must be complete."""
        ctx = self._ctx
        until = self._sent + self._pool.per_try_timeout
        if until > ctx.deadline:
            until = ctx.deadline
        if ctx.tell_time:
            request = with_time_left(request, ctx.tell_time, until - self._sent)
        call = self._gateway.upstream.send(self.instance, request, until, self)
        if self._over:
            call.cancel()  # it failed or was given up before `send` returned
        else:
            self._call = call

    def write(self, data: bytes, last: bool, trailers: Headers | None = None) -> None:
        """Send a piece of a streamed request body; trailers with the last one."""
        if self._call is not None:
            self._call.write(data, last, trailers)

    def pause(self) -> None:
        """Stop reading the answer."""
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        """Read on."""
        if self._call is not None:
            self._call.resume()

    def allow_silence(self, idle: float) -> None:
        """No deadline any more but `idle` seconds without a byte."""
        if self._call is not None:
            self._call.allow_silence(idle)
            if self._permit is not None or self._pool_permit is not None:
                self._prove()

    def _prove(self) -> None:
        """It became a stream or a tunnel, whose end may be hours away: half-open probes are judged now."""
        ok, now = self.outcome is not FAILURE, self._ctx.now
        mine, pools = self.instance.breaker, self._pool.breaker
        if mine is not None and mine.prove(ok, self.latency, now, self._permit):
            self._permit = None
        if pools is not None and pools.prove(ok, self.latency, now, self._pool_permit):
            self._pool_permit = None

    # ports.Sink. The upstream's callback has nobody to tell of a bug: the exchange ends in a 500.

    def on_ready(self) -> None:
        """The instance takes the body."""
        if self._over:
            return
        try:
            self._owner.on_ready(self)
        except Exception as bug:
            self._owner.crash(bug)

    def on_interim(self, response: Response) -> None:
        """The instance says something before its answer."""
        if self._over:
            return
        try:
            self._owner.on_interim(self, response)
        except Exception as bug:
            self._owner.crash(bug)

    def on_response(self, response: Response) -> None:
        """The head is in: the time to it is what this instance's latency means."""
        if self._over:
            return
        ctx = self._ctx
        ctx.now = now = self._gateway.clock.now()
        self.latency = latency = now - self._sent
        ctx.upstream_seconds += latency
        self.outcome = self._pool.judge(response, ctx)
        if self._pool.reports:
            self._pool.learn_load(self.instance, response)
        if self._pool.is_grpc:
            self._answer = response
        try:
            self._owner.on_response(self, response)
        except Exception as bug:
            self._owner.crash(bug)

    def on_chunk(self, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""
        if self._over:
            return
        if last:
            self._ctx.now = self._gateway.clock.now()
        try:
            self._owner.on_chunk(self, data, last)
        except Exception as bug:
            self._owner.crash(bug)

    def on_error(self, error: GatewayError) -> None:
        """The call failed: the instance is to blame unless the client or the gateway was."""
        if self._over:
            return
        now = self._gateway.clock.now()
        self._release(self._verdict(error, now), now)
        try:
            self._owner.on_error(self, error)
        except Exception as bug:
            self._owner.crash(bug)

    def on_writable(self, ready: bool) -> None:
        """The instance's connection has room for more of the body (True), or not (False)."""
        if self._over:
            return
        try:
            self._owner.on_writable(self, ready)
        except Exception as bug:
            self._owner.crash(bug)

    # The end, one way or another

    def finish(self, response: Response | None) -> None:
        """The answer is complete, now (`ctx.now`).

        response: whole, when it was read whole: its body may change the verdict.
        """
        if response is not None and self._pool.hides_failures:
            self.outcome = self._pool.judge(response, self._ctx)
        elif self._answer is not None:
            self.outcome = self._pool.judge(self._answer, self._ctx)
            self._ctx.grpc_status = int(status_of(self._answer, self._answer.trailers))
        elif response is not None and self.outcome is FAILURE:
            self.outcome = self._pool.judge(response, self._ctx)
        if not self._over:
            self._over = True
            self._call = None
            now = self._ctx.now
            latency = self.latency or now - self._sent
            self._pool.released(self.instance, self._permit, self.outcome, latency, now, self._pool_permit)

    def cancel(self, outcome: Outcome) -> None:
        """Give it up; `outcome` says what that means for the instance."""
        if not self._over:
            call = self._call
            self._release(outcome, self._gateway.clock.now())
            if call is not None:
                call.cancel()

    def _release(self, outcome: Outcome, now: float) -> None:
        """Give the instance back with what was learnt: exactly once."""
        if self._over:
            return
        self._over = True
        self._call = None  # call and attempt hold each other: the collector should not have to part them
        latency = self.latency or now - self._sent
        self._pool.released(self.instance, self._permit, outcome, latency, now, self._pool_permit)

    def _verdict(self, error: GatewayError, now: float) -> Outcome:
        if error.source is not Source.UPSTREAM:
            return Outcome.IGNORED
        if isinstance(error, UpstreamClosedIdle):
            return IGNORED  # it may close what is idle (RFC 9112 §9.3.1), and uvicorn does after a 500
        late = isinstance(error, UpstreamTimeout) or now >= self._ctx.deadline
        if late and not self._had_time(now):
            return Outcome.IGNORED
        return Outcome.UNREACHABLE if isinstance(error, UpstreamConnectError) else Outcome.FAILURE

    def _had_time(self, now: float) -> bool:
        """Tell whether an instance that did not answer could have: it had the time that the policy gives,
        or, where the client wished for less or earlier tries had used it up, well more than it needs.
        """
        ctx = self._ctx
        if not ctx.hurried and ctx.attempts <= 1:
            return True
        had = now - self._sent
        return had >= self._pool.per_try_timeout or had >= AMPLE * (self.instance.last_good or UNKNOWN)

    def elapsed(self, now: float) -> float:
        """Return the seconds since it was sent."""
        return now - self._sent

    def __repr__(self) -> str:
        return f"<Attempt at {self.instance!r}{' over' if self._over else ''}>"
