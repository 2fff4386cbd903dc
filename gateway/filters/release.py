"""From one version to the next: a canary gets a share of the requests, the stable version the rest.

    release: {kind: canary, stable: stable, candidate: newest, weight: 10%}
    release: {ramp: [5%, 25%, 50%, 100%], pause: 5m, judge: {errors: 1.25x, predictions: {max_abs: 0.001}}}

Every request takes part by chance of its own, or by what it is or whom it comes from (`sticky`): then a
principal, a client address, or a prediction meets the same arm every time and on every gateway, and stays in
the candidate's arm while its weight grows. The release's name salts the choice, so that it isn't always the
same few who go first. `sticky: prediction` is for endpoints with a cache, which keeps each version's answers
apart: the same question then finds its answer again, and is asked once however many ask it at once.

A browser is known by a cookie (`sticky: cookie`): a number that the gateway drew for it and that says
nothing but which lot it drew; whoever deletes it draws again.

`headers` and `cookies` name requests that meet the candidate whatever its weight (testers, an office), unless
it was taken back. What they are chose them, not chance, so they are in neither arm.

A fixed `weight` is moved by hand only; a `ramp` climbs by itself, and a `judge` watches every step
(governance/ramp.py, governance/judge.py, docs/releases.md). What a request says about its arm is taken in
when it is over: an error of an instance that was tried counts even where a retry or `degrade` hid it from the
client; what the gateway refused or the cache answered is in neither arm. With `predictions` a sample of
stable's requests is put to the candidate, too, and both answers are compared.

A request that names a version in its URL or by the override header takes no part and counts in no arm. A
dead candidate (no instance that could take a call) falls back to stable; a dead stable does not fall back
to a candidate that nobody trusts yet: that is what `degrade` is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.dialects.canonical import canonical_key
from gateway.dialects.compare import Difference, compare
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature
from gateway.dialects.protocol import Operation
from gateway.dialects.tensors import InferRequest
from gateway.filters.release_terms import STABLE, Predictions, Release
from gateway.governance.judge import ERRORS
from gateway.governance.split import place
from gateway.http.codings import BadCoding, TooMuch, UnknownCoding, decoded
from gateway.http.cookies import cookie, set_cookie
from gateway.http.grpc import BLAMING, Status
from gateway.http.message import Response, find
from gateway.pipeline.choice import Choice, Choices, choose
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal, Source
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.mirroring import KEEP, Allowance
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import is_prediction, read_prediction
from gateway.pipeline.promise import Eventual, Promise
from gateway.pipeline.releases import Arms, Criteria, Releases

COOKIE: Final = b"headgate-arm"
COOKIE_FOR: Final = 30 * 86400  # s
CANDIDATE: Final = "candidate"
WELL: Final = frozenset(("answered", "slower", "dropped"))  # of `Tried.ended`: the instance did not fail
COPIES: Final = 32  # comparisons under way at once
HELD: Final = 8 * 1024 * 1024  # bytes of their requests
SMALL: Final = 64 * 1024  # bytes of two answers that are compared at once: under a millisecond
PLAIN: Final = 16 * 1024 * 1024  # bytes of an answer once it is decompressed
UnreadableCoding = (BadCoding, TooMuch, UnknownCoding)


class _Chosen:
    """A request's arm. share: the candidate's at that time; primary: stable's answer, for a pair."""

    __slots__ = ("arm", "pair", "pool", "primary", "share")

    def __init__(self, arm: str, pool: str, share: float, pair: bool) -> None:
        self.arm = arm
        self.pool = pool
        self.share = share
        self.pair = pair
        self.primary: Response | None = None


class ReleaseFilter(Filter):
    """Chooses the arm, and by it pool and version."""

    name = "release"
    place = 80

    def __init__(self, rule: Rule[Release], parts: Parts) -> None:
        release = rule.value
        self._rule = rule
        self._choices = Choices(parts)
        own = rule.policy in ("", f"endpoints.{parts.endpoint}")
        name = parts.endpoint if own else f"{rule.policy}@{parts.endpoint}"
        criteria = Criteria() if release.judge is None else release.judge.criteria()
        book = Releases() if parts.releases is None or not rule.enforce else parts.releases
        key = (release.kind, release.stable, release.candidate)
        self.live = book.live(name, parts.endpoint, key, release.plan(), criteria)
        self._aside = book.aside
        self._served = False  # the candidate was tried once: if it is away now, it failed
        self._salt = (rule.policy or parts.endpoint).encode()
        self._chance = parts.ids.chance
        self._signatures = parts.signatures
        self.needs_body = release.sticky == "prediction"
        self._fields = [(name.lower().encode(), value.encode()) for name, value in release.headers.items()]
        self._cookies = [(name.encode(), value.encode()) for name, value in release.cookies.items()]
        self._names_some = bool(self._fields or self._cookies)
        self.fallbacks = 0  # requests that a dead candidate sent to stable
        for target in (release.stable, release.candidate):
            self._choices.must_find(target)
        self.live.arms = self.arms

    @property
    def rule(self) -> Rule[Release]:
        """What it was made from."""
        return self._rule

    def arms(self, now: float) -> Arms:
        """What both words mean now."""
        stable, candidate = self._stable(), self._choices.must_find(self._rule.value.candidate)
        both = (stable, candidate)
        written = self._choices.must_find(self._rule.value.stable)
        names = [f"{one.pool.name} {one.version}".strip() for one in (*both, written)]
        usable = [sum(i.usable(now) for i in one.pool.members.instances) for one in both]
        members = [len(one.pool.members.instances) for one in both]
        return Arms(names[0], names[1], names[2], (usable[0], usable[1]), (members[0], members[1]))

    def candidates(self) -> Pool:
        """The pool that shall serve."""
        return self._choices.must_find(self._rule.value.candidate).pool

    def _stable(self) -> Choice:
        """What serves now: the last one that was promoted, else what is written."""
        base = self.live.told.base
        known = self._choices.find(base) if base else None
        return known or self._choices.must_find(self._rule.value.stable)

    # The choice

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Choose, unless the URL or the override header did. While a flip is on its way, wait for it."""
        if ctx.chosen_by and (ctx.chosen_by != "override" or self._rule.value.override):
            return None
        waiting = self.live.wait() if self.live.told.holding and not ctx.dry else None
        if waiting is not None:
            return waiting.chain(lambda _: self._decide(ctx))
        return self._decide(ctx)

    def _is_sent(self, ctx: Context) -> bool:
        """Whether it meets the candidate for what it is."""
        headers = ctx.request.headers
        return any(find(headers, name) == value for name, value in self._fields) or any(
            cookie(headers, name) == value for name, value in self._cookies
        )

    def _decide(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        if self._names_some and self._is_sent(ctx):
            self._send(ctx)
            return None
        if not self.needs_body or not is_prediction(ctx):
            self._choose(ctx, self._key(ctx))
            return None
        infer = read_prediction(ctx, self._signatures)
        if not isinstance(infer, Promise):
            self._choose(ctx, _content(infer))
            return None
        later: Promise[Response | Refusal | None] = Promise()

        def read(late: InferRequest | Refusal) -> None:
            self._choose(ctx, _content(late))
            later.resolve(None)

        infer.then(read, later.reject)
        return later

    def _send(self, ctx: Context) -> None:
        """To the candidate, whatever its weight: unless it was taken back, or is away."""
        stable, told = self._stable(), self.live.told
        candidate = self._choices.must_find(self._rule.value.candidate)
        stays = (told.over and told.weight == 0) or not candidate.usable(ctx.now)
        chosen = stable if stays else candidate
        if self._rule.enforce:
            choose(ctx, chosen, "release")
            ctx.arm = STABLE if stays else CANDIDATE
        if ctx.trail is not None:
            verdict = f"{STABLE if stays else CANDIDATE}: pool {chosen.pool.name}, by header or cookie"
            ctx.note("release", verdict, self._rule.policy, self._rule.origin, {"version": chosen.version})

    def _choose(self, ctx: Context, key: bytes | None) -> None:
        live = self.live
        share = live.told.weight
        point = self._chance() if key is None else place(key, self._salt)
        asks = ctx.target is not None and ctx.target.operation is not Operation.INFER
        # What is asked about a model is asked of stable.
        drawn = CANDIDATE if point < share and not asks else STABLE
        chosen = stable = self._stable()
        arm = drawn
        if drawn == CANDIDATE:
            arm, chosen = self._candidate(ctx, stable, share)
        if self._rule.enforce:
            choose(ctx, chosen, "release")
            ctx.arm = arm
            if key is None:  # chance chose: whatever the other arm has answered already would do as well
                ctx.other_arms = self._others(ctx, stable, arm, share)
            if arm == drawn and not asks and live.counts and not ctx.dry:
                self._watch(ctx, arm, chosen, share)
        if ctx.trail is not None:
            numbers = {"version": chosen.version, "weight": round(share, 4), "point": round(point, 4)}
            verdict = f"{'' if self._rule.enforce else 'would choose '}{arm}: pool {chosen.pool.name}"
            ctx.note("release", verdict, self._rule.policy, self._rule.origin, numbers)

    def _others(
        self, ctx: Context, stable: Choice, arm: str, share: float
    ) -> tuple[tuple[str, Pool, str], ...]:
        if arm == CANDIDATE:
            return ((STABLE, stable.pool, stable.version),) if share < 1.0 else ()
        other = self._choices.must_find(self._rule.value.candidate)
        return ((CANDIDATE, other.pool, other.version),) if share > 0 else ()

    def _candidate(self, ctx: Context, stable: Choice, share: float) -> tuple[str, Choice]:
        candidate = self._choices.must_find(self._rule.value.candidate)
        if candidate.pool is stable.pool and candidate.version == stable.version:
            return STABLE, stable  # the newest is the stable one: nothing is being released
        if not candidate.usable(ctx.now):
            self.fallbacks += 1
            live = self.live
            live.fell_back()
            if self._served and live.counts and self._rule.enforce and not ctx.dry:
                live.record(True, share, (ERRORS,), 0.0)  # stable hides it from the client, not from us
            return STABLE, stable
        return CANDIDATE, candidate

    def _key(self, ctx: Context) -> bytes | None:
        match self._rule.value.sticky:
            case "none" | "prediction":
                return None
            case "principal" if ctx.principal is not None:
                return b"principal " + ctx.principal.name.encode()
            case _:
                return b"client " + ctx.client.encode()

    def _watch(self, ctx: Context, arm: str, chosen: Choice, share: float) -> None:
        """Nobody asks what comes of it."""


class WatchedRelease(ReleaseFilter):
    """A release that is judged, or climbs: it looks at what comes of requests, too."""

    def __init__(self, rule: Rule[Release], parts: Parts) -> None:
        super().__init__(rule, parts)
        judge = rule.value.judge
        self._mirrors = parts.mirrors
        self._predictions = (judge and judge.predictions) or Predictions()
        self._allowance = Allowance(COPIES, HELD)
        self._chosen: Slot[_Chosen] = Slot()

    def _watch(self, ctx: Context, arm: str, chosen: Choice, share: float) -> None:
        live = self.live
        pair = (
            live.pairs
            and arm == STABLE
            and self._mirrors is not None
            and is_prediction(ctx)
            and self._chance() < live.criteria.sample
            and self._choices.must_find(self._rule.value.candidate).pool is not chosen.pool
        )
        if pair:
            ctx.want_whole = max(ctx.want_whole, KEEP)
        self._chosen.set(ctx, _Chosen(arm, chosen.pool.name, share, pair))

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Keep what stable answered, where it is to be compared."""
        chosen = self._chosen.get(ctx)
        answered = ctx.attempts and ctx.error is None and ctx.refusal is None and not ctx.degraded
        if chosen is not None and chosen.pair and answered and response.status == 200:
            chosen.primary = Response(200, list(response.headers), response.body)
        return response

    def on_done(self, ctx: Context) -> None:
        """Tell the judge, and put the question to the candidate, too."""
        chosen = self._chosen.get(ctx)
        if chosen is None or ctx.arm != chosen.arm:
            return
        primary = chosen.primary
        if primary is not None and primary.body is not None and self._mirrors is not None:
            candidate = self._choices.must_find(self._rule.value.candidate)
            self._mirrors.send(
                ctx,
                candidate.pool,
                self._predictions.timeout,
                self._allowance,
                primary,
                self,
                candidate.version,
            )
        bad = fault_of(ctx, chosen.pool)
        if bad is None:
            return
        is_candidate = chosen.arm == CANDIDATE
        if is_candidate:
            self._served = True
        self.live.record(is_candidate, chosen.share, bad, 0.0 if bad else ctx.upstream_seconds)

    # mirroring.Judge

    def on_pair(self, ctx: Context, primary: Response, mirrored: Response) -> None:
        """Compare two answers in the client's dialect, large ones aside."""
        live, dialect = self.live, ctx.dialect
        if mirrored.status != primary.status:
            live.pair(f"status {primary.status} became {mirrored.status}", False)
            return
        one, other = primary.body, mirrored.body
        if dialect is None or one is None or other is None:
            return
        wanted = self._predictions
        epoch = live.told.epoch
        expected = self._signature(ctx)

        def compared() -> None:
            try:
                stable = dialect.read_response(primary.headers, _plain(primary), expected)
            except (InvalidPrediction, *UnreadableCoding):
                return  # stable's own answer can't be read: there is nothing to hold against the candidate
            try:
                candidate = dialect.read_response(mirrored.headers, _plain(mirrored), expected)
            except (InvalidPrediction, *UnreadableCoding) as wrong:
                found = Difference(f"can't be read: {wrong}")
            else:
                found = compare(stable, candidate, wanted.max_abs, wanted.max_rel)
            if live.told.epoch == epoch:
                live.pair(found.why, found.flips > 0)

        if len(one) + len(other) <= SMALL:
            compared()
        else:
            self._aside(compared)

    def _signature(self, ctx: Context) -> Signature | None:
        """What the candidate's instances told of the model, if they did already."""
        if ctx.pool is None or ctx.target is None:
            return None
        known = self._signatures.signature(ctx.pool, ctx.pool.model or ctx.target.model, ctx.version)
        if known is None or isinstance(known, Promise):
            return None
        return known.named("" if ctx.parsed is None else ctx.parsed.signature)


class CookieRelease(WatchedRelease):
    """A release that knows browsers again: it draws a number for those that have none."""

    def __init__(self, rule: Rule[Release], parts: Parts) -> None:
        super().__init__(rule, parts)
        self._drawn: Slot[bytes] = Slot()

    def _key(self, ctx: Context) -> bytes | None:
        known = cookie(ctx.request.headers, COOKIE)
        if known is None or len(known) > 64:
            known = b"%013x" % int(self._chance() * 2**52)
            self._drawn.set(ctx, known)
        return known

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Tell a new browser its number; what the cache keeps then is kept from others."""
        drawn = self._drawn.get(ctx)
        if drawn is not None and self._rule.enforce:
            response.headers.append(set_cookie(COOKIE, drawn, COOKIE_FOR))
        return super().on_response(ctx, response)


def fault_of(ctx: Context, pool: str) -> tuple[str, ...] | None:
    """Return the metrics in which a finished request failed at this pool, () when it went well.

    None: it says nothing about the pool. A try that failed there counts, whatever came of the request.
    """
    if ctx.tries is not None and any(t.pool == pool and t.ended not in WELL for t in ctx.tries):
        return (ERRORS,)
    if not ctx.attempts:
        error = ctx.error
        return (ERRORS,) if error is not None and error.source is Source.UPSTREAM else None
    if ctx.degraded or ctx.refusal is not None or ctx.status == 499:
        return None
    if ctx.error is not None:
        return (ERRORS,) if ctx.error.source is Source.UPSTREAM else None
    if ctx.grpc_status >= 0:
        return (ERRORS,) if Status(ctx.grpc_status) in BLAMING else ()
    if ctx.status >= 500:
        return (ERRORS,)
    return ("rejections",) if ctx.status >= 400 else ()


def _plain(response: Response) -> bytes:
    body = response.body or b""
    coding = response.header(b"content-encoding")
    return body if coding is None else decoded(coding, body, PLAIN)


def _content(infer: InferRequest | Refusal) -> bytes | None:
    """What is asked; None if it can't be read, which is not ours to judge."""
    return None if isinstance(infer, Refusal) else canonical_key(infer, infer.model, "", b"")


def _build(rules: Sequence[Rule[Release]], parts: Parts) -> Iterable[Filter]:
    return [_class_for(rule.value)(rule, parts) for rule in rules]


def _class_for(release: Release) -> type[ReleaseFilter]:
    """Who asks for nothing pays for nothing."""
    if release.sticky == "cookie":
        return CookieRelease
    return WatchedRelease if release.judge is not None or len(release.ramp) > 1 else ReleaseFilter


KIND = FilterKind("release", Release, summary="from one version to the next", build=_build)
