"""The model repository: folders on disk -> which versions of which models there are, and their cards.

    DIR/<model>/model.yaml                the card (optional; see card.py)
    DIR/<model>/<version>/model.onnx      version: a whole number, as TensorFlow Serving and Triton have it
    DIR/<model>/<version>/model.yaml      what is different about this version (optional)

Reads folders and cards; opens no model. Files and folders with other names are left alone, so that
samples, notes and checksums may lie beside the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.card import Card, read_card
from backends.errors import LoadError
from backends.strict_yaml import nearest


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
    """One version of one model on disk."""

    folder: Path
    card: Card

    @property
    def entry(self) -> Path:
        """The file that the engine opens."""
        return self.folder / self.card.entry


def find_models(repository: Path, choices: Sequence[Choice] = ()) -> list[Found]:
    """Return what there is, or what of it was chosen, by name and then version, oldest first.

    Raises LoadError when the folder is missing or empty, or a choice is not there; ConfigError for a
    card.
    """
    if not repository.is_dir():
        raise LoadError(f"repository {repository}: no such folder")
    folders = {(folder.parent.name, folder.name): folder for folder in _version_folders(repository)}
    if not folders:
        raise LoadError(f"repository {repository}: no <model>/<version>/ in it")
    wanted = [key for choice in choices for key in _chosen(choice, folders)] if choices else list(folders)
    unique = sorted(set(wanted), key=lambda key: (key[0], int(key[1])))
    found = [Found(folders[key], read_card(folders[key].parent, key[1])) for key in unique]
    for version in found:
        if not version.entry.is_file():
            raise LoadError(f"{version.folder}: no {version.card.entry}")
    return found


def _version_folders(repository: Path) -> Iterator[Path]:
    for model in sorted(repository.iterdir()):
        if model.is_dir():
            yield from (folder for folder in model.iterdir() if folder.is_dir() and folder.name.isdecimal())


def _chosen(choice: Choice, keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    versions = [key for key in keys if key[0] == choice.name]
    if not versions:
        raise LoadError(f"no model {choice.name!r}; {nearest(choice.name, {name for name, _ in keys})}")
    if choice.version is None:
        return versions
    chosen = [key for key in versions if key[1] == choice.version]
    if not chosen:
        known = ", ".join(sorted((version for _, version in versions), key=int))
        raise LoadError(f"model {choice.name!r} has no version {choice.version!r}; known: {known}")
    return chosen
