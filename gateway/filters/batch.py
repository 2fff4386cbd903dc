"""`batch`: predictions of many clients asked as one, for model servers that don't batch by themselves.

    batch: 32                                 rows of one call, at most
    batch: {rows: 32, wait: 2ms, at_once: 4}

Nobody waits while the pool is idle: a prediction goes at once as long as fewer than `at_once` batches of its
kind are under way (as many as the pool has instances, where that isn't said), and those that come meanwhile
go together as soon as one of these is answered. `wait` lets also the first one wait for company. So a batch
is as large as the load makes it.

Together go predictions of one model, version and signature with the same inputs (names, datatypes, shapes
but for the first axis) and outputs, and without parameters of their own. Which ones, and in which order, is
governance/batching.py's: fair between principals, within everybody's time. The call is the gateway's own: it
carries the fields of the first prediction in it, but no client's credential.

    the whole batch is refused, or answered       each prediction is asked by itself, once: what is wrong
    with other rows than it asked                 with one is its own sender's alone
    the pool fails                                all of them fail alike, and may be softened alike
    a client leaves, or its time is up            its rows stay behind; a batch under way goes on

For models whose rows don't depend on one another; that no signature can say, so somebody has to, by writing
this. A server that batches by itself (Triton, TensorFlow Serving, the reference backend) does it better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.config.kind import setting
from gateway.config.units import Duration
from gateway.dialects import losses
from gateway.dialects.batches import Form, form_of, put_requests_together, take_response_apart
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.tensors import InferRequest, InferResponse, rows
from gateway.governance.batching import BatchFormer, Place
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errand import Errand, Said
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.pool import Pool
from gateway.pipeline.ports import Cancellable
from gateway.pipeline.prediction import is_prediction, read_prediction, refuse_invalid
from gateway.pipeline.promise import Eventual, Promise

Verdict = Response | Refusal | None

MOST_FORMS = 256  # kinds of predictions kept apart; above that, newcomers go alone


@dataclass(frozen=True, slots=True)
class Batch:
    """Ask predictions of many clients as one."""

    rows: int = setting(32, "of one call, at most", "rows", example=32, at_least=2, short=True)
    wait: Duration = setting(
        Duration(0.0), "how long the first one waits for company while the pool is idle", example="2ms"
    )
    at_once: int | None = setting(
        None, "batches under way; none: one for each instance", "batches", example=4, at_least=1
    )


class _Waiting:
    """One prediction that waits or is under way. verdict: what its client is waiting for."""

    __slots__ = ("ctx", "gathering", "infer", "place", "verdict")

    def __init__(self, ctx: Context, infer: InferRequest, gathering: _Gathering) -> None:
        self.ctx = ctx
        self.infer = infer
        self.gathering = gathering
        self.place: Place[_Waiting] | None = None
        self.verdict: Promise[Verdict] = Promise()


class _Gathering:
    """Predictions of one form for one pool: those that wait, and how many batches are under way."""

    __slots__ = ("former", "pool", "timer", "under_way")

    def __init__(self, pool: Pool, most: int) -> None:
        self.pool = pool
        self.former: BatchFormer[_Waiting] = BatchFormer(most)
        self.under_way = 0
        self.timer: Cancellable | None = None


class BatchFilter(Filter):
    """Gathers predictions, asks, and hands the answers out."""

    name = "batch"
    needs_body = True

    def __init__(self, rule: Rule[Batch], parts: Parts) -> None:
        self._rule = rule
        self._parts = parts
        self._mine: Slot[_Waiting] = Slot()
        self._gatherings: dict[tuple[Pool, str, Form], _Gathering] = {}

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Wait for a batch's answer; go on alone what can't be in one."""
        if self._parts.errands is None or not is_prediction(ctx) or ctx.pool is None or ctx.pool.is_graph:
            return None
        read = read_prediction(ctx, self._parts.signatures)
        if isinstance(read, Promise):
            return read.chain(partial(self._join, ctx))
        return self._join(ctx, read)

    def on_done(self, ctx: Context) -> None:
        """It has its answer, or nobody waits for it any more."""
        mine = self._mine.get(ctx)
        if mine is not None and mine.place is not None:
            mine.gathering.former.leave(mine.place)

    def _join(self, ctx: Context, infer: InferRequest | Refusal) -> Eventual[Verdict]:
        if isinstance(infer, Refusal):
            return infer
        value, form = self._rule.value, form_of(infer)
        assert ctx.pool is not None
        if form is None or rows(infer) >= value.rows:
            return None
        if ctx.trail is not None:
            verdict = "asked with others" if self._rule.enforce else "would be asked with others"
            ctx.note(self.name, verdict, self._rule.policy, self._rule.origin, {"rows": rows(infer)})
        if ctx.dry or not self._rule.enforce:
            return None
        key = (ctx.pool, ctx.version, form)
        gathering = self._gatherings.get(key)
        if gathering is None:
            if len(self._gatherings) >= MOST_FORMS:
                self._forget_idle()
                if len(self._gatherings) >= MOST_FORMS:
                    return None
            gathering = self._gatherings[key] = _Gathering(ctx.pool, value.rows)
        mine = _Waiting(ctx, infer, gathering)
        self._mine.set(ctx, mine)
        who = "" if ctx.principal is None else ctx.principal.name
        mine.place = gathering.former.add(mine, rows(infer), who, ctx.deadline)
        if gathering.former.waiting >= value.rows or not value.wait:
            self._send(gathering)
        elif gathering.timer is None and gathering.under_way < self._at_once(gathering):
            self._plan(gathering, value.wait)
        return mine.verdict

    def _forget_idle(self) -> None:
        self._gatherings = {
            key: one for key, one in self._gatherings.items() if one.under_way or one.former.waiting
        }

    def _plan(self, gathering: _Gathering, wait: float) -> None:
        timers = self._parts.timers
        if timers is None:
            self._send(gathering)
            return
        at = self._parts.clock.now() + wait
        gathering.timer = timers.punctual(at, partial(self._send, gathering))

    def _at_once(self, gathering: _Gathering) -> int:
        return self._rule.value.at_once or max(1, len(gathering.pool.members.instances))

    def _send(self, gathering: _Gathering) -> None:
        """Send batches as long as there are predictions, and fewer are under way than may be."""
        if gathering.timer is not None:
            gathering.timer.cancel()
            gathering.timer = None
        while gathering.under_way < self._at_once(gathering):
            chosen = [place.item for place in gathering.former.take(self._parts.clock.now())]
            if not chosen:
                return
            gathering.under_way += 1
            self._ask(gathering, chosen)

    def _ask(self, gathering: _Gathering, chosen: list[_Waiting]) -> None:
        errands = self._parts.errands
        assert errands is not None
        lead = max(chosen, key=lambda one: one.ctx.deadline).ctx  # the batch has the time of who has most
        infer = chosen[0].infer if len(chosen) == 1 else put_requests_together([one.infer for one in chosen])
        errand = errands.ask(lead, gathering.pool, infer)
        began = self._parts.clock.now()
        errand.answer.then(
            partial(self._answered, gathering, chosen, errand, began),
            partial(self._failed, gathering, chosen, errand),
        )

    # What came of it

    def _answered(
        self, gathering: _Gathering, chosen: list[_Waiting], errand: Errand, began: float, said: Said
    ) -> None:
        gathering.former.took(self._parts.clock.now() - began)
        self._record(chosen, errand)
        parts: Sequence[InferResponse] = ()
        if isinstance(said, InferResponse):
            try:
                parts = take_response_apart(said, [rows(one.infer) for one in chosen])
            except InvalidPrediction:
                parts = (said,) if len(chosen) == 1 else ()
        if parts:
            for one, part in zip(chosen, parts, strict=True):
                self._give(one, part)
        elif len(chosen) == 1:
            self._give(chosen[0], said)
        else:
            for one in chosen:
                self._alone(one, gathering)
        self._next(gathering)

    def _failed(
        self, gathering: _Gathering, chosen: list[_Waiting], errand: Errand, error: Exception
    ) -> None:
        self._record(chosen, errand)
        for one in chosen:
            one.verdict.reject(error)
        self._next(gathering)

    def _next(self, gathering: _Gathering) -> None:
        gathering.under_way -= 1
        self._send(gathering)

    def _record(self, chosen: list[_Waiting], errand: Errand) -> None:
        """All of them were in the one call."""
        its = errand.ctx
        for one in chosen:
            if not one.ctx.finished:
                one.ctx.attempts += its.attempts
                one.ctx.upstream_seconds += its.upstream_seconds
                one.ctx.instance = its.instance

    def _alone(self, one: _Waiting, gathering: _Gathering) -> None:
        errands = self._parts.errands
        assert errands is not None
        if one.ctx.finished:
            return
        errand = errands.ask(one.ctx, gathering.pool, one.infer)

        def answered(said: Said) -> None:
            self._record([one], errand)
            self._give(one, said)

        def failed(error: Exception) -> None:
            self._record([one], errand)
            one.verdict.reject(error)

        errand.answer.then(answered, failed)

    def _give(self, one: _Waiting, said: Said) -> None:
        if one.ctx.finished:
            return
        if isinstance(said, Refusal):
            one.verdict.resolve(said)
            return
        dialect = one.ctx.dialect
        assert dialect is not None
        try:
            headers, body = losses.write_response(dialect, said, one.infer)
        except InvalidPrediction as wrong:
            one.verdict.resolve(refuse_invalid(wrong, None))
            return
        one.verdict.resolve(Response(200, list(headers), body))


def _build(rules: Sequence[Rule[Batch]], parts: Parts) -> Iterable[Filter]:
    return [BatchFilter(rule, parts) for rule in rules]


KIND = FilterKind(
    "batch", Batch, summary="predictions of many clients asked as one", build=_build, for_models=True
)
