"""What throttles do to a request: its claims on their buckets are decided together, and given back or charged
later.

Which throttles apply, and which buckets they mean, is the same for every request of one principal, unless a
throttle counts by address, by a field, or for a time only. So that is found out once per principal and
remembered, for as many as `KNOWN` of them.

While the store of the counters is away each throttle's `on_store_failure` decides: `local` counts in this
gateway, with its share of rate and burst; `open` lets pass; `closed` refuses with 503 `store_unavailable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Final, TypeAlias

from gateway.dialects.tensors import InferRequest, rows
from gateway.filters.throttle_claims import Due, Level, Spent, Unit
from gateway.http.message import Headers, Response
from gateway.http.ratelimit import limit_item
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Parts
from gateway.pipeline.moments import Filter
from gateway.pipeline.ports import Claim, CounterStore, Grant, Principal, StoreUnavailable, Timers
from gateway.pipeline.prediction import ROWS_KEPT, is_prediction, read_prediction
from gateway.pipeline.promise import Eventual, Promise

Verdict: TypeAlias = Response | Refusal | None

KNOWN: Final = 4096  # principals whose throttles are remembered
JITTER: Final = 0.25  # at most so much later than need be, lest all refused come back at once
LONGEST_JITTER: Final = 30.0  # s
STORE_RETRY: Final = 1.0  # s, what a client hears while the counters are away
_ONE_REQUEST: Final[Mapping[Unit, float]] = {"requests": 1.0}


def _fields(level: Level, grant: Grant) -> Headers:
    seconds = grant.reset if grant.allowed else grant.retry_after
    return [
        (b"ratelimit-policy", level.member),
        (b"ratelimit", limit_item(level.name, grant.remaining, seconds)),
    ]


class Book:
    """Where limits of one verb are counted. local: while the store is away. head, rows: the places of what
    can be decided by the head, and of rows. is_free_if_refused: a request that is refused later on, by
    whichever filter, gets all back.
    """

    __slots__ = ("head", "is_free_if_refused", "local", "rows", "store", "verb")

    def __init__(
        self, verb: str, store: CounterStore, local: CounterStore, head: int, rows: int, free: bool
    ) -> None:
        self.verb = verb
        self.store = store
        self.local = local
        self.head = head
        self.rows = rows
        self.is_free_if_refused = free


# The filters


class Throttling(Filter):
    """What both filters do: claim from the throttles that apply, together.

    would_refuse: requests that a throttle with `enforce: false` would have refused. levels: all of them.
    """

    def __init__(self, levels: Sequence[Level], parts: Parts, book: Book) -> None:
        self.name = book.verb
        self.place = book.head
        self.levels = tuple(levels)
        self._is_free_if_refused = book.is_free_if_refused
        self._acting = tuple(level for level in levels if level.rule.enforce)
        self._rehearsing = tuple(level for level in levels if not level.rule.enforce)
        self._all_plain = all(level.plain for level in levels)
        self._some_are_hot = any(level.hot is not None for level in levels)
        units = {level.unit for level in levels}
        self._unit = units.pop() if len(units) == 1 else None
        self._store = book.store
        self._local = book.local
        self._gateways = parts.gateways
        self._clock = parts.clock
        self._timers = parts.timers
        self._chance = parts.ids.chance
        self.paced = 0  # requests that waited for their turn
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
            if spent.grant is not None and not ctx.attempts:
                left_early = not spent.grant.allowed  # before its turn came
                if left_early or (self._is_free_if_refused and ctx.refusal is not None):
                    spent.give_back(ctx.now)

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
        return self._claim(ctx, levels, [level.claim(ctx, costs) for level in levels], costs)

    def _claim(
        self, ctx: Context, levels: Sequence[Level], claims: Sequence[Claim], costs: Mapping[Unit, float]
    ) -> Eventual[Verdict]:
        spent = Spent(levels, claims, costs, self._store)
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
        if self._some_are_hot:
            levels = [level for level in levels if not level.spares(ctx)]
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

        granted.then(lambda grant: _pass_on(self._decided(ctx, spent, grant), later), failed)
        return later

    def _wait(self, ctx: Context, spent: Spent, grant: Grant, timers: Timers) -> Eventual[Verdict]:
        """Take the next turn: charged now, into debt, so that who comes later waits longer; in order, evenly.

        A client that leaves meanwhile gives its turn back at the end of its request.
        """
        self.paced += 1
        spent.levels[grant.binding].waited += 1
        spent.store.settle(spent.claims, ctx.now)
        spent.grant = grant
        later: Promise[Verdict] = Promise()

        def turn() -> None:
            if not spent.over:
                ctx.now = self._clock.now()
                self._rehearse(ctx, spent)
            later.resolve(None)

        timers.punctual(ctx.now + grant.retry_after, turn)
        return later

    def _decided(self, ctx: Context, spent: Spent, grant: Grant) -> Eventual[Verdict]:
        if ctx.trail is not None:
            level = spent.levels[grant.binding]
            _note(ctx, self.name, level, grant, "passed" if grant.allowed else "refused")
        if not grant.allowed:
            level = spent.levels[grant.binding]
            if level.pace and grant.retry_after <= level.pace and self._timers is not None and not ctx.dry:
                return self._wait(ctx, spent, grant, self._timers)
            if not ctx.dry:
                level.refused += 1
            return _refusal(level, grant, self._chance())
        spent.grant = grant
        if not ctx.dry:
            for level in spent.levels:
                level.passed += 1
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
        level = also.levels[0]
        ctx.rehearsed += ((level.rule.policy, level.code),)
        if ctx.trail is not None:
            _note(ctx, self.name, level, grant, "would refuse")


def _share(claim: Claim, share: int) -> Claim:
    """Return this gateway's part of a bucket; what the whole bucket could grant at once stays possible."""
    burst = max(claim.burst / share, min(claim.cost, claim.burst))
    return Claim(claim.key, claim.cost, claim.rate / share, burst)


def _refusal(level: Level, grant: Grant, chance: float) -> Refusal:
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
        level.status,
        level.code,
        f"more than the limit of {level.limit}",
        policy=policy,
        retry_after=grant.retry_after + chance * min(JITTER * grant.retry_after, LONGEST_JITTER),
        headers=_fields(level, grant),
        details={"limit": level.limit},
    )


def _note(ctx: Context, verb: str, level: Level, grant: Grant, verdict: str) -> None:
    numbers = {
        "limit": level.limit,
        "remaining": grant.remaining,
        "retry_after": round(grant.retry_after, 3),
        "reset": round(grant.reset, 3),
    }
    ctx.note(verb, verdict, level.rule.policy, level.rule.origin, numbers)


def _pass_on(verdict: Eventual[Verdict], later: Promise[Verdict]) -> None:
    if isinstance(verdict, Promise):
        verdict.then(later.resolve, later.reject)
    else:
        later.resolve(verdict)


class HeadThrottle(Throttling):
    """Throttles in requests."""

    def __init__(self, levels: Sequence[Level], parts: Parts, book: Book) -> None:
        super().__init__(levels, parts, book)
        self._steady = all(level.steady for level in levels)
        self._known: dict[str, Due] = {}  # by the principal's name

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Spend one request."""
        principal = ctx.principal
        if principal is None or not self._steady:
            return self._decide(ctx, _ONE_REQUEST)
        due = self._known.get(principal.name)
        if due is None or due.principal is not principal:
            due = self._find_out(ctx, principal)
        return self._claim(ctx, due.levels, due.claims, _ONE_REQUEST)

    def _find_out(self, ctx: Context, principal: Principal) -> Due:
        levels = self._applying(ctx, self._acting, _ONE_REQUEST)
        due = Due(principal, levels, [level.claim(ctx, _ONE_REQUEST) for level in levels])
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[principal.name] = due
        return due


class BytesThrottle(Throttling):
    """Throttles in requests and bytes of body: those announced; a body of unknown length is charged after
    the fact, one byte of room lets it begin.
    """

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Spend one request and the announced bytes."""
        length = ctx.request.length
        if length == 0:
            return self._decide(ctx, _ONE_REQUEST)
        if length is None:
            self._unannounced.set(ctx, True)
        return self._decide(ctx, {"requests": 1.0, "bytes": float(length or 1)})

    def __init__(self, levels: Sequence[Level], parts: Parts, book: Book) -> None:
        super().__init__(levels, parts, book)
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

    needs_body = True

    def __init__(self, levels: Sequence[Level], parts: Parts, book: Book, head: Throttling | None) -> None:
        super().__init__(levels, parts, book)
        self.place = book.rows
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
        elif spent is not None:
            kept = ROWS_KEPT.get(ctx)
            if kept:
                spent.charge("rows", -float(kept), ctx.now)
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
