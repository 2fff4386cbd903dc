"""How much may pass: token buckets of all widths, decided together, all or nothing.

    throttle: 50/s                              the endpoint, 50 requests per second
    throttle: 5/s per principal burst 5         each principal for itself
    throttle: [50/s, 20000 rows/min per tenant]

Every throttle that applies to a request must have room, or nothing is spent anywhere. What the head can tell
(requests, bytes) is decided before the body is read; rows are decided once the tensors are known, and when
they are refused the head's tokens are given back. Rows are reserved: a request that reaches no instance (a
cache hit, a later refusal, a dead pool) gives them back at its end. Requests stay spent.

Which bucket: a throttle on an endpoint's page counts that endpoint's requests. One in a policy or a plan
counts over all endpoints that it applies to when it says `per principal`, `tenant`, `plan`, `address` or
`header:NAME`, one bucket for each; without `per`, `per endpoint` or `per model` each endpoint or model has
its own. Somebody without a principal, plan or tenant is counted by the next best: tenant -> principal ->
address. A throttle whose rate or burst changes starts with a full bucket.

A refusal is 429 `rate_limited`, or `cost_above_burst` where coming back makes no sense, and names the
throttle that makes the caller wait longest. RateLimit and RateLimit-Policy follow
draft-ietf-httpapi-ratelimit-headers-11; on answers that passed they show the throttle with the least room.

While the store of the counters is away each throttle's `on_store_failure` decides: `local` counts in this
gateway, with its share of rate and burst; `open` lets pass; `closed` refuses with 503 `store_unavailable`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from math import inf
from typing import Final, Literal

from gateway.config.kind import REQUIRED, setting
from gateway.config.schema import Failure
from gateway.config.units import Rate, parse_rate, render_rate
from gateway.dialects.tensors import InferRequest, rows
from gateway.http.message import Headers, Response
from gateway.http.ratelimit import limit_item, policy_item, quoted
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import EVERYBODY, Filter, FilterKind, Parts, Rule
from gateway.pipeline.ports import Claim, CounterStore, Grant, StoreUnavailable
from gateway.pipeline.prediction import is_prediction, read_prediction
from gateway.pipeline.promise import Eventual, Promise

Unit = Literal["requests", "rows", "bytes"]
Verdict = Response | Refusal | None

KEYS: Final = ("principal", "tenant", "plan", "address", "endpoint", "model")
_TEXT: Final = re.compile(
    r"(?P<count>[^\s/]+)(?: +(?P<unit>[a-z]+))? ?/ ?(?P<period>\S+)"
    r"(?: +per +(?P<per>\S+))?(?: +burst +(?P<burst>\S+))?"
)
_LATER: Final = ("tokens", "compute")
_LONGEST_SUBJECT: Final = 64  # bytes of a client's own text in a key; longer ones are hashed
STORE_RETRY: Final = 1.0  # s, what a client hears while the counters are away


@dataclass(frozen=True, slots=True)
class Throttle:
    """How much may pass in a time."""

    rate: Rate = setting(REQUIRED, "how much may pass", example="5/s")
    per: str = setting(
        "",
        "one bucket for each principal, tenant, plan, address, endpoint, model or header:NAME",
        example="principal",
    )
    burst: float | None = setting(
        None, "how much may come at once; default a tenth of one second's, at least 1", example=5, at_least=1
    )
    cost: Unit = setting("requests", "what is counted: requests, rows of predictions, or bytes of bodies")
    on_store_failure: Failure | None = setting(
        None, "while the counters are away: local, open or closed; default the stores' own"
    )

    @classmethod
    def from_text(cls, text: str) -> Throttle:
        """Read `N[ unit]/period[ per KEY][ burst B]`."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected a throttle like 50/s or `5/s per principal burst 5`, found {text!r}")
        rate = parse_rate(f"{found['count']}/{found['period']}")
        return cls(rate, found["per"] or "", _burst(found["burst"]), _unit(found["unit"] or "requests"))

    def __post_init__(self) -> None:
        if self.per and self.per not in KEYS and not (self.per.startswith("header:") and self.per[7:]):
            raise ValueError(f"expected per {', '.join(KEYS)} or header:NAME, found {self.per!r}")

    @property
    def size(self) -> float:
        """Tokens of a full bucket."""
        return max(1.0, self.rate.per_second / 10.0) if self.burst is None else self.burst

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


def _unit(text: str) -> Unit:
    match text:
        case "requests" | "request":
            return "requests"
        case "rows" | "row":
            return "rows"
        case "bytes" | "byte":
            return "bytes"
    if text in _LATER:
        raise ValueError(f"expected requests, rows or bytes; {text} can't be counted yet")
    raise ValueError(f"expected requests, rows or bytes before the slash, found {text!r}")


# Whose bucket

Subject = Callable[[Context], bytes]


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
    field = per.removeprefix("header:").lower().encode()
    return (lambda ctx: b"header " + _short(ctx.request.header(field) or b"")), None


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


def _short(text: bytes) -> bytes:
    return text if len(text) <= _LONGEST_SUBJECT else blake2b(text, digest_size=32).digest()


# One throttle, ready to be claimed from


class Level:
    """One throttle of one endpoint. plain: it applies to everybody, always."""

    __slots__ = (
        "_fixed",
        "_prefix",
        "_subject",
        "burst",
        "limit",
        "member",
        "name",
        "on_failure",
        "plain",
        "rate",
        "rule",
        "unit",
    )

    def __init__(self, rule: Rule[Throttle], parts: Parts) -> None:
        throttle = rule.value
        self.rule = rule
        self.plain = rule.who == EVERYBODY and rule.since is None and rule.until is None
        self.unit = throttle.cost
        self.rate = throttle.rate.per_second
        self.burst = throttle.size
        self.limit = str(throttle)
        self.on_failure: Failure = throttle.on_store_failure or parts.on_store_failure
        name = rule.policy or parts.endpoint
        self.name = quoted(name)
        self.member = policy_item(name, throttle.rate.count, throttle.rate.period, _COUNTED[throttle.cost])
        self._prefix = f"{rule.policy}\0{throttle}\0".encode()
        self._subject, always = _subject(throttle.per, parts)
        self._fixed: Claim | None = None
        if always is not None and throttle.cost == "requests":
            self._fixed = Claim(self._prefix + always, 1.0, self.rate, self.burst)

    def claim(self, ctx: Context, costs: Mapping[Unit, float]) -> Claim:
        """Return the wish to spend this request's cost from its bucket."""
        if self._fixed is not None:
            return self._fixed
        return Claim(self._prefix + self._subject(ctx), costs[self.unit], self.rate, self.burst)

    def __repr__(self) -> str:
        return f"<Level {self.rule.policy}: {self.limit}>"


_COUNTED: Final[Mapping[Unit, str]] = {"requests": "requests", "rows": "rows", "bytes": "content-bytes"}


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


def _fields(level: Level, grant: Grant) -> Headers:
    seconds = grant.reset if grant.allowed else grant.retry_after
    return [
        (b"ratelimit-policy", level.member),
        (b"ratelimit", limit_item(level.name, grant.remaining, seconds)),
    ]


# The filters


class Throttling(Filter):
    """What both filters do: claim from the throttles that apply, together.

    would_refuse: requests that a throttle with `enforce: false` would have refused.
    """

    name = "throttle"

    def __init__(self, levels: Sequence[Level], parts: Parts) -> None:
        self._acting = tuple(level for level in levels if level.rule.enforce)
        self._rehearsing = tuple(level for level in levels if not level.rule.enforce)
        self._all_plain = all(level.plain for level in levels)
        units = {level.unit for level in levels}
        self._unit = units.pop() if len(units) == 1 else None
        self._store = parts.counters
        self._local = parts.local_counters
        self._gateways = parts.gateways
        self._clock = parts.clock
        self._spent: Slot[Spent] = Slot()
        self.would_refuse = 0

    def on_response(self, ctx: Context, response: Response) -> Response:
        """Tell the caller how much is left where it is least."""
        spent = self._spent.get(ctx)
        if spent is not None and spent.grant is not None and spent.levels:
            response.headers += _fields(spent.levels[spent.grant.binding], spent.grant)
        return response

    def on_done(self, ctx: Context) -> None:
        """From now on, what is granted late goes back."""
        spent = self._spent.get(ctx)
        if spent is not None:
            spent.over = True

    def refund(self, ctx: Context) -> None:
        """Give everything back: the request was refused after all."""
        spent = self._spent.get(ctx)
        if spent is not None:
            spent.give_back(ctx.now)

    def _decide(self, ctx: Context, costs: Mapping[Unit, float]) -> Eventual[Verdict]:
        """Spend from every throttle that applies, or from none. costs: per unit; one that isn't there is
        not counted.
        """
        levels = self._applying(ctx, self._acting, costs)
        spent = Spent(levels, [level.claim(ctx, costs) for level in levels], costs, self._store)
        if not ctx.dry:
            self._spent.set(ctx, spent)
        if levels:
            return self._take(ctx, spent)
        self._rehearse(ctx, spent)
        return None

    def _applying(
        self, ctx: Context, levels: Sequence[Level], costs: Mapping[Unit, float]
    ) -> Sequence[Level]:
        if not self._all_plain:
            wall = self._clock.wall()
            levels = [level for level in levels if level.rule.applies(ctx.principal, wall)]
        return levels if self._unit in costs else [level for level in levels if level.unit in costs]

    def _take(self, ctx: Context, spent: Spent) -> Eventual[Verdict]:
        granted = spent.store.take(spent.claims, ctx.now)
        if not isinstance(granted, Promise):
            return self._decided(ctx, spent, granted)
        later: Promise[Verdict] = Promise()

        def failed(error: Exception) -> None:
            if isinstance(error, StoreUnavailable) and spent.store is not self._local:
                _pass_on(self._without_store(ctx, spent), later)
            else:
                later.reject(error)

        granted.then(lambda grant: later.resolve(self._decided(ctx, spent, grant)), failed)
        return later

    def _decided(self, ctx: Context, spent: Spent, grant: Grant) -> Verdict:
        if ctx.trail is not None:
            level = spent.levels[grant.binding]
            _note(ctx, level, grant, "passed" if grant.allowed else "refused")
        if not grant.allowed:
            return _refusal(spent.levels[grant.binding], grant)
        spent.grant = grant
        if spent.over:
            spent.give_back(self._clock.now())
            return None
        if self._rehearsing:
            self._rehearse(ctx, spent)
        if ctx.dry:
            spent.give_back(self._clock.now())
        return None

    # The store is away

    def _without_store(self, ctx: Context, spent: Spent) -> Eventual[Verdict]:
        for level in spent.levels:
            if level.on_failure == "closed":
                return Refusal(
                    503,
                    "store_unavailable",
                    "the counters that this limit needs can't be reached",
                    policy=level.rule.policy,
                    retry_after=STORE_RETRY,
                )
        share = max(1, self._gateways())
        pairs = zip(spent.levels, spent.claims, strict=True)
        local = [(level, _share(claim, share)) for level, claim in pairs if level.on_failure == "local"]
        spent.levels, spent.claims = [level for level, _ in local], [claim for _, claim in local]
        spent.store = self._local
        return self._take(ctx, spent) if local else None

    # Throttles that only rehearse

    def _rehearse(self, ctx: Context, spent: Spent) -> None:
        """Decide each by itself, on requests that pass; nobody waits for them."""
        spent.also = []
        for level in self._applying(ctx, self._rehearsing, spent.costs):
            also = Spent((level,), (level.claim(ctx, spent.costs),), spent.costs, self._store)
            spent.also.append(also)
            granted = self._store.take(also.claims, ctx.now)
            if isinstance(granted, Promise):  # without a store there is no rehearsal
                granted.then(partial(self._rehearsed, ctx, spent, also), lambda _: None)
            else:
                self._rehearsed(ctx, spent, also, granted)

    def _rehearsed(self, ctx: Context, spent: Spent, also: Spent, grant: Grant) -> None:
        if grant.allowed:
            also.grant = grant
            if spent.over or ctx.dry:
                also.give_back(self._clock.now())
            return
        self.would_refuse += 1
        ctx.rehearsed += ((also.levels[0].rule.policy, "rate_limited"),)
        if ctx.trail is not None:
            _note(ctx, also.levels[0], grant, "would refuse")


def _share(claim: Claim, share: int) -> Claim:
    """Return this gateway's part of a bucket; what the whole bucket could grant at once stays possible."""
    burst = max(claim.burst / share, min(claim.cost, claim.burst))
    return Claim(claim.key, claim.cost, claim.rate / share, burst)


def _refusal(level: Level, grant: Grant) -> Refusal:
    policy = level.rule.policy
    if grant.retry_after == inf:
        return Refusal(
            429,
            "cost_above_burst",
            f"the request costs more {level.unit} than may ever come at once (limit {level.limit})",
            policy=policy,
            headers=_fields(level, grant),
            details={"limit": level.limit},
        )
    return Refusal(
        429,
        "rate_limited",
        f"more than the limit of {level.limit}",
        policy=policy,
        retry_after=grant.retry_after,
        headers=_fields(level, grant),
        details={"limit": level.limit},
    )


def _note(ctx: Context, level: Level, grant: Grant, verdict: str) -> None:
    numbers = {
        "limit": level.limit,
        "remaining": grant.remaining,
        "retry_after": round(grant.retry_after, 3),
        "reset": round(grant.reset, 3),
    }
    ctx.note("throttle", verdict, level.rule.policy, level.rule.origin, numbers)


def _pass_on(verdict: Eventual[Verdict], later: Promise[Verdict]) -> None:
    if isinstance(verdict, Promise):
        verdict.then(later.resolve, later.reject)
    else:
        later.resolve(verdict)


_ONE_REQUEST: Final[Mapping[Unit, float]] = {"requests": 1.0}


class HeadThrottle(Throttling):
    """Throttles in requests."""

    place = 50

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Spend one request."""
        return self._decide(ctx, _ONE_REQUEST)


class BytesThrottle(Throttling):
    """Throttles in requests and bytes of body: those announced; a body of unknown length is charged after
    the fact, one byte of room lets it begin.
    """

    place = 50

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Spend one request and the announced bytes."""
        length = ctx.request.length
        if length == 0:
            return self._decide(ctx, _ONE_REQUEST)
        if length is None:
            self._unannounced.set(ctx, True)
        return self._decide(ctx, {"requests": 1.0, "bytes": float(length or 1)})

    def __init__(self, levels: Sequence[Level], parts: Parts) -> None:
        super().__init__(levels, parts)
        self._unannounced: Slot[bool] = Slot()

    def on_request_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """Count what streams past."""
        spent = self._spent.get(ctx)
        if spent is not None:
            spent.streamed += len(chunk)
        return chunk

    def on_done(self, ctx: Context) -> None:
        """Charge what was not announced: what streamed past, or what was collected."""
        spent = self._spent.get(ctx)
        if spent is not None and self._unannounced.get(ctx):
            more = (spent.streamed or ctx.request.length or 0) - 1
            if more > 0:
                spent.charge("bytes", float(more), ctx.now)
        super().on_done(ctx)


class RowsThrottle(Throttling):
    """Throttles in rows of predictions, reserved until the request's end."""

    place = 70
    needs_body = True

    def __init__(self, levels: Sequence[Level], parts: Parts, head: Throttling | None) -> None:
        super().__init__(levels, parts)
        self._signatures = parts.signatures
        self._head = head

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Spend the prediction's rows; everything else has none."""
        if not is_prediction(ctx):
            return None
        infer = read_prediction(ctx, self._signatures)
        if not isinstance(infer, Promise):
            return self._charge(ctx, infer)
        later: Promise[Verdict] = Promise()
        infer.then(lambda read: _pass_on(self._charge(ctx, read), later), later.reject)
        return later

    def on_done(self, ctx: Context) -> None:
        """Give the rows back that no instance was asked to compute."""
        spent = self._spent.get(ctx)
        if spent is not None and not ctx.attempts:
            spent.give_back(ctx.now)
        super().on_done(ctx)

    def _charge(self, ctx: Context, infer: InferRequest | Refusal) -> Eventual[Verdict]:
        if isinstance(infer, Refusal):
            return infer
        count = rows(infer)
        if not count or ctx.finished:
            return None
        verdict = self._decide(ctx, {"rows": float(count)})
        if not isinstance(verdict, Promise):
            return self._settled(ctx, verdict)
        later: Promise[Verdict] = Promise()
        verdict.then(lambda late: later.resolve(self._settled(ctx, late)), later.reject)
        return later

    def _settled(self, ctx: Context, verdict: Verdict) -> Verdict:
        if verdict is not None and self._head is not None:
            self._head.refund(ctx)
        return verdict


def _build(rules: Sequence[Rule[Throttle]], parts: Parts) -> Iterable[Filter]:
    levels = [Level(rule, parts) for rule in dict.fromkeys(rules)]
    by_head = [level for level in levels if level.unit != "rows"]
    by_rows = [level for level in levels if level.unit == "rows"]
    head: Throttling | None = None
    if by_head:
        counts_bytes = any(level.unit == "bytes" for level in by_head)
        head = BytesThrottle(by_head, parts) if counts_bytes else HeadThrottle(by_head, parts)
        yield head
    if by_rows:
        yield RowsThrottle(by_rows, parts, head)


KIND = FilterKind("throttle", Throttle, summary="how much may pass", accumulates=True, build=_build)
