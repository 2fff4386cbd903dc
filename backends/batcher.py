"""Micro-batching that never waits while the engine is idle.

A request that finds the engine idle is dispatched at the end of the present turn of the event loop; what
arrives while the engine works waits, and forms the next batch. There is no timer: at low load every
batch has one request and no delay is added, at high load batches grow by themselves (Triton's
`max_queue_delay_microseconds: 0`).

    submit --queue full--> Overloaded (or the youngest of a lower priority, in its place)
    submit -> queue -> take -> one engine call (execute.py) -> rows scattered to their requests
                         |- the client left: dropped
                         `- it can't be answered within its deadline any more: Expired, without a call

A batch is the largest feasible one: as many rows as max_batch allows and as still meet the tightest deadline
among its requests, by what calls have taken so far; where joining saves nothing, requests go alone
(costs.py). What is believed of calls keeps a request out only while there are calls: after `DOUBT` without
one it is forgotten, for a belief that keeps everybody out would never be corrected.

Where a call runs is decided when the model is loaded: `inline`, on the event loop, for models so fast
that handing over to a thread costs more than the call; `thread`, in the model's own pool, several calls at a
time; `async`, in ONNX Runtime's threads, which call back. A request of more than max_batch rows always goes
to the pool, in pieces of max_batch, and does not hold the loop up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from math import inf

from backends.costs import Costs
from backends.errors import BackendError, EngineFailure, Expired, Overloaded
from backends.execute import Answer, Run, execute, join, tell_apart
from backends.metrics import Load, ModelMetrics
from backends.padding import Padding
from backends.tensors import Array, Tensors
from backends.waiting import NORMAL, Item, Waiting

DOUBT = 1.0  # s without a call

Done = Callable[[Mapping[str, Array] | BackendError], None]
Start = Callable[[Tensors, Done], None]  # an asynchronous call; `done` may come from any thread


class Batcher:
    """The queue of one model version. Everything but the engine's calls happens on the event loop.

    max_batch: rows per engine call. max_queue: rows that may wait. parallel: engine calls at the same
    time. start: how a call is begun asynchronously; None: in the executor. joinable: False for models whose
    tensors have no free dimension 0; every request is then a call of its own.
    """

    __slots__ = (
        "_called_at",
        "_costs",
        "_executor",
        "_idle",
        "_inline",
        "_joinable",
        "_load",
        "_loop",
        "_max_batch",
        "_max_queue",
        "_metrics",
        "_padding",
        "_parallel",
        "_run",
        "_running",
        "_scheduled",
        "_start",
        "_waiting",
        "closed",
    )

    def __init__(
        self,
        run: Run,
        executor: Executor,
        metrics: ModelMetrics,
        *,
        max_batch: int,
        max_queue: int,
        parallel: int,
        inline: bool,
        padding: Padding,
        joinable: bool = True,
        start: Start | None = None,
        load: Load | None = None,
    ) -> None:
        self._run = run
        self._executor = executor
        self._metrics = metrics
        self._load = load or Load()
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._parallel = parallel
        self._inline = inline
        self._joinable = joinable
        self._padding = padding
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._costs = Costs()
        self._called_at = -inf  # when a call ended last
        self._waiting = Waiting()
        self._running = 0
        self._scheduled = False
        self._idle: asyncio.Event | None = None
        self.closed = False  # who has this batcher in hand asks the catalogue again

    def submit(
        self, inputs: Tensors, rows: int, deadline: float = inf, level: int = NORMAL
    ) -> asyncio.Future[Mapping[str, Array]]:
        """Queue validated tensors of `rows` rows; the future is their outputs, or raises BackendError.

        deadline: instant on the loop's clock. level: 1 (first) to 9. Cancel the future when the client has
        left: the item is dropped if it was not dispatched yet. Overloaded when the queue is full. A request
        is never too large for an empty queue.
        """
        waiting = self._waiting
        if waiting.rows and waiting.rows + rows > self._max_queue:
            self._make_room(rows, level)
        length = 0
        if self._padding.lengths:
            length = self._padding.length(inputs)
            inputs = self._padding.lengthen(inputs)
        item = Item(inputs, rows, self._loop.create_future(), deadline, level, length)
        waiting.add(item)
        self._count()
        self._schedule()
        return item.future

    async def close(self) -> None:
        """Wait until everything that was submitted is answered; nothing may be submitted afterwards."""
        self.closed = True
        if self._running or self._waiting:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def _make_room(self, rows: int, level: int) -> None:
        """Let the youngest of lower priority go. Overloaded where that is not enough."""
        waiting = self._waiting
        lower = sum(item.rows for item in waiting if item.level > level)
        if waiting.rows - lower and waiting.rows - lower + rows > self._max_queue:
            raise Overloaded(f"{waiting.rows} rows are waiting; try again later")
        while waiting.rows and waiting.rows + rows > self._max_queue:
            yielded = waiting.yield_to(level)
            if yielded is None:
                break
            if not yielded.future.done():
                yielded.future.set_exception(Overloaded("a request of higher priority took the place"))
            self._load.waiting -= 1
        self._count(0)

    def _count(self, more: int = 1) -> None:
        self._metrics.queued_rows = self._waiting.rows
        self._load.waiting += more

    # From the queue to the engine

    def _schedule(self) -> None:
        """Dispatch once this turn of the loop has read what it can; what it read is then one batch."""
        if not self._scheduled and self._running < self._parallel:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._running < self._parallel:
            batch = self._take()
            if not batch:
                self._rest()
                return
            if self._inline and batch[0].rows <= self._max_batch:
                self._scatter(batch, *execute(self._run, batch, self._max_batch, self._padding))
                if self._waiting:  # let sockets be read and written between two batches
                    self._schedule()
                else:
                    self._rest()
                return
            self._running += 1
            if self._start is not None and batch[0].rows <= self._max_batch:
                self._begin(self._start, batch)
            else:
                self._hand_over(batch)

    def _hand_over(self, batch: Sequence[Item]) -> None:
        call = self._loop.run_in_executor(
            self._executor, execute, self._run, batch, self._max_batch, self._padding
        )
        call.add_done_callback(partial(self._finish, batch))

    def _take(self) -> list[Item]:
        """Remove the next batch from the queue: the first items that may be joined, in order."""
        waiting, rows, tightest = self._waiting, 0, inf
        batch: list[Item] = []
        while waiting:
            item = waiting.first()
            if item.future.done():
                self._metrics.cancelled += 1
            elif item.deadline != inf and self._is_late(item):
                self._metrics.expired += 1
                item.future.set_exception(Expired("the deadline cannot be met"))
            else:
                tightest = min(tightest, item.deadline)
                if batch and not self._joins(item, batch[0], rows, tightest):
                    break
                batch.append(item)
                rows += item.rows
            waiting.pop()
            self._load.waiting -= 1
        self._metrics.queued_rows = waiting.rows
        return batch

    def _is_late(self, item: Item) -> bool:
        now = self._loop.time()
        if not self._running and now - self._called_at > DOUBT:
            self._costs.forget()
        seconds = self._costs.expect(self._padding.rows(min(item.rows, self._max_batch)))
        return now + seconds * -(-item.rows // self._max_batch) > item.deadline

    def _joins(self, item: Item, first: Item, rows: int, tightest: float) -> bool:
        total = rows + item.rows
        if not self._joinable or total > self._max_batch or item.kind != first.kind:
            return False
        if not self._costs.pays:
            return False
        if tightest == inf:
            return True
        return self._loop.time() + self._costs.expect(self._padding.rows(total)) <= tightest

    def _finish(self, batch: Sequence[Item], call: asyncio.Future[tuple[list[Answer], float]]) -> None:
        self._running -= 1
        self._scatter(batch, *call.result())
        self._schedule()

    # A call that calls back

    def _begin(self, start: Start, batch: Sequence[Item]) -> None:
        started = self._loop.time()

        def done(outputs: Mapping[str, Array] | BackendError) -> None:  # in the engine's thread
            self._loop.call_soon_threadsafe(self._ended, batch, outputs, started)

        try:
            start(join(batch, self._padding) if self._joinable else batch[0].inputs, done)
        except BackendError as e:
            self._ended(batch, e, started)

    def _ended(
        self, batch: Sequence[Item], outputs: Mapping[str, Array] | BackendError, started: float
    ) -> None:
        answers: list[Answer] | None
        if isinstance(outputs, BackendError):
            answers = [outputs] if len(batch) == 1 else None
        elif not self._joinable:
            answers = [outputs]
        else:
            answers = tell_apart(outputs, batch, self._padding)
        if answers is None and len(batch) > 1:  # each alone, in the pool: only the bad one fails
            self._hand_over(batch)
            return
        self._running -= 1
        wrong = EngineFailure("the model gave another number of rows than it was asked for")
        self._scatter(batch, answers or [wrong], self._loop.time() - started)
        self._schedule()

    # From the engine to the requests

    def _scatter(self, batch: Sequence[Item], answers: Sequence[Answer], seconds: float) -> None:
        rows = sum(item.rows for item in batch)
        self._called_at = self._loop.time()
        self._metrics.engine_seconds += seconds
        self._metrics.batch_rows.observe(rows)
        self._metrics.padded_rows += self._padding.rows(rows) - rows if rows <= self._max_batch else 0
        if rows <= self._max_batch:
            self._costs.learn(self._padding.rows(rows), seconds)
        for item, answer in zip(batch, answers, strict=True):
            if item.future.done():
                continue
            if isinstance(answer, BackendError):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)

    def _rest(self) -> None:
        if self._idle is not None and not self._running and not self._waiting:
            self._idle.set()

    def __repr__(self) -> str:
        where = "inline" if self._inline else f"{self._running}/{self._parallel} calls"
        return f"<Batcher {where}, {len(self._waiting)} requests of {self._waiting.rows} rows waiting>"
