"""Served models: from a folder to something that answers, or to the reason why it does not.

open the graph -> compare it with the card -> the sample must give the known answer -> measure -> queue

A version that fails on the way is not served, and the others are: one broken candidate does not take the
stable version down. Only when nothing is left, or a version was asked for by name, does the server not
start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from backends.batcher import Batcher
from backends.card import Card, Declared, Sample
from backends.engine import Engine, EngineSettings
from backends.errors import EngineFailure, Invalid, LoadError, NotFound
from backends.metrics import ModelMetrics
from backends.repository import Found
from backends.tensors import ANY, Array, Tensors, TensorSpec
from backends.validation import Validator, to_tensor

# A call in a thread costs two switches of threads more; a loop held up for 1 ms is not felt.
INLINE_BELOW = 0.001  # s, for one full batch
MEASURED_CALLS = 5

_log = logging.getLogger("backends.served")


@dataclass(frozen=True, slots=True)
class Served:
    """One model version that answers."""

    card: Card
    engine: Engine
    validator: Validator
    batcher: Batcher
    metrics: ModelMetrics

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def version(self) -> str:
        """The version, a whole number in decimal."""
        return self.card.version


class Catalogue:
    """What this process serves: find by model, version and label; and what it could not serve, and
    why."""

    __slots__ = ("_models", "failed")

    def __init__(self, served: Iterable[Served], failed: Mapping[tuple[str, str], str]) -> None:
        """failed: (model, version) -> reason."""
        self._models: dict[str, dict[str, Served]] = {}
        for one in sorted(served, key=lambda one: int(one.version)):
            self._models.setdefault(one.name, {})[one.version] = one
        self.failed = dict(failed)

    def __iter__(self) -> Iterator[Served]:
        return iter([one for versions in self._models.values() for one in versions.values()])

    def versions(self, name: str) -> Sequence[Served]:
        """Return the versions of a model, oldest first. NotFound when no version is served."""
        versions = self._models.get(name)
        if versions is None:
            raise NotFound(f"no model {name!r} here; serving: {', '.join(self._models)}")
        return list(versions.values())

    def find(self, name: str, version: str | None = None, label: str | None = None) -> Served:
        """Return the version, what the label points at, or the newest. NotFound."""
        versions = self.versions(name)
        if label is not None:
            version = versions[-1].card.labels.get(label)
            if version is None:
                raise NotFound(f"model {name!r} has no label {label!r}")
        if version is None:
            return versions[-1]
        for one in versions:
            if one.version == version:
                return one
        known = ", ".join(one.version for one in versions)
        raise NotFound(f"model {name!r} has no version {version!r} here; serving: {known}")


def load_models(
    found: Sequence[Found], settings: EngineSettings, executor: Executor, threads: int, *, all_or_none: bool
) -> Catalogue:
    """Open and prove every version. LoadError when none is left, or all_or_none and one fails.

    Needs the running event loop on which requests will be queued; blocks while models load.
    """
    served: list[Served] = []
    failed: dict[tuple[str, str], str] = {}
    for one in found:
        try:
            served.append(_load(one, settings, executor, threads))
        except LoadError as e:
            if all_or_none:
                raise
            _log.error("model_refused model=%s version=%s reason=%r", one.card.name, one.card.version, str(e))
            failed[one.card.name, one.card.version] = str(e)
    if not served:
        raise LoadError("no model can be served: " + "; ".join(failed.values()))
    return Catalogue(served, failed)


def _load(found: Found, settings: EngineSettings, executor: Executor, threads: int) -> Served:
    card = found.card
    where = f"{card.name} version {card.version}"
    engine = Engine.open(found.entry, replace(settings, environment=card.environment))
    _compare(where, "input", card.inputs, engine.signature.inputs)
    _compare(where, "output", card.outputs, engine.signature.outputs)
    validator = Validator(card.name, engine.signature)
    full_batch = None
    if card.sample is None:
        _log.warning(
            "model_unproven model=%s version=%s reason='the card has no sample'", card.name, card.version
        )
    else:
        full_batch = _prove(where, card.sample, engine, validator, card.batching.max_batch)
    inline = card.execution == "inline" or (
        card.execution == "auto" and full_batch is not None and full_batch < INLINE_BELOW
    )
    metrics = ModelMetrics()
    batcher = Batcher(
        engine.run,
        executor,
        metrics,
        max_batch=card.batching.max_batch,
        max_queue=card.batching.max_queue,
        parallel=card.batching.parallel or threads,
        inline=inline,
        joinable=engine.signature.batched,
    )
    _log.info(
        "model_loaded model=%s version=%s provider=%s execution=%s batch_seconds=%s",
        card.name,
        card.version,
        engine.provider,
        "inline" if inline else "thread",
        "unknown" if full_batch is None else f"{full_batch:.6f}",
    )
    return Served(card, engine, validator, batcher, metrics)


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


# The sample


def _prove(where: str, sample: Sample, engine: Engine, validator: Validator, max_batch: int) -> float:
    """Check the sample's answer; return the time of a full batch in s, the fastest of a few calls."""
    try:
        inputs = {
            name: to_tensor(values, validator.spec(name), validator.refuse)
            for name, values in sample.inputs.items()
        }
        rows = validator.count_rows(inputs)
        outputs = engine.run(inputs)
    except (Invalid, EngineFailure) as e:
        raise LoadError(f"{where}: the sample cannot be run: {e}") from e
    for name, values in sample.outputs.items():
        _check_output(where, name, values, sample.tolerance, outputs)
    if engine.signature.batched:
        copies = -(-max_batch // rows)
        inputs = {
            name: np.concatenate([tensor] * copies)[: max(max_batch, rows)] for name, tensor in inputs.items()
        }
    return min(_seconds(engine, inputs) for _ in range(MEASURED_CALLS))


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


def _seconds(engine: Engine, inputs: Tensors) -> float:
    started = time.perf_counter()
    engine.run(inputs)
    return time.perf_counter() - started
