"""Faults on purpose: `fault: {delay: 200ms, abort: 503, share: 10%, when: {x-fault: yes}}`.

To see what clients, retries of clients and `degrade` make of a slow or failing service, without breaking one.
It stands where the request would go to an instance, so a cached answer is still given. An injected abort is a
refusal with the code `fault_injected`; `degrade` treats it as `unavailable`, so ladders can be rehearsed. No
attempt is made then: no breaker, ejector, balancer or retry budget hears of it.

Nothing is injected unless the operator says `limits: {faults: allowed}`; without it `headgate check` refuses
the verb. Every touched answer carries `x-headgate-fault`, its access-log line `fault`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.config.kind import setting
from gateway.config.units import Duration, Ratio, render_duration
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.ports import Cancellable
from gateway.pipeline.promise import Eventual, Promise

FIELD = b"x-headgate-fault"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong on purpose."""

    delay: Duration | None = setting(None, "waits so long first", example="200ms", at_least=0.001)
    abort: int | None = setting(None, "then refuses with this status", example=503, at_least=400, at_most=599)
    share: Ratio = setting(Ratio(1.0), "of the requests that are meant", example="10%", at_least=0, at_most=1)
    when: Mapping[str, str] = setting(
        {}, "header fields and the value each must have; none: every request", example="{x-fault: 'please'}"
    )

    def __post_init__(self) -> None:
        if self.delay is None and self.abort is None:
            raise ValueError("expected a delay, an abort, or both in a fault")


class FaultFilter(Filter):
    """Delays and aborts."""

    name = "fault"

    def __init__(self, rule: Rule[Fault], parts: Parts) -> None:
        config = rule.value
        self._rule = rule
        self._delay = config.delay
        self._share = config.share
        self._when = tuple((name.lower().encode(), value.encode()) for name, value in config.when.items())
        self._chance = parts.ids.chance
        self._timers = parts.timers
        self._timer: Slot[Cancellable] = Slot()
        delay = "" if config.delay is None else f"delay={render_duration(config.delay)}"
        abort = "" if config.abort is None else f"abort={config.abort}"
        self._label = " ".join(part for part in (delay, abort) if part)
        self._refusal = config.abort and Refusal(
            config.abort, "fault_injected", "this fault was injected on purpose", policy=rule.policy
        )

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Inject, if it is this request's turn."""
        if any(ctx.request.header(name) != value for name, value in self._when):
            return None
        if self._share < 1.0 and self._chance() >= self._share:
            return None
        if ctx.trail is not None:
            verdict = f"injects {self._label}" if self._rule.enforce else f"would inject {self._label}"
            ctx.note(self.name, verdict, self._rule.policy, self._rule.origin)
        if ctx.dry or not self._rule.enforce:
            return None
        ctx.fault = self._label
        verdict_after = self._refusal or None
        if self._delay is None or self._timers is None:
            return verdict_after
        waited: Promise[Response | Refusal | None] = Promise()
        due = ctx.now + self._delay
        self._timer.set(ctx, self._timers.punctual(due, lambda: waited.resolve(verdict_after)))
        return waited

    def on_response(self, ctx: Context, response: Response) -> Response:
        """Say so."""
        if ctx.fault:
            response.headers.append((FIELD, ctx.fault.encode()))
        return response

    def on_done(self, ctx: Context) -> None:
        """Who left waits no longer."""
        timer = self._timer.get(ctx)
        if timer is not None:
            timer.cancel()


def _build(rules: Sequence[Rule[Fault]], parts: Parts) -> Iterable[Filter]:
    return [FaultFilter(rule, parts) for rule in rules]


KIND = FilterKind(
    "fault",
    Fault,
    summary="delays and errors on purpose",
    build=_build,
    allowed_by="faults",
)
