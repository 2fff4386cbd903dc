"""The cache of an endpoint without a model: a shared cache of GET as RFC 9111 has it.

    cache: 0s                               what answers say themselves
    cache: {ttl: 30s, heuristic: 10%}       and for those that don't say

The decisions are http/caching.py's; here they are put to use. An answer is kept under its URL, host, pool and
version and whom it may be shared with, and below that under the request's fields that its Vary names: a small
entry under the first key tells their names. What is stale and has a validator is asked for with it, and a 304
renews it. Requests for what nobody has are collapsed, unless they say something of their own (Cache-Control,
Authorization, conditions), over gateways with one Redis too; what turns out to be one request's alone is
asked for by each. Once it is known which fields an answer depends on, each variant is a flight of its own.

`stale-while-revalidate` needs no request of our own: the first that comes after the end asks anew and waits,
the others get the stale answer meanwhile. `stale-if-error` answers when an instance fails, or says 500, 502,
503 or 504. Requests with Range pass by, and partial answers are never kept; so is nothing that broke off.
A successful request with an unsafe method outdates its URL, for every principal.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from gateway.filters.cache_terms import (
    BY_REQUEST,
    BYPASS,
    COLLAPSED,
    HIT,
    MISS,
    STALE,
    STORED,
    named_tags,
    subject,
)
from gateway.http import caching
from gateway.http.caching import Use
from gateway.http.message import Headers, Request, Response, find
from gateway.pipeline.answers import Kept, Windows, tag
from gateway.pipeline.claims import Claim
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.filter import Parts
from gateway.pipeline.moments import Filter
from gateway.pipeline.pool import Pool
from gateway.pipeline.promise import Eventual, Promise

Verdict = Response | Refusal | None

FORM: Final = "http"  # of a Kept that is an answer to GET
NAMES: Final = "vary"  # of one that says which fields the answers depend on
CHECKABLE: Final = 86_400.0  # s that a stale answer with a validator is kept
MOMENTARY: Final = 600.0  # s that one without is: somebody may accept it
_OWN_WORDS: Final = (
    b"cache-control",
    b"pragma",
    b"authorization",
    b"if-none-match",
    b"if-modified-since",
    b"if-match",
    b"if-unmodified-since",
)
_CONDITIONS: Final = frozenset((b"if-none-match", b"if-modified-since"))
_BROKEN: Final = frozenset((500, 502, 503, 504))


class Part:
    """What one request has to do with the cache."""

    __slots__ = ("asked", "began", "claim", "kept", "kept_key", "key", "over", "pool")

    def __init__(self, key: bytes, asked: Headers, pool: Pool | None, began: float) -> None:
        self.key = key  # of the URL
        self.asked = asked  # the client's fields, before ours
        self.pool = pool
        self.began = began  # s since the epoch
        self.kept: Kept | None = None  # stale, and asked about
        self.kept_key = b""
        self.claim: Claim | None = None
        self.over = False

    @property
    def flight(self) -> bytes:
        """The key of its flight."""
        return self.kept_key or self.key


class HttpCacheFilter(Filter):
    """Looks up, validates, keeps, outdates."""

    name = "cache"
    place = 90

    def __init__(self, parts: Parts, windows: Windows, scope: str, heuristic: float, size: int) -> None:
        """windows: for answers that don't say; heuristic: share of the time since they changed."""
        self._windows = windows
        self._scope = scope
        self._heuristic = heuristic
        self._size = size
        self._answers = parts.answers
        self._clock = parts.clock
        self._timers = parts.timers
        self._endpoint = parts.endpoint
        self._part: Slot[Part] = Slot()

    # Before the attempt

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Answer from what is kept, wait for one who asks already, or go on, maybe with a condition."""
        request = ctx.request
        if request.method not in (b"GET", b"HEAD") or ctx.upgrade:
            return None
        if request.header(b"range") is not None or request.length != 0:
            ctx.cache_status = BYPASS
            return None
        if b"no-store" in caching.directives(request.headers):
            ctx.cache_status = BY_REQUEST
            return None
        part = Part(self._key(ctx), request.headers, ctx.pool, self._clock.wall())
        names = self._answers.find(part.key, ctx.now, part.began)
        if isinstance(names, Promise):
            return names.chain(lambda late: self._named(ctx, part, late))
        return self._named(ctx, part, names)

    def _key(self, ctx: Context) -> bytes:
        pool = b"" if ctx.pool is None else ctx.pool.name.encode()
        request = ctx.request
        where = (FORM.encode(), self._endpoint.encode(), pool, ctx.version.encode(), ctx.peer.scheme.encode())
        who = (subject(ctx.principal, self._scope), request.host.lower(), request.path, request.query)
        parts = [b"%d:%b" % (len(part), part) for part in (*where, *who)]
        return blake2b(b"".join(parts), digest_size=16).digest()

    def _named(self, ctx: Context, part: Part, names: Kept | None) -> Eventual[Verdict]:
        if ctx.finished:
            return None
        if names is None or names.dialect != NAMES:
            return self._found(ctx, part, None)
        part.kept_key = _variant_key(part.key, tuple(name for name, _ in names.headers), part.asked)
        kept = self._answers.find(part.kept_key, ctx.now, part.began)
        if isinstance(kept, Promise):
            return kept.chain(lambda late: self._found(ctx, part, late))
        return self._found(ctx, part, kept)

    def _found(self, ctx: Context, part: Part, kept: Kept | None) -> Eventual[Verdict]:
        if ctx.finished:
            return None
        if kept is None or kept.dialect != FORM:
            if b"only-if-cached" in caching.directives(part.asked):
                return _not_here()
            return self._ask(ctx, part, MISS)
        freshness = kept.freshness
        age = freshness.age(ctx.now)
        decision = caching.use(part.asked, kept.headers, age, freshness.fresh_until - freshness.stored)
        if decision is Use.GIVE:
            return self._give(ctx, part, kept, HIT)
        if decision is Use.STALE:
            return self._give(ctx, part, kept, _past(kept, ctx.now))
        if decision is Use.REFUSE:
            return _not_here()
        part.kept = kept
        past = ctx.now - freshness.fresh_until
        others_ask = self._answers.is_flying(part.flight) and not _has_own_words(part.asked)
        if past >= 0 and others_ask and past <= self._stale(kept).while_checking:
            return self._give(ctx, part, kept, _past(kept, ctx.now))
        return self._ask(ctx, part, STALE if past >= 0 else BY_REQUEST)

    def _stale(self, kept: Kept) -> caching.Stale:
        windows = self._windows
        return caching.stale_windows(kept.headers, windows.stale_while_revalidate, windows.stale_if_error)

    def _ask(self, ctx: Context, part: Part, status: bytes) -> Eventual[Verdict]:
        """Go on, or wait for one who asks the same."""
        if ctx.dry or ctx.request.method != b"GET" or _has_own_words(part.asked):
            return self._go_on(ctx, part, status)
        each_asks = part.kept is not None and part.kept.windows.ttl <= 0.0  # what comes is no other gateway's
        timers = None if each_asks else self._timers
        part.claim = claim = Claim(
            part.flight, self._answers, self._clock, timers, lambda: self._newest(part)
        )
        self._part.set(ctx, part)
        taken = claim.take()
        if not isinstance(taken, Promise):
            return self._taken(ctx, part, taken, status)
        return taken.chain(lambda kept: self._taken(ctx, part, kept, status))

    def _taken(self, ctx: Context, part: Part, kept: Kept | None, status: bytes) -> Eventual[Verdict]:
        if ctx.finished:
            return None
        if kept is None or kept.style != _style(kept.headers, part.asked):
            return self._go_on(ctx, part, status)
        part.over = True
        return self._give(ctx, part, kept, status + COLLAPSED)

    def _newest(self, part: Part) -> Eventual[Kept | None]:
        """Look for a fresh answer to this request, whoever brought it."""
        answers, clock = self._answers, self._clock
        names = answers.newest(part.key, clock.now(), clock.wall())

        def named(about: Kept | None) -> Eventual[Kept | None]:
            if about is None or about.dialect != NAMES:
                return None
            key = _variant_key(part.key, tuple(name for name, _ in about.headers), part.asked)
            found = answers.newest(key, clock.now(), clock.wall())
            if isinstance(found, Promise):
                return found.chain(_if_http)
            return _if_http(found)

        return names.chain(named) if isinstance(names, Promise) else named(names)

    def _go_on(self, ctx: Context, part: Part, status: bytes) -> Verdict:
        ctx.cache_status = status
        if ctx.dry:
            return None
        self._part.set(ctx, part)
        ctx.want_whole = max(ctx.want_whole, self._size)
        if part.kept is not None and ctx.request.method == b"GET":
            asking = caching.conditions(part.kept.headers)
            if asking:
                own = [field for field in part.asked if field[0] not in _CONDITIONS]
                ctx.request.headers = own + asking
        return None

    # Giving what is kept

    def _give(self, ctx: Context, part: Part, kept: Kept, status: bytes) -> Response:
        ctx.cache_status = status
        return _render(ctx.request, part.asked, kept, ctx.now)

    # After the attempt

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        """No instance answered: a stale answer, where that is allowed."""
        part = self._part.get(ctx)
        return None if part is None else self._instead(ctx, part)

    def _instead(self, ctx: Context, part: Part) -> Response | None:
        kept = part.kept
        if kept is None or ctx.now - kept.freshness.fresh_until > self._stale(kept).on_error:
            return None
        return self._give(ctx, part, kept, _past(kept, ctx.now))

    def on_response(self, ctx: Context, response: Response) -> Response:
        """Keep, renew and share; outdate what an unsafe request changed; say what the cache did."""
        part = self._part.get(ctx)
        if part is not None and not part.over:
            part.over = True
            response = self._conclude(ctx, part, response)
        elif part is None and ctx.attempts and ctx.error is None and ctx.refusal is None:
            self._outdate(ctx, response)
        if ctx.cache_status:
            response.headers.append((b"cache-status", ctx.cache_status))
        return response

    def _outdate(self, ctx: Context, response: Response) -> None:
        request = ctx.request
        target = request.path + (b"?" + request.query if request.query else b"")
        found = caching.invalidates(request.method, response.status, request.host, target, response.headers)
        for other in found:
            self._answers.outdate(_url_tag(request.host, other), self._clock.wall())

    def _conclude(self, ctx: Context, part: Part, response: Response) -> Response:
        if ctx.error is not None or ctx.refusal is not None or ctx.pool is not part.pool:
            self._leave(part)
            return response
        if response.status in _BROKEN:
            instead = self._instead(ctx, part)
            if instead is not None:
                self._leave(part)
                return instead
        if ctx.request.method == b"HEAD":
            self._heed_head(ctx, part, response)
            return response
        if response.status == 304:
            return self._renewed(ctx, part, response)
        kept = self._keepable(ctx, part, response)
        if kept is None:
            self._dissolve(part)
            if part.kept is not None and response.status < 500:
                self._answers.forget(part.kept_key)
        else:
            self._keep(ctx, part, kept)
        conditional = ctx.request.headers is not part.asked
        if conditional and caching.not_modified(part.asked, response.status, response.headers):
            return Response(
                304, [field for field in response.headers if field[0] in caching.NOT_MODIFIED_FIELDS]
            )
        return response

    def _heed_head(self, ctx: Context, part: Part, response: Response) -> None:
        """Renew what is kept by the fields of an answer to HEAD, or forget what is another (§4.3.5)."""
        kept = part.kept
        if kept is None or response.status != 200:
            return
        if not caching.head_confirms(kept.headers, len(kept.body), response.headers, response.length):
            self._answers.forget(part.kept_key)
            return
        fields = caching.updated(kept.headers, response.headers)
        if caching.storable(b"GET", part.asked, 200, fields):
            self._keep(ctx, part, self._make(ctx, part, kept.status, fields, kept.body, response.headers))

    def _renewed(self, ctx: Context, part: Part, response: Response) -> Response:
        kept = part.kept
        if kept is None or ctx.request.headers is part.asked:  # the client's own condition: its own answer
            self._dissolve(part)
            return response
        if not caching.confirms(kept.headers, response.headers):
            self._dissolve(part)
            self._answers.forget(part.kept_key)
            return _render(ctx.request, part.asked, kept, ctx.now)
        fields = caching.updated(kept.headers, response.headers)
        ctx.cache_status += b"; fwd-status=304"
        renewed = self._make(ctx, part, kept.status, fields, kept.body, response.headers)
        self._keep(ctx, part, renewed)
        return _render(ctx.request, part.asked, renewed, ctx.now)

    def _keepable(self, ctx: Context, part: Part, response: Response) -> Kept | None:
        body = response.body
        if body is None or len(body) > self._size:
            return None
        guess = self._heuristic > 0 or self._windows.ttl > 0
        if not caching.storable(
            ctx.request.method, part.asked, response.status, response.headers, heuristic=guess
        ):
            return None
        fields = caching.kept_fields(response.headers)
        return self._make(ctx, part, response.status, fields, body, response.headers)

    def _make(
        self, ctx: Context, part: Part, status: int, fields: Headers, body: bytes, answered: Headers
    ) -> Kept:
        """answered: of the answer that came just now, a 304 perhaps, which says how old it is."""
        wall = self._clock.wall()
        fresh = caching.lifetime(status, fields, wall, self._heuristic)
        if not fresh and self._windows.ttl and not _says(fields) and status in caching.HEURISTIC:
            fresh = self._windows.ttl
        stale = caching.stale_windows(
            fields, self._windows.stale_while_revalidate, self._windows.stale_if_error
        )
        kept_for = CHECKABLE if caching.conditions(fields) else MOMENTARY
        age = caching.initial_age(answered, part.began, wall)
        windows = Windows(fresh, 0.0, max(stale.while_checking, stale.on_error, kept_for))
        request = ctx.request
        target = request.path + (b"?" + request.query if request.query else b"")
        return Kept(
            ctx.now - age,
            windows,
            fields,
            body,
            dialect=FORM,
            style=_style(fields, part.asked),
            id=None,
            tags=(tag("endpoint", self._endpoint), _url_tag(request.host, target), *named_tags(answered)),
            status=status,
        )

    def _keep(self, ctx: Context, part: Part, kept: Kept) -> None:
        wall = self._clock.wall()
        names = caching.vary(kept.headers)
        key = _variant_key(part.key, names, part.asked)
        fields = [(name, b"") for name in names]
        about = Kept(
            ctx.now,
            Windows(kept.windows.whole),
            fields,
            b"",
            dialect=NAMES,
            style="",
            id=None,
            tags=kept.tags,
        )
        if self._answers.keep(key, kept, part.began, wall) and self._answers.keep(
            part.key, about, part.began, wall
        ):
            ctx.cache_status += STORED
        if part.claim is not None:
            part.claim.land(kept)

    def on_done(self, ctx: Context) -> None:
        """Leave the flight: who waits for us must not wait in vain."""
        part = self._part.get(ctx)
        if part is not None:
            self._leave(part)

    def _leave(self, part: Part) -> None:
        if part.claim is not None:
            part.claim.leave()

    def _dissolve(self, part: Part) -> None:
        if part.claim is not None:
            part.claim.dissolve()


def _has_own_words(asked: Headers) -> bool:
    return any(find(asked, name) is not None for name in _OWN_WORDS)


def _says(fields: Headers) -> bool:
    """Whether an answer says itself how long it is fresh, or that it is not to be given unasked."""
    said = caching.directives(fields)
    return bool(said.keys() & {b"max-age", b"s-maxage", b"no-cache"}) or find(fields, b"expires") is not None


def _style(fields: Headers, asked: Headers) -> str:
    """Which of the variants an answer with these fields is to a request with those."""
    return caching.variant(caching.vary(fields), asked).decode("latin-1")


def _variant_key(key: bytes, names: tuple[bytes, ...], asked: Headers) -> bytes:
    return blake2b(key + b"variant" + caching.variant(names, asked), digest_size=16).digest()


def _url_tag(host: bytes, target: bytes) -> str:
    return tag("url", (host.lower() + target).decode("latin-1"))


def _not_here() -> Refusal:
    return Refusal(504, "only_if_cached", "nothing that may be given is in the cache (only-if-cached)")


def _if_http(kept: Kept | None) -> Kept | None:
    return kept if kept is not None and kept.dialect == FORM else None


def _past(kept: Kept, now: float) -> bytes:
    return b"%b; ttl=%d" % (HIT, kept.freshness.fresh_until - now)


def _render(request: Request, asked: Headers, kept: Kept, now: float) -> Response:
    age = (b"age", b"%d" % kept.freshness.age(now))
    if caching.not_modified(asked, kept.status, kept.headers):
        fields = [field for field in kept.headers if field[0] in caching.NOT_MODIFIED_FIELDS]
        return Response(304, [*fields, age])
    if request.method == b"HEAD":
        return Response(kept.status, [*kept.headers, age], b"", length=len(kept.body))
    return Response(kept.status, [*kept.headers, age], kept.body)
