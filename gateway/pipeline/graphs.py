"""Inference graphs: pools without instances, that answer by asking other pools.

    sequence   each member gets the outputs of the one before as its inputs (by name; an only tensor gets the
               name that the model has for it). What a member refuses or fails is the answer.
    ensemble   all members at once; dialects/blend.py makes one answer. A member that fails is left out as
               long as `need` others answer, and so are those still at it when `patience` is over; the answer
               says so (x-degraded). Bad input fails at once.
    switch     the first case that holds. None holds: 422 no_case.
    cascade    the doubtful rows go on to a better model, and come back into their places. When that one
               fails the first model's answer stands, and says so.
    split      one member by chance.
    scatter    parts of a large batch side by side, each a call of its own; all of them or none: there is no
               such thing as half a prediction.

The client's own time bounds all steps together, every step's pool has its own tries, breaker and limits. As
soon as the answer is known, or the client left, whatever is still under way is called off. All of it works
on tensors, so members may speak different protocols; what isn't a prediction goes to the `front` member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from gateway.config.graphs import Case, Graph
from gateway.dialects import losses
from gateway.dialects.batches import put_responses_together
from gateway.dialects.blend import blend
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.rows import pick
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor, rows
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errand import Errand, Said, with_inputs
from gateway.pipeline.errors import GatewayError, Refusal, UpstreamUnreadable
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import read_prediction, refuse_invalid
from gateway.pipeline.promise import Eventual, Promise

AT_ONCE = 16  # parts of one batch under way; the next ones follow


class GraphPool(Pool):
    """A pool that asks its members. Has no instances."""

    __slots__ = ("config", "pools")

    def usable(self, now: float) -> bool:
        """Tell whether it can answer: as many members as it needs can."""
        usable = [pool.usable(now) for pool in self.pools.values()]
        need = len(usable) if self.config.need is None else self.config.need
        return sum(usable) >= need if self.config.ensemble or self.config.sequence else any(usable)

    def join(self, config: Graph, pools: Mapping[str, Pool]) -> None:
        """Be told what it asks. pools: at least its members."""
        self.is_graph = True
        self.config = config
        self.pools = {name: pools[name] for name in config.members}
        self.front = self.pools[config.members[0]].front
        self.speaks = self.front.speaks


class Run:
    """One request's way through a graph."""

    __slots__ = ("_ctx", "_errands", "_gateway")

    def __init__(self, ctx: Context, gateway: Gateway) -> None:
        self._ctx = ctx
        self._gateway = gateway
        self._errands: list[Errand] = []

    def predict(self, pool: GraphPool) -> Promise[Response | Refusal]:
        """Read the prediction, ask, and write the answer in the client's dialect."""
        ctx = self._ctx
        later: Promise[InferRequest | Refusal] = Promise()
        read = read_prediction(ctx, self._gateway.signatures)
        if isinstance(read, Promise):
            read.then(later.resolve, later.reject)
        else:
            later.resolve(read)
        answer: Promise[Response | Refusal] = later.chain(partial(self._ask_graph, pool))
        answer.then(lambda _: self.cancel(), lambda _: self.cancel())
        return answer

    def cancel(self) -> None:
        """Call off whatever is under way."""
        errands, self._errands = self._errands, []
        for errand in errands:
            errand.record(self._ctx)
            errand.cancel()

    def _ask_graph(self, pool: GraphPool, infer: InferRequest | Refusal) -> Eventual[Response | Refusal]:
        if isinstance(infer, Refusal):
            return infer
        return self._step(pool, infer).chain(partial(self._written, infer))

    def _written(self, infer: InferRequest, said: Said) -> Response | Refusal:
        if isinstance(said, Refusal):
            return said
        dialect = self._ctx.dialect
        assert dialect is not None
        lost = {word for errand in self._errands for word in errand.lost}
        try:
            headers, body = losses.write_response(dialect, said, infer, tuple(sorted(lost)))
        except InvalidPrediction as wrong:
            return refuse_invalid(wrong, None)
        return Response(200, list(headers), body)

    # One step: a member that has instances, or another graph

    def _step(self, pool: Pool, infer: InferRequest) -> Promise[Said]:
        if isinstance(pool, GraphPool):
            return self._graph(pool, infer)
        errand = Errand(self._gateway, self._ctx, pool, infer)
        self._errands.append(errand)
        errand.answer.then(lambda _: errand.record(self._ctx), lambda _: errand.record(self._ctx))
        errand.start()
        return errand.answer

    def _graph(self, pool: GraphPool, infer: InferRequest) -> Promise[Said]:
        config, pools = pool.config, pool.pools
        if config.sequence:
            return self._sequence([pools[name] for name in config.sequence], infer)
        if config.ensemble:
            return self._ensemble(config, pools, infer)
        if config.cascade is not None:
            return self._cascade(config, pools, infer)
        if config.scatter:
            return self._scatter(pools[config.scatter], config.rows, infer)
        name = self._by_chance(config) if config.split else self._case(config.switch, infer)
        if name:
            return self._step(pools[name], infer)
        none: Promise[Said] = Promise()
        none.resolve(Refusal(422, "no_case", f"no case of the graph '{pool.name}' takes this prediction"))
        return none

    # In a row

    def _sequence(self, members: Sequence[Pool], infer: InferRequest) -> Promise[Said]:
        first, rest = members[0], members[1:]
        if not rest:
            return self._step(first, infer)
        middle = with_outputs(infer, None)
        return self._step(first, middle).chain(partial(self._go_on, rest, infer))

    def _go_on(self, rest: Sequence[Pool], infer: InferRequest, said: Said) -> Eventual[Said]:
        if isinstance(said, Refusal):
            return said
        return self._sequence(rest, with_inputs(infer, said.outputs))

    # One of several

    def _by_chance(self, config: Graph) -> str:
        at, last = self._gateway.ids.chance(), ""
        for name, share in config.split.items():
            at -= share
            last = name
            if at < 0.0:
                break
        return last

    def _case(self, cases: Sequence[Case], infer: InferRequest) -> str:
        return next((case.to for case in cases if self._holds(case, infer)), "")

    def _holds(self, case: Case, infer: InferRequest) -> bool:
        ctx = self._ctx
        if case.rows_over is not None and rows(infer) <= case.rows_over:
            return False
        if case.plans and (ctx.principal is None or ctx.principal.plan not in case.plans):
            return False
        return all(
            ctx.request.header(name.lower().encode("latin-1")) == value.encode()
            for name, value in case.headers.items()
        )

    # All at once

    def _ensemble(self, config: Graph, pools: Mapping[str, Pool], infer: InferRequest) -> Promise[Said]:
        asked = infer if config.by == "mean" else with_outputs(infer, None)
        council = Council(self._ctx, config)
        for name in config.ensemble:
            self._step(pools[name], asked).then(
                partial(council.answered, name), partial(council.failed, name)
            )
        if config.patience is not None:
            gateway = self._gateway
            timer = gateway.timers.punctual(gateway.clock.now() + config.patience, council.hurry)
            council.answer.then(lambda _: timer.cancel(), lambda _: timer.cancel())
        return council.answer

    # In two steps, the second for some rows

    def _cascade(self, config: Graph, pools: Mapping[str, Pool], infer: InferRequest) -> Promise[Said]:
        cascade = config.cascade
        assert cascade is not None
        first = self._step(pools[cascade.first], with_outputs(infer, None))

        def judged(said: Said) -> Eventual[Said]:
            if isinstance(said, Refusal):
                return said
            doubtful = doubtful_rows(said, cascade.output, cascade.below, rows(infer))
            if not doubtful:
                return said
            later: Promise[Said] = Promise()
            better = self._step(pools[cascade.then], with_outputs(pick(infer, doubtful), None))
            better.then(partial(settled, said, doubtful, later), lambda _: degraded(said, later))
            return later

        def settled(said: InferResponse, doubtful: list[int], later: Promise[Said], better: Said) -> None:
            if isinstance(better, Refusal):
                degraded(said, later)
                return
            try:
                later.resolve(replaced(said, doubtful, better))
            except GatewayError as unlike:
                later.reject(unlike)

        def degraded(said: InferResponse, later: Promise[Said]) -> None:
            self._ctx.degraded = "cascade"
            self._ctx.degraded_by = cascade.then
            later.resolve(said)

        return first.chain(judged)

    # Parts side by side

    def _scatter(self, pool: Pool, most: int, infer: InferRequest) -> Promise[Said]:
        total = rows(infer)
        if total <= most or any(not one.shape or one.shape[0] != total for one in infer.inputs):
            return self._step(pool, infer)
        parts = -(-total // most)
        size, larger = divmod(total, parts)  # parts of nearly equal size end at nearly the same time
        cuts, begin = [], 0
        for index in range(parts):
            end = begin + size + (index < larger)
            cuts.append(pick(infer, range(begin, end)))
            begin = end
        return Scattered(self, pool, cuts).start()

    def step(self, pool: Pool, infer: InferRequest) -> Promise[Said]:
        """Ask one member."""
        return self._step(pool, infer)


class Council:
    """An ensemble that is being asked."""

    __slots__ = ("_answers", "_config", "_ctx", "_failed", "_hurried", "answer")

    def __init__(self, ctx: Context, config: Graph) -> None:
        self._ctx = ctx
        self._config = config
        self._answers: dict[str, InferResponse] = {}
        self._failed: list[str] = []
        self._hurried = False
        self.answer: Promise[Said] = Promise()

    def answered(self, member: str, said: Said) -> None:
        """A member answered, or refused: then they all would, for it is the same question."""
        if isinstance(said, Refusal):
            self.answer.resolve(said)
            return
        self._answers[member] = said
        self._conclude()

    def failed(self, member: str, error: Exception) -> None:
        """A member failed: the others may be enough."""
        self._failed.append(member)
        members = len(self._config.ensemble)
        if members - len(self._failed) < (self._config.need or members):
            self.answer.reject(error)
        else:
            self._conclude()

    def hurry(self) -> None:
        """Patience is over: as many answers as are needed are enough, now or as soon as they are there."""
        self._hurried = True
        self._conclude()

    def _enough(self) -> bool:
        members = len(self._config.ensemble)
        if self._hurried:
            return len(self._answers) >= (self._config.need or members)
        return len(self._answers) + len(self._failed) == members

    def _conclude(self) -> None:
        config = self._config
        if self.answer.done or not self._enough():
            return
        answers = {name: self._answers[name] for name in config.ensemble if name in self._answers}
        weights = {name: config.weights.get(name, 1.0) for name in answers}
        missing = [name for name in config.ensemble if name not in answers]
        if missing:
            self._ctx.degraded = f"ensemble {len(answers)} of {len(config.ensemble)}"
            self._ctx.degraded_by = ",".join(missing)
        try:
            self.answer.resolve(blend(answers, weights, config.by))
        except InvalidPrediction as unlike:
            self.answer.reject(UpstreamUnreadable(unlike.message))


class Scattered:
    """A batch in parts, some of them under way."""

    __slots__ = ("_answers", "_cuts", "_missing", "_next", "_pool", "_run", "answer")

    def __init__(self, run: Run, pool: Pool, cuts: Sequence[InferRequest]) -> None:
        self._run = run
        self._pool = pool
        self._cuts = cuts
        self._next = 0
        self._missing = len(cuts)
        self._answers: dict[int, InferResponse] = {}
        self.answer: Promise[Said] = Promise()

    def start(self) -> Promise[Said]:
        """Send as many parts as may be under way."""
        for _ in range(min(AT_ONCE, len(self._cuts))):
            self._send()
        return self.answer

    def _send(self) -> None:
        index, self._next = self._next, self._next + 1
        self._run.step(self._pool, self._cuts[index]).then(partial(self._answered, index), self.answer.reject)

    def _answered(self, index: int, said: Said) -> None:
        if self.answer.done:
            return
        if isinstance(said, Refusal):
            self.answer.resolve(said)
            return
        self._answers[index] = said
        self._missing -= 1
        if self._next < len(self._cuts):
            self._send()
        elif not self._missing:
            try:
                whole = put_responses_together([self._answers[part] for part in range(len(self._cuts))])
            except InvalidPrediction as unlike:
                self.answer.reject(UpstreamUnreadable(unlike.message))
                return
            self.answer.resolve(whole)


def with_outputs(infer: InferRequest, outputs: tuple[str, ...] | None) -> InferRequest:
    """Return the same question for other outputs; None: all."""
    return InferRequest(
        infer.id,
        infer.model,
        infer.version,
        infer.label,
        infer.signature,
        infer.inputs,
        outputs,
        infer.params,
        infer.style,
    )


def doubtful_rows(said: InferResponse, output: str, below: float, expected: int) -> list[int]:
    """Return the rows whose largest value of `output` is below; raises UpstreamUnreadable without one."""
    for tensor in said.outputs:
        data = tensor.data
        if isinstance(data, list) or data.dtype.kind != "f" or (output and tensor.name != output):
            continue
        if not tensor.shape or tensor.shape[0] != expected:
            break
        largest = data.reshape(expected, -1).max(axis=1)
        return [int(row) for row in np.flatnonzero(~(largest >= below))]  # NaN is doubtful
    raise UpstreamUnreadable(
        f"the first model of the cascade has no floating output {output!r} of one row each"
    )


def replaced(said: InferResponse, places: Sequence[int], better: InferResponse) -> InferResponse:
    """Return the answer with some rows taken from another; raises UpstreamUnreadable for unlike ones."""
    others = {tensor.name: tensor for tensor in better.outputs}
    outputs = []
    for tensor in said.outputs:
        other = others.get(tensor.name)
        if other is None or (other.dtype, other.shape) != (tensor.dtype, (len(places), *tensor.shape[1:])):
            raise UpstreamUnreadable(f"the models of the cascade disagree on the output {tensor.name!r}")
        outputs.append(_replaced(tensor, places, other))
    return InferResponse(said.id, said.model, said.version, tuple(outputs), said.params)


def _replaced(tensor: Tensor, places: Sequence[int], other: Tensor) -> Tensor:
    if isinstance(tensor.data, list) or isinstance(other.data, list):
        width = len(other.data) // len(places)
        mixed = list(tensor.data)
        for index, row in enumerate(places):
            mixed[row * width : (row + 1) * width] = other.data[index * width : (index + 1) * width]
        return Tensor(tensor.name, tensor.dtype, tensor.shape, mixed, tensor.params)
    data = tensor.data.copy()
    data[list(places)] = other.data
    return Tensor(tensor.name, tensor.dtype, tensor.shape, data, tensor.params)
