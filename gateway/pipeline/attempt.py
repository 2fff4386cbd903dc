"""One try of one request at one instance: what it took from the pool it gives back exactly once.

An attempt is the Sink of one upstream call. It measures the time to the head, judges the answer (a 5xx that
does not mean bad input is the instance's failure), feeds that one outcome to the pool, and passes events on
to the exchange. Breaker, ejection and concurrency live here and below, per try; limits and quotas live in
the exchange, per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.message import Headers, Request, Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError, Outcome, Source, UpstreamConnectError
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Instance, Pool
from gateway.pipeline.ports import Call

if TYPE_CHECKING:  # the exchange makes attempts; an attempt reports to it
    from gateway.pipeline.exchange import Exchange


class Attempt:
    """One try. Implements ports.Sink."""

    __slots__ = (
        "_call",
        "_ctx",
        "_exchange",
        "_gateway",
        "_instance",
        "_latency",
        "_outcome",
        "_over",
        "_permit",
        "_pool",
        "_sent",
    )

    def __init__(
        self, exchange: Exchange, pool: Pool, instance: Instance, ctx: Context, gateway: Gateway
    ) -> None:
        """instance: acquired from the pool just now."""
        self._exchange = exchange
        self._pool = pool
        self._instance = instance
        self._ctx = ctx
        self._gateway = gateway
        self._permit = None if instance.breaker is None else instance.admit(ctx.now)
        self._call: Call | None = None
        self._sent = ctx.now
        self._latency = 0.0  # s until the head; 0.0 while it isn't there
        self._outcome = Outcome.IGNORED
        self._over = False

    def send(self, request: Request) -> None:
        """Hand the request to the upstream, with the instant by which this try must be complete."""
        until = self._sent + self._pool.per_try_timeout
        if until > self._ctx.deadline:
            until = self._ctx.deadline
        call = self._gateway.upstream.send(self._instance, request, until, self)
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

    # ports.Sink. The upstream's callback has nobody to tell of a bug: the exchange ends in a 500.

    def on_ready(self) -> None:
        """The instance takes the body."""
        if self._over:
            return
        try:
            self._exchange.on_upstream_ready()
        except Exception as bug:
            self._exchange.crash(bug)

    def on_interim(self, response: Response) -> None:
        """The instance says something before its answer."""
        if self._over:
            return
        try:
            self._exchange.on_upstream_interim(response)
        except Exception as bug:
            self._exchange.crash(bug)

    def on_response(self, response: Response) -> None:
        """The head is in: the time to it is what this instance's latency means."""
        if self._over:
            return
        ctx = self._ctx
        ctx.now = now = self._gateway.clock.now()
        self._latency = latency = now - self._sent
        ctx.upstream_seconds += latency
        self._outcome = self._pool.judge(response, ctx)
        try:
            self._exchange.on_upstream_response(response)
        except Exception as bug:
            self._exchange.crash(bug)

    def on_chunk(self, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""
        if self._over:
            return
        if last:
            self._ctx.now = self._gateway.clock.now()
        try:
            self._exchange.on_upstream_chunk(data, last)
        except Exception as bug:
            self._exchange.crash(bug)

    def on_error(self, error: GatewayError) -> None:
        """The call failed: the instance is to blame unless the client or the gateway was."""
        if self._over:
            return
        self._release(_verdict(error), self._gateway.clock.now())
        try:
            self._exchange.on_upstream_error(error)
        except Exception as bug:
            self._exchange.crash(bug)

    def on_writable(self, ready: bool) -> None:
        """The instance's connection has room for more of the body (True), or not (False)."""
        if self._over:
            return
        try:
            self._exchange.on_upstream_writable(ready)
        except Exception as bug:
            self._exchange.crash(bug)

    # The end, one way or another

    def finish(self, response: Response | None) -> None:
        """The answer is complete, now (`ctx.now`).

        response: whole, when it was read whole: its body may change the verdict.
        """
        if response is not None and self._outcome is Outcome.FAILURE:
            self._outcome = self._pool.judge(response, self._ctx)
        self._release(self._outcome, self._ctx.now)

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
        self._pool.released(self._instance, self._permit, outcome, self._latency or now - self._sent, now)

    def __repr__(self) -> str:
        return f"<Attempt at {self._instance!r}{' over' if self._over else ''}>"


def _verdict(error: GatewayError) -> Outcome:
    if error.source is not Source.UPSTREAM:
        return Outcome.IGNORED
    return Outcome.UNREACHABLE if isinstance(error, UpstreamConnectError) else Outcome.FAILURE
