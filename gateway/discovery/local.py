"""The built-in registry: leases in this process's memory, for one machine and no other moving part.

Instances register over the admin API (`POST /registry/SERVICE`, `PUT` and `DELETE /registry/leases/LEASE`),
whose routes call `register`, `renew` and `remove` here; there is no HTTP in this file. A lease that is not
renewed in time is swept, and its member leaves.

A gateway's restart must not lose its instances, nor make all of them register at once: leases are kept on
disk under their ids (`snapshot.py`) and get a full time to live when they are read again. Whoever died
meanwhile is swept one time to live after the start.

The methods take `now` (s, monotonic) and are exact to it; only `start`, which owns the sweeping task and the
file, reads clocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

import orjson

from gateway.discovery.members import (
    ANY_ADDRESS,
    AddressRules,
    Member,
    member_fields,
    read_member,
    write_member,
)
from gateway.discovery.registry import Board, RegistryStatus
from gateway.discovery.snapshot import Snapshot, SnapshotFile, SnapshotRefused

log: Final = logging.getLogger("headgate.discovery")

MIN_TTL: Final = 1.0
MAX_TTL: Final = 3600.0
MAX_LEASES: Final = 100_000
_SAVE_EVERY: Final = 0.5  # s
_REFRESH_EVERY: Final = 60.0  # s


class RegistryFull(Exception):
    """MAX_LEASES are open: refuse (503), an instance will try again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One registered member. ttl: s. expires: s, monotonic."""

    id: str
    service: str
    member: Member
    ttl: float
    expires: float


class LocalRegistry:
    """`Discovery` over leases. snapshot: where they are kept for a restart, None = nowhere.

    snapshot_max_age: s; instances that did not hear of the gateway for longer are not brought back.
    """

    def __init__(
        self,
        *,
        snapshot: Path | str | None = None,
        snapshot_max_age: float = 600.0,
        addresses: AddressRules = ANY_ADDRESS,
        new_id: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self._leases: dict[str, Lease] = {}
        self._by_name: dict[tuple[str, str], str] = {}  # (service, member id) → lease id
        self._board = Board()
        self._file = SnapshotFile(snapshot) if snapshot is not None else None
        self._max_age = snapshot_max_age
        self._addresses = addresses
        self._new_id = new_id
        self._revision = 0
        self._snapshot_error: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._unsaved = asyncio.Event()

    # What the admin API calls

    def register(self, service: str, member: Member, ttl: float, now: float) -> str:
        """Open a lease for `member` and return its id; the same service and member id replaces its earlier
        one.

        ttl is clamped to 1–3600 s. Raises RegistryFull.
        """
        name = (service, member.id)
        earlier = self._by_name.get(name)
        if earlier is None and len(self._leases) >= MAX_LEASES:
            raise RegistryFull(f"{MAX_LEASES} leases are open")
        if earlier is not None:
            del self._leases[earlier]
        ttl = clamp_ttl(ttl)
        lease = Lease(self._new_id(), service, member, ttl, now + ttl)
        self._leases[lease.id] = lease
        self._by_name[name] = lease.id
        self._publish({service})
        return lease.id

    def renew(self, lease_id: str, now: float) -> bool:
        """Give a lease its full time again. False: it is gone (or over at `now`), register anew."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.expires <= now:
            return False
        self._leases[lease_id] = Lease(lease.id, lease.service, lease.member, lease.ttl, now + lease.ttl)
        return True

    def remove(self, lease_id: str, now: float) -> bool:
        """End a lease; its member leaves at once. Returns whether there was one."""
        self.sweep(now)
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        self._drop(lease)
        self._publish({lease.service})
        return True

    def sweep(self, now: float) -> list[Lease]:
        """End the leases that are over; returns them."""
        over = [lease for lease in self._leases.values() if lease.expires <= now]
        for lease in over:
            self._drop(lease)
            log.info("lease_expired", extra={"service": lease.service, "member": lease.member.id})
        if over:
            self._publish({lease.service for lease in over})
        return over

    def ttl(self, lease_id: str) -> float | None:
        """The time to live that a lease was given, s; None = no such lease."""
        lease = self._leases.get(lease_id)
        return None if lease is None else lease.ttl

    def next_expiry(self) -> float:
        """When `sweep` next finds something; inf = no leases."""
        return min((lease.expires for lease in self._leases.values()), default=inf)

    def listing(self, now: float) -> dict[str, list[dict[str, object]]]:
        """Every service's instances as JSON values, with the seconds left; lease ids are not shown."""
        services: dict[str, list[dict[str, object]]] = {}
        for lease in sorted(self._leases.values(), key=lambda lease: (lease.service, lease.member.id)):
            head = {"id": lease.member.id, "address": lease.member.authority, "ttl": lease.ttl}
            left = round(max(0.0, lease.expires - now), 3)
            entry = {**head, "expires_in": left, **member_fields(lease.member)}
            services.setdefault(lease.service, []).append(entry)
        return services

    # Discovery

    async def start(self) -> None:
        """Bring back the leases of an earlier run, then sweep and save until `close`."""
        if self._file is not None:
            await self._restore(self._file)
        self._board.publish({})
        if self._file is not None:
            self._tasks.append(asyncio.create_task(self._keep_saved(self._file), name="local registry: save"))
        self._tasks.append(asyncio.create_task(self._keep_swept(), name="local registry: sweep"))

    def watch(self, service: str) -> AsyncIterator[frozenset[Member]]:
        """See `Discovery.watch`."""
        return self._board.watch(service)

    def status(self) -> RegistryStatus:
        """Always live: it is this process. revision: changes since the start."""
        return RegistryStatus(
            name="local",
            live=True,
            revision=self._revision,
            services={service: len(members) for service, members in self._board.sets.items()},
            snapshot_error=self._snapshot_error,
        )

    async def close(self) -> None:
        """Stop sweeping, save once more, end every watch. Leases stay for the next start."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._file is not None and tasks:
            await self._save(self._file)
        self._board.close()

    # Sets

    def _drop(self, lease: Lease) -> None:
        del self._leases[lease.id]
        del self._by_name[lease.service, lease.member.id]

    def _publish(self, services: set[str]) -> None:
        members: dict[str, list[Member]] = {service: [] for service in services}
        for lease in self._leases.values():
            if lease.service in members:
                members[lease.service].append(lease.member)
        self._revision += 1
        self._board.publish(members)
        self._changed.set()
        self._unsaved.set()

    # Tasks

    async def _keep_swept(self) -> None:
        while True:
            now = time.monotonic()
            self.sweep(now)
            self._changed.clear()
            wait = self.next_expiry() - now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if wait == inf else max(0.01, wait))

    async def _keep_saved(self, file: SnapshotFile) -> None:
        """Save after changes, and once a minute without: the file's age is how long nobody could renew."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._unsaved.wait(), _REFRESH_EVERY)
            await asyncio.sleep(_SAVE_EVERY)
            await self._save(file)

    async def _save(self, file: SnapshotFile) -> None:
        self._unsaved.clear()
        services: dict[str, dict[str, str]] = {}
        for lease in self._leases.values():
            entry = {**orjson.loads(write_member(lease.member)), "Lease": lease.id, "TTL": lease.ttl}
            services.setdefault(lease.service, {})[lease.member.id] = orjson.dumps(entry).decode()
        try:
            await asyncio.to_thread(file.save, Snapshot(self._revision, "local", time.time(), services))
        except OSError as error:
            if self._snapshot_error is None:
                log.warning("snapshot_not_saved", extra={"reason": str(error)})
            self._snapshot_error = str(error)
        else:
            self._snapshot_error = None

    async def _restore(self, file: SnapshotFile) -> None:
        try:
            snapshot = await asyncio.to_thread(file.load, time.time(), self._max_age)
        except SnapshotRefused as error:
            self._snapshot_error = str(error)
            log.warning("snapshot_refused", extra={"reason": str(error)})
            return
        now = time.monotonic()
        for service, members in (snapshot.services if snapshot is not None else {}).items():
            for name, value in members.items():
                self._restore_one(service, name, value, now)
            self._publish({service})

    def _restore_one(self, service: str, name: str, value: str, now: float) -> None:
        member = read_member(name, value.encode(), self._addresses)
        if not isinstance(member, Member) or (service, name) in self._by_name:
            return
        match orjson.loads(value):
            case {"Lease": str(lease_id), "TTL": float() | int() as seconds}:
                ttl = clamp_ttl(float(seconds))
            case _:  # a snapshot of another kind of registry
                return
        lease = Lease(lease_id, service, member, ttl, now + ttl)
        self._leases[lease.id] = lease
        self._by_name[service, name] = lease.id

    def __repr__(self) -> str:
        return f"<LocalRegistry | {len(self._leases)} leases, {len(self._board.sets)} services>"


def clamp_ttl(ttl: float) -> float:
    """A time to live within 1–3600 s."""
    return max(MIN_TTL, min(MAX_TTL, ttl))
