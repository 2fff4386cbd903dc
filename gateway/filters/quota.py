"""How much somebody may have in a day or a month: counted to the end of the window, over restarts.

    quota: 100000/day per principal                     a word is a window of the calendar, in UTC
    quota: 1000/day per principal in Europe/Berlin      … or where the caller's midnight is
    quota: 10000/24h per tenant                         a duration rolls: in any 24 hours
    quota: [2000000 tokens/month per tenant, 50000 rows/day per plan]

A throttle says how fast, a quota how much in all. Nothing refills before the window is over: a calendar
window starts anew for everybody at once, of a rolling one comes back what was spent so long ago (in steps of
a 48th of it, late rather than early: governance/windows.py).

What is promised: over all workers and gateways that share a ledger, no more than the quota is spent in a
window, but for the surplus of requests whose cost is known afterwards (tokens, compute, rows, bytes of a body
that did not announce them). The ledger is Redis where `stores.counters` is, else the file `stores.quotas`,
which the workers of one host share; either is asked about once a second and not for each request
(governance/allowance.py). A process that is killed loses what it had drawn and not spent: the caller gets
that much less, never more. Changing the number keeps what was spent; changing window, unit or `per` starts
anew.

Who counts together, what is counted, and who pays for what is never sent on are as for throttles, with one
difference: a request that is refused, by whatever policy, costs no quota.

A refusal is 429 `quota_exhausted` with Retry-After at the end of the window; the quota's name in the
RateLimit fields is `POLICY:WINDOW`. `degrade` may answer instead: `when: [quota]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.config.kind import REQUIRED, setting
from gateway.config.schema import Failure
from gateway.config.units import Rate, parse_duration, render_duration
from gateway.filters.throttle_built import filters_of, unit_of
from gateway.filters.throttle_claims import KEYS, Level, Unit
from gateway.filters.throttling import Book
from gateway.governance.allowance import MemoryLedger
from gateway.governance.windows import CALENDAR
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.quotas import Quotas

SHORTEST: Final = 60.0  # s; what is shorter is a throttle
_TEXT: Final = re.compile(
    r"(?P<most>[\d_]+)(?: +(?P<unit>[a-z]+))? ?/ ?(?P<window>\S+)"
    r"(?: +per +(?P<per>\S+))?(?: +in +(?P<zone>\S+))?"
)


@dataclass(frozen=True, slots=True)
class Quota:
    """How much somebody may have in a long time."""

    most: int = setting(REQUIRED, "how much in one window", example=100000, at_least=1)
    window: str = setting(
        "day",
        "hour, day, week, month or year, as the calendar has them; or a duration, which rolls",
        example="month",
    )
    per: str = setting(
        "",
        "one for each principal, tenant, plan, address, endpoint, model or header:NAME",
        example="principal",
    )
    cost: Unit = setting(
        "requests", "what is counted: requests, rows, bytes of bodies, tokens, or compute (milliseconds)"
    )
    zone: str = setting("UTC", "where days begin at midnight, as IANA names it", example="Europe/Berlin")
    on_store_failure: Failure | None = setting(
        None, "while the ledger is away: local, open or closed; default the stores' own"
    )

    @classmethod
    def from_text(cls, text: str) -> Quota:
        """Read `N[ unit]/WINDOW[ per KEY][ in ZONE]`."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected a quota like `100000/day per principal`, found {text!r}")
        most = int(found["most"].replace("_", ""))
        unit = unit_of(found["unit"] or "requests")
        return cls(most, found["window"], found["per"] or "", unit, found["zone"] or "UTC")

    def __post_init__(self) -> None:
        if self.per and self.per not in KEYS and not (self.per.startswith("header:") and self.per[7:]):
            raise ValueError(f"expected per {', '.join(KEYS)} or header:NAME, found {self.per!r}")
        if self.most < 1:
            raise ValueError(f"expected a quota of at least 1, found {self.most}")
        if self.seconds < SHORTEST:
            raise ValueError(f"expected a window of a minute or more, found {self.window!r}: use a throttle")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"expected a time zone like Europe/Berlin, found {self.zone!r}") from error

    @property
    def seconds(self) -> float:
        """How long a window usually is."""
        if self.window in CALENDAR:
            return CALENDAR[self.window]
        try:
            return parse_duration(self.window)
        except ValueError:
            words = ", ".join(CALENDAR)
            raise ValueError(f"expected {words} or a duration like 24h, found {self.window!r}") from None

    @property
    def spec(self) -> str:
        """The window as governance/windows.py reads it."""
        return f"{self.window if self.window in CALENDAR else f'{self.seconds:g}'} {self.zone}"

    def __str__(self) -> str:
        unit = "" if self.cost == "requests" else f" {self.cost}"
        per = f" per {self.per}" if self.per else ""
        zone = "" if self.zone == "UTC" else f" in {self.zone}"
        window = self.window if self.window in CALENDAR else render_duration(self.seconds)
        return f"{self.most}{unit}/{window}{per}{zone}"


def _level(rule: Rule[Quota], parts: Parts) -> Level:
    quota = rule.value
    return Level(
        rule,
        parts,
        unit=quota.cost,
        rate=Rate(float(quota.most), quota.seconds),
        size=float(quota.most),
        per=quota.per,
        limit=str(quota),
        on_failure=quota.on_store_failure,
        code="quota_exhausted",
        name=f"{rule.policy or parts.endpoint}:{quota.window}",
        identity=f"{quota.spec}\0{rule.policy}\0{quota.cost}\0{quota.per}\0".encode(),
    )


def _build(rules: Sequence[Rule[Quota]], parts: Parts) -> Iterable[Filter]:
    levels = [_level(rule, parts) for rule in dict.fromkeys(rules)]
    local = parts.local_quotas or Quotas(MemoryLedger(), parts.clock.wall)
    book = Book("quota", parts.quotas or local, local, head=47, rows=69, free=True)
    return filters_of(levels, parts, book)


KIND = FilterKind("quota", Quota, summary="how much in a day or a month", accumulates=True, build=_build)
