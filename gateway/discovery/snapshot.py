"""The last known sets, on disk: a gateway that starts while its registry is away still knows where to send.

One JSON file `{"sha256": …, "snapshot": {"revision", "cluster_id", "saved_at", "services"}}`, written to a
temporary file beside it, synced, and renamed over it: a reader finds the old file or the new one. The digest
covers the snapshot's bytes, so a torn or edited file is refused rather than half believed. Values are kept
in the registry's own form and are read again by `read_member`: address rules that were tightened meanwhile
apply. A disk that is full or read-only is reported and otherwise ignored: a snapshot is a convenience,
traffic is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class Snapshot:
    """services: service → id → value, as `write_member` writes it. saved_at: s since the epoch."""

    revision: int
    cluster_id: str
    saved_at: float
    services: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class SnapshotRefused(Exception):
    """The file is there but cannot be used; the message says why."""


class SnapshotFile:
    """One snapshot at one path. The methods block: call them in a thread from an event loop."""

    __slots__ = ("_path",)

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file. Raises OSError (full, read-only, not ours) and then leaves the old one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = _encode(snapshot)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            # 0600: addresses of the inside are nobody else's business
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._sync_folder()

    def load(self, now: float, max_age: float) -> Snapshot | None:
        """The snapshot, or None if there is no file. now: s since the epoch; max_age: s.

        Raises SnapshotRefused when it is damaged, older than max_age, or not readable.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotRefused(f"{self._path}: {error.strerror}") from error
        try:
            snapshot = _decode(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SnapshotRefused(f"{self._path} is damaged: {error}") from error
        age = now - snapshot.saved_at
        if age > max_age:
            raise SnapshotRefused(f"{self._path} is {age:.0f} s old, older than {max_age:.0f} s")
        return snapshot

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)

    def __repr__(self) -> str:
        return f"<SnapshotFile {self._path}>"


def _encode(snapshot: Snapshot) -> bytes:
    body = {
        "revision": snapshot.revision,
        "cluster_id": snapshot.cluster_id,
        "saved_at": snapshot.saved_at,
        "services": {service: dict(members) for service, members in snapshot.services.items()},
    }
    return orjson.dumps({"sha256": _digest(body), "snapshot": body}, option=orjson.OPT_INDENT_2)


def _decode(content: bytes) -> Snapshot:
    document = orjson.loads(content)
    body = document["snapshot"]
    if document["sha256"] != _digest(body):
        raise ValueError("its digest does not match")
    services = {
        str(service): {str(name): str(value) for name, value in members.items()}
        for service, members in body["services"].items()
    }
    return Snapshot(int(body["revision"]), str(body["cluster_id"]), float(body["saved_at"]), services)


def _digest(body: object) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
