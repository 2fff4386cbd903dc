"""Served models: from a folder to something that answers, or to the reason why it does not.

open the graph -> compare it with the card -> the sample must pass -> warm up, measure -> queue

`prepare` does everything that takes time, in whatever thread it is called from; `serve` only puts the queue
in front of it. A version that fails on the way is not served, and the others are: one broken candidate does
not take the stable version down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from backends.batcher import Batcher, Start
from backends.card import Batching, Card, Declared, Sample
from backends.engine import Engine, Runner
from backends.errors import BackendError, Invalid, LoadError
from backends.instances import Instances
from backends.isolated import ChildSettings, Isolated
from backends.metrics import Load, ModelMetrics
from backends.padding import Padding, add_rows
from backends.providers import EngineSettings, profiles
from backends.repository import Found, Key, Stamp
from backends.tensors import ANY, Array, Signature, Tensors, TensorSpec
from backends.validation import Validator, to_tensor

# A call in a thread costs two switches of threads more; a loop held up for 1 ms is not felt.
INLINE_BELOW = 0.001  # s, for one full batch
MEASURED_CALLS = 5

_log = logging.getLogger("backends.served")


@dataclass(frozen=True, slots=True)
class Prepared:
    """One model version that was opened and proven, before anybody can ask it."""

    found: Found
    engine: Runner
    validator: Validator
    lanes: int  # calls at the same time
    inline: bool
    start: Start | None  # how a call begins asynchronously, where the card asks for it


@dataclass(frozen=True, slots=True)
class Served:
    """One model version that answers."""

    card: Card
    signature: Signature
    provider: str  # where it really runs
    validator: Validator
    batcher: Batcher
    metrics: ModelMetrics
    stamp: Stamp  # of the files that it was loaded from
    engine: Runner
    executor: ThreadPoolExecutor

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def version(self) -> str:
        """The version, a whole number in decimal."""
        return self.card.version

    @property
    def key(self) -> Key:
        """Model and version."""
        return self.card.name, self.card.version

    async def close(self) -> None:
        """Finish what was submitted, then let go of threads, processes and memory."""
        await self.batcher.close()
        self.executor.shutdown(wait=False)
        await asyncio.to_thread(self.engine.close)


def serve(prepared: Prepared, load: Load, metrics: ModelMetrics | None = None) -> Served:
    """Put a queue in front of it, on the running event loop.

    metrics: of the same version's life before, which goes on.
    """
    card, engine = prepared.found.card, prepared.engine
    metrics = metrics or ModelMetrics()
    if isinstance(engine, Isolated):
        numbers, loop = metrics, asyncio.get_running_loop()
        engine.tell(lambda: _count_restart(loop, numbers))
    executor = ThreadPoolExecutor(
        prepared.lanes,
        f"engine-{card.name}-{card.version}",
        initializer=_yield_to_others,
        initargs=(card.nice,),
    )
    batcher = Batcher(
        engine.run,
        executor,
        metrics,
        max_batch=card.batching.max_batch,
        max_queue=card.batching.max_queue,
        parallel=prepared.lanes,
        inline=prepared.inline,
        padding=Padding(card.batching),
        joinable=engine.signature.batched,
        start=prepared.start,
        load=load,
    )
    return Served(
        card,
        engine.signature,
        engine.provider,
        prepared.validator,
        batcher,
        metrics,
        prepared.found.stamp,
        engine,
        executor,
    )


def prepare(found: Found, settings: EngineSettings, threads: int) -> Prepared:
    """Open and prove a version; blocks for as long as that takes. LoadError.

    threads: calls at the same time, where the card names no number.
    """
    card = found.card
    where = f"{card.name} version {card.version}"
    engine = _open(found, settings)
    try:
        _compare(where, "input", card.inputs, engine.signature.inputs)
        _compare(where, "output", card.outputs, engine.signature.outputs)
        _check_shapes(where, card.batching, engine.signature)
        validator = Validator(card.name, engine.signature)
        full_batch = None
        if card.sample is None:
            _log.warning(
                "model_unproven model=%s version=%s reason='the card has no sample'", card.name, card.version
            )
        else:
            full_batch = _prove(where, card, card.sample, engine, validator)
    except LoadError:
        engine.close()
        raise
    return _decided(found, engine, validator, threads, full_batch)


def _decided(
    found: Found, engine: Runner, validator: Validator, threads: int, full_batch: float | None
) -> Prepared:
    """Decide where its calls run."""
    card = found.card
    quick = full_batch is not None and full_batch < INLINE_BELOW
    isolated = isinstance(engine, Isolated)
    inline = not isolated and (card.execution == "inline" or (card.execution == "auto" and quick))
    start = engine.start if card.execution == "async" and isinstance(engine, Engine | Instances) else None
    lanes = _count(card) if isolated else card.batching.parallel or max(threads, _count(card))
    execution = "process" if isolated else "inline" if inline else "async" if start else "thread"
    _log.info(
        "model_loaded model=%s version=%s provider=%s execution=%s lanes=%d batch_seconds=%s",
        card.name,
        card.version,
        engine.provider,
        execution,
        lanes,
        "unknown" if full_batch is None else f"{full_batch:.6f}",
    )
    return Prepared(found, engine, validator, lanes, inline, start)


# Opening


def _open(found: Found, settings: EngineSettings) -> Runner:
    """Open as many sessions as the card asks for, in processes of their own where it does."""
    card = found.card
    base = replace(
        settings,
        environment=card.environment,
        rows=card.batching.buckets or (1, card.batching.max_batch),
        threads=2 if card.execution == "async" else 1,
    )
    each = [replace(base, device_id=device) for device in card.devices for _ in range(card.instances)]
    if card.isolation == "process":
        children = [
            ChildSettings(found.entry, one, card.binding, card.memory, card.nice, card.call_timeout)
            for one in each
        ]
        return Isolated.open(f"{card.name}:{card.version}", children)
    first = Engine.open(found.entry, each[0], card.binding)
    if settings.device == "tensorrt":  # the graph's shapes are known only now, and its profiles need them
        each = [replace(one, profiles=profiles(first.signature)) for one in each]
        first = Engine.open(found.entry, each[0], card.binding)
    if len(each) == 1:
        return first
    return Instances([first, *(Engine.open(found.entry, one, card.binding) for one in each[1:])])


def _count(card: Card) -> int:
    return card.instances * len(card.devices)


def _yield_to_others(nice: int) -> None:
    """Lower this thread's priority: on Linux niceness is a thread's own (sched(7))."""
    if nice:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _count_restart(loop: asyncio.AbstractEventLoop, metrics: ModelMetrics) -> None:
    """Count on the loop: the counter belongs to it."""

    def count() -> None:
        metrics.restarts += 1

    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(count)


# The card against the graph


def _compare(where: str, what: str, declared: Mapping[str, Declared], actual: Sequence[TensorSpec]) -> None:
    """Raise LoadError unless card and graph have the same tensors with the same types and shapes."""
    if not declared:
        return
    graph = {spec.name: spec for spec in actual}
    for name in sorted(declared.keys() | graph.keys()):
        if name not in graph or name not in declared:
            missing = "graph" if name in declared else "card"
            raise LoadError(f"{where}: {what} {name!r} is not in the {missing}")
        said, spec = declared[name], graph[name]
        if said.dtype != spec.dtype or not _may_be(said.shape, spec.shape):
            card_says = TensorSpec(name, said.dtype, said.shape)
            raise LoadError(f"{where}: the card says {what} {card_says}, the graph says {spec}")


def _may_be(declared: Sequence[int], graph: Sequence[int]) -> bool:
    """Whether both shapes have as many dimensions and no fixed size contradicts another."""
    return len(declared) == len(graph) and all(
        ANY in (said, actual) or said == actual for said, actual in zip(declared, graph, strict=True)
    )


def _check_shapes(where: str, batching: Batching, signature: Signature) -> None:
    """Raise LoadError where buckets or lengths are asked of a model whose shapes don't allow them."""
    if batching.buckets and not signature.batched:
        raise LoadError(f"{where}: buckets need a free dimension 0 in every tensor")
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name for spec in signature.outputs}
    for name in batching.pad:
        if name not in inputs or inputs[name].shape[1:2] != (ANY,) or inputs[name].dtype.name == "BYTES":
            raise LoadError(f"{where}: pad: {name!r} is no input of numbers with a free dimension 1")
    for name in batching.cut:
        if name not in outputs:
            raise LoadError(f"{where}: cut: there is no output {name!r}")


# The sample


def _prove(where: str, card: Card, sample: Sample, engine: Runner, validator: Validator) -> float:
    """Check the sample's answer, warm up; return the s of a full batch, the fastest of a few."""
    try:
        inputs: Tensors = {
            name: to_tensor(values, validator.spec(name), validator.refuse)
            for name, values in sample.inputs.items()
        }
        rows = validator.count_rows(inputs)
        padding = Padding(card.batching)
        length = padding.length(inputs)
        inputs = padding.lengthen(inputs)
        outputs = padding.shorten(engine.run(inputs), length)
    except (Invalid, BackendError) as e:
        raise LoadError(f"{where}: the sample cannot be run: {e}") from e
    for name, values in sample.outputs.items():
        _check_output(where, name, values, sample.tolerance, outputs)
    _warm_up(where, card, engine, inputs)
    full = max(card.batching.max_batch, rows) if engine.signature.batched else rows
    return min(_seconds(engine, _of_rows(inputs, full)) for _ in range(MEASURED_CALLS))


def _warm_up(where: str, card: Card, engine: Runner, inputs: Tensors) -> None:
    """Show every instance every number of rows that it will meet: plans are made now, not for a client."""
    shapes = card.batching.buckets or (1, card.batching.max_batch)
    try:
        for rows in shapes if engine.signature.batched else ():
            for _ in range(card.warmup * _count(card)):
                engine.run(_of_rows(inputs, rows))
    except BackendError as e:
        raise LoadError(f"{where}: warming up failed: {e}") from e


def _of_rows(inputs: Tensors, rows: int) -> dict[str, Array]:
    return {name: add_rows(tensor[:rows], rows) for name, tensor in inputs.items()}


def _check_output(
    where: str, name: str, values: object, tolerance: float, outputs: Mapping[str, Array]
) -> None:
    actual = outputs.get(name)
    if actual is None:
        raise LoadError(f"{where}: the sample expects an output {name!r}; there are {', '.join(outputs)}")
    expected = np.array(values)
    if expected.shape != actual.shape:
        raise LoadError(
            f"{where}: the sample's {name!r} has shape {list(actual.shape)}, not {list(expected.shape)}"
        )
    if actual.dtype.kind == "f":
        worst = float(np.max(np.abs(actual - expected.astype(np.float64)), initial=0.0))
        if not worst <= tolerance:  # also when it is NaN
            raise LoadError(f"{where}: the sample's {name!r} is off by {worst:.3g}, allowed is {tolerance:g}")
    elif not np.array_equal(actual, expected):
        raise LoadError(f"{where}: the sample's {name!r} is {actual.tolist()}, expected {expected.tolist()}")


def _seconds(engine: Runner, inputs: Tensors) -> float:
    started = time.perf_counter()
    engine.run(inputs)
    return time.perf_counter() - started
