"""Two versions side by side: what their cards and graphs say, and what they answer to the same rows.

    what differs     card keys, signature, files
    how they answer  greatest difference of each numeric output, the share of rows with equal labels
    what it costs    time of a call of one row and of a full batch, the fastest of five

The rows are the newer version's sample, or a file's. It is a look, not a judge: `release` policies in the
gateway judge on traffic.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from backends.card import Card, read_card
from backends.engine import Engine
from backends.errors import BackendError, LoadError
from backends.padding import Padding, add_rows
from backends.providers import EngineSettings
from backends.tensors import Array, Tensors
from backends.validation import Validator, to_tensor

_CALLS = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """One output of both versions on the same rows. worst: greatest absolute difference; nan for text."""

    output: str
    worst: float
    equal: float  # share of rows that are the same


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found. card, signature: key -> (before, after), where they differ."""

    card: Mapping[str, tuple[str, str]]
    signature: tuple[str, str] | None
    rows: int
    outputs: tuple[Difference, ...]
    seconds: tuple[tuple[float, float], tuple[float, float]]  # (one row, full batch) of before and after


def compare(
    before: tuple[Path, str], after: tuple[Path, str], rows: Mapping[str, Array] | None = None
) -> Comparison:
    """Compare two (model folder, version). rows: input -> tensor; default: the sample. LoadError."""
    cards = read_card(*before), read_card(*after)
    engines = [
        Engine.open(folder / version / card.entry, EngineSettings("cpu"))
        for (folder, version), card in zip((before, after), cards, strict=True)
    ]
    signatures = str(engines[0].signature), str(engines[1].signature)
    inputs = _inputs(engines[1], cards[1], rows)
    answers = [_run(engine, card, inputs) for engine, card in zip(engines, cards, strict=True)]
    common = [name for name in answers[0] if name in answers[1]]
    return Comparison(
        _card_differences(*cards),
        None if signatures[0] == signatures[1] else signatures,
        _count(inputs),
        tuple(_difference(name, answers[0][name], answers[1][name]) for name in common),
        (_times(engines[0], cards[0], inputs), _times(engines[1], cards[1], inputs)),
    )


def _inputs(engine: Engine, card: Card, rows: Mapping[str, Array] | None) -> Tensors:
    validator = Validator(card.name, engine.signature)
    if rows is None:
        if card.sample is None:
            raise LoadError(f"{card.name} version {card.version} has no sample: name a file of rows")
        inputs: Tensors = {
            name: to_tensor(values, validator.spec(name), validator.refuse)
            for name, values in card.sample.inputs.items()
        }
    else:
        names = [spec.name for spec in engine.signature.inputs]
        named = {names[0] if name == "" else name: tensor for name, tensor in rows.items()}
        inputs = {name: tensor.astype(validator.spec(name).dtype.numpy) for name, tensor in named.items()}
    validator.count_rows(inputs)
    return inputs


def _run(engine: Engine, card: Card, inputs: Tensors) -> Mapping[str, Array]:
    padding = Padding(card.batching)
    try:
        return padding.shorten(engine.run(padding.lengthen(inputs)), padding.length(inputs))
    except BackendError as e:
        raise LoadError(f"{card.name} version {card.version}: {e}") from e


def _difference(name: str, before: Array, after: Array) -> Difference:
    if before.shape != after.shape:
        return Difference(name, float("inf"), 0.0)
    if before.dtype.kind not in "fiub" or after.dtype.kind not in "fiub":
        return Difference(name, float("nan"), _share(np.equal(before, after)))
    apart = np.abs(after.astype(np.float64) - before.astype(np.float64))
    return Difference(name, float(apart.max(initial=0.0)), _share(np.equal(before, after)))


def _share(same: Array) -> float:
    rows = np.atleast_1d(same)
    return float(rows.reshape(len(rows), -1).all(axis=1).mean()) if rows.size else 1.0


def _count(inputs: Tensors) -> int:
    return max((len(tensor) if tensor.ndim else 1 for tensor in inputs.values()), default=0)


def _times(engine: Engine, card: Card, inputs: Tensors) -> tuple[float, float]:
    if not engine.signature.batched:
        return (_fastest(engine, inputs),) * 2
    full = card.batching.max_batch
    few, many = (
        {name: add_rows(tensor[:count], count) for name, tensor in inputs.items()} for count in (1, full)
    )
    return _fastest(engine, few), _fastest(engine, many)


def _fastest(engine: Engine, inputs: Tensors) -> float:
    best = float("inf")
    for _ in range(_CALLS):
        started = time.perf_counter()
        engine.run(inputs)
        best = min(best, time.perf_counter() - started)
    return best


def _card_differences(before: Card, after: Card) -> dict[str, tuple[str, str]]:
    left, right = asdict(before), asdict(after)
    return {
        key: (str(left[key]), str(right[key]))
        for key in left
        if key not in ("version", "sample", "inputs", "outputs", "labels") and left[key] != right[key]
    }
