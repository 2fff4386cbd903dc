"""Sheds requests by importance while the gateway is pressed (the policy and its words: importance.py)."""

from __future__ import annotations

from typing import Final

from gateway.governance.overload import Importance as Level
from gateway.governance.overload import Shedder
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Parts, Rule
from gateway.pipeline.moments import Filter

LEVELS: Final = {"critical": Level.CRITICAL, "normal": Level.NORMAL, "sheddable": Level.SHEDDABLE}
RETRY_AFTER: Final = 1.0  # s: the pressure falls by a fifth per second when its cause is gone


class ImportanceFilter(Filter):
    """Sets the request's importance, and sheds it while the pressure says so."""

    name = "importance"
    place = 45

    def __init__(self, rule: Rule[object], level: str, parts: Parts) -> None:
        self._own = int(LEVELS[level])
        self._rule = rule
        self._enforce = rule.enforce
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
            details={"importance": level},
        )

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Let it pass, or shed it."""
        importance = self._own
        if ctx.principal is not None and ctx.principal.importance:
            importance = _combined(importance, int(LEVELS[ctx.principal.importance]))
        if self._enforce:
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
