"""The model repository: folders on disk -> which versions of which models there are, and their cards.

    DIR/<model>/model.yaml                the card (optional; see card.py)
    DIR/<model>/state.yaml                what commands decided: labels, retired versions (optional; state.py)
    DIR/<model>/<version>/model.onnx      version: a whole number, as TensorFlow Serving and Triton have it
    DIR/<model>/<version>/model.yaml      what is different about this version (optional)

Reads folders and cards; opens no model. Files and folders with other names are left alone, so that
samples, notes and checksums may lie beside the models.

`survey` keeps what is wrong with one version apart from the others; `find_models`, which a start uses, makes
the first fault an error. A version whose entry file isn't there yet is being copied: polling waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from backends.card import CARD, Card, VersionPolicy, read_card
from backends.errors import LoadError
from backends.state import State, read_state
from backends.strict_yaml import ConfigError, load, nearest

Key = tuple[str, str]  # model, version
Stamp = tuple[tuple[str, int, int], ...]  # name, size, time of change (ns) of each file of a version

ALL = VersionPolicy()


@dataclass(frozen=True, slots=True)
class Choice:
    """`NAME` or `NAME=VERSION` of the command line: what of the repository to serve."""

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read `digits` or `digits=1`."""
        name, _, version = text.partition("=")
        return cls(name, version or None)


@dataclass(frozen=True, slots=True)
class Found:
    """One version of one model on disk. stamp: changes whenever one of its own files does."""

    folder: Path
    card: Card
    stamp: Stamp = ()

    @property
    def key(self) -> Key:
        """Model and version."""
        return self.card.name, self.card.version

    @property
    def entry(self) -> Path:
        """The file that the engine opens."""
        return self.folder / self.card.entry


@dataclass(frozen=True, slots=True)
class Survey:
    """What a repository holds now. wanted: what its policies and choices say is to be served."""

    wanted: Mapping[Key, Found]
    states: Mapping[str, State] = field(default_factory=dict)  # by model
    faults: Mapping[Key, Exception] = field(default_factory=dict)  # what can't be served, and why
    incoming: frozenset[Key] = frozenset()  # versions without their entry file


def find_models(repository: Path, choices: Sequence[Choice] = (), policy: VersionPolicy = ALL) -> list[Found]:
    """Return what is to be served, by name and then version, oldest first.

    Raises LoadError when the folder is missing or empty, or a choice is not there; ConfigError for a
    card.
    """
    seen = survey(repository, choices, policy)
    for fault in seen.faults.values():
        raise fault
    for model, version in sorted(seen.incoming):
        card = read_card(repository / model, version)
        raise LoadError(f"{repository / model / version}: no {card.entry}")
    return list(seen.wanted.values())


def survey(
    repository: Path,
    choices: Sequence[Choice] = (),
    policy: VersionPolicy = ALL,
    overrides: Mapping[str, str] | None = None,
) -> Survey:
    """Look at the whole repository. policy: of models whose card has none. overrides: YAML over a card.

    Raises LoadError when the folder is missing or empty, or a choice is not there.
    """
    if not repository.is_dir():
        raise LoadError(f"repository {repository}: no such folder")
    models = {path.name: path for path in sorted(repository.iterdir()) if path.is_dir()}
    versions = {name: sorted(_versions(path), key=int) for name, path in models.items()}
    if not any(versions.values()):
        raise LoadError(f"repository {repository}: no <model>/<version>/ in it")
    _check(choices, versions)
    wanted: dict[Key, Found] = {}
    states: dict[str, State] = {}
    faults: dict[Key, Exception] = {}
    incoming: set[Key] = set()
    for name, path in models.items():
        chosen = _chosen(name, versions[name], choices)
        if not chosen:
            continue
        try:
            states[name] = read_state(path)
            kept = [version for version in chosen if version not in states[name].retired]
            kept = _policy(path, policy).choose(kept)
        except ConfigError as e:
            faults.update({(name, version): e for version in chosen})
            continue
        for version in kept:
            try:
                found = _found(path, version, states[name], (overrides or {}).get(name, ""))
            except ConfigError as e:
                faults[name, version] = e
                continue
            if found.entry.is_file():
                wanted[found.key] = found
            else:
                incoming.add(found.key)
    return Survey(wanted, states, faults, frozenset(incoming))


def _versions(model: Path) -> Iterator[str]:
    return (folder.name for folder in model.iterdir() if folder.name.isdecimal() and folder.is_dir())


def _policy(model: Path, default: VersionPolicy) -> VersionPolicy:
    path = model / CARD
    return (load(Card, path).versions if path.exists() else None) or default


def _found(model: Path, version: str, state: State, over: str) -> Found:
    card = read_card(model, version, over)
    if state.labels:
        card = replace(card, labels={**card.labels, **state.labels})
    return Found(model / version, card, _stamp(model / version))


def _stamp(folder: Path) -> Stamp:
    """Return what shows that a file of the version changed; its card is compared by what it says."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CARD]
    return tuple((str(path.relative_to(folder)), *_change(path)) for path in files)


def _change(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


# Choices


def _check(choices: Sequence[Choice], versions: Mapping[str, Sequence[str]]) -> None:
    known = {name for name, there in versions.items() if there}
    for choice in choices:
        if choice.name not in known:
            raise LoadError(f"no model {choice.name!r}; {nearest(choice.name, known)}")
        if choice.version is not None and choice.version not in versions[choice.name]:
            there = ", ".join(versions[choice.name])
            raise LoadError(f"model {choice.name!r} has no version {choice.version!r}; known: {there}")


def _chosen(name: str, versions: Sequence[str], choices: Sequence[Choice]) -> list[str]:
    """Return the versions of a model that the choices leave."""
    mine = [choice.version for choice in choices if choice.name == name]
    if not choices or None in mine:
        return list(versions)
    return [version for version in versions if version in mine]
