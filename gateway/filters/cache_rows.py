"""The prediction cache, row by row: of a batch only those rows are asked for that nobody asked before.

    cache: {ttl: 30s, rows: true}

Each row of a batch has a key and an answer of its own (dialects/rows.py). Rows that are here are taken from
here; every other one is claimed (pipeline/claims.py), and goes upstream if nobody fetches it, in one smaller
batch in the client's own dialect. What others fetch, here or at a gateway with the same Redis, is waited for
while that is under way, and the answer is put together in the order of the question. So however batches
overlap, a row is asked for once.

It is asked for, never guessed: a model that looks at a whole batch (ranks its rows, normalises over them)
would be answered wrongly, and its signature looks like any other. What the signature must say is that every
input and output has a free first axis; else, and above `rows.MOST` rows, the whole batch is one question.

    an answer without exactly one row per row asked    this model and version are left alone from then on
    a failure upstream                                 is the answer, as it is; rows that were here stay
    another pool is tried after a failure              it gets the whole batch: no answer of two models
    who fetched a row for us left, or failed           we ask for it in a second call (an errand), when the
                                                       first is over; its failure is the answer
    rows of two versions of a model                    the whole batch is asked for again, once

A row that is stale is asked for again; stale windows are for whole answers. A batch that can be sent only in
part as JSON, and can't (NaN), goes whole. A graph can't be asked a second time: its batch asks for all rows
that are not here, unless all of them are on their way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
)
from gateway.dialects.tensors import InferRequest, InferResponse
from gateway.dialects.tf_example import STYLES
from gateway.filters.cache_batch import FORM, Batch
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
from gateway.governance.freshness import State
from gateway.http.message import Headers, Response
from gateway.pipeline import answer
from gateway.pipeline.answers import Kept, Windows
from gateway.pipeline.claims import Claims
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errand import Errand, Said
from gateway.pipeline.errors import GatewayError, Refusal, UpstreamAnswerTooLarge, UpstreamUnreadable
from gateway.pipeline.filter import Parts
from gateway.pipeline.forward import without_body_fields
from gateway.pipeline.prediction import ROWS_KEPT
from gateway.pipeline.promise import Eventual, Promise

Verdict = Response | Refusal | None


class RowCache:
    """Looks rows up, collapses, and puts answers together. Beside a CacheFilter, which calls it."""

    __slots__ = (
        "_answers",
        "_batch",
        "_clock",
        "_errands",
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
        self._errands = parts.errands
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
            return self._fetch(ctx, batch, list(range(len(keys))), BY_REQUEST)
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

    def _take(self, ctx: Context, batch: Batch, key: bytes, kept: Kept | None, wish: Wish) -> bool:
        """Take a row if it may be given."""
        if ctx.finished or kept is None or kept.dialect != FORM:
            return False
        now = self._clock.now()
        if kept.freshness.state(now) is not State.FRESH:
            return False
        if wish.max_age is not None and kept.freshness.age(now) > wish.max_age:
            return False
        batch.take(key, kept, now)
        return True

    def _looked(self, ctx: Context, batch: Batch, wish: Wish) -> Eventual[Verdict]:
        missing = batch.missing()
        if not missing:
            return self._give(ctx, batch, HIT)
        status = PARTIAL if batch.known else MISS
        if ctx.dry:
            ctx.cache_status = status
            return None
        self._batch.set(ctx, batch)
        batch.claims = Claims(
            self._answers,
            self._clock,
            self._timers,
            lambda key, kept: self._take(ctx, batch, key, kept, wish),
            lambda: self._step(ctx, batch),
        )
        batch.claims.take(missing)
        if batch.decided.done:
            return self._decide(ctx, batch, status)
        return batch.decided.chain(lambda _: self._decide(ctx, batch, status))

    def _step(self, ctx: Context, batch: Batch) -> None:
        """Go on as far as what is known of the claims allows. One call at a time, so that rows gather."""
        claims = batch.claims
        if ctx.finished or claims is None or batch.asking:
            return
        if not batch.decided.done:
            if claims.decided and (claims.ours or not claims.theirs):
                batch.decided.resolve(None)
        elif claims.ours:
            self._ask_again(ctx, batch, batch.ours())
        elif not claims.theirs:
            batch.settled.resolve(None)

    def _decide(self, ctx: Context, batch: Batch, status: bytes) -> Verdict:
        """Ask for the rows that are ours to fetch, or give what others brought."""
        claims = batch.claims
        if ctx.finished or claims is None:
            return None
        if not claims.ours:
            return self._give(ctx, batch, status + COLLAPSED)
        if not self._may_ask_again(batch):
            claims.leave_theirs()
        elif claims.theirs:
            status = PARTIAL + COLLAPSED
        return self._fetch(ctx, batch, batch.ours(), status)

    def _fetch(self, ctx: Context, batch: Batch, rows: list[int], status: bytes) -> Verdict:
        """Go on with these rows."""
        ctx.cache_status = status
        if ctx.dry:
            return None
        self._batch.set(ctx, batch)
        batch.asking, batch.sent = True, rows
        if len(rows) < len(batch.keys) and not self._shorten(ctx, batch):
            batch.sent = list(range(len(batch.keys)))
        ctx.want_whole = max(ctx.want_whole, self._size * len(batch.sent), ctx.snapshot.answer_limit)
        return None

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

    # After the attempt

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Keep and share the rows of a new answer, and put them beside those that others brought."""
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
        keys = [batch.keys[index] for index in sent]
        try:
            rows = self._rows_of(ctx, batch, response, len(sent))
        except GatewayError as unfit:
            self._dissolve(batch, keys)
            self._release(batch)
            return response if batch.request is None else _failed(ctx, unfit)
        self._keep(ctx, batch, response.headers, dict(zip(keys, rows, strict=True)))
        if batch.request is None:
            self._release(batch)
            return response
        batch.asking = False
        self._step(ctx, batch)
        if batch.settled.done:
            return self._joined(ctx, batch, response)
        return batch.settled.chain(lambda _: self._joined(ctx, batch, response))

    def _rows_of(self, ctx: Context, batch: Batch, response: Response, rows: int) -> list[Row]:
        if response.body is None:
            raise UpstreamAnswerTooLarge("the answer is too large to be put together with kept rows")
        assert ctx.dialect is not None
        try:
            result = ctx.dialect.read_response(response.headers, response.body, batch.signature)
        except InvalidPrediction as wrong:
            raise self._unfit_answer(ctx, batch, wrong) from wrong
        return self._apart(ctx, batch, result, rows)

    def _apart(self, ctx: Context, batch: Batch, result: InferResponse, rows: int) -> list[Row]:
        try:
            return take_apart(result, rows)
        except InvalidPrediction as wrong:
            raise self._unfit_answer(ctx, batch, wrong) from wrong

    def _unfit_answer(self, ctx: Context, batch: Batch, wrong: InvalidPrediction) -> GatewayError:
        self._unfit.add((batch.pool.name, ctx.version))
        return UpstreamUnreadable(f"the answer has not one row for each asked: {wrong.message}")

    def _keep(self, ctx: Context, batch: Batch, headers: Headers, rows: dict[bytes, Row]) -> None:
        batch.known.update(rows)
        windows = allowed(headers, self._windows)
        if windows is not None:
            fields = [field for field in without_body_fields(headers) if field[0] not in NOT_KEPT]
            self._answers.together(lambda: self._land(ctx, batch, windows, fields, headers, rows))
        self._dissolve(batch, rows)

    def _land(
        self,
        ctx: Context,
        batch: Batch,
        windows: Windows,
        fields: Headers,
        headers: Headers,
        rows: dict[bytes, Row],
    ) -> None:
        """Keep and share rows that may be. headers: all that came with them; fields: those that are kept."""
        tags = self._tags + named_tags(headers)
        now, wall, stored = self._clock.now(), self._clock.wall(), False
        for key, row in rows.items():
            body = row.pack()
            if len(body) > self._size:
                continue
            kept = Kept(now, windows, fields, body, dialect=FORM, style="", id=None, tags=tags)
            stored = self._answers.keep(key, kept, batch.began, wall) or stored
            if batch.claims is not None:
                batch.claims.land(key, kept)
        if stored and not ctx.cache_status.endswith(STORED):
            ctx.cache_status += STORED

    # Rows that others were to bring, and did not

    def _ask_again(self, ctx: Context, batch: Batch, rows: list[int]) -> None:
        """Ask for these rows in a call of our own."""
        assert self._errands is not None
        batch.asking = True
        ROWS_KEPT.set(ctx, max(0, (ROWS_KEPT.get(ctx) or 0) - len(rows)))
        batch.errand = errand = self._errands.ask(ctx, batch.pool, pick(batch.infer, rows))
        keys = [batch.keys[index] for index in rows]
        errand.answer.then(
            lambda said: self._rest_came(ctx, batch, errand, keys, said),
            lambda error: self._rest_failed(ctx, batch, errand, error),
        )

    def _rest_came(self, ctx: Context, batch: Batch, errand: Errand, keys: list[bytes], said: Said) -> None:
        errand.record(ctx)
        if isinstance(said, Refusal):
            self._fail(batch, said)
            return
        try:
            rows = self._apart(ctx, batch, said, len(keys))
        except GatewayError as unfit:
            self._fail(batch, unfit)
            return
        self._keep(ctx, batch, errand.headers, dict(zip(keys, rows, strict=True)))
        batch.asking = False
        self._step(ctx, batch)

    def _rest_failed(self, ctx: Context, batch: Batch, errand: Errand, error: Exception) -> None:
        errand.record(ctx)
        if isinstance(error, GatewayError):
            self._fail(batch, error)
        else:
            batch.settled.reject(error)

    def _fail(self, batch: Batch, why: GatewayError | Refusal) -> None:
        batch.failed = why
        self._release(batch)
        batch.settled.resolve(None)

    def _joined(self, ctx: Context, batch: Batch, response: Response) -> Eventual[Response]:
        """Answer with all rows, or with what came of asking for those that were left."""
        if isinstance(batch.failed, Refusal):
            ctx.refusal = batch.failed
            return answer.refused(ctx, batch.failed)
        if batch.failed is not None:
            return _failed(ctx, batch.failed)
        try:
            fields, body = self._write(ctx, batch)
        except UpstreamUnreadable as unlike:
            if batch.repeated or not self._may_ask_again(batch):
                return _failed(ctx, unlike)
            return self._repeat(ctx, batch, response)
        return Response(200, [*without_body_fields(response.headers), *fields], body)

    def _repeat(self, ctx: Context, batch: Batch, response: Response) -> Promise[Response]:
        """Ask for all rows: those that were here are another version's than those that came."""
        batch.repeated, batch.settled = True, Promise()
        self._ask_again(ctx, batch, batch.first(batch.keys))
        return batch.settled.chain(lambda _: self._joined(ctx, batch, response))

    def _may_ask_again(self, batch: Batch) -> bool:
        return self._errands is not None and not batch.pool.is_graph

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
            return self._fetch(ctx, batch, list(range(len(batch.keys))), MISS)
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
        """Leave all flights, others go on in our place; and call off what is under way for us alone."""
        claims, batch.claims = batch.claims, None
        if claims is not None:
            claims.leave()
        errand, batch.errand = batch.errand, None
        if errand is not None:
            errand.cancel()
        batch.sent = []

    def _dissolve(self, batch: Batch, keys: Iterable[bytes]) -> None:
        """What came of these can't be shared: everybody asks for himself."""
        if batch.claims is not None:
            batch.claims.dissolve(keys)


def _failed(ctx: Context, error: GatewayError) -> Response:
    ctx.error = error
    return answer.failed(ctx, error)
