"""Instances written down in the configuration: the registry that never changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from gateway.discovery.members import Member
from gateway.discovery.registry import Board, RegistryStatus


class StaticRegistry:
    """`Discovery` over a fixed table, service → members; a reload of the configuration makes a new one."""

    def __init__(self, services: Mapping[str, Collection[Member]]) -> None:
        self._board = Board()
        self._board.publish(services)

    async def start(self) -> None:
        """Nothing to follow."""

    def watch(self, service: str) -> AsyncIterator[frozenset[Member]]:
        """One set, then silence until `close`."""
        return self._board.watch(service)

    def status(self) -> RegistryStatus:
        """Always live."""
        services = {service: len(members) for service, members in self._board.sets.items()}
        return RegistryStatus(name="static", live=True, services=services)

    async def close(self) -> None:
        """End every watch."""
        self._board.close()

    def __repr__(self) -> str:
        return f"<StaticRegistry | {len(self._board.sets)} services>"
