"""What every registry offers the rest of the gateway: whole sets of members, and an honest status.

A watcher receives sets, never deltas: a set that was missed is replaced by the next one and nothing can be
applied twice or in the wrong order. One registry object feeds all services from one underlying watch. A
registry that is away does not end a watch; it says so in its status, and watchers keep what they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.discovery.members import Member

NOBODY: frozenset[Member] = frozenset()


@dataclass(frozen=True, slots=True)
class RegistryStatus:
    """A registry as the admin API and the metrics show it.

    name: kind and place, without credentials. live: what is served now is what the registry says now.
    stale: s since it last was live; 0.0 while it is. reason: why it is not live, or what it holds back.
    revision: the registry's own counter, 0 where it has none. services: members shown, per service. held:
    members shown although the last list lacked them (protection), per service. rejected: entries that could
    not be used,
    `service/id` → why. snapshot_error: why the last snapshot was not written.
    """

    name: str
    live: bool
    stale: float = 0.0
    reason: str | None = None
    revision: int = 0
    services: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    snapshot_error: str | None = None


class Discovery(Protocol):
    """Where instances are found. Opened and closed by its owner; used from one event loop."""

    async def start(self) -> None:
        """Begin to follow the registry. Returns at once; a registry that is away is no error."""
        ...

    def watch(self, service: str) -> AsyncIterator[frozenset[Member]]:
        """The members of `service`: first as soon as anything is known, then after each change.

        A slow reader misses sets in between, never the last one. A service nobody registered is an empty set.
        Ends when the registry is closed.
        """
        ...

    def status(self) -> RegistryStatus:
        """How things stand now."""
        ...

    async def close(self) -> None:
        """Stop following; every watch ends."""
        ...


class Board:
    """The latest sets, and who waits for them: the half of `Discovery.watch` that all registries share."""

    __slots__ = ("_closed", "_known", "_sets", "_waiting")

    def __init__(self) -> None:
        self._sets: dict[str, frozenset[Member]] = {}
        self._known = False
        self._closed = False
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @property
    def sets(self) -> Mapping[str, frozenset[Member]]:
        """Every service that has members."""
        return self._sets

    def publish(self, changed: Mapping[str, Collection[Member]]) -> None:
        """Replace the sets of these services. The first call, even an empty one, lets all watchers begin."""
        for service, members in changed.items():
            if members:
                self._sets[service] = frozenset(members)
            else:
                self._sets.pop(service, None)
        if self._known:
            self._wake(changed)
        else:
            self._known = True
            self._wake(list(self._waiting))

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._wake(list(self._waiting))

    async def watch(self, service: str) -> AsyncIterator[frozenset[Member]]:
        """See `Discovery.watch`."""
        changed = asyncio.Event()
        waiting = self._waiting.setdefault(service, set())
        waiting.add(changed)
        last: frozenset[Member] | None = None
        try:
            while not self._closed:
                members = self._sets.get(service, NOBODY)
                if self._known and members != last:
                    last = members
                    yield members
                    continue  # look again before sleeping: the set may have changed while the reader worked
                changed.clear()
                await changed.wait()
        finally:
            waiting.discard(changed)
            if not waiting:
                self._waiting.pop(service, None)

    def _wake(self, services: Collection[str]) -> None:
        for service in services:
            for changed in self._waiting.get(service, ()):
                changed.set()

    def __repr__(self) -> str:
        watchers = sum(len(waiting) for waiting in self._waiting.values())
        return f"<Board | {len(self._sets)} services, {watchers} watchers>"
