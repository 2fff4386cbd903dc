"""The etcd registry: list, then watch from the next revision on, for ever, without a gap.

    list (linearizable, one revision) ──► watch from revision + 1 ──► events …
      ▲  compacted, other store, confirmation due        │ stream broke: next server, back off, watch on from
      └──────────────────────────────────────────────────┘ the last revision seen

The rules that make it gapless and keep it from lying, each found by breaking a real etcd:
- Only events, and progress notices after the first message, advance the revision. The first message carries
  the store's present revision while older events are still to come.
- A stream can be silent because nothing happens or because its node hangs. A watchdog asks the *same* node
  for a linearizable read; two misses in a row, or a store that is ahead of a silent stream, end the stream.
- The pause between tries grows until there was real progress, an event or an answered probe. A connection
  that opens is none: a node without a leader opens and closes connections as fast as we let it.
- Another cluster id, or a revision that went backwards, is a restored or different store: list again. What
  a list lacks is judged by `protection.py`; events pass.
- While etcd is away the last known sets stay. A gateway that starts then begins with its snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random
from typing import Final

from gateway.discovery.etcd import (
    Compacted,
    EtcdClient,
    EtcdError,
    EtcdSettings,
    Event,
    Listing,
    WatchMessage,
)
from gateway.discovery.members import (
    ANY_ADDRESS,
    AddressRules,
    Member,
    Rejected,
    read_member,
    service_prefix,
    split_key,
    write_member,
)
from gateway.discovery.protection import Protection, ProtectionRules
from gateway.discovery.registry import Board, RegistryStatus
from gateway.discovery.snapshot import Snapshot, SnapshotFile, SnapshotRefused

log: Final = logging.getLogger("headgate.discovery")

_MAX_REJECTED: Final = 100  # reasons kept for the admin API


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Times in s. A hung node is left after about probe_misses * (probe_every + the client's timeout)."""

    probe_every: float = 2.0
    probe_misses: int = 2
    first_pause: float = 0.1
    longest_pause: float = 5.0
    snapshot_after: float = 1.0
    snapshot_every: float = 1.0
    snapshot_max_age: float = 24 * 3600.0


class _OtherStore(Exception):
    """What answers is not the store that was listed."""


class EtcdRegistry:
    """`Discovery` on etcd. One list and one watch over the namespace's prefix feed every service.

    snapshot: the file for a cold start; None = none is kept.
    """

    def __init__(
        self,
        settings: EtcdSettings,
        *,
        addresses: AddressRules = ANY_ADDRESS,
        rules: ProtectionRules | None = None,
        timing: WatchTiming | None = None,
        snapshot: Path | str | None = None,
        rng: Random | None = None,
    ) -> None:
        self._rng = rng or Random()
        self._client = EtcdClient(settings, shuffle=self._rng.shuffle)
        self._prefix = service_prefix(settings.namespace)
        self._addresses = addresses
        self._timing = timing or WatchTiming()
        self._protection = Protection(rules)
        self._board = Board()
        self._snapshot = SnapshotFile(snapshot) if snapshot is not None else None
        self._tasks: list[asyncio.Task[None]] = []

        self._revision = 0
        self._cluster_id = ""
        self._must_list = True
        self._pause = self._timing.first_pause

        self._live = False
        self._live_until = time.monotonic()  # the instant from which what we show counts as stale
        self._reason: str | None = "not connected yet"
        self._rejected: dict[str, str] = {}
        self._snapshot_error: str | None = None
        self._first_try = asyncio.Event()
        self._listed = False

        self._changed: set[str] = set()
        self._settling: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()  # for the snapshot
        self._held_news = asyncio.Event()  # for the confirmation

    # Discovery

    async def start(self) -> None:
        """Begin to follow etcd, and to keep the snapshot."""
        self._spawn(self._follow(), "follow")
        if self._snapshot is not None:
            self._spawn(self._start_cold(self._snapshot), "start cold")
            self._spawn(self._keep_snapshot(self._snapshot), "snapshot")

    def watch(self, service: str) -> AsyncIterator[frozenset[Member]]:
        """See `Discovery.watch`."""
        return self._board.watch(service)

    def status(self) -> RegistryStatus:
        """See `Discovery.status`."""
        held = self._protection.held()
        reason = self._reason
        if self._live and held:
            reason = (
                f"the last list lacked too many members of {', '.join(sorted(held))}: kept until confirmed"
            )
        return RegistryStatus(
            name=f"etcd {self._client.server}{self._prefix}",
            live=self._live,
            stale=0.0 if self._live else max(0.0, time.monotonic() - self._live_until),
            reason=reason,
            revision=self._revision,
            services={service: len(members) for service, members in self._board.sets.items()},
            held=held,
            rejected=dict(self._rejected),
            snapshot_error=self._snapshot_error,
        )

    def release(self, service: str) -> None:
        """An operator overrules the protection: what is held in `service` leaves now."""
        self._took(self._protection.release(service))

    async def close(self) -> None:
        """Stop following; every watch ends. The snapshot is written once more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for handle in (self._settling, self._timer):
            if handle is not None:
                handle.cancel()
        if self._snapshot is not None:
            await self._save(self._snapshot)
        self._live, self._reason = False, "closed"
        self._board.close()
        await self._client.close()

    # The loop

    async def _follow(self) -> None:
        while True:
            try:
                if self._must_list:
                    await self._list()
                await self._watch()
            except (Compacted, _OtherStore) as error:
                self._must_list = True
                log.warning("registry_resync", extra={"registry": self._prefix, "reason": str(error)})
                self._down(f"listing again: {error}")
            except EtcdError as error:
                self._down(str(error))
                if error.is_auth:
                    self._client.forget_token()
                else:
                    self._client.rotate()
            else:
                self._must_list = True  # a confirmation is due: no failure, so no pause
                continue
            self._first_try.set()
            await asyncio.sleep(self._pause * self._rng.uniform(0.5, 1.0))
            self._pause = min(self._timing.longest_pause, self._pause * 2)

    async def _list(self) -> None:
        listing = await self._client.list_keys(self._prefix)
        if self._cluster_id not in ("", listing.cluster_id) or listing.revision < self._revision:
            log.warning(
                "registry_other_store", extra={"registry": self._prefix, "revision": listing.revision}
            )
        self._took(self._protection.sync(self._read(listing), time.monotonic()))
        self._revision, self._cluster_id = listing.revision, listing.cluster_id
        self._must_list = False
        self._listed = True
        self._first_try.set()
        self._settle()  # also when nothing changed: the first list, even an empty one, is an answer

    async def _watch(self) -> None:
        """Until a confirmation is due (returns) or the stream is no longer to be trusted (raises)."""
        names = ("stream", "watchdog", "confirmation")
        parts = (self._stream(), self._watchdog(), self._until_confirmation())
        tasks = [
            asyncio.create_task(part, name=f"etcd {name}") for name, part in zip(names, parts, strict=True)
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stream(self) -> None:
        async with contextlib.aclosing(self._client.watch(self._prefix, self._revision + 1)) as messages:
            async for message in messages:
                self._check_store(message)
                if message.created:
                    self._up()
                    continue
                self._pause = self._timing.first_pause
                self._apply(message.events)
                # While history is replayed the message's own revision is already the present one, so that
                # only
                # its events tell how far it got; an empty message is a progress notice, sent when all is
                # told.
                self._revision = message.events[-1].mod_revision if message.events else message.revision

    def _check_store(self, message: WatchMessage) -> None:
        if message.cluster_id != self._cluster_id:
            raise _OtherStore(f"cluster {message.cluster_id} answers, {self._cluster_id} was listed")
        if message.created and message.revision < self._revision:
            raise _OtherStore(f"the store is at revision {message.revision}, {self._revision} was seen")

    async def _watchdog(self) -> None:
        misses = 0
        lagging_at = -1
        while True:
            await asyncio.sleep(self._timing.probe_every * self._rng.uniform(0.8, 1.2))
            revision = self._revision
            try:
                is_ahead = await self._client.probe(self._prefix, revision)
            except EtcdError as error:
                misses += 1
                if error.is_auth:
                    self._client.forget_token()
                if misses >= self._timing.probe_misses:
                    raise
                continue
            misses = 0
            self._pause = self._timing.first_pause
            if is_ahead and lagging_at == self._revision:
                raise EtcdError(14, f"{self._client.server}: the watch lags behind the store")
            lagging_at = revision if is_ahead else -1

    async def _until_confirmation(self) -> None:
        while True:
            self._held_news.clear()
            wait = self._protection.confirm_at() - time.monotonic()
            if wait <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._held_news.wait(), None if wait == inf else wait)

    # News

    def _read(self, listing: Listing) -> dict[str, dict[str, Member | None]]:
        services: dict[str, dict[str, Member | None]] = {}
        self._rejected.clear()
        for entry in listing.entries:
            name = split_key(entry.key, self._prefix)
            if name is None:
                continue
            member = read_member(name[1], entry.value, self._addresses)
            if isinstance(member, Member):
                services.setdefault(name[0], {})[name[1]] = member
            elif not member.ignored:
                self._reject(name, member)
                services.setdefault(name[0], {})[name[1]] = None
        return services

    def _apply(self, events: Iterable[Event]) -> None:
        now = time.monotonic()
        for event in events:
            name = split_key(event.key, self._prefix)
            if name is None or event.mod_revision <= self._revision:
                continue
            member = read_member(name[1], event.value, self._addresses) if event.kind == "put" else None
            if isinstance(member, Member):
                self._rejected.pop("/".join(name), None)
                self._took(self._protection.put(name[0], member, now))
            elif member is None or member.ignored:
                self._rejected.pop("/".join(name), None)
                self._took(self._protection.delete(*name, now))
            else:
                self._reject(name, member)

    def _reject(self, name: tuple[str, str], rejected: Rejected) -> None:
        log.warning("registry_entry_rejected", extra={"entry": "/".join(name), "reason": rejected.reason})
        if len(self._rejected) < _MAX_REJECTED:
            self._rejected["/".join(name)] = rejected.reason

    def _took(self, changed: set[str]) -> None:
        """Publish once for all events of one read: a service of 10,000 is not copied for each of them."""
        self._changed |= changed
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        now = time.monotonic()
        changed, self._changed = self._changed | self._protection.tick(now), set()
        self._board.publish({service: self._protection.members(service) for service in changed})
        self._news.set()
        self._held_news.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = self._protection.wake_at()
        if wake_at != inf:
            delay = max(0.0, wake_at - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._settle)

    # Live or not

    def _up(self) -> None:
        if not self._live:
            log.info("registry_live", extra={"registry": self._prefix, "server": self._client.server})
        self._live, self._reason = True, None

    def _down(self, reason: str) -> None:
        if self._live:
            log.warning("registry_down", extra={"registry": self._prefix, "reason": reason})
            self._live_until = time.monotonic()
        self._live, self._reason = False, reason

    # The snapshot

    async def _start_cold(self, file: SnapshotFile) -> None:
        """Use the snapshot when the first list failed, or is not there in time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_try.wait(), self._timing.snapshot_after)
        if self._listed:
            return
        wall = time.time()
        try:
            snapshot = await asyncio.to_thread(file.load, wall, self._timing.snapshot_max_age)
        except SnapshotRefused as error:
            self._snapshot_error = str(error)
            log.warning("snapshot_refused", extra={"reason": str(error)})
            return
        if snapshot is None or self._listed:
            return
        services = {
            service: [
                member
                for name, value in members.items()
                if isinstance(member := read_member(name, value.encode(), self._addresses), Member)
            ]
            for service, members in snapshot.services.items()
        }
        self._live_until = time.monotonic() - max(0.0, wall - snapshot.saved_at)
        self._revision, self._cluster_id = snapshot.revision, snapshot.cluster_id
        log.warning("registry_cold_start", extra={"saved_at": snapshot.saved_at, "services": len(services)})
        self._took(self._protection.restore(services))

    async def _keep_snapshot(self, file: SnapshotFile) -> None:
        """Save after news, and now and then without: an old file would claim that the news is old."""
        refresh = self._timing.snapshot_max_age / 4
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), refresh)
            await asyncio.sleep(self._timing.snapshot_every)
            await self._save(file)

    async def _save(self, file: SnapshotFile) -> None:
        """Write what is shown, if that is what the registry says: nothing stale, nothing held."""
        self._news.clear()
        if not self._live or self._protection.held():
            return
        services = {
            service: {member.id: write_member(member).decode() for member in members}
            for service, members in self._board.sets.items()
        }
        snapshot = Snapshot(self._revision, self._cluster_id, time.time(), services)
        try:
            await asyncio.to_thread(file.save, snapshot)
        except OSError as error:
            if self._snapshot_error is None:
                log.warning("snapshot_not_saved", extra={"reason": str(error)})
            self._snapshot_error = str(error)
        else:
            self._snapshot_error = None

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"etcd registry: {name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task that ends by an error is a bug: let it be seen at once, not when the registry is closed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("registry_stopped", exc_info=error, extra={"task": task.get_name()})
            self._down(f"stopped by an error: {error!r}")

    def __repr__(self) -> str:
        state = f"live at revision {self._revision}" if self._live else f"not live: {self._reason}"
        return f"<EtcdRegistry {self._prefix} | {state}>"
