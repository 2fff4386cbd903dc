"""A remote repository's copy on this machine: what changed there is fetched, what is gone there is removed.

The engine opens files, so they must lie here; and because they do, a server goes on, and starts again, while
the store is away. Each look lists the store once; a file whose tag is the same is not fetched again, over
restarts, too (`.tags.json`). A file appears by a rename, never half.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from backends.errors import LoadError
from backends.files import Files

_TAGS = ".tags.json"

_log = logging.getLogger("backends.mirror")


class Mirror:
    """One repository's copy in `folder`."""

    __slots__ = ("_files", "_tags", "folder")

    def __init__(self, files: Files, folder: Path) -> None:
        self._files = files
        self.folder = folder
        self._tags = _read_tags(folder / _TAGS)

    def refresh(self) -> None:
        """Make the copy what the store holds now. LoadError; then the copy is what it was, or part newer."""
        there = {path: tag for path, tag in self._files.walk().items() if _is_safe(path)}
        changed = [path for path, tag in there.items() if self._tags.get(path) != tag]
        gone = [path for path in self._tags if path not in there]
        try:
            for path in changed:
                self._fetch(path)
                self._tags[path] = there[path]
            for path in gone:
                (self.folder / path).unlink(missing_ok=True)
                del self._tags[path]
                _remove_empty(self.folder, (self.folder / path).parent)
            if changed or gone:
                _log.info("mirrored fetched=%d removed=%d", len(changed), len(gone))
        except OSError as e:
            raise LoadError(f"{self.folder}: {e.strerror}") from e
        finally:
            self._write_tags()

    def refresh_if_possible(self) -> None:
        """The same; where the store is away and there is a copy, the copy is what there is."""
        try:
            self.refresh()
        except LoadError as e:
            if not self._tags:
                raise
            _log.error("repository_unreadable reason=%r", str(e))

    def _fetch(self, path: str) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        self._files.fetch(path, beside)
        beside.replace(place)

    def _write_tags(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"{_TAGS}.{os.getpid()}"
        beside.write_text(json.dumps(self._tags))
        beside.replace(self.folder / _TAGS)


def folder_for(url: str, cache: Path | None) -> Path:
    """Return where the copy of a URL's repository lies: under `cache`, else in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headgate"
    return (cache or home) / "models" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _read_tags(path: Path) -> dict[str, str]:
    try:
        tags: Mapping[str, str] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {name: tag for name, tag in tags.items() if (path.parent / name).is_file()}


def _is_safe(path: str) -> bool:
    """Whether a name from the store stays inside the copy."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/")


def _remove_empty(root: Path, folder: Path) -> None:
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
