"""How many requests may be under way at once: `concurrent: 10 per principal`.

Besides a throttle, which counts arrivals, this counts presence: a client whose requests take long is held
back by it, one with many short ones is not. A place is taken after authentication and given back at the
request's last byte, whichever way it ends (`on_done` runs exactly once, always).

Who shares places: as for throttles, `per principal`, `tenant`, `plan`, `address`, `header:NAME`, `model`;
without `per` the endpoint's requests do. Counts are kept in each process, with its share of the limit, at
least one place: over several gateways the whole is approximate, and never less than one each. A refusal is
429 `too_many_concurrent` where somebody's own requests are too many, and 503 where everybody's are.

Source: Stripe's concurrent request limiter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.kind import REQUIRED, setting
from gateway.filters.throttle_claims import KEYS, SHARED, subject_of
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.ports import Clock

RETRY_AFTER: Final = 1.0  # s: nobody knows when a place will be free
_TEXT: Final = re.compile(r"(?P<most>\d+)(?: +per +(?P<per>\S+))?")


@dataclass(frozen=True, slots=True)
class Concurrent:
    """How many requests may be under way at once."""

    most: int = setting(REQUIRED, "requests under way at once", example=10, at_least=1)
    per: str = setting(
        "",
        "places for each principal, tenant, plan, address, endpoint, model or header:NAME",
        example="principal",
    )

    @classmethod
    def from_text(cls, text: str) -> Concurrent:
        """Read `N[ per KEY]`."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected a number like `10` or `10 per principal`, found {text!r}")
        return cls(int(found["most"]), found["per"] or "")

    def __post_init__(self) -> None:
        if self.per and self.per not in KEYS and not (self.per.startswith("header:") and self.per[7:]):
            raise ValueError(f"expected per {', '.join(KEYS)} or header:NAME, found {self.per!r}")

    def __str__(self) -> str:
        return f"{self.most} concurrent" + (f" per {self.per}" if self.per else "")


class ConcurrentFilter(Filter):
    """Counts requests under way, by who shares places. under_way: only those who have some."""

    name = "concurrent"
    place = 49

    def __init__(self, rule: Rule[Concurrent], parts: Parts) -> None:
        self._rule = rule
        self._most = rule.value.most
        self._subject: Callable[[Context], bytes] = subject_of(rule.value.per, parts)
        self._gateways = parts.gateways
        self._clock: Clock = parts.clock
        self._place: Slot[bytes] = Slot()
        self.under_way: dict[bytes, int] = {}
        self._refusal = Refusal(
            503 if rule.value.per in SHARED else 429,
            "too_many_concurrent",
            f"more requests at once than the limit of {rule.value}",
            policy=rule.policy,
            retry_after=RETRY_AFTER,
            details={"limit": str(rule.value)},
        )

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Take a place, if there is one."""
        if not self._rule.applies(ctx.principal, self._clock.wall()):
            return None
        subject = self._subject(ctx)
        taken = self.under_way.get(subject, 0)
        most = max(1, -(-self._most // max(1, self._gateways())))
        is_full = taken >= most
        if ctx.trail is not None:
            numbers = {"limit": str(self._rule.value), "under_way": taken}
            verdict = "refused" if is_full else "passed"
            ctx.note(self.name, verdict, self._rule.policy, self._rule.origin, numbers)
        if is_full:
            if self._rule.enforce:
                return self._refusal
            ctx.rehearsed += ((self._rule.policy, "too_many_concurrent"),)
        if not ctx.dry:
            self.under_way[subject] = taken + 1
            self._place.set(ctx, subject)
        return None

    def on_done(self, ctx: Context) -> None:
        """Give the place back."""
        subject = self._place.get(ctx)
        if subject is None:
            return
        left = self.under_way[subject] - 1
        if left:
            self.under_way[subject] = left
        else:
            del self.under_way[subject]

    def __repr__(self) -> str:
        return f"<ConcurrentFilter {self._rule.value} | {sum(self.under_way.values())} under way>"


def _build(rules: Sequence[Rule[Concurrent]], parts: Parts) -> Iterable[Filter]:
    return [ConcurrentFilter(rule, parts) for rule in dict.fromkeys(rules)]


KIND = FilterKind(
    "concurrent",
    Concurrent,
    summary="how many requests may be under way at once",
    accumulates=True,
    build=_build,
)
