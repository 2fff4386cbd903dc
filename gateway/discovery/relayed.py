"""The registry of a worker: sets that its supervisor watches for all of them, and passes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from gateway.discovery.members import Member
from gateway.discovery.registry import Board, RegistryStatus


class RelayedRegistry:
    """`Discovery` whose sets come from `put`. While nothing new comes, what is known stays."""

    def __init__(self) -> None:
        self._board = Board()

    async def start(self) -> None:
        """Nothing to follow: the supervisor does."""

    def put(self, service: str, members: Collection[Member]) -> None:
        """Replace a service's set."""
        self._board.publish({service: members})

    def watch(self, service: str) -> AsyncIterator[frozenset[Member]]:
        """See `Discovery.watch`."""
        return self._board.watch(service)

    def status(self) -> RegistryStatus:
        """Live: how the registry itself stands is the supervisor's to say."""
        services = {service: len(members) for service, members in self._board.sets.items()}
        return RegistryStatus(name="supervisor", live=True, services=services)

    async def close(self) -> None:
        """End every watch."""
        self._board.close()

    def __repr__(self) -> str:
        return f"<RelayedRegistry | {len(self._board.sets)} services>"
