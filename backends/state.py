"""What commands decided about a model: `<model>/state.yaml`, beside the card that people write.

    labels: {stable: '2'}                     over the card's own
    retired:
      '1': {successor: '2', date: '2026-11-22', reason: reads 96.0 % only}

`headgate models promote | retire | restore` write it whole. A retired version keeps its files and is not
served: who asks for it is answered 410 with its successor. Two writers, two files: no command ever rewrites
what a person wrote and commented (docs/adr/0030-model-repository.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from backends.strict_yaml import load

STATE = "state.yaml"


@dataclass(frozen=True, slots=True)
class Retired:
    """One version that is served no more."""

    successor: str = ""  # VERSION of the same model, MODEL or MODEL=VERSION; empty: there is none
    date: str = ""  # ISO 8601
    reason: str = ""  # for people


@dataclass(frozen=True, slots=True)
class State:
    """Decisions about the versions of one model."""

    labels: Mapping[str, str] = field(default_factory=dict)
    retired: Mapping[str, Retired] = field(default_factory=dict)


def read_state(model: Path) -> State:
    """Return what was decided, or nothing where the file isn't there. Raises ConfigError."""
    path = model / STATE
    return load(State, path) if path.exists() else State()


def write_state(state: State) -> bytes:
    """Return the file's text."""
    plain = {key: value for key, value in asdict(state).items() if value}
    return yaml.safe_dump(plain, sort_keys=True, allow_unicode=True).encode() if plain else b""
