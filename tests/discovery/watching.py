"""Waiting for what a registry publishes, without sleeping: each wait ends with the set that ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.discovery.etcd_registry import EtcdRegistry, WatchTiming
from gateway.discovery.members import Member, write_member
from gateway.discovery.registry import Discovery

QUICK = WatchTiming(
    probe_every=0.2, first_pause=0.05, longest_pause=0.3, snapshot_after=0.3, snapshot_every=0.05
)


def value(port: int, host: str = "127.0.0.1", **fields: object) -> str:
    """What a registration would write for an instance on this port."""
    return write_member(Member(id="", address=(host, port), **fields)).decode()  # type: ignore[arg-type]


def key(member_id: str, service: str = "digits") -> str:
    return f"/services/default/{service}/{member_id}"


class Watcher:
    """Follows one service and remembers every set it saw."""

    def __init__(self, registry: Discovery, service: str = "digits") -> None:
        self.seen: list[frozenset[Member]] = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._follow(registry, service))

    async def _follow(self, registry: Discovery, service: str) -> None:
        async for members in registry.watch(service):
            self.seen.append(members)
            self._changed.set()

    @property
    def ports(self) -> set[int] | None:
        """The ports of the last set; None = none came yet."""
        return {member.address[1] for member in self.seen[-1]} if self.seen else None

    async def until(self, ports: set[int], within: float = 10.0) -> float:
        """Wait for this set of ports. Returns the seconds it took."""
        return await self.until_true(lambda: self.ports == ports, within)

    async def until_count(self, count: int, within: float = 10.0) -> float:
        """Wait until so many sets came."""
        return await self.until_true(lambda: len(self.seen) >= count, within)

    async def until_true(self, condition: Callable[[], bool], within: float = 10.0) -> float:
        begin = time.monotonic()
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"after {within} s still {self.ports}") from None
        return time.monotonic() - begin

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def following(registry: Discovery, service: str = "digits") -> AsyncIterator[Watcher]:
    """Start the registry, watch one service, close both."""
    await registry.start()
    watcher = Watcher(registry, service)
    try:
        yield watcher
    finally:
        await watcher.close()
        await registry.close()


async def eventually(condition: Callable[[], bool], within: float = 10.0) -> float:
    """Poll what is not announced (a status). Returns the seconds it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < within, f"not within {within} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - begin


async def live(registry: EtcdRegistry, within: float = 10.0) -> None:
    await eventually(lambda: registry.status().live, within)
