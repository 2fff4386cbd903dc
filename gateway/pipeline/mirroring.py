"""Copies of requests to another pool, whose answers no client sees: `mirror`.

A copy is made when its request is over and answered, so it is in nobody's way: it takes nothing that the
request still needs, and what goes wrong with it stays here. It has a deadline, an attempt, an outcome and a
connection of its own, counts against its pool like any other call (as sheddable: the first to go without
under load), and is never retried, hedged, softened or logged. It carries what the instance would have got
from the client (no credential) and says what it is: `x-headgate-mirror: 1`, so that a server can leave out
what must not happen twice.

What the copy was answered is read to its end, up to `DRAIN` bytes, and thrown away, unless somebody compares
answers: `Mirrors.judge` is then given both, in the client's own dialect.
"""

from __future__ import annotations

from typing import Protocol

from gateway.http.message import Request, Response
from gateway.pipeline.attempt import Attempt, Owner
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError, Outcome, Overloaded, Refusal
from gateway.pipeline.forward import Forward, forward
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Pool
from gateway.pipeline.promise import Promise

MARK = (b"x-headgate-mirror", b"1")
ROOM = 0.8  # share of a pool's limit that is taken when copies stay out of it
DRAIN = 16 * 1024 * 1024  # bytes of an answer that are read so that its connection can be kept
KEEP = 1024 * 1024  # bytes of an answer that are kept for a judge


class Judge(Protocol):
    """Who compares what the request and its copy were answered."""

    def on_pair(self, ctx: Context, primary: Response, mirrored: Response) -> None:
        """Both answers, in the client's dialect. primary.body is None where it streamed past."""
        ...


class Allowance:
    """What the copies of one policy may hold at once. copies: under way; size: bytes of their bodies."""

    __slots__ = ("copies", "held", "size", "under_way")

    def __init__(self, copies: int, size: int) -> None:
        self.copies = copies
        self.size = size
        self.under_way = 0
        self.held = 0

    def take(self, size: int) -> bool:
        """Take room for one copy; False: there is none."""
        if self.under_way >= self.copies or self.held + size > self.size:
            return False
        self.under_way += 1
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Give it back."""
        self.under_way -= 1
        self.held -= size

    def __repr__(self) -> str:
        return f"<Allowance {self.under_way} of {self.copies} copies, {self.held} of {self.size} B>"


class Mirrors:
    """Makes copies. One per worker. judge: who compares answers; None: nobody does."""

    __slots__ = ("gateway", "judge")

    def __init__(self, gateway: Gateway, judge: Judge | None = None) -> None:
        self.gateway = gateway
        self.judge = judge

    def send(
        self,
        ctx: Context,
        pool: Pool,
        timeout: float,
        allowance: Allowance,
        primary: Response,
        judge: Judge | None = None,
        version: str = "",
    ) -> None:
        """Copy a request that is over; `primary`: what it was answered. Never raises.

        judge: of this copy, in place of the one for all. version: the model version that is asked.
        """
        body = ctx.request.body
        if body is None:  # it streamed past: nobody has it
            self.count(ctx, pool, "too_large", 0.0)
        elif not allowance.take(len(body)):
            self.count(ctx, pool, "dropped", 0.0)
        else:
            Copy(self, ctx, pool, timeout, allowance, primary, judge or self.judge, version).start()

    def count(self, ctx: Context, pool: Pool, result: str, seconds: float) -> None:
        """Tell the observer of one copy, or of one that was not made."""
        endpoint = "-" if ctx.endpoint is None else ctx.endpoint.name
        self.gateway.observer.on_mirrored(endpoint, pool.name, result, seconds)


class Copy(Owner):
    """One copy, from the end of its request to the end of its own answer."""

    __slots__ = (
        "_allowance",
        "_attempt",
        "_began",
        "_ctx",
        "_forward",
        "_judge",
        "_kept",
        "_mirrors",
        "_over",
        "_pool",
        "_primary",
        "_read",
        "_response",
        "_size",
    )

    def __init__(
        self,
        mirrors: Mirrors,
        ctx: Context,
        pool: Pool,
        timeout: float,
        allowance: Allowance,
        primary: Response,
        judge: Judge | None = None,
        version: str = "",
    ) -> None:
        """allowance: taken for this copy just now."""
        self._mirrors = mirrors
        self._judge = judge
        self._pool = pool
        self._allowance = allowance
        self._primary = primary
        self._began = mirrors.gateway.clock.now()
        self._ctx = shadow(ctx, pool, self._began, timeout)
        self._ctx.version = version
        self._size = len(ctx.request.body or b"")
        self._forward: Forward | None = None
        self._attempt: Attempt | None = None
        self._response: Response | None = None
        self._kept: list[bytes] = []
        self._read = 0
        self._over = False

    def start(self) -> None:
        """Make the copy's request, which may take the model's signature, and send it."""
        try:
            made = forward(self._ctx, self._pool, self._mirrors.gateway.signatures)
            if isinstance(made, Promise):
                made.then(self._made, self._broke)
            else:
                self._made(made)
        except Exception as error:
            self._broke(error)

    def _made(self, made: Forward | Refusal) -> None:
        ctx, gateway = self._ctx, self._mirrors.gateway
        ctx.now = gateway.clock.now()
        if isinstance(made, Refusal):
            self._end("refused")
            return
        if ctx.now >= ctx.deadline:
            self._end("upstream_timeout")
            return
        if self._pool.in_flight >= ROOM * self._pool.limit:
            self._end(Overloaded.code)
            return
        instance = self._pool.acquire(ctx, ())
        if isinstance(instance, GatewayError):
            self._end(instance.code)
            return
        self._forward = made
        ctx.instance = instance
        self._attempt = attempt = Attempt(self, self._pool, instance, ctx, gateway)
        try:
            attempt.send(made.request.with_headers([*made.request.headers, MARK]))
        except Exception as bug:
            self.crash(bug)

    def _broke(self, error: Exception) -> None:
        if isinstance(error, GatewayError):
            self._end(error.code)
        else:
            self.crash(error)

    # attempt.Owner

    def on_response(self, attempt: Attempt, response: Response) -> None:
        """The head is in."""
        self._response = response
        if response.body is not None:
            self._complete(attempt, response, response.body)

    def on_chunk(self, attempt: Attempt, data: bytes, last: bool) -> None:
        """A piece of the answer's body: kept for a judge, within bounds."""
        response = self._response
        assert response is not None
        self._read += len(data)
        if self._judge is not None and self._read <= KEEP:
            self._kept.append(data)
        if last:
            self._complete(attempt, response, b"".join(self._kept) if self._read <= KEEP else None)
        elif self._read > DRAIN:
            attempt.cancel(Outcome.IGNORED)
            self._end("answer_too_large")

    def on_error(self, attempt: Attempt, error: GatewayError) -> None:
        """It failed."""
        self._end(error.code)

    def crash(self, bug: Exception) -> None:
        """A bug: told, and the copy's alone."""
        if self._attempt is not None:
            self._attempt.cancel(Outcome.IGNORED)
        self._mirrors.gateway.observer.on_bug(self._ctx, bug)
        self._end("internal")

    # The end

    def _complete(self, attempt: Attempt, response: Response, body: bytes | None) -> None:
        status = response.status
        judge = self._judge
        if body is not None and judge is not None:
            response.body, response.length = body, len(body)
        attempt.finish(response if response.body is not None else None)
        self._end("answered" if status < 500 else "failed")
        if judge is not None and body is not None and self._forward is not None:
            try:
                judge.on_pair(self._ctx, self._primary, self._forward.back(response))
            except GatewayError:
                return  # not what the pool's dialect promises: there is nothing to compare

    def _end(self, result: str) -> None:
        if self._over:
            return
        self._over = True
        self._allowance.give_back(self._size)
        self._attempt = None
        self._ctx.request.body = None
        now = self._mirrors.gateway.clock.now()
        self._mirrors.count(self._ctx, self._pool, result, now - self._began)

    def __repr__(self) -> str:
        return f"<Copy to {self._pool.name}{' over' if self._over else ''}>"


def shadow(ctx: Context, pool: Pool, now: float, timeout: float) -> Context:
    """Return the context of a copy: what goes upstream of the original, and nothing of its course."""
    original = ctx.request
    request: Request = original.with_headers(original.headers)
    request.host = original.host
    request.upgrade = b""
    copied = Context(request, ctx.peer, ctx.snapshot, now)
    copied.deadline = now + timeout
    copied.client = ctx.client
    copied.endpoint = ctx.endpoint
    copied.target = ctx.target
    copied.dialect = ctx.dialect
    copied.forwarded = ctx.forwarded
    copied.request_id = ctx.request_id
    copied.trace_id = ctx.trace_id
    copied.span_id = ctx.span_id
    copied.traceparent = ctx.traceparent
    copied.credential_field = ctx.credential_field
    copied.principal = ctx.principal
    copied.parsed = ctx.parsed
    copied.tell_time = ctx.tell_time
    copied.importance = 2
    copied.pool = pool
    copied.attempts = 1
    return copied
