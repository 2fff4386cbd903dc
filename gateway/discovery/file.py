"""The file registry: a YAML or JSON file that somebody else keeps, watched.

    services:
      digits:
        - 127.0.0.1:9001
        - {address: 127.0.0.1:9002, weight: 50, version: v2, models: [{name: digits, version: "2"}]}

The file is looked at every 250 ms: inode, size and modification time. Polling one `stat` is dull and works on
network file systems and for Kubernetes' config maps, which change by swapping a symbolic link; a file
replaced by rename is a new inode. A file that is being written is read once it was the same at two looks.
Content that cannot be used (half a file, no YAML, an address that is refused) changes nothing: the last
good sets stay, the status says what is wrong. An empty file is half a file; `services: {}` means none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Final

import orjson
import yaml

from gateway.discovery.members import ANY_ADDRESS, AddressRules, Member, Rejected, member_from_fields
from gateway.discovery.registry import Board, RegistryStatus

log: Final = logging.getLogger("headgate.discovery")

LOOK_EVERY: Final = 0.25  # s
_MAX_BYTES: Final = 64 * 1024 * 1024

_Stamp = tuple[int, int, int]


class BadFile(ValueError):
    """The file's content cannot be used; the message says where and why."""


class FileRegistry:
    """`Discovery` on one file. look_every: s."""

    def __init__(
        self, path: Path | str, *, addresses: AddressRules = ANY_ADDRESS, look_every: float = LOOK_EVERY
    ) -> None:
        self._path = Path(path)
        self._addresses = addresses
        self._look_every = look_every
        self._board = Board()
        self._task: asyncio.Task[None] | None = None
        self._read: _Stamp | None = None  # the stamp of what was last read, good or bad
        self._reason: str | None = "not read yet"
        self._good_until = time.monotonic()
        self._loads = 0

    async def start(self) -> None:
        """Read the file, if it is there, and watch it."""
        await self._look(await asyncio.to_thread(_stamp, self._path))
        self._task = asyncio.create_task(self._follow(), name=f"file registry {self._path}")

    def watch(self, service: str) -> AsyncIterator[frozenset[Member]]:
        """See `Discovery.watch`."""
        return self._board.watch(service)

    def status(self) -> RegistryStatus:
        """See `Discovery.status`. revision: how many times good content was read."""
        live = self._reason is None
        return RegistryStatus(
            name=f"file {self._path}",
            live=live,
            stale=0.0 if live else time.monotonic() - self._good_until,
            reason=self._reason,
            revision=self._loads,
            services={service: len(members) for service, members in self._board.sets.items()},
        )

    async def close(self) -> None:
        """Stop watching; every watch ends."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._board.close()

    async def _follow(self) -> None:
        seen = self._read
        while True:
            await asyncio.sleep(self._look_every / 2)  # two looks agree within one `look_every`
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp == seen:
                await self._look(stamp)
            seen = stamp

    async def _look(self, stamp: _Stamp | None) -> None:
        if stamp is None:
            self._bad(f"{self._path} is not there or not readable")
            self._read = None
            return
        if stamp == self._read:
            return
        self._read = stamp
        try:
            services = await asyncio.to_thread(read_services, self._path, self._addresses)
        except BadFile as error:
            self._bad(str(error))
            return
        gone = self._board.sets.keys() - services.keys()
        self._board.publish({**dict.fromkeys(gone, ()), **services})
        self._loads += 1
        self._reason = None

    def _bad(self, reason: str) -> None:
        if self._reason is None:
            self._good_until = time.monotonic()
        if self._reason != reason:
            log.warning("registry_file_bad", extra={"path": str(self._path), "reason": reason})
        self._reason = reason

    def __repr__(self) -> str:
        return f"<FileRegistry {self._path} | {self._reason or f'read {self._loads} times'}>"


def read_services(path: Path, addresses: AddressRules = ANY_ADDRESS) -> dict[str, Collection[Member]]:
    """Read the file once: service → members. Raises BadFile."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadFile(f"{path} is larger than {_MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    document = _parse(path, content)
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict):
        raise BadFile(f"{path}: expected `services:` with a list of instances per service")
    return {str(name): _members(path, str(name), items, addresses) for name, items in services.items()}


def _parse(path: Path, content: bytes) -> object:
    try:
        if path.suffix == ".json":
            document: object = orjson.loads(content)
        else:
            document = yaml.safe_load(content)
    except (orjson.JSONDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: {' '.join(str(error).split())}") from error
    return document


def _members(path: Path, service: str, items: object, addresses: AddressRules) -> list[Member]:
    if not isinstance(items, list):
        raise BadFile(f"{path}: services.{service}: expected a list of instances")
    members: list[Member] = []
    for index, item in enumerate(items):
        fields = item if isinstance(item, dict) else {"address": item}
        name = fields.get("id", fields.get("address"))
        member = member_from_fields(str(name), fields, addresses)
        if isinstance(member, Rejected):
            raise BadFile(f"{path}: services.{service}[{index}]: {member.reason}")
        members.append(member)
    return members


def _stamp(path: Path) -> _Stamp | None:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None
