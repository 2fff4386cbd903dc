"""A lesser answer instead of none: the first step that can serve wins, and the answer says so.

    degrade:
      when: [breaker_open, overloaded, timeout, slo_burn]
      steps: [{pool: digits-lite}, {stale: 10m}, {throttle: 5/s}, {respond: {status: 503, retry_after: 5s}}]
    degrade: digits-lite        now, for every request, whatever the state of the pool (for incidents)
    degrade: never              on a plan or a principal: who would rather fail than get less

A step serves when it can (degrade_steps.py). When a lesser pool fails in its turn, the ladder goes on with
the step after it: each step serves a request at most once, in their order, and what goes wrong after the
last one goes out as it is. `x-degraded` names the step that answered (pipeline/exchange.py adds it).

    when          what it means                                                             seen
    breaker_open  every instance is behind an open breaker                                  as it fails
    overloaded    the gateway or the pool has no capacity left                              as it fails
    timeout       no answer in time                                                         as it fails
    unavailable   no instance, no connection, or a broken one                               as it fails
    quota         the caller's own throttle refused; not a default, for it is them, not us  as it fails
    slo_burn      the endpoint's `slo` burns its error budget too fast                      beforehand
    queue_age     the first in the pool's queue has waited for `queue_age`                  beforehand

What is seen as one request fails softens that request. What is seen beforehand changes where requests begin:
they start at a step of the ladder without trying the full answer first (governance/ladder.py: down at once,
back after a calm time). That is decided after the cache, so a fresh answer that is there is still given.

Answers of the instances, a 500 included, are theirs and pass; `retry`, the breaker and `slo` deal with those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.config.kind import Reference, setting
from gateway.config.units import Duration
from gateway.filters.degrade_steps import Respond as Respond  # found here, too
from gateway.filters.degrade_steps import Rung, Walk
from gateway.filters.degrade_steps import Step as Step
from gateway.governance.ladder import Ladder
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.pool import Pool

When = Literal["breaker_open", "overloaded", "timeout", "unavailable", "quota", "slo_burn", "queue_age"]

BEFOREHAND: Final[frozenset[When]] = frozenset(("slo_burn", "queue_age"))
LOOK: Final = 0.05  # s between two looks at what is seen beforehand
BY_HAND: Final = "by_hand"
DEGRADED: Final = "degraded"  # the code of an honest error where nothing was tried

_WHEN: Final[Mapping[str, When]] = {
    "breaker_open": "breaker_open",
    "overloaded": "overloaded",
    "upstream_timeout": "timeout",
    "unavailable": "unavailable",
    "upstream_connect": "unavailable",
    "upstream_tls": "unavailable",
    "upstream_refused": "unavailable",
    "upstream_reset": "unavailable",
    "upstream_stream_reset": "unavailable",
    "upstream_calm": "unavailable",
    "upstream_protocol": "unavailable",
    "upstream_unreadable": "unavailable",
    "signature_unknown": "unavailable",
    "fault_injected": "unavailable",
    "rate_limited": "quota",
    "quota_exhausted": "quota",
}


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
    never: bool = setting(False, "no lesser answers for these: rather an error")
    queue_age: Duration = setting(
        Duration(0.1), "with `when: queue_age`: how long the first in the queue has waited", example="100ms"
    )
    patience: Duration = setting(
        Duration(5.0), "with slo_burn or queue_age: a step that does not help in this time leads to the next"
    )
    calm: Duration = setting(
        Duration(30.0),
        "with slo_burn or queue_age: time at ease before one step back; doubled, up to eight times, if that "
        "was too early",
    )

    @classmethod
    def from_text(cls, text: str) -> Degrade:
        """Read the pool that answers now, or `never`."""
        return cls(never=True) if text == "never" else cls(to=text)

    def __post_init__(self) -> None:
        if self.never and (self.steps or self.to is not None):
            raise ValueError("expected either `never`, or steps or a pool")
        if not self.steps and self.to is None and not self.never:
            raise ValueError("expected `steps: [{pool: …}, …]`, `never`, or the pool that shall answer now")
        if min(self.queue_age, self.patience, self.calm) <= 0:
            raise ValueError("expected times above zero for queue_age, patience and calm")

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

    def needs(self) -> Iterable[str]:
        """An objective that may burn."""
        return ("slo",) if "slo_burn" in self.when and self.steps else ()


class DegradeFilter(Filter):
    """Walks the steps.

    served: requests that got a lesser answer, by step. mine: set where this is the rule that was chosen.
    """

    name = "degrade"
    place = 85

    def __init__(self, rule: Rule[Degrade], parts: Parts) -> None:
        self.rule = rule
        self._when = frozenset(rule.value.when)
        self._to = None if rule.value.to is None else parts.pools[rule.value.to]
        self._rungs = tuple(Rung(step, rule.policy, parts) for step in rule.value.steps)
        self._constants = tuple(rung for rung in self._rungs if rung.needs_body)
        self.needs_body = bool(self._constants)
        self._beforehand = bool(self._when & BEFOREHAND) and bool(self._rungs)
        self._walked: Slot[Walk] = Slot()
        self.mine: Slot[bool] = Slot()
        self.served: dict[str, int] = {}

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Send it to the lesser pool; a dead one serves nobody, so then it goes where it was meant."""
        for rung in self._constants:
            rung.prime(ctx)
        if self._beforehand:
            self.mine.set(ctx, True)
        if self._to is None or not self._to.usable(ctx.now):
            return None
        if not self.rule.enforce:
            if ctx.trail is not None:
                ctx.note(self.name, f"would send to {self._to.name}", self.rule.policy, self.rule.origin)
        else:
            ctx.pool = self._to
            ctx.version = ""
            self._count(ctx, f"pool:{self._to.name}", BY_HAND)
        return None

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        """Soften a refusal that is about capacity or quota."""
        return self._soften(ctx, refusal.code)

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        """Soften a failure of the pool."""
        return self._soften(ctx, error.code)

    def begin_at(self, ctx: Context, level: int, trigger: str) -> Response | None:
        """Let a request begin at a step of the ladder instead of with the full answer. level: 1, 2, …"""
        walk = Walk(level - 1, ctx.pool, ctx.version)
        lesser = self._next(ctx, DEGRADED, walk, trigger, thinned_is_full=True)
        if isinstance(lesser, Response):
            return lesser
        if lesser is not None:
            ctx.pool = lesser
        return None

    def _soften(self, ctx: Context, code: str) -> Response | Pool | None:
        trigger = _WHEN.get(code)
        if trigger is None or trigger not in self._when:
            return None
        walk = self._walked.get(ctx) or Walk(0, ctx.pool, ctx.version)
        return self._next(ctx, code, walk, trigger)

    def _next(
        self, ctx: Context, code: str, walk: Walk, trigger: str, thinned_is_full: bool = False
    ) -> Response | Pool | None:
        """Serve by the next step that can. thinned_is_full: who may go on gets the full answer after all."""
        for index in range(walk.next, len(self._rungs)):
            rung = self._rungs[index]
            lesser = rung.serve(ctx, code, walk)
            if lesser is not None:
                self._walked.set(ctx, Walk(index + 1, walk.meant, walk.version))
                if not (thinned_is_full and lesser is walk.meant):
                    self._count(ctx, rung.label, trigger)
                return lesser
        return None

    def _count(self, ctx: Context, step: str, trigger: str) -> None:
        ctx.degraded = step
        ctx.degraded_by = trigger
        if not ctx.dry:
            self.served[step] = self.served.get(step, 0) + 1
        if ctx.trail is not None:
            ctx.note(self.name, f"served by {step}", self.rule.policy, self.rule.origin, {"trigger": trigger})


class BeforehandFilter(Filter):
    """Looks at what is seen before a request fails, and lets requests begin further down the ladder."""

    name = "degrade"
    place = 91  # after the cache: a fresh answer that is there costs the pool nothing

    def __init__(self, degrade: DegradeFilter, parts: Parts) -> None:
        config = degrade.rule.value
        self._degrade = degrade
        self._rule = degrade.rule
        self._endpoint = parts.endpoint
        self._pressure = parts.pressure
        self._by_slo = "slo_burn" in config.when
        self._oldest = config.queue_age if "queue_age" in config.when else 0.0
        self.ladder = Ladder(len(config.steps), config.calm, config.patience)
        self._key = (parts.endpoint, degrade.rule.policy)
        self._trigger = ""
        self._looked = 0.0
        parts.pressure.ladders[self._key] = self.ladder

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Go on, answer, or send to a lesser pool."""
        if ctx.degraded or (self._rule.enforce and not self._degrade.mine.get(ctx)):
            return None
        if ctx.now - self._looked >= LOOK and not ctx.dry:
            self._look(ctx)
        level = self.ladder.level
        if not level:
            return None
        if ctx.trail is not None:
            numbers = {"level": level, "trigger": self._trigger}
            ctx.note(self.name, f"begins at step {level}", self._rule.policy, self._rule.origin, numbers)
        return self._degrade.begin_at(ctx, level, self._trigger) if self._rule.enforce else None

    def close(self) -> None:
        """Show it no more."""
        if self._pressure.ladders.get(self._key) is self.ladder:
            del self._pressure.ladders[self._key]

    def _look(self, ctx: Context) -> None:
        self._looked = now = ctx.now
        objective = self._pressure.objectives.get(self._endpoint) if self._by_slo else None
        burning = 0.0 if objective is None else objective.severity(now)
        queue = None if ctx.pool is None or not self._oldest else ctx.pool.queue
        waiting = 0.0 if queue is None else queue.age(now) / self._oldest
        before = self.ladder.level
        if self.ladder.look(max(burning, waiting), now) > before:
            self._trigger = "slo_burn" if burning >= waiting else "queue_age"


def _build(rules: Sequence[Rule[Degrade]], parts: Parts) -> Iterable[Filter]:
    for rule in rules:
        degrade = DegradeFilter(rule, parts)
        yield degrade
        if rule.value.steps and BEFOREHAND & set(rule.value.when):
            yield BeforehandFilter(degrade, parts)


KIND = FilterKind("degrade", Degrade, summary="a lesser answer instead of none", build=_build)
