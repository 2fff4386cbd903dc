"""The model card: `model.yaml`, what a person says about a model and what the server holds it to.

`<model>/model.yaml` speaks for every version; `<model>/<version>/model.yaml`, where it exists, replaces
single keys for that version (summary, date, sample …). Name and version are the folders' names: a card
that says otherwise is refused, because one of the two is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from backends.strict_yaml import ConfigError, Data, load
from backends.tensors import ANY, BY_NAME, DType

Execution = Literal["auto", "inline", "thread"]

_DECLARED = re.compile(r"(\w+)\s*\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class Declared:
    """Type and shape of a tensor as a person writes them: `FP32 [n, 64]`; a word is a free dimension."""

    dtype: DType
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Declared:
        """Read `FP32 [n, 64]`. ValueError for an unknown type or another form."""
        match = _DECLARED.fullmatch(text.strip())
        if match is None or match[1] not in BY_NAME:
            raise ValueError(f"expected a type and a shape such as 'FP32 [n, 64]', got {text!r}")
        sizes = [size.strip() for size in match[2].split(",") if size.strip()]
        return cls(BY_NAME[match[1]], tuple(int(size) if size.isdigit() else ANY for size in sizes))


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests share one call of the engine. None makes a request wait for an idle engine."""

    max_batch: int = 32  # rows in one call; a larger request is cut into calls of this size
    max_queue: int = 1024  # rows that may wait; beyond it the answer is 503 at once
    parallel: int = 0  # calls of this model at the same time; 0 = the server's threads

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_queue < 1 or self.parallel < 0:
            raise ValueError("batching: max_batch and max_queue are at least 1, parallel is not negative")


@dataclass(frozen=True, slots=True)
class Sample:
    """A request with a known answer. A version that does not give this answer is not served."""

    inputs: Mapping[str, Data]  # input name -> nested lists
    outputs: Mapping[str, Data] = field(
        default_factory=dict
    )  # output name -> nested lists; others are not looked at
    tolerance: float = 1e-4  # greatest absolute difference of a floating-point element


@dataclass(frozen=True, slots=True)
class Card:
    """One version of one model as its card describes it."""

    name: str = ""  # of the model; default: the folder's name
    version: str = ""  # default: the folder's name
    summary: str = ""  # one sentence for people
    author: str = ""  # who answers for it
    date: str = ""  # of training, ISO 8601
    dependencies: tuple[str, ...] = ()  # what training needed, as requirement specifiers
    entry: str = "model.onnx"  # the file that the engine opens
    environment: Mapping[str, str] = field(default_factory=dict)  # ONNX Runtime session configuration entries
    inputs: Mapping[str, Declared] = field(
        default_factory=dict
    )  # name -> `FP32 [n, 64]`; must agree with the graph
    outputs: Mapping[str, Declared] = field(default_factory=dict)  # the same for what it gives
    labels: Mapping[str, str] = field(default_factory=dict)  # stable, canary, … -> version
    batching: Batching = Batching()
    execution: Execution = (
        "auto"  # inline: on the event loop; thread: in the pool; auto: measured with the sample
    )
    sample: Sample | None = None


def read_card(model: Path, version: str) -> Card:
    """Return the card of `model`/`version` from one or two files, or the defaults where neither exists.

    Raises ConfigError.
    """
    paths = [path for path in (model / "model.yaml", model / version / "model.yaml") if path.exists()]
    if not paths:
        return Card(name=model.name, version=version)
    card = load(Card, *paths)
    for said, folder, what in ((card.name, model.name, "name"), (card.version, version, "version")):
        if said not in ("", folder):
            raise ConfigError(f"{paths[-1]}:1: {what} is {said!r}, but the folder is {folder!r}")
    return replace(card, name=model.name, version=version)
