"""What people do to a repository: push a version, list, promote, retire, restore. `headgate models …`.

A version is a number that is given once: what was pushed never changes, and a retired version keeps its
parameters, so that everything can be taken back. Commands write `state.yaml` (state.py) and add folders;
cards, which people write, are never touched. Servers that poll follow by themselves.

    push      the version must pass its sample before anybody sees it
    promote   a label (stable) points at a version from now on; where it pointed before is said
    retire    served no more: 410 with the successor; refused while a label points at it
    restore   served again
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backends.card import CARD, Card, read_card
from backends.errors import LoadError
from backends.files import Files
from backends.state import STATE, Retired, State, read_state, write_state
from backends.strict_yaml import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Version:
    """One version as `list` shows it. files: how many. labels: those that point at it."""

    name: str
    version: str
    card: Card
    files: int
    labels: tuple[str, ...]
    retired: Retired | None
    complete: bool  # the file that the engine opens is there


def list_versions(files: Files, model: str = "") -> list[Version]:
    """Return every version of one model, or of all, oldest first. LoadError."""
    listed: list[Version] = []
    for name, paths in sorted(_models(files).items()):
        if model not in ("", name):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = _cards(files, name, paths, Path(scratch))
            state = _state(folder)
            versions = sorted(_versions(paths), key=int)
            listed += [_version(name, version, paths, folder, state) for version in versions]
    if model and not listed:
        raise LoadError(f"no model {model!r}; {nearest(model, _models(files))}")
    return listed


def push(files: Files, model: str, source: Path, version: str = "", card: Path | None = None) -> str:
    """Publish a model file or folder as a new version; returns the version. LoadError, ConfigError.

    source: an ONNX file, or a folder with one and what lies beside it. version: default: the newest and one.
    card: the version's model.yaml. The version must pass its sample here first.
    """
    if not model or "/" in model or model.startswith("."):
        raise LoadError(f"{model!r} is no name for a model")
    paths = _models(files).get(model, {})
    there = sorted(_versions(paths), key=int)
    version = version or str(int(there[-1]) + 1 if there else 1)
    if not version.isdecimal():
        raise LoadError(f"a version is a whole number, not {version!r}")
    if version in there:
        raise LoadError(f"{model} has a version {version}, and versions never change: push another number")
    with tempfile.TemporaryDirectory() as scratch:
        folder = _cards(files, model, paths, Path(scratch))
        staged = folder / version
        if source.is_dir():
            shutil.copytree(source, staged)
        elif source.is_file():
            staged.mkdir()
            shutil.copyfile(source, staged / read_card(folder, version).entry)
        else:
            raise LoadError(f"{source}: no such file or folder")
        if card is not None:
            shutil.copyfile(card, staged / CARD)
        prove(folder, version)
        files.publish(staged, f"{model}/{version}", read_card(folder, version).entry)
    return version


def prove(model: Path, version: str) -> None:
    """Open the version and run its sample, as a server would. LoadError, ConfigError."""
    from backends.providers import EngineSettings
    from backends.repository import Found
    from backends.served import prepare

    card = replace(read_card(model, version), isolation="shared", memory=None, call_timeout=None)
    found = Found(model / version, card)
    if not found.entry.is_file():
        raise LoadError(f"{model.name}/{version}: no {found.card.entry}")
    prepare(found, EngineSettings("cpu"), 1).engine.close()


def promote(files: Files, model: str, version: str, label: str = "stable") -> str:
    """Point the label at the version; returns where it pointed before, or nothing. LoadError."""
    one = _find(files, model, version)
    if one.retired is not None:
        raise LoadError(f"{model} version {version} is retired; restore it first")
    state = _read(files, model)
    before = {**one.card.labels, **state.labels}.get(label, "")
    _write(files, model, replace(state, labels={**state.labels, label: version}))
    return before


def retire(files: Files, model: str, version: str, successor: str, reason: str, date: str) -> None:
    """Mark the version as retired. successor: VERSION, MODEL, MODEL=VERSION, or nothing. LoadError."""
    one = _find(files, model, version)
    if one.labels:
        raise LoadError(f"{model} version {version} is {', '.join(one.labels)}; promote another one first")
    if successor:
        name, _, number = successor.rpartition("=")
        if not name and not number.isdecimal():
            name, number = number, ""
        after = _find(files, name or model, number) if number else list_versions(files, name)[-1]
        if after.retired is not None or (after.name, after.version) == (model, version):
            raise LoadError(f"{successor} cannot succeed {model} version {version}: it is retired itself")
    state = _read(files, model)
    retired = {**state.retired, version: Retired(successor, date, reason)}
    _write(files, model, replace(state, retired=retired))


def restore(files: Files, model: str, version: str) -> None:
    """Serve a retired version again. LoadError."""
    one = _find(files, model, version)
    if one.retired is None:
        raise LoadError(f"{model} version {version} is not retired")
    state = _read(files, model)
    left = {key: retired for key, retired in state.retired.items() if key != version}
    _write(files, model, replace(state, retired=left))


def fetch_version(files: Files, model: str, version: str, to: Path) -> Path:
    """Copy a version and its model's card under `to`; returns the model's folder there. LoadError."""
    _find(files, model, version)
    paths = _models(files)[model]
    folder = _cards(files, model, paths, to)
    for path in paths:
        if path.startswith(f"{version}/"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            files.fetch(f"{model}/{path}", folder / path)
    return folder


# What is there


def _models(files: Files) -> dict[str, dict[str, str]]:
    """Return model -> path within its folder -> tag."""
    models: dict[str, dict[str, str]] = {}
    for path, tag in files.walk().items():
        name, slash, rest = path.partition("/")
        if slash:
            models.setdefault(name, {})[rest] = tag
    return {name: paths for name, paths in models.items() if _versions(paths) or CARD in paths}


def _versions(paths: Mapping[str, str]) -> set[str]:
    return {path.partition("/")[0] for path in paths if "/" in path and path.partition("/")[0].isdecimal()}


def _cards(files: Files, model: str, paths: Mapping[str, str], to: Path) -> Path:
    """Copy cards and state under `to`: they are small, and their reader wants files."""
    folder = to / model
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path in (CARD, STATE) or (path.endswith(f"/{CARD}") and path.count("/") == 1):
            (folder / path).parent.mkdir(exist_ok=True)
            files.fetch(f"{model}/{path}", folder / path)
    return folder


def _version(name: str, version: str, paths: Mapping[str, str], folder: Path, state: State) -> Version:
    try:
        card = read_card(folder, version)
    except ConfigError as e:
        raise LoadError(str(e)) from e
    labels = {**card.labels, **state.labels}
    pointing = tuple(sorted(label for label, at in labels.items() if at == version))
    return Version(
        name,
        version,
        card,
        len([path for path in paths if path.startswith(f"{version}/")]),
        pointing,
        state.retired.get(version),
        f"{version}/{card.entry}" in paths,
    )


def _find(files: Files, model: str, version: str) -> Version:
    listed = list_versions(files, model)
    for one in listed:
        if one.version == version:
            return one
    known = ", ".join(one.version for one in listed)
    raise LoadError(f"model {model!r} has no version {version!r}; known: {known}")


# What was decided


def _state(folder: Path) -> State:
    try:
        return read_state(folder)
    except ConfigError as e:
        raise LoadError(str(e)) from e


def _read(files: Files, model: str) -> State:
    text = files.read(f"{model}/{STATE}")
    with tempfile.TemporaryDirectory() as scratch:
        if text is not None:
            (Path(scratch) / STATE).write_bytes(text)
        return _state(Path(scratch))


def _write(files: Files, model: str, state: State) -> None:
    files.write(f"{model}/{STATE}", write_state(state))
