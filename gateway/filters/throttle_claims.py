"""Throttles as claims on token buckets: whose bucket, how much of it, and what one request took.

A `Level` is one throttle of one endpoint, ready to be claimed from. How claims are decided: throttling.py,
governance/token_bucket.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

from gateway.config.schema import Failure
from gateway.config.units import Rate
from gateway.governance.heavy_hitters import HeavyHitters
from gateway.governance.rate_borrower import EXACT
from gateway.governance.warming import Warmth
from gateway.http.ratelimit import policy_item, quoted
from gateway.pipeline.context import Context
from gateway.pipeline.filter import EVERYBODY, Parts, Rule
from gateway.pipeline.ports import Claim, CounterStore, Grant, Principal

Unit: TypeAlias = Literal["requests", "rows", "bytes", "tokens", "compute"]

_LONGEST_SUBJECT: Final = 64  # bytes of a client's own text in a key; longer ones are hashed
_COUNTED: Final[Mapping[Unit, str]] = {
    "requests": "requests",
    "rows": "rows",
    "bytes": "content-bytes",
    "tokens": "tokens",
    "compute": "compute-ms",
}

# Whose bucket

KEYS: Final = ("principal", "tenant", "plan", "address", "endpoint", "model")
SHARED: Final = frozenset(("", "endpoint", "model"))  # nobody's own: everybody counts together

Subject: TypeAlias = Callable[[Context], bytes]
_BY_PRINCIPAL: Final = frozenset(("principal", "tenant", "plan", "", "endpoint", "model"))


def _subject(per: str, parts: Parts) -> tuple[Subject, bytes | None]:
    """Return what tells one bucket of a throttle from another, and the one bucket if there is only one."""
    match per:
        case "principal":
            return _principal, None
        case "tenant":
            return _tenant, None
        case "plan":
            return _plan, None
        case "address":
            return _address, None
        case "" | "endpoint":
            endpoint = b"endpoint " + parts.endpoint.encode()
            return (lambda _: endpoint), endpoint
        case "model":
            model = b"model " + (parts.model or parts.endpoint).encode()
            return (lambda _: model), model
    if per.startswith("claim:"):
        claim = per.removeprefix("claim:")
        return (lambda ctx: b"claim " + _short(_claimed(ctx, claim))), None
    if per.startswith("segment:"):
        segment = int(per.removeprefix("segment:"))
        return (lambda ctx: b"segment " + _short(_segment(ctx, segment))), None
    field = per.removeprefix("header:").lower().encode()
    return (lambda ctx: b"header " + _short(ctx.request.header(field) or b"")), None


def subject_of(per: str, parts: Parts) -> Subject:
    """Return what tells whose requests count together."""
    return _subject(per, parts)[0]


def _principal(ctx: Context) -> bytes:
    return _address(ctx) if ctx.principal is None else b"principal " + ctx.principal.name.encode()


def _tenant(ctx: Context) -> bytes:
    if ctx.principal is None or not ctx.principal.tenant:
        return _principal(ctx)
    return b"tenant " + ctx.principal.tenant.encode()


def _plan(ctx: Context) -> bytes:
    return b"plan " + (b"" if ctx.principal is None else ctx.principal.plan.encode())


def _address(ctx: Context) -> bytes:
    return b"address " + ctx.client.encode()


def _claimed(ctx: Context, claim: str) -> bytes:
    claims = None if ctx.principal is None else ctx.principal.claims
    return b"" if claims is None else str(claims.get(claim, "")).encode("utf-8", "surrogatepass")


def _segment(ctx: Context, number: int) -> bytes:
    """Return a segment of the path; the first is 1. b"" where there are not so many."""
    segments = ctx.request.path.split(b"/", number + 1)
    return segments[number] if number < len(segments) else b""


def _short(text: bytes) -> bytes:
    return text if len(text) <= _LONGEST_SUBJECT else blake2b(text, digest_size=32).digest()


# One throttle, ready to be claimed from


class Level:
    """One throttle of one endpoint.

    unit: what is counted. rate: of it, per period. size: of a full bucket. per: whose bucket. limit: all that
    as the policy says it. prefix: of its buckets' keys. plain: it applies to everybody, always. steady: to
    whom it applies and which bucket it means depends on the principal alone, where there is one. pace: s that
    a request may wait for its turn. status, code: of its refusals. passed, refused, waited: requests that it
    decided; of refused ones only those where it was the one that made them wait longest.
    """

    __slots__ = (
        "_fixed",
        "_subject",
        "_warmth",
        "burst",
        "code",
        "hot",
        "limit",
        "member",
        "name",
        "on_failure",
        "pace",
        "passed",
        "per",
        "plain",
        "prefix",
        "rate",
        "refused",
        "rule",
        "status",
        "steady",
        "unit",
        "waited",
    )

    def __init__(
        self,
        rule: Rule[object],
        parts: Parts,
        *,
        unit: Unit,
        rate: Rate,
        size: float,
        per: str,
        limit: str,
        on_failure: Failure | None,
        pace: float = 0.0,
        exact: bool = False,
        status: int = 429,
        code: str = "rate_limited",
        name: str = "",
        identity: bytes = b"",
        warm_up: float = 0.0,
        hot: int = 0,
    ) -> None:
        """name: in the RateLimit fields; default the policy's. identity: of its buckets, where it is not the
        policy and the limit's text."""
        lasting = rule.since is None and rule.until is None and not rule.during
        self.rule = rule
        self.plain = lasting and rule.who == EVERYBODY
        self.steady = lasting and per in _BY_PRINCIPAL
        self.unit: Unit = unit
        self.rate = rate.per_second
        self.burst = size
        self.limit = limit
        self.on_failure: Failure = on_failure or parts.on_store_failure
        name = name or rule.policy or parts.endpoint
        self.name = quoted(name)
        self.member = policy_item(name, rate.count, rate.period, _COUNTED[unit])
        self.prefix = identity or (EXACT if exact else b"") + f"{rule.policy}\0{limit}\0".encode()
        self.pace = pace
        self.status = status
        self.code = code
        self.per = per
        self.passed = 0
        self.refused = 0
        self.waited = 0
        self._subject, always = _subject(per, parts)
        self._fixed: Claim | None = None
        self.hot: HeavyHitters | None = HeavyHitters(hot, max(1.0, self.rate / 2)) if hot else None
        self._warmth: Warmth | None = Warmth(warm_up, parts.gateways) if warm_up else None
        self.steady = self.steady and not warm_up
        if always is not None and unit == "requests" and not warm_up:
            self._fixed = Claim(self.prefix + always, 1.0, self.rate, self.burst)

    def spares(self, ctx: Context) -> bool:
        """Tell whether the limit is for hot values alone, and this request's is none."""
        return self.hot is not None and not self.hot.is_hot(self._subject(ctx), ctx.now)

    def claim(self, ctx: Context, costs: Mapping[Unit, float]) -> Claim:
        """Return the wish to spend this request's cost from its bucket."""
        if self._fixed is not None:
            return self._fixed
        if self._warmth is not None:
            cost = costs[self.unit] * self._warmth.price(ctx.now)
            return Claim(self.prefix + self._subject(ctx), cost, self.rate, self.burst)
        return Claim(self.prefix + self._subject(ctx), costs[self.unit], self.rate, self.burst)

    def __repr__(self) -> str:
        return f"<Level {self.rule.policy}: {self.limit}>"


class Due:
    """What every request of one principal claims. principal: whom it was found out for."""

    __slots__ = ("claims", "levels", "principal")

    def __init__(self, principal: Principal, levels: Sequence[Level], claims: Sequence[Claim]) -> None:
        self.principal = principal
        self.levels = levels
        self.claims = claims


# What one request spent


class Spent:
    """What one request claims of the throttles of one filter, and what it was granted of that.

    grant: None until it was granted, and again when it was given back. also: the claims of throttles that
    only rehearse. over: the request has ended; a grant that comes now is given back, for nothing was done
    with it.
    """

    __slots__ = ("also", "claims", "costs", "grant", "levels", "over", "store", "streamed")

    def __init__(
        self,
        levels: Sequence[Level],
        claims: Sequence[Claim],
        costs: Mapping[Unit, float],
        store: CounterStore,
    ) -> None:
        self.levels = levels
        self.claims = claims
        self.costs = costs
        self.store = store  # the one that decides
        self.grant: Grant | None = None
        self.also: list[Spent] | None = None
        self.over = False
        self.streamed = 0  # bytes of a body whose length was not announced

    def give_back(self, now: float) -> None:
        """Give back what was granted; a second time gives nothing."""
        if self.grant is not None:
            self.grant = None
            self.store.settle([Claim(c.key, -c.cost, c.rate, c.burst) for c in self.claims], now)
        for other in self.also or ():
            other.give_back(now)

    def charge(self, unit: Unit, cost: float, now: float) -> None:
        """Charge more after the fact, into debt if need be."""
        if self.grant is not None:
            pairs = zip(self.levels, self.claims, strict=True)
            more = [Claim(c.key, cost, c.rate, c.burst) for level, c in pairs if level.unit == unit]
            self.store.settle(more, now)
        for other in self.also or ():
            other.charge(unit, cost, now)
