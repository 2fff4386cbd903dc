"""A lesser answer instead of none: the first step that can serve wins, and the answer says so.

    degrade:
      when: [breaker_open, overloaded, timeout]
      steps: [{pool: digits-lite}, {stale: 10m}, {throttle: 5/s}, {respond: {status: 503, retry_after: 5s}}]
    degrade: digits-lite        now, for every request, whatever the state of the pool (for incidents)

A step serves when it can: another pool, if some instance of it could take a call; a stale answer, if the
cache has one that is young enough; a throttle, for so many requests per second as it says (they go to the
pool that was meant, the others to the next step); a fixed answer, always. When a lesser pool fails in its
turn, the ladder goes on with the step after it: each step serves a request at most once, in their order, and
what goes wrong after the last one goes out as it is. `x-degraded` names the step that answered
(pipeline/exchange.py adds it).

    when          what it means
    breaker_open  every instance is behind an open breaker
    overloaded    the gateway or the pool has no capacity left
    timeout       no answer in time
    unavailable   no instance, no connection, or a broken one
    quota         the caller's own throttle refused; not among the defaults, for it is them, not us

Answers of the instances, a 500 included, are theirs and pass; `retry` and the breaker deal with those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.config.kind import Reference, setting
from gateway.config.units import Duration, Rate, render_duration
from gateway.governance.token_bucket import Bucket
from gateway.http.message import Headers, Response
from gateway.pipeline import answer
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.pool import Pool

When = Literal["breaker_open", "overloaded", "timeout", "unavailable", "quota"]

_WHEN: Final[Mapping[str, When]] = {
    "breaker_open": "breaker_open",
    "overloaded": "overloaded",
    "upstream_timeout": "timeout",
    "unavailable": "unavailable",
    "upstream_connect": "unavailable",
    "upstream_refused": "unavailable",
    "upstream_reset": "unavailable",
    "upstream_protocol": "unavailable",
    "upstream_unreadable": "unavailable",
    "signature_unknown": "unavailable",
    "rate_limited": "quota",
}


@dataclass(frozen=True, slots=True)
class Respond:
    """A fixed answer."""

    status: int = setting(503, "status code", example=503, at_least=200, at_most=599, short=True)
    body: str = setting("", "what it says; empty: an error in the client's dialect", example='{"label": 0}')
    retry_after: Duration | None = setting(None, "when coming back makes sense", example="5s")
    headers: Mapping[str, str] = setting(
        {}, "header fields to add", example="{content-type: application/json}"
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of the ladder: exactly one of these."""

    pool: str | None = setting(None, "another pool, such as a smaller model's", example="digits-lite")
    stale: Duration | None = setting(None, "an expired cached answer of at most this age", example="10m")
    throttle: Rate | None = setting(
        None, "so many go to the pool that was meant, others to the next step", example="5/s"
    )
    respond: Respond | None = setting(None, "a fixed answer", example="{status: 503, retry_after: 5s}")

    @classmethod
    def from_text(cls, text: str) -> Step:
        """Read a pool's name."""
        return cls(pool=text)

    def __post_init__(self) -> None:
        given = [self.pool, self.stale, self.throttle, self.respond]
        if sum(one is not None for one in given) != 1:
            raise ValueError("expected exactly one of pool, stale, throttle and respond in a step")


@dataclass(frozen=True, slots=True)
class Degrade:
    """A lesser answer instead of none."""

    steps: tuple[Step, ...] = setting(
        (), "in this order; the first that can serve wins", example="[{pool: digits-lite}, {stale: 10m}]"
    )
    when: tuple[When, ...] = setting(
        ("breaker_open", "overloaded", "timeout", "unavailable"),
        "what must have gone wrong",
        example="[breaker_open, overloaded, timeout]",
    )
    to: str | None = setting(
        None, "this pool answers now, whatever the state of things", example="digits-lite"
    )

    @classmethod
    def from_text(cls, text: str) -> Degrade:
        """Read the pool that answers now."""
        return cls(to=text)

    def __post_init__(self) -> None:
        if not self.steps and self.to is None:
            raise ValueError("expected `steps: [{pool: …}, …]`, or the pool that shall answer now")

    def names(self) -> Iterable[Reference]:
        """The pools of lesser answers."""
        pools = [step.pool for step in self.steps if step.pool is not None]
        return [Reference("pool", pool, fallback=True) for pool in dict.fromkeys([*pools, self.to]) if pool]

    def check(self) -> Iterable[str]:
        """Nothing comes after a fixed answer."""
        for step in self.steps[:-1]:
            if step.respond is not None:
                yield "expected respond as the last step: it always serves, so no step after it is reached"
                return


class DegradeFilter(Filter):
    """Walks the steps.

    served: requests that got a lesser answer, by step.
    """

    name = "degrade"
    place = 85

    def __init__(self, rule: Rule[Degrade], parts: Parts) -> None:
        self._rule = rule
        self._when = frozenset(rule.value.when)
        self._to = None if rule.value.to is None else parts.pools[rule.value.to]
        self._rungs = tuple(_Rung(step, rule, parts) for step in rule.value.steps)
        self._walked: Slot[_Walk] = Slot()
        self.served: dict[str, int] = {}

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Send it to the lesser pool; a dead one serves nobody, so then it goes where it was meant."""
        if self._to is None or not _usable(self._to, ctx.now):
            return None
        if not self._rule.enforce:
            if ctx.trail is not None:
                ctx.note(self.name, f"would send to {self._to.name}", self._rule.policy, self._rule.origin)
        else:
            ctx.pool = self._to
            ctx.version = ""
            self._count(ctx, f"pool:{self._to.name}")
        return None

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        """Soften a refusal that is about capacity or quota."""
        return self._soften(ctx, refusal.code)

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        """Soften a failure of the pool."""
        return self._soften(ctx, error.code)

    def _soften(self, ctx: Context, code: str) -> Response | Pool | None:
        if _WHEN.get(code) not in self._when:
            return None
        walk = self._walked.get(ctx) or _Walk(0, ctx.pool, ctx.version)
        for index in range(walk.next, len(self._rungs)):
            rung = self._rungs[index]
            lesser = rung.serve(ctx, code, walk)
            if lesser is not None:
                self._walked.set(ctx, _Walk(index + 1, walk.meant, walk.version))
                self._count(ctx, rung.label)
                return lesser
        return None

    def _count(self, ctx: Context, step: str) -> None:
        ctx.degraded = step
        if not ctx.dry:
            self.served[step] = self.served.get(step, 0) + 1
        if ctx.trail is not None:
            ctx.note(self.name, f"served by {step}", self._rule.policy, self._rule.origin)


@dataclass(frozen=True, slots=True)
class _Walk:
    """How far one request came. next: index of the step to try next. meant: where it was sent at first."""

    next: int
    meant: Pool | None
    version: str


class _Rung:
    """One step, built. label: what `x-degraded` says."""

    __slots__ = ("_bucket", "_policy", "_pool", "_step", "label")

    def __init__(self, step: Step, rule: Rule[Degrade], parts: Parts) -> None:
        self._step = step
        self._policy = rule.policy
        self._pool = None if step.pool is None else parts.pools[step.pool]
        self._bucket: Bucket | None = None
        if step.throttle is not None:
            rate = step.throttle.per_second
            self._bucket = Bucket(rate, max(1.0, rate / 10.0))
        match step:
            case Step(pool=str()):
                self.label = f"pool:{step.pool}"
            case Step(stale=float() | int()):
                self.label = f"stale:{render_duration(step.stale or 0.0)}"
            case Step(throttle=Rate()):
                self.label = f"throttle:{step.throttle}"
            case _:
                self.label = "respond"

    def serve(self, ctx: Context, code: str, walk: _Walk) -> Response | Pool | None:
        """Return the lesser answer or the pool to try; None: this step can't serve now."""
        if self._pool is not None:
            return self._other_pool(ctx)
        if self._step.stale is not None:
            return _stale(ctx, self._step.stale)
        if self._bucket is not None:
            return self._thinned_out(ctx, self._bucket, walk)
        return None if self._step.respond is None else self._respond(ctx, self._step.respond, code)

    def _other_pool(self, ctx: Context) -> Pool | None:
        pool = self._pool
        if pool is None or pool is ctx.pool or not _usable(pool, ctx.now) or ctx.now >= ctx.deadline:
            return None
        ctx.version = ""
        return pool

    def _thinned_out(self, ctx: Context, bucket: Bucket, walk: _Walk) -> Pool | None:
        pool = walk.meant
        if pool is None or not _usable(pool, ctx.now) or ctx.now >= ctx.deadline:
            return None
        wait = bucket.wait(1.0, ctx.now) if ctx.dry else bucket.take(1.0, ctx.now)
        if wait:
            return None
        ctx.version = walk.version
        return pool

    def _respond(self, ctx: Context, fixed: Respond, code: str) -> Response:
        if not fixed.body and fixed.status >= 400:
            return answer.refused(
                ctx,
                Refusal(
                    fixed.status,
                    code,
                    "this request can't be served right now",
                    policy=self._policy,
                    retry_after=fixed.retry_after,
                    headers=_fields(fixed.headers),
                ),
            )
        headers = _fields(fixed.headers)
        if fixed.body and not any(name == b"content-type" for name, _ in headers):
            is_json = fixed.body.lstrip()[:1] in ("{", "[")
            headers.append(
                (b"content-type", b"application/json" if is_json else b"text/plain; charset=utf-8")
            )
        if fixed.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(fixed.retry_after))))
        headers.append((b"cache-control", b"no-store"))
        return Response(fixed.status, headers, fixed.body.encode())


def _fields(headers: Mapping[str, str]) -> Headers:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _usable(pool: Pool, now: float) -> bool:
    return any(instance.usable(now) for instance in pool.members.instances)


def _stale(ctx: Context, oldest: float) -> Response | None:
    stale = ctx.stale
    return stale.response if stale is not None and stale.age <= oldest else None


def _build(rules: Sequence[Rule[Degrade]], parts: Parts) -> Iterable[Filter]:
    return [DegradeFilter(rule, parts) for rule in rules]


KIND = FilterKind("degrade", Degrade, summary="a lesser answer instead of none", build=_build)
