"""From registries to pools: each pool that finds its instances follows its service.

The others have theirs in YAML.

One task per pool reads whole sets from the registry and swaps them in. A pool that a reload kept keeps its
task; a set that shrinks leaves the requests under way at the removed instances alone: nothing new is sent
there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from gateway.config.schema import PoolConfig
from gateway.discovery.members import Member
from gateway.discovery.registry import Discovery
from gateway.pipeline.pool import Facts, Pool

log = logging.getLogger("headgate.membership")

FULL_WEIGHT = 100  # of an instance in YAML with weight 1


class Membership:
    """The tasks that keep pools' members up to date."""

    def __init__(self, registry: Discovery | None, now: Callable[[], float]) -> None:
        self._registry = registry
        self._now = now
        self._tasks: dict[str, tuple[Pool, asyncio.Task[None]]] = {}

    def follow(self, pools: Iterable[tuple[Pool, PoolConfig]]) -> None:
        """Keep exactly these pools up to date from now on."""
        wanted = {pool.name: (pool, config) for pool, config in pools}
        for name, (pool, task) in tuple(self._tasks.items()):
            if name not in wanted or wanted[name][0] is not pool:
                task.cancel()
                del self._tasks[name]
        for name, (pool, config) in wanted.items():
            if config.find is None:
                pool.update(written(config), self._now())
            elif self._registry is not None and name not in self._tasks:
                task = asyncio.get_running_loop().create_task(
                    self._run(pool, config, self._registry), name=f"members {name}"
                )
                self._tasks[name] = (pool, task)

    async def close(self) -> None:
        """Stop following."""
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, pool: Pool, config: PoolConfig, registry: Discovery) -> None:
        assert config.find is not None
        async for members in registry.watch(config.find):
            facts = [facts_of(member) for member in members if fits(member, config)]
            before = {instance.id for instance in pool.members.instances}
            pool.update(facts, self._now())
            after = {fact.id for fact in facts}
            if before != after:
                log.info(
                    "pool %s: %d instances (+%d -%d)",
                    pool.name,
                    len(after),
                    len(after - before),
                    len(before - after),
                )


def fits(member: Member, config: PoolConfig) -> bool:
    """Tell whether a registered member belongs to this pool."""
    return config.version is None or (member.version or "") == config.version


def facts_of(member: Member) -> Facts:
    """Turn a registry's member into a pool's facts."""
    return Facts(
        id=member.id,
        host=member.address[0],
        port=member.address[1],
        weight=member.weight,
        version=member.version or "",
        zone=member.zone or "",
        draining=member.state == "draining",
    )


def written(config: PoolConfig) -> list[Facts]:
    """Return the instances that stand in the YAML."""
    return [
        Facts(
            id=str(instance.address),
            host=instance.address.host,
            port=instance.address.port,
            weight=round(instance.weight * FULL_WEIGHT),
            zone=instance.zone,
        )
        for instance in config.instances
    ]
