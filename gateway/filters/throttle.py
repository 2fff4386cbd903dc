"""How much may pass: token buckets of all widths, decided together, all or nothing.

    throttle: 50/s                              the endpoint, 50 requests per second
    throttle: 5/s per principal burst 5         each principal for itself
    throttle: [50/s, 20000 rows/min per tenant]
    throttle: 100000 tokens/min per tenant      of language models, prompt and answer
    throttle: 800 compute/s per plan            milliseconds that instances worked
    throttle: {rate: 10/s, pace: 500ms}         who is early waits, up to half a second
    throttle: {rate: 20/s, per: "segment:2", hot: 1000}    each /items/ITEM that is asked for very often
    throttle: {rate: 100/s, warm_up: 30s}       from a third of it to all of it while it is used

Every throttle that applies to a request must have room, or nothing is spent anywhere. What the head can tell
(requests, bytes) is decided before the body is read; rows are decided once the tensors are known, and when
they are refused the head's tokens are given back. Rows are reserved: a request that reaches no instance (a
cache hit, a later refusal, a dead pool) gives them back at its end. Requests stay spent.

Which bucket: a throttle on an endpoint's page counts that endpoint's requests. One in a policy or a plan
counts over all endpoints that it applies to when it says `per principal`, `tenant`, `plan`, `address` or
`header:NAME`, one bucket for each; without `per`, `per endpoint` or `per model` each endpoint or model has
its own. Somebody without a principal, plan or tenant is counted by the next best: tenant -> principal ->
address. A throttle whose rate or burst changes starts with a full bucket.

Tokens and compute are known when it is over: what such a request usually costs is reserved, the rest settled
as the answer streams past and at its end, into debt if need be (throttle_costs.py).

A refusal is 429 `rate_limited`, or `cost_above_burst` where coming back makes no sense, and names the
throttle that makes the caller wait longest. RateLimit and RateLimit-Policy follow
draft-ietf-httpapi-ratelimit-headers-11; on answers that passed they show the throttle with the least room.

How that is decided for a request, and what happens while the store of the counters is away: throttling.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.kind import REQUIRED, setting
from gateway.config.schema import Failure
from gateway.config.units import Duration, Rate, parse_rate, render_rate
from gateway.filters.throttle_built import filters_of, unit_of
from gateway.filters.throttle_claims import KEYS, SHARED, Level, Unit
from gateway.filters.throttling import Book
from gateway.governance.warming import COLD
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule

_OWN_KEY: Final = re.compile(r"(?:header|claim):.+|segment:[1-9]\d?")
_TEXT: Final = re.compile(
    r"(?P<count>[^\s/]+)(?: +(?P<unit>[a-z]+))? ?/ ?(?P<period>\S+)"
    r"(?: +per +(?P<per>\S+))?(?: +burst +(?P<burst>\S+))?"
)


@dataclass(frozen=True, slots=True)
class Throttle:
    """How much may pass in a time."""

    rate: Rate = setting(REQUIRED, "how much may pass", example="5/s")
    per: str = setting(
        "",
        "one bucket for each principal, tenant, plan, address, endpoint, model, header:NAME, claim:NAME of a "
        "token, or segment:N of the path",
        example="principal",
    )
    burst: float | None = setting(
        None, "how much may come at once; default a tenth of one second's, at least 1", example=5, at_least=1
    )
    cost: Unit = setting(
        "requests",
        "what is counted: requests, rows of predictions, bytes of bodies, tokens of language models, or "
        "compute: milliseconds that instances worked",
    )
    on_store_failure: Failure | None = setting(
        None, "while the counters are away: local, open or closed; default the stores' own"
    )
    pace: Duration = setting(
        Duration(0.0), "who comes too early waits up to so long instead of being refused", example="200ms"
    )
    warm_up: Duration = setting(
        Duration(0.0), "from a third of the rate to all of it in so long a time of use", example="30s"
    )
    hot: int = setting(
        0, "limit only the values that come most, so many of them at most; the others pass", example=1000
    )
    exact: bool = setting(False, "decide each request in the shared store; small limits always are")
    capacity: bool = setting(
        False, "the limit protects us and is nobody's quota: refused with 503 instead of 429"
    )

    @classmethod
    def from_text(cls, text: str) -> Throttle:
        """Read `N[ unit]/period[ per KEY][ burst B]`."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected a throttle like 50/s or `5/s per principal burst 5`, found {text!r}")
        rate = parse_rate(f"{found['count']}/{found['period']}")
        return cls(rate, found["per"] or "", _burst(found["burst"]), unit_of(found["unit"] or "requests"))

    def __post_init__(self) -> None:
        if self.per and self.per not in KEYS and not _OWN_KEY.fullmatch(self.per):
            words = f"{', '.join(KEYS)}, header:NAME, claim:NAME or segment:N"
            raise ValueError(f"expected per {words}, found {self.per!r}")
        if self.hot < 0 or (self.hot and self.per in SHARED):
            raise ValueError("expected hot: as a number of values, with `per`: whose values they are")
        if self.warm_up and (self.per not in SHARED or self.cost != "requests"):
            raise ValueError("expected warm_up on a limit of requests that everybody shares: it protects us")
        if self.warm_up and self.burst is not None and self.burst < COLD:
            raise ValueError(f"expected a burst of at least {COLD:g} with warm_up: a cold request costs that")

    @property
    def size(self) -> float:
        """Tokens of a full bucket."""
        least = COLD if self.warm_up else 1.0
        return max(least, self.rate.per_second / 10.0) if self.burst is None else self.burst

    def __str__(self) -> str:
        unit = "" if self.cost == "requests" else f" {self.cost}"
        count, period = render_rate(self.rate).split("/")
        per = f" per {self.per}" if self.per else ""
        return f"{count}{unit}/{period}{per} burst {self.size:g}"


def _burst(text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) < 1:
        raise ValueError(f"expected a burst of at least 1, found {text!r}")
    return float(text)


def _level(rule: Rule[Throttle], parts: Parts) -> Level:
    throttle = rule.value
    return Level(
        rule,
        parts,
        unit=throttle.cost,
        rate=throttle.rate,
        size=throttle.size,
        per=throttle.per,
        limit=str(throttle),
        on_failure=throttle.on_store_failure,
        pace=throttle.pace,
        exact=throttle.exact,
        status=503 if throttle.capacity else 429,
        warm_up=throttle.warm_up,
        hot=throttle.hot,
    )


def _build(rules: Sequence[Rule[Throttle]], parts: Parts) -> Iterable[Filter]:
    levels = [_level(rule, parts) for rule in dict.fromkeys(rules)]
    book = Book("throttle", parts.counters, parts.local_counters, head=50, rows=70, free=False)
    return filters_of(levels, parts, book)


KIND = FilterKind("throttle", Throttle, summary="how much may pass", accumulates=True, build=_build)
