"""Who goes without first when the gateway is pressed: sheddable requests, then normal, critical ones never.

`importance: sheddable` on an endpoint or a policy, `importance:` on a plan or a principal. A request is
sheddable as soon as one of the two says so (an import job of a paying customer is still an import job), else
critical if one does, else normal.

The pressure is one number, 0.0 to 1.0, that the edges measure (event-loop lag, requests in flight, full
pools); governance/overload.py has the law. One `Shedder` serves all endpoints of a gateway, because "the
lowest tenth" means of all requests, not of each endpoint's. Pools refuse by importance too, when their own
calls run out (pipeline/pool.py); this filter is the cheap No before any work was done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config import schema
from gateway.config.kind import setting
from gateway.governance.overload import Importance as Level
from gateway.governance.overload import Shedder
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule

LEVELS: Final = {"critical": Level.CRITICAL, "normal": Level.NORMAL, "sheddable": Level.SHEDDABLE}
RETRY_AFTER: Final = 1.0  # s: the pressure falls by a fifth per second when its cause is gone


@dataclass(frozen=True, slots=True)
class Importance:
    """Who goes first, and first goes without, under pressure."""

    level: schema.Importance = setting("normal", "critical, normal or sheddable", short=True)


class ImportanceFilter(Filter):
    """Sets the request's importance, and sheds it while the pressure says so."""

    name = "importance"
    place = 45

    def __init__(self, rule: Rule[Importance], parts: Parts) -> None:
        self._own = int(LEVELS[rule.value.level])
        self._rule = rule
        self._pressure = parts.pressure
        if parts.pressure.shedder is None:
            parts.pressure.shedder = Shedder(parts.ids.chance)
        self._shedder = parts.pressure.shedder
        self._refusal = Refusal(
            503,
            "overloaded",
            "the gateway is overloaded and serves more important requests first",
            policy=rule.policy,
            retry_after=RETRY_AFTER,
            details={"importance": rule.value.level},
        )

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Let it pass, or shed it."""
        importance = self._own
        if ctx.principal is not None and ctx.principal.importance:
            importance = _combined(importance, int(LEVELS[ctx.principal.importance]))
        if self._rule.enforce:
            ctx.importance = importance
        level = self._pressure.level
        if level <= 0.0 and ctx.trail is None:
            return None
        shed = self._shedder.sheds(importance, level)
        if ctx.trail is not None:
            verdict = "shed" if shed else "passed"
            numbers = {"importance": importance, "pressure": round(level, 3)}
            ctx.note(self.name, verdict, self._rule.policy, self._rule.origin, numbers)
        return self._refusal if shed else None


def _combined(first: int, second: int) -> int:
    if Level.SHEDDABLE in (first, second):
        return int(Level.SHEDDABLE)
    return min(first, second)


def _build(rules: Sequence[Rule[Importance]], parts: Parts) -> Iterable[Filter]:
    return [ImportanceFilter(rule, parts) for rule in rules]


KIND = FilterKind("importance", Importance, summary="who goes without first under pressure", build=_build)
