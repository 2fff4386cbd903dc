"""Where a repository's files are: a folder, or whatever fsspec can reach (s3://, gs://, az://, memory:// …).

Both answer the same few questions, so that commands and servers know no difference. A version becomes visible
at once: in a folder by a rename, elsewhere because the file that the engine opens is written last, and a
version without it is not there yet (repository.py).

The only file that calls fsspec. Its file systems raise what they like, so everything ends here as LoadError;
messages name the path, never an option, for those may hold secrets.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from backends.errors import LoadError

T = TypeVar("T")


class Files(Protocol):
    """The files of one repository, by path relative to it, with forward slashes."""

    def walk(self) -> dict[str, str]:
        """Return every file and a tag that changes with it. Hidden ones are left out. LoadError."""
        ...

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None where there is none. LoadError."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Replace a file, whole or not at all. LoadError."""
        ...

    def fetch(self, path: str, to: Path) -> None:
        """Copy a file here. LoadError."""
        ...

    def publish(self, folder: Path, path: str, last: str) -> None:
        """Put a folder's files there under `path`, the file `last` after all others. LoadError."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file. LoadError."""
        ...


def is_remote(repository: str) -> bool:
    """Whether it is a URL; `file://` is none of ours: name the folder."""
    return "://" in repository


def open_files(repository: str, options: Mapping[str, object] | None = None) -> Files:
    """Return the files of a folder or URL. options: of the URL's file system. LoadError."""
    if is_remote(repository):
        return RemoteFiles(repository, options or {})
    return LocalFiles(Path(repository))


class LocalFiles:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def walk(self) -> dict[str, str]:
        """Return size and time of change of each file."""
        if not self._root.is_dir():
            raise LoadError(f"repository {self._root}: no such folder")
        found = {}
        for path in sorted(self._root.rglob("*")):
            relative = path.relative_to(self._root).as_posix()
            if path.is_file() and not _is_hidden(relative):
                status = path.stat()
                found[relative] = f"{status.st_size}-{status.st_mtime_ns}"
        return found

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes."""
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise LoadError(f"{self._root / path}: {e.strerror}") from e

    def write(self, path: str, data: bytes) -> None:
        """Write beside and rename."""
        place = self._root / path
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
        except OSError as e:
            raise LoadError(f"{place}: {e.strerror}") from e

    def fetch(self, path: str, to: Path) -> None:
        """Copy a file."""
        try:
            shutil.copyfile(self._root / path, to)
        except OSError as e:
            raise LoadError(f"{self._root / path}: {e.strerror}") from e

    def publish(self, folder: Path, path: str, last: str) -> None:
        """Copy beside and rename."""
        place = self._root / path
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            shutil.copytree(folder, beside)
            beside.rename(place)
        except OSError as e:
            shutil.rmtree(beside, ignore_errors=True)
            raise LoadError(f"{place}: {e.strerror or e}") from e

    def remove(self, path: str) -> None:
        """Remove a file."""
        (self._root / path).unlink(missing_ok=True)


class RemoteFiles:
    """What fsspec reaches."""

    def __init__(self, url: str, options: Mapping[str, object]) -> None:
        """options: given to the URL's file system as they are."""
        try:
            import fsspec
        except ImportError as e:
            raise LoadError("a remote repository needs fsspec (pip install 'headgate[serve-remote]')") from e
        self._url = url.rstrip("/")
        self._fs: Any  # fsspec says nothing of its types
        self._fs, root = self._call("", lambda: fsspec.core.url_to_fs(self._url, **options))
        self._root = str(root).rstrip("/")

    def walk(self) -> dict[str, str]:
        """Return ETag, or size and time of change, of each file; what was listed before is forgotten."""
        self._fs.invalidate_cache()
        listed: Mapping[str, Mapping[str, object]] = self._call(
            "", lambda: self._fs.find(self._root, detail=True)
        )
        found = {}
        for path, details in listed.items():
            relative = path.removeprefix(self._root).lstrip("/")
            if relative and not _is_hidden(relative):
                found[relative] = _tag(details)
        return found

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes."""
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{path}"))
        except FileNotFoundError:
            return None
        except Exception as e:  # of whatever library is behind the file system
            raise self._failed(path, e) from e

    def write(self, path: str, data: bytes) -> None:
        """Write one object: stores replace objects whole."""
        self._call(path, lambda: self._fs.pipe_file(f"{self._root}/{path}", data))

    def fetch(self, path: str, to: Path) -> None:
        """Download a file."""
        self._call(path, lambda: self._fs.get_file(f"{self._root}/{path}", str(to)))

    def publish(self, folder: Path, path: str, last: str) -> None:
        """Upload a folder, `last` after all others."""
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        for name in sorted(names, key=lambda name: name == last):
            put = partial(self._fs.put_file, str(folder / name), f"{self._root}/{path}/{name}")
            self._call(path, put)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._call(path, lambda: self._fs.rm_file(f"{self._root}/{path}"))

    def _call(self, path: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as e:  # of whatever library is behind the file system
            raise self._failed(path, e) from e

    def _failed(self, path: str, error: Exception) -> LoadError:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return LoadError(f"{self._url}/{path}: {type(error).__name__}: {reason}")


def _tag(details: Mapping[str, object]) -> str:
    for key in ("ETag", "etag", "md5Hash", "content_settings"):
        if details.get(key):
            return str(details[key])
    changed = details.get("LastModified") or details.get("mtime") or details.get("created") or ""
    return f"{details.get('size')}-{changed}"


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)
