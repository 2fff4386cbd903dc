"""Answers to whole predictions: looked up, collapsed, kept, and given again.

What the policy says is in cache.py, what its words mean to every kind of cache in cache_terms.py. Three ways
lead to an answer, the most frequent first:

    the same bytes      its key is remembered by what was sent (cache_questions.py); nothing is read or hashed
    the same tensors    the body is read, and the key is taken from its tensors
    neither             a `Part` is made: who fetches, who waits, what is to be kept afterwards
"""

from __future__ import annotations

from functools import partial
from typing import Final

from gateway.dialects import losses
from gateway.dialects.canonical import cacheable, canonical_key
from gateway.dialects.catalogue import BY_NAME
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature
from gateway.dialects.tensors import InferRequest, rows
from gateway.filters.cache_questions import Asked, Question, Questions
from gateway.filters.cache_rows import RowCache
from gateway.filters.cache_terms import (
    ABOUT_THE_CLIENT,
    BY_REQUEST,
    BYPASS,
    COLLAPSED,
    HIT,
    MISS,
    NO_WISH,
    NOT_KEPT,
    STALE,
    STORED,
    Wish,
    allowed,
    named_tags,
    subject,
    wish_of,
)
from gateway.governance.freshness import State
from gateway.http.message import Response
from gateway.pipeline.answers import Kept, Windows, tag
from gateway.pipeline.claims import Claim
from gateway.pipeline.context import Context, Slot, Stale
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.filter import Parts, Rule
from gateway.pipeline.forward import without_body_fields
from gateway.pipeline.moments import Filter
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import is_prediction, read_prediction
from gateway.pipeline.promise import Eventual, Promise

Verdict = Response | Refusal | None

LARGE: Final = 512 * 1024
"""Bytes of tensors above which the key is taken in a thread: that much takes about a millisecond. Of two
versions between which chance chose, a question so large takes the one that was chosen."""


class Part:
    """What one request has to do with the cache."""

    __slots__ = ("began", "claim", "infer", "key", "leads", "pool", "ttl_left")

    def __init__(self, key: bytes, infer: InferRequest, pool: Pool | None, began: float) -> None:
        self.key = key
        self.infer = infer
        self.pool = pool  # whose answer belongs under the key
        self.began = began  # s since the epoch
        self.claim: Claim | None = None
        self.leads = False  # it fetches, so its answer is to be kept
        self.ttl_left = 0.0  # s, of what ctx.stale holds: negative


class CacheFilter(Filter):
    """Looks up, collapses, keeps."""

    name = "cache"
    place = 90
    needs_body = True

    def __init__(
        self,
        rule: Rule[object],
        parts: Parts,
        windows: Windows,
        *,
        errors: Windows | None,
        scope: str,
        max_rows: int | None,
        by_rows: bool,
        size: int,
    ) -> None:
        """errors: for how long a 4xx is kept, None: not at all. The others as in the policy."""
        self._rule = rule
        self._enforce = rule.enforce
        self._windows = windows
        self._errors = errors
        self._scope = scope
        self._max_rows = max_rows
        self._size = size
        self._answers = parts.answers
        self._signatures = parts.signatures
        self._clock = parts.clock
        self._timers = parts.timers
        self._threads = parts.threads
        self._endpoint = parts.endpoint.encode()
        self._tags = (tag("endpoint", parts.endpoint), tag("model", parts.model))
        self._part: Slot[Part] = Slot()
        self._questions = Questions()
        self._rows = RowCache(parts, windows, size, self._tags) if by_rows else None

    # Before the attempt

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Answer from what is kept, wait for one who asks already, or go on and bring the answer."""
        if not self._enforce or not is_prediction(ctx):
            return None  # not enforced: nothing would be there to be found, for nothing is kept
        pool = ctx.pool
        if pool is None or ctx.target is None or ctx.parsed is not None or ctx.other_arms:
            return self._read(ctx, None, None)
        signature = self._signatures.signature(pool, pool.model or ctx.target.model, ctx.version)
        if isinstance(signature, Promise):
            return self._read(ctx, None, None)
        asked = self._questions.asked(ctx.request, pool, ctx.version, self._subject(ctx))
        known = None if asked is None else self._questions.find(asked, signature)
        if known is None:
            return self._read(ctx, asked, signature)
        return self._look_up(ctx, known.infer, known.key, wish_of(ctx.request))

    def _read(self, ctx: Context, asked: Asked | None, signature: Signature | None) -> Eventual[Verdict]:
        infer = read_prediction(ctx, self._signatures)
        if not isinstance(infer, Promise):
            return self._look(ctx, infer, asked, signature)
        return infer.chain(lambda read: self._look(ctx, read, None, None))

    def _look(
        self,
        ctx: Context,
        infer: InferRequest | Refusal,
        asked: Asked | None,
        signature: Signature | None,
    ) -> Eventual[Verdict]:
        """Look for the answer to a prediction that was read just now, and remember the question."""
        if ctx.finished:
            return None
        if isinstance(infer, Refusal):  # not ours to refuse: whoever must read it will
            return self._go_on(ctx, BYPASS)
        wish = wish_of(ctx.request)
        if wish.no_store or not cacheable(infer) or (self._max_rows and rows(infer) > self._max_rows):
            return self._go_on(ctx, BY_REQUEST if wish.no_store else BYPASS)
        if self._threads is not None and _bytes_of(infer) > LARGE:
            work = partial(self._key_of, infer, self._where(ctx), self._subject(ctx))
            key_of_it = self._threads.run(work)
            return key_of_it.chain(lambda key: None if ctx.finished else self._look_up(ctx, infer, key, wish))
        if ctx.other_arms and not wish.no_cache:
            self._prefer_known(ctx, infer)
        key = self._key(ctx, infer)
        if asked is not None:
            self._questions.keep(asked, len(ctx.request.body or b""), Question(signature, infer, key))
        return self._look_up(ctx, infer, key, wish)

    def _look_up(self, ctx: Context, infer: InferRequest, key: bytes, wish: Wish) -> Eventual[Verdict]:
        if wish.no_store:
            return self._go_on(ctx, BY_REQUEST)
        if self._rows is not None and self._rows.takes(ctx, infer):
            scope = self._endpoint + b"\0" + self._subject(ctx)
            verdict = self._rows.look(ctx, infer, self._where(ctx), scope, wish)
            return self._noted(ctx, verdict)
        if ctx.trail is not None:
            ctx.note(self.name, "looked up", self._rule.policy, self._rule.origin, {"key": key.hex()})
        if wish is NO_WISH:
            fresh = self._answers.fresh(key, ctx.now)
            if fresh is not None:
                return self._give(ctx, infer, fresh, HIT)
        part = Part(key, infer, ctx.pool, self._clock.wall())
        if wish.no_cache:
            return self._fetch(ctx, part, BY_REQUEST)
        kept = self._answers.find(part.key, ctx.now, part.began)
        if not isinstance(kept, Promise):
            return self._found(ctx, part, kept, wish)
        return kept.chain(lambda found: self._found(ctx, part, found, wish))

    def _prefer_known(self, ctx: Context, infer: InferRequest) -> None:
        """Where chance chose between two versions, take the one whose answer is here or on its way.

        Otherwise the same question, asked twice, would reach a backend of each arm.
        """
        chosen = ctx.arm, ctx.pool, ctx.version
        if self._answers.knows(self._key(ctx, infer), ctx.now):
            return
        for arm, pool, version in ctx.other_arms:
            ctx.arm, ctx.pool, ctx.version = arm, pool, version
            if self._answers.knows(self._key(ctx, infer), ctx.now):
                return
        ctx.arm, ctx.pool, ctx.version = chosen

    def _key(self, ctx: Context, infer: InferRequest) -> bytes:
        return self._key_of(infer, self._where(ctx), self._subject(ctx))

    def _key_of(self, infer: InferRequest, where: str, subject: bytes) -> bytes:
        return canonical_key(infer, infer.model, where, self._endpoint + b"\0" + subject)

    @staticmethod
    def _where(ctx: Context) -> str:
        pool = ctx.pool
        return "" if pool is None else f"{pool.name}\0{pool.model}\0{pool.version}\0{ctx.version}"

    def _subject(self, ctx: Context) -> bytes:
        return subject(ctx.principal, self._scope)

    def _found(self, ctx: Context, part: Part, kept: Kept | None, wish: Wish) -> Eventual[Verdict]:
        if ctx.finished:
            return None
        if kept is None:
            return self._join(ctx, part, MISS)
        if wish.max_age is not None and kept.freshness.age(ctx.now) > wish.max_age:
            return self._fetch(ctx, part, BY_REQUEST)
        match kept.freshness.state(ctx.now):
            case State.FRESH:
                return self._give(ctx, part.infer, kept, HIT)
            case State.STALE_SERVE if ctx.dry or self._answers.is_flying(part.key):
                return self._give(ctx, part.infer, kept, _stale_hit(kept, ctx.now))
            case State.GONE:
                return self._join(ctx, part, MISS)
        self._offer_stale(ctx, part, kept)
        return self._join(ctx, part, STALE)

    def _offer_stale(self, ctx: Context, part: Part, kept: Kept) -> None:
        """Let `degrade` have it."""
        part.ttl_left = kept.freshness.fresh_until - ctx.now
        if -part.ttl_left > self._windows.stale_if_error:
            return
        age = kept.freshness.age(ctx.now)
        response = self._render(ctx, part.infer, kept)

        def offer(rendered: Response | None) -> None:
            if rendered is not None and not ctx.finished:
                ctx.stale = Stale(rendered, age)

        if isinstance(response, Promise):
            response.then(offer, lambda _: None)
        else:
            offer(response)

    def _join(self, ctx: Context, part: Part, status: bytes) -> Eventual[Verdict]:
        if ctx.dry:
            return self._go_on(ctx, status)
        part.claim = claim = Claim(part.key, self._answers, self._clock, self._timers)
        self._part.set(ctx, part)
        taken = claim.take()
        if not isinstance(taken, Promise):
            return self._taken(ctx, part, taken, status)
        return taken.chain(lambda kept: self._taken(ctx, part, kept, status))

    def _taken(self, ctx: Context, part: Part, kept: Kept | None, status: bytes) -> Eventual[Verdict]:
        """What we waited for is here, or we have to fetch it."""
        if ctx.finished:
            return None
        if kept is None:
            return self._fetch(ctx, part, status)
        return self._give(ctx, part.infer, kept, status + COLLAPSED)

    def _fetch(self, ctx: Context, part: Part, status: bytes) -> Verdict:
        """Go on, and keep what comes."""
        if not ctx.dry:
            part.leads = True
            self._part.set(ctx, part)
            ctx.want_whole = max(ctx.want_whole, self._size)
        return self._go_on(ctx, status)

    def _go_on(self, ctx: Context, status: bytes) -> Verdict:
        ctx.cache_status = status
        self._note(ctx, status)
        return None

    # Giving what is kept

    def _give(self, ctx: Context, infer: InferRequest, kept: Kept, status: bytes) -> Eventual[Verdict]:
        response = self._render(ctx, infer, kept)
        if not isinstance(response, Promise):
            return self._given(ctx, response, status)
        return response.chain(lambda late: self._given(ctx, late, status))

    def _given(self, ctx: Context, response: Response | None, status: bytes) -> Response | None:
        ctx.cache_status = BYPASS if response is None else status
        self._note(ctx, ctx.cache_status)
        return response

    def _render(self, ctx: Context, infer: InferRequest, kept: Kept) -> Eventual[Response | None]:
        """Make the answer for this request. None: it can't be put into its dialect, so it has to ask."""
        age = (b"age", str(int(kept.freshness.age(ctx.now))).encode())
        assert ctx.dialect is not None
        if kept.dialect == ctx.dialect.name and kept.style == infer.style and kept.id == infer.id:
            return Response(kept.status, [*kept.headers, age], kept.body)
        if ctx.pool is None or kept.status != 200:
            return None
        known = self._signatures.signature(ctx.pool, ctx.pool.model or infer.model, ctx.version)
        if not isinstance(known, Promise):
            return _translate(ctx, infer, kept, known, age)
        return known.chain(lambda told: _translate(ctx, infer, kept, told, age))

    # After the attempt

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Keep and share a new answer; say what the cache had to do with it."""
        if self._rows is not None:
            joined = self._rows.on_response(ctx, response)
            if isinstance(joined, Promise):
                return joined.chain(lambda late: _labelled(ctx, late))
            response = joined
        part = self._part.get(ctx)
        if part is not None and part.leads:
            self._conclude(ctx, part, response)
        if ctx.stale is not None and response is ctx.stale.response and part is not None:
            ctx.cache_status = b"headgate; hit; ttl=%d" % part.ttl_left
        return _labelled(ctx, response)

    def _conclude(self, ctx: Context, part: Part, response: Response) -> None:
        part.leads, claim = False, part.claim
        if ctx.error is not None or ctx.refusal is not None or response.status >= 500:
            if claim is not None:
                claim.leave()
            return
        kept = self._keepable(ctx, part, response) if ctx.pool is part.pool else None
        if kept is not None and self._answers.keep(part.key, kept, part.began, self._clock.wall()):
            ctx.cache_status += STORED
        if claim is None:
            return
        if kept is None:
            claim.dissolve()
        else:
            claim.land(kept)

    def _keepable(self, ctx: Context, part: Part, response: Response) -> Kept | None:
        """Return the answer as it is kept, None when it must not be."""
        bounds = self._windows if response.status == 200 else self._errors
        if bounds is None or response.body is None or len(response.body) > self._size:
            return None
        if response.status != 200 and (
            not 400 <= response.status < 500 or response.status in ABOUT_THE_CLIENT
        ):
            return None
        windows = allowed(response.headers, bounds)
        if windows is None or ctx.dialect is None:
            return None
        return Kept(
            ctx.now,
            windows,
            [field for field in response.headers if field[0] not in NOT_KEPT],
            response.body,
            dialect=ctx.dialect.name,
            style=part.infer.style,
            id=part.infer.id,
            tags=self._tags + named_tags(response.headers),
            status=response.status,
        )

    def on_done(self, ctx: Context) -> None:
        """Leave the flight: who waits for us must not wait in vain."""
        if self._rows is not None:
            self._rows.leave(ctx)
        part = self._part.get(ctx)
        if part is not None and part.claim is not None:
            part.claim.leave()

    def _noted(self, ctx: Context, verdict: Eventual[Verdict]) -> Eventual[Verdict]:
        if ctx.trail is not None and not isinstance(verdict, Promise):
            self._note(ctx, ctx.cache_status)
        return verdict

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        """Another pool is to be asked the whole question: rows of two models make no answer."""
        if self._rows is not None:
            self._rows.whole_again(ctx)
        return None

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        """The same."""
        if self._rows is not None:
            self._rows.whole_again(ctx)
        return None

    def _note(self, ctx: Context, status: bytes) -> None:
        if ctx.trail is not None:
            numbers = {"scope": self._scope, "version": ctx.version}
            ctx.note(self.name, status.decode("ascii"), self._rule.policy, self._rule.origin, numbers)


# Rendering


def _labelled(ctx: Context, response: Response) -> Response:
    if ctx.cache_status:
        response.headers.append((b"cache-status", ctx.cache_status))
    return response


def _translate(
    ctx: Context,
    infer: InferRequest,
    kept: Kept,
    signature: Signature | None,
    age: tuple[bytes, bytes],
) -> Response | None:
    assert ctx.dialect is not None
    written_in = BY_NAME.get(kept.dialect)
    if written_in is None:
        return None
    try:
        expected = None if signature is None else signature.named(infer.signature)
        result = written_in.read_response(kept.headers, kept.body, expected)
        headers, body = losses.write_response(ctx.dialect, result, infer)
    except InvalidPrediction:
        return None
    return Response(200, [*without_body_fields(kept.headers), *headers, age], body)


def _bytes_of(infer: InferRequest) -> int:
    """Return how many bytes of tensors are to be hashed; lists of byte strings count by their number."""
    total = 0
    for tensor in infer.inputs:
        data = tensor.data
        total += 64 * len(data) if isinstance(data, list) else data.nbytes
    return total


def _stale_hit(kept: Kept, now: float) -> bytes:
    return b"%b; ttl=%d" % (HIT, kept.freshness.fresh_until - now)
