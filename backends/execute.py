"""One batch through the engine: joined, padded, run, told apart again; and if it fails, each request alone.

    items -> one call -> rows scattered to their items
                `- it failed -> each item alone: only the bad one fails

Runs in a thread of the model's pool, or on the event loop for models that take no time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from backends.errors import BackendError, EngineFailure
from backends.padding import Padding, add_rows
from backends.tensors import Array, Tensors
from backends.waiting import Item

Run = Callable[[Tensors], Mapping[str, Array]]
Answer = Mapping[str, Array] | BackendError

_log = logging.getLogger("backends.batcher")


def execute(run: Run, batch: Sequence[Item], max_batch: int, padding: Padding) -> tuple[list[Answer], float]:
    """Run a batch as one call; return the answer of each item, and the seconds that it took."""
    started = time.perf_counter()
    try:
        answers = _joined(run, batch, padding) if len(batch) > 1 else None
        if answers is None:
            answers = [_alone(run, item, max_batch, padding) for item in batch]
    except Exception:  # a bug: say so once, leave no request waiting, go on with the next batch
        _log.exception("batch_failed")
        answers = [EngineFailure("internal error")] * len(batch)
    return answers, time.perf_counter() - started


def join(batch: Sequence[Item], padding: Padding) -> Tensors:
    """Return the inputs of one call for all items, padded to the bucket's rows."""
    rows = padding.rows(sum(item.rows for item in batch))
    if len(batch) == 1:
        return {name: add_rows(tensor, rows) for name, tensor in batch[0].inputs.items()}
    return {
        name: add_rows(np.concatenate([item.inputs[name] for item in batch]), rows)
        for name in batch[0].inputs
    }


def tell_apart(outputs: Mapping[str, Array], batch: Sequence[Item], padding: Padding) -> list[Answer] | None:
    """Return each item's rows; None where the outputs can't be told apart by row."""
    shown = padding.rows(sum(item.rows for item in batch))
    if any(output.ndim == 0 or len(output) != shown for output in outputs.values()):
        return None
    answers: list[Answer] = []
    start = 0
    for item in batch:
        end = start + item.rows
        mine = {name: output[start:end] for name, output in outputs.items()}
        answers.append(padding.shorten(mine, item.length))
        start = end
    return answers


def _joined(run: Run, batch: Sequence[Item], padding: Padding) -> list[Answer] | None:
    try:
        return tell_apart(run(join(batch, padding)), batch, padding)
    except BackendError:
        return None


def _alone(run: Run, item: Item, max_batch: int, padding: Padding) -> Answer:
    """One request by itself; more than max_batch rows run in pieces."""
    try:
        if item.rows <= max_batch:
            return _piece(run, item, padding)
        pieces = [
            run({name: tensor[start : start + max_batch] for name, tensor in item.inputs.items()})
            for start in range(0, item.rows, max_batch)
        ]
        outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    except BackendError as e:
        return e
    if any(len(output) != item.rows for output in outputs.values()):
        return EngineFailure("the model gave another number of rows than it was asked for")
    return padding.shorten(outputs, item.length)


def _piece(run: Run, item: Item, padding: Padding) -> Mapping[str, Array]:
    shown = padding.rows(item.rows)
    if shown == item.rows:
        return padding.shorten(run(item.inputs), item.length)
    outputs = run(join([item], padding))
    if any(output.ndim == 0 or len(output) != shown for output in outputs.values()):
        raise EngineFailure("the model gave another number of rows than it was asked for")
    return padding.shorten({name: output[: item.rows] for name, output in outputs.items()}, item.length)
