"""The model card: `model.yaml`, what a person says about a model and what the server holds it to.

`<model>/model.yaml` speaks for every version; `<model>/<version>/model.yaml`, where it exists, replaces
single keys for that version (summary, date, sample …). Name and version are the folders' names: a card
that says otherwise is refused, because one of the two is a mistake.

Cards are written by people. What commands decide (labels that moved, versions that retired) stands beside
them in `state.yaml` (state.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from backends.strict_yaml import ConfigError, Data, Seconds, Size, load
from backends.tensors import ANY, BY_NAME, DType

CARD = "model.yaml"

Execution = Literal["auto", "inline", "thread", "async"]
Isolation = Literal["shared", "process"]
Binding = Literal["auto", "on", "off"]

_DECLARED = re.compile(r"(\w+)\s*\[([^\]]*)\]")
_POLICY = re.compile(r"(all)|latest(?:\s+([1-9][0-9]*))?|specific\s+([0-9]+(?:[\s,]+[0-9]+)*)")


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
class VersionPolicy:
    """Which of a model's versions are served: `all`, `latest`, `latest 2`, `specific 1 3`.

    The three of TensorFlow Serving (ServableVersionPolicy) and Triton (ModelVersionPolicy).
    """

    latest: int | None = None  # the newest so many
    specific: tuple[str, ...] = ()  # these; neither: all

    @classmethod
    def parse(cls, text: str) -> VersionPolicy:
        """Read a policy. ValueError for anything else."""
        match = _POLICY.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"expected all, latest N or specific N N …, got {text!r}")
        if match[1]:
            return cls()
        if match[3]:
            return cls(specific=tuple(str(int(one)) for one in re.split(r"[\s,]+", match[3])))
        return cls(latest=int(match[2] or 1))

    def choose(self, versions: list[str]) -> list[str]:
        """Return what of `versions` (oldest first) is to be served."""
        if self.specific:
            return [version for version in versions if version in self.specific]
        return versions if self.latest is None else versions[-self.latest :]


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests share one call of the engine. None makes a request wait for an idle engine."""

    max_batch: int = 32  # rows in one call; a larger request is cut into calls of this size
    max_queue: int = 1024  # rows that may wait; beyond it the answer is 503 at once
    parallel: int = 0  # calls of this model at the same time; 0 = the server's threads
    buckets: tuple[int, ...] = ()  # the only numbers of rows that the engine is shown; others are padded up
    lengths: tuple[int, ...] = ()  # the same for dimension 1 of the inputs in `pad`
    pad: Mapping[str, float] = field(default_factory=dict)  # input -> what its dimension 1 is filled up with
    cut: tuple[str, ...] = ()  # outputs whose dimension 1 is as long as the padded inputs': cut back

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_queue < 1 or self.parallel < 0:
            raise ValueError("batching: max_batch and max_queue are at least 1, parallel is not negative")
        for name, sizes in (("buckets", self.buckets), ("lengths", self.lengths)):
            if list(sizes) != sorted(set(sizes)) or (sizes and sizes[0] < 1):
                raise ValueError(f"batching: {name} are whole numbers above zero, growing")
        if self.buckets and self.buckets[-1] != self.max_batch:
            raise ValueError("batching: the last of buckets is max_batch")
        if bool(self.lengths) != bool(self.pad):
            raise ValueError("batching: lengths and pad need each other")


@dataclass(frozen=True, slots=True)
class Sample:
    """A request with a known answer. A version that does not give this answer is not served."""

    inputs: Mapping[str, Data]  # input name -> nested lists
    outputs: Mapping[str, Data] = field(
        default_factory=dict
    )  # output name -> nested lists; others are not looked at
    tolerance: float = 1e-4  # greatest absolute difference of a floating-point element


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version comes from, for whoever must explain it later. Shown, never acted upon."""

    source: str = ""  # of the training code: a URL or a path
    commit: str = ""  # of that code
    data: str = ""  # what it was trained on, with its own version
    parent: str = ""  # the version or model that training began with
    metrics: Mapping[str, float] = field(default_factory=dict)  # how it did when it was evaluated


@dataclass(frozen=True, slots=True)
class Card:
    """One version of one model as its card describes it."""

    # What it is
    name: str = ""  # of the model; default: the folder's name
    version: str = ""  # default: the folder's name
    summary: str = ""  # one sentence for people
    author: str = ""  # who answers for it
    date: str = ""  # of training, ISO 8601
    license: str = ""  # an SPDX expression
    lineage: Lineage = Lineage()
    dependencies: tuple[str, ...] = ()  # what training needed, as requirement specifiers
    # What the server holds it to
    inputs: Mapping[str, Declared] = field(
        default_factory=dict
    )  # name -> `FP32 [n, 64]`; must agree with the graph
    outputs: Mapping[str, Declared] = field(default_factory=dict)  # the same for what it gives
    sample: Sample | None = None
    # Which versions there are
    labels: Mapping[str, str] = field(default_factory=dict)  # stable, canary, … -> version
    versions: VersionPolicy | None = None  # which are served; default: the server's
    # How it runs
    entry: str = "model.onnx"  # the file that the engine opens
    environment: Mapping[str, str] = field(default_factory=dict)  # ONNX Runtime session configuration entries
    batching: Batching = Batching()
    execution: Execution = (
        "auto"  # inline: on the event loop; thread: in its threads; async: ONNX Runtime's; auto: measured
    )
    instances: int = 1  # sessions on each device (processes, where isolated)
    devices: tuple[int, ...] = (0,)  # numbers of the GPUs that it runs on
    binding: Binding = "auto"  # ONNX Runtime's IOBinding; auto: on a GPU
    isolation: Isolation = "shared"  # process: in processes of its own
    memory: Size | None = None  # of each such process's data
    call_timeout: Seconds | None = None  # a call in such a process that takes longer ends the process
    nice: int = 0  # 0..19: how much its threads or processes yield to other models'
    warmup: int = 1  # calls per shape and instance before it serves

    def __post_init__(self) -> None:
        if self.instances < 1 or not self.devices or min(self.devices) < 0 or self.warmup < 0:
            raise ValueError("instances is at least 1, devices are numbers, warmup is not negative")
        if not 0 <= self.nice <= 19:
            raise ValueError("nice is 0..19")
        if self.isolation == "shared" and (self.memory is not None or self.call_timeout is not None):
            raise ValueError("memory and call_timeout need isolation: process")
        if self.isolation == "process" and self.execution in ("inline", "async"):
            raise ValueError(f"isolation: process cannot run {self.execution}")


def read_card(model: Path, version: str, over: str = "") -> Card:
    """Return the card of `model`/`version` from one or two files, or the defaults where neither exists.

    over: YAML or JSON whose keys come last. Raises ConfigError.
    """
    paths = [path for path in (model / CARD, model / version / CARD) if path.exists()]
    card = load(Card, *paths, over=over)
    for said, folder, what in ((card.name, model.name, "name"), (card.version, version, "version")):
        if said not in ("", folder):
            raise ConfigError(
                f"{(Path('override'), *paths)[-1]}:1: {what} is {said!r}, but the folder is {folder!r}"
            )
    return replace(card, name=model.name, version=version)
