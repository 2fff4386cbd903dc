"""Micro-batching that never waits while the engine is idle.

A request that finds the engine idle is dispatched at the end of the present turn of the event loop; what
arrives while the engine works waits, and forms the next batch. There is no timer: at low load every
batch has one request and no delay is added, at high load batches grow by themselves (Triton's
`max_queue_delay_microseconds: 0`).

    submit --queue full--> Overloaded
    submit -> queue -> take (drops the cancelled) -> one engine call -> rows scattered to their requests
                                                          `- it failed -> each request alone: only the bad
                                                          one fails

Where a call runs is decided when the model is loaded: `inline`, on the event loop, for models so fast
that handing over to a thread costs more than the call; otherwise in the pool, several calls at a time. A
request of more than max_batch rows always goes to the pool, in pieces of max_batch, and does not hold
the loop up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial

import numpy as np

from backends.errors import BackendError, EngineFailure, Overloaded
from backends.metrics import ModelMetrics
from backends.tensors import Array, Tensors

Run = Callable[[Tensors], Mapping[str, Array]]
Answer = Mapping[str, Array] | BackendError

_log = logging.getLogger("backends.batcher")


class Item:
    """One request in the queue. kind: the shapes that must agree for two items to be joined."""

    __slots__ = ("future", "inputs", "kind", "rows")

    def __init__(self, inputs: Tensors, rows: int, future: asyncio.Future[Mapping[str, Array]]) -> None:
        self.inputs = inputs
        self.rows = rows
        self.future = future
        self.kind = tuple(tensor.shape[1:] for tensor in inputs.values())


class Batcher:
    """The queue of one model version. Everything but `execute` happens on the event loop.

    max_batch: rows per engine call. max_queue: rows that may wait. parallel: engine calls at the same
    time. joinable: False for models whose tensors have no free dimension 0; every request is then a call
    of its own.
    """

    __slots__ = (
        "_executor",
        "_inline",
        "_joinable",
        "_loop",
        "_max_batch",
        "_max_queue",
        "_metrics",
        "_parallel",
        "_queue",
        "_run",
        "_running",
        "_scheduled",
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
        joinable: bool = True,
    ) -> None:
        self._run = run
        self._executor = executor
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._parallel = parallel
        self._inline = inline
        self._joinable = joinable
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._running = 0
        self._scheduled = False

    def submit(self, inputs: Tensors, rows: int) -> asyncio.Future[Mapping[str, Array]]:
        """Queue validated tensors of `rows` rows; the future is their outputs, or raises BackendError.

        Cancel the future when the client has left: the item is dropped if it was not dispatched yet.
        Overloaded when the queue is full. A request is never too large for an empty queue.
        """
        metrics = self._metrics
        if metrics.queued_rows and metrics.queued_rows + rows > self._max_queue:
            raise Overloaded(f"{metrics.queued_rows} rows are waiting; try again later")
        item = Item(inputs, rows, self._loop.create_future())
        self._queue.append(item)
        metrics.queued_rows += rows
        self._schedule()
        return item.future

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
                return
            if self._inline and batch[0].rows <= self._max_batch:
                self._scatter(batch, *execute(self._run, batch, self._max_batch))
                if self._queue:  # let sockets be read and written between two batches
                    self._schedule()
                return
            self._running += 1
            call = self._loop.run_in_executor(self._executor, execute, self._run, batch, self._max_batch)
            call.add_done_callback(partial(self._finish, batch))

    def _take(self) -> list[Item]:
        """Remove the next batch from the queue: the oldest items that may be joined, in order."""
        batch: list[Item] = []
        rows = 0
        while self._queue:
            item = self._queue[0]
            if not item.future.done():
                if batch and not self._joins(item, batch[0], rows):
                    break
                batch.append(item)
                rows += item.rows
            else:
                self._metrics.cancelled += 1
            self._queue.popleft()
            self._metrics.queued_rows -= item.rows
        return batch

    def _joins(self, item: Item, first: Item, rows: int) -> bool:
        return self._joinable and rows + item.rows <= self._max_batch and item.kind == first.kind

    def _finish(self, batch: Sequence[Item], call: asyncio.Future[tuple[list[Answer], float]]) -> None:
        self._running -= 1
        self._scatter(batch, *call.result())
        self._schedule()

    # From the engine to the requests

    def _scatter(self, batch: Sequence[Item], answers: Sequence[Answer], seconds: float) -> None:
        self._metrics.engine_seconds += seconds
        self._metrics.batch_rows.observe(sum(item.rows for item in batch))
        for item, answer in zip(batch, answers, strict=True):
            if item.future.done():
                continue
            if isinstance(answer, BackendError):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)

    def __repr__(self) -> str:
        where = "inline" if self._inline else f"{self._running}/{self._parallel} calls"
        return f"<Batcher {where}, {len(self._queue)} requests of {self._metrics.queued_rows} rows waiting>"


def execute(run: Run, batch: Sequence[Item], max_batch: int) -> tuple[list[Answer], float]:
    """Run a batch as one call; return the answer of each item, and the seconds that it took."""
    started = time.perf_counter()
    try:
        answers = _joined(run, batch) if len(batch) > 1 else None
        if answers is None:
            answers = [_alone(run, item, max_batch) for item in batch]
    except Exception:  # a bug: say so once, leave no request waiting, go on with the next batch
        _log.exception("batch_failed")
        answers = [EngineFailure("internal error")] * len(batch)
    return answers, time.perf_counter() - started


def _joined(run: Run, batch: Sequence[Item]) -> list[Answer] | None:
    """One call for all items; None when it failed, or when the outputs cannot be told apart by row."""
    rows = sum(item.rows for item in batch)
    try:
        outputs = run(
            {name: np.concatenate([item.inputs[name] for item in batch]) for name in batch[0].inputs}
        )
    except BackendError:
        return None
    if any(len(output) != rows for output in outputs.values()):
        return None
    answers: list[Answer] = []
    start = 0
    for item in batch:
        end = start + item.rows
        answers.append({name: output[start:end] for name, output in outputs.items()})
        start = end
    return answers


def _alone(run: Run, item: Item, max_batch: int) -> Answer:
    """One request by itself; more than max_batch rows run in pieces."""
    try:
        if item.rows <= max_batch:
            return run(item.inputs)
        pieces = [
            run({name: tensor[start : start + max_batch] for name, tensor in item.inputs.items()})
            for start in range(0, item.rows, max_batch)
        ]
        outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    except BackendError as e:
        return e
    if any(len(output) != item.rows for output in outputs.values()):
        return EngineFailure("the model gave another number of rows than it was asked for")
    return outputs
