"""The prediction cache, row by row: of a batch only those rows are asked for that nobody asked before.

    cache: {ttl: 30s, rows: true}

Each row of a batch has a key and an answer of its own (dialects/rows.py). Rows that are here are taken from
here, every other one goes upstream once, in one smaller batch in the client's own dialect, and the answer is
put together in the order of the question. A batch whose rows are all here, or all on their way for somebody
else, asks nothing.

It is asked for, never guessed: a model that looks at a whole batch (ranks its rows, normalises over them)
would be answered wrongly, and its signature looks like any other. What the signature must say is that every
input and output has a free first axis; else, and above `rows.MOST` rows, the whole batch is one question.

    an answer without exactly one row per row asked    this model and version are left alone from then on
    a failure upstream                                 is the answer, as it is; rows that were here stay
    another pool is tried after a failure              it gets the whole batch: no answer of two models

Gateways with one Redis ask for a row once, too: a batch whose missing rows are all on their way for another
gateway waits for them; else it looks once more for what came meanwhile, and asks for the rest.

A row that is stale is asked for again; stale windows are for whole answers. A batch that can be sent only in
part as JSON, and can't (NaN), goes whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature
from gateway.dialects.rows import (
    MOST,
    Row,
    count,
    pick,
    put_together,
    row_keys,
    separable,
    take_apart,
    unpack,
)
from gateway.dialects.tensors import InferRequest
from gateway.dialects.tf_example import STYLES
from gateway.filters.cache_terms import (
    BY_REQUEST,
    COLLAPSED,
    HIT,
    MISS,
    NOT_KEPT,
    PARTIAL,
    STORED,
    Wish,
    allowed,
    named_tags,
)
from gateway.governance.flights import Role
from gateway.governance.freshness import State
from gateway.http.message import Headers, Request, Response
from gateway.pipeline import answer
from gateway.pipeline.answers import Kept, Landed, Waiter, Windows
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import GatewayError, Refusal, UpstreamAnswerTooLarge, UpstreamUnreadable
from gateway.pipeline.filter import Parts
from gateway.pipeline.forward import without_body_fields
from gateway.pipeline.pool import Pool
from gateway.pipeline.ports import Lease
from gateway.pipeline.prediction import ROWS_KEPT
from gateway.pipeline.promise import Eventual, Promise

Verdict = Response | Refusal | None

FORM = "rows"  # of a Kept that holds one row, where others have a dialect


class Batch:
    """One request, its rows, and what became of each."""

    __slots__ = (
        "age",
        "began",
        "headers",
        "infer",
        "keys",
        "known",
        "leading",
        "pool",
        "request",
        "sent",
        "signature",
        "waiting",
    )

    def __init__(
        self, infer: InferRequest, keys: list[bytes], signature: Signature, pool: Pool, began: float
    ) -> None:
        self.infer = infer
        self.keys = keys
        self.signature = signature
        self.pool = pool
        self.began = began  # s since the epoch
        self.known: dict[bytes, Row] = {}  # rows that are here, by key
        self.headers: Headers = []  # that came with them
        self.age = 0.0  # s, of the oldest
        self.waiting: dict[bytes, Waiter] = {}  # flights of others that it takes part in
        self.leading: dict[bytes, Waiter] = {}  # its own
        self.sent: list[int] = []  # rows that go upstream
        self.request: Request | None = None  # as the client sent it, where only a part goes upstream

    def take(self, key: bytes, kept: Kept, now: float) -> None:
        """Take a row that is here."""
        self.known[key] = unpack(kept.body)
        self.headers = kept.headers
        self.age = max(self.age, kept.freshness.age(now))

    def missing(self) -> list[int]:
        """Return the first index of every key that is not here."""
        first: dict[bytes, int] = {}
        for index, key in enumerate(self.keys):
            if key not in self.known:
                first.setdefault(key, index)
        return list(first.values())


class RowCache:
    """Looks rows up, collapses, and puts answers together. Beside a CacheFilter, which calls it."""

    __slots__ = (
        "_answers",
        "_batch",
        "_clock",
        "_signatures",
        "_size",
        "_tags",
        "_timers",
        "_unfit",
        "_windows",
    )

    def __init__(self, parts: Parts, windows: Windows, size: int, tags: Sequence[str]) -> None:
        """size: bytes; larger rows are not kept."""
        self._answers = parts.answers
        self._signatures = parts.signatures
        self._clock = parts.clock
        self._timers = parts.timers
        self._windows = windows
        self._size = size
        self._tags = tuple(tags)
        self._batch: Slot[Batch] = Slot()
        self._unfit: set[tuple[str, str]] = set()  # pool and version whose answers had other rows

    def takes(self, ctx: Context, infer: InferRequest) -> bool:
        """Tell whether a prediction can be answered row by row."""
        rows = 0 if infer.style in STYLES.values() else count(infer)  # Examples don't go on as rows
        if not 0 < rows <= MOST or ctx.pool is None or (ctx.pool.name, ctx.version) in self._unfit:
            return False
        signature = self._signature(ctx, infer)
        return signature is not None and separable(signature)

    def _signature(self, ctx: Context, infer: InferRequest) -> Signature | None:
        assert ctx.pool is not None
        known = self._signatures.signature(ctx.pool, ctx.pool.model or infer.model, ctx.version)
        if isinstance(known, Promise) or known is None:
            return None
        try:
            return known.named(infer.signature)
        except InvalidPrediction:
            return None

    # Before the attempt

    def look(
        self, ctx: Context, infer: InferRequest, where: str, scope: bytes, wish: Wish
    ) -> Eventual[Verdict]:
        """Answer from rows that are here, wait for those on their way, or ask for the rest.

        where: names pool and version; scope: whom rows may be shared with.
        """
        signature = self._signature(ctx, infer)
        assert signature is not None
        assert ctx.pool is not None
        keys = row_keys(infer, infer.model, where, scope)
        batch = Batch(infer, keys, signature, ctx.pool, self._clock.wall())
        if wish.no_cache:
            return self._fetch(ctx, batch, BY_REQUEST)
        found = [(key, self._answers.find(key, ctx.now, batch.began)) for key in dict.fromkeys(keys)]
        taken = self._take_all(ctx, batch, found, wish)
        if taken is None:
            return self._looked(ctx, batch, wish)
        return taken.chain(lambda _: None if ctx.finished else self._looked(ctx, batch, wish))

    def _take_all(
        self, ctx: Context, batch: Batch, found: list[tuple[bytes, Eventual[Kept | None]]], wish: Wish
    ) -> Promise[None] | None:
        """Take what was found, and promise the rest for when the shared store has told of every row."""
        late: list[tuple[bytes, Promise[Kept | None]]] = []
        for key, kept in found:
            if isinstance(kept, Promise):
                late.append((key, kept))
            else:
                self._take(ctx, batch, key, kept, wish)
        if not late:
            return None
        all_told: Promise[None] = Promise()
        left = len(late)

        def told(key: bytes, kept: Kept | None) -> None:
            nonlocal left
            self._take(ctx, batch, key, kept, wish)
            left -= 1
            if not left:
                all_told.resolve(None)

        for key, promised in late:
            promised.then(partial(told, key), partial(lambda key, _: told(key, None), key))
        return all_told

    def _take(self, ctx: Context, batch: Batch, key: bytes, kept: Kept | None, wish: Wish) -> None:
        """Take a row that may be given, and share it with those who wait for us to bring it."""
        if ctx.finished or kept is None or kept.dialect != FORM:
            return
        if kept.freshness.state(ctx.now) is not State.FRESH:
            return
        if wish.max_age is None or kept.freshness.age(ctx.now) <= wish.max_age:
            batch.take(key, kept, ctx.now)
            waiter = batch.leading.pop(key, None)
            if waiter is not None:
                self._answers.land(key, waiter, kept)

    def _looked(self, ctx: Context, batch: Batch, wish: Wish) -> Eventual[Verdict]:
        missing = batch.missing()
        if not missing:
            return self._give(ctx, batch, HIT)
        status = PARTIAL if batch.known else MISS
        if not ctx.dry and all(self._answers.is_flying(batch.keys[index]) for index in missing):
            return self._wait(ctx, batch, missing, status, wish)
        return self._in_turn(ctx, batch, status, wish)

    def _wait(
        self, ctx: Context, batch: Batch, missing: list[int], status: bytes, wish: Wish
    ) -> Promise[Verdict]:
        """All that is missing is on its way for others: wait for it, then ask for what did not come."""
        self._batch.set(ctx, batch)
        settled: Promise[None] = Promise()
        left = len(missing)

        def landed(key: bytes, what: Landed) -> None:
            nonlocal left
            waiter = batch.waiting.pop(key)
            if isinstance(what, Kept):
                if not ctx.finished and what.dialect == FORM:
                    batch.take(key, what, ctx.now)
            elif what is Role.LEADER:
                batch.leading[key] = waiter
            left -= 1
            if not left:
                settled.resolve(None)

        for index in missing:
            key, waiter = batch.keys[index], Waiter()
            batch.waiting[key] = waiter
            role = self._answers.join(key, waiter)
            if role is not Role.JOINER:
                waiter.landed.resolve(role)
            waiter.landed.then(partial(landed, key), lambda _: None)
        return settled.chain(lambda _: self._waited(ctx, batch, status, wish))

    def _waited(self, ctx: Context, batch: Batch, status: bytes, wish: Wish) -> Eventual[Verdict]:
        if ctx.finished:
            self._release(batch)
            return None
        if batch.missing():
            return self._in_turn(ctx, batch, status, wish)
        return self._give(ctx, batch, status + COLLAPSED)

    def _in_turn(self, ctx: Context, batch: Batch, status: bytes, wish: Wish) -> Eventual[Verdict]:
        """Ask for what is missing, unless other gateways ask for all of it: then take what they bring."""
        if ctx.dry or self._timers is None or self._answers.shared is None:
            return self._fetch(ctx, batch, status)
        self._batch.set(ctx, batch)
        self._lead(batch, batch.missing())
        leases = [self._answers.lease(key) for key in batch.leading]
        return _all_told(leases).chain(lambda told: self._leased(ctx, batch, status, wish, told))

    def _leased(
        self, ctx: Context, batch: Batch, status: bytes, wish: Wish, leases: list[Lease]
    ) -> Eventual[Verdict]:
        if ctx.finished:
            return None
        missing = batch.missing()
        if not leases or len(leases) < len(missing) or any(lease is not Lease.THEIRS for lease in leases):
            return self._look_again(ctx, batch, status, wish)
        key, clock, timers = batch.keys[missing[-1]], self._clock, self._timers  # the last to be kept
        assert timers is not None
        turn = self._answers.turn(
            key, lambda: self._answers.newest(key, clock.now(), clock.wall()), clock, timers
        )
        if not isinstance(turn, Promise):
            return self._look_again(ctx, batch, status, wish)
        return turn.chain(lambda _: self._look_again(ctx, batch, status, wish))

    def _look_again(self, ctx: Context, batch: Batch, status: bytes, wish: Wish) -> Eventual[Verdict]:
        """Take what another gateway brought meanwhile, and ask for the rest."""
        if ctx.finished:
            return None
        now, wall = self._clock.now(), self._clock.wall()
        keys = [batch.keys[index] for index in batch.missing()]
        taken = self._take_all(
            ctx, batch, [(key, self._answers.newest(key, now, wall)) for key in keys], wish
        )
        if taken is None:
            return self._looked_again(ctx, batch, status)
        return taken.chain(lambda _: self._looked_again(ctx, batch, status))

    def _looked_again(self, ctx: Context, batch: Batch, status: bytes) -> Eventual[Verdict]:
        if ctx.finished:
            return None
        if batch.missing():
            return self._fetch(ctx, batch, status)
        return self._give(ctx, batch, status + COLLAPSED)

    def _fetch(self, ctx: Context, batch: Batch, status: bytes) -> Verdict:
        """Go on with the rows that are missing, and lead the flights of those that nobody asks for."""
        ctx.cache_status = status
        if ctx.dry:
            return None
        self._batch.set(ctx, batch)
        batch.sent = batch.missing()
        if len(batch.sent) < len(batch.keys) and not self._shorten(ctx, batch):
            batch.sent = list(range(len(batch.keys)))
        self._lead(batch, batch.sent)
        ctx.want_whole = max(ctx.want_whole, self._size * len(batch.sent), ctx.snapshot.answer_limit)
        return None

    def _lead(self, batch: Batch, rows: list[int]) -> None:
        """Lead the flights of those rows that nobody asks for."""
        for index in rows:
            key = batch.keys[index]
            if key not in batch.leading and not self._answers.is_flying(key):
                batch.leading[key] = waiter = Waiter()
                self._answers.join(key, waiter)

    def _shorten(self, ctx: Context, batch: Batch) -> bool:
        """Let the request ask for the missing rows only; False where its dialect can't say them."""
        infer, dialect = pick(batch.infer, batch.sent), ctx.dialect
        assert dialect is not None
        try:
            _, _, headers, body = dialect.write_request(infer, infer.model, infer.version)
        except InvalidPrediction:
            return False
        batch.request = whole = ctx.request
        ctx.body_received = ctx.body_received or whole.length or 0
        ctx.request = whole.with_headers([*without_body_fields(whole.headers), *headers])
        ctx.request.host, ctx.request.minor = whole.host, whole.minor
        ctx.request.body, ctx.request.length = body, len(body)
        ctx.parsed = infer
        ROWS_KEPT.set(ctx, len(batch.keys) - len(batch.sent))
        return True

    def whole_again(self, ctx: Context) -> None:
        """Give the request all its rows back: what comes next is not to be put together."""
        batch = self._batch.get(ctx)
        if batch is None:
            return
        self._release(batch)
        if batch.request is not None:
            ctx.request, batch.request = batch.request, None
            ctx.parsed = batch.infer
            ROWS_KEPT.set(ctx, 0)
        batch.sent = []

    # After the attempt

    def on_response(self, ctx: Context, response: Response) -> Response:
        """Keep and share the rows of a new answer, and put them beside those that were here."""
        batch = self._batch.get(ctx)
        if batch is None or not batch.sent:
            return response
        sent, batch.sent = batch.sent, []
        if (
            ctx.error is not None
            or ctx.refusal is not None
            or response.status != 200
            or ctx.pool is not batch.pool
        ):
            self._release(batch)
            return response
        try:
            rows = self._rows_of(ctx, batch, response, len(sent))
            self._keep(
                ctx, batch, response, dict(zip([batch.keys[index] for index in sent], rows, strict=True))
            )
            if batch.request is None:
                return response
            return self._joined(ctx, batch, response)
        except GatewayError as unfit:
            self._dissolve(batch)
            if batch.request is None:
                return response
            ctx.error = unfit
            return answer.failed(ctx, unfit)

    def _rows_of(self, ctx: Context, batch: Batch, response: Response, rows: int) -> list[Row]:
        if response.body is None:
            raise UpstreamAnswerTooLarge("the answer is too large to be put together with kept rows")
        assert ctx.dialect is not None
        try:
            result = ctx.dialect.read_response(response.headers, response.body, batch.signature)
            return take_apart(result, rows)
        except InvalidPrediction as wrong:
            self._unfit.add((batch.pool.name, ctx.version))
            raise UpstreamUnreadable(f"the answer has not one row for each asked: {wrong.message}") from wrong

    def _keep(self, ctx: Context, batch: Batch, response: Response, rows: dict[bytes, Row]) -> None:
        batch.known.update(rows)
        windows = allowed(response.headers, self._windows)
        if windows is None:
            self._dissolve(batch)
            return
        fields = [field for field in without_body_fields(response.headers) if field[0] not in NOT_KEPT]
        tags = self._tags + named_tags(response.headers)
        wall, stored = self._clock.wall(), False
        for key, row in rows.items():
            body = row.pack()
            if len(body) > self._size:
                continue
            kept = Kept(ctx.now, windows, fields, body, dialect=FORM, style="", id=None, tags=tags)
            stored = self._answers.keep(key, kept, batch.began, wall) or stored
            waiter = batch.leading.pop(key, None)
            if waiter is not None:
                self._answers.land(key, waiter, kept)
        if stored:
            ctx.cache_status += STORED
        self._dissolve(batch)

    def _joined(self, ctx: Context, batch: Batch, response: Response) -> Response:
        fields, body = self._write(ctx, batch)
        return Response(200, [*without_body_fields(response.headers), *fields], body)

    def _write(self, ctx: Context, batch: Batch) -> tuple[Headers, bytes]:
        assert ctx.dialect is not None
        try:
            whole = put_together([batch.known[key] for key in batch.keys], batch.infer.id)
            return ctx.dialect.write_response(whole, batch.infer)
        except InvalidPrediction as wrong:
            raise UpstreamUnreadable(f"the rows make no answer: {wrong.message}") from wrong

    def _give(self, ctx: Context, batch: Batch, status: bytes) -> Verdict:
        try:
            fields, body = self._write(ctx, batch)
        except UpstreamUnreadable:
            batch.known.clear()
            return self._fetch(ctx, batch, MISS)
        ctx.cache_status = status
        age = (b"age", b"%d" % batch.age)
        return Response(200, [*batch.headers, *fields, age], body)

    # Those who wait

    def leave(self, ctx: Context) -> None:
        """The request is over: who waits for its rows must not wait in vain."""
        batch = self._batch.get(ctx)
        if batch is not None:
            self._release(batch)

    def _release(self, batch: Batch) -> None:
        """Leave all flights; others go on in our place."""
        leading, batch.leading = batch.leading, {}
        for key, waiter in leading.items():
            self._answers.leave(key, waiter)
        for key, waiter in list(batch.waiting.items()):
            self._answers.leave(key, waiter)

    def _dissolve(self, batch: Batch) -> None:
        """Nothing more can be shared: everybody asks for himself."""
        leading, batch.leading = batch.leading, {}
        for key, waiter in leading.items():
            self._answers.dissolve(key, waiter)


def _all_told(leases: list[Eventual[Lease]]) -> Promise[list[Lease]]:
    """Promise what the store says of all of them."""
    told: list[Lease] = []
    all_told: Promise[list[Lease]] = Promise()

    def one(lease: Lease) -> None:
        told.append(lease)
        if len(told) == len(leases):
            all_told.resolve(told)

    for lease in leases:
        if isinstance(lease, Promise):
            lease.then(one, lambda _: one(Lease.NOBODYS))
        else:
            one(lease)
    if not leases:
        all_told.resolve(told)
    return all_told
