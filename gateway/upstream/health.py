"""Active health checks: every instance is asked, beside the traffic, whether it is well.

One task per pool asks all its instances at once, every `health.every` and up to a tenth more by chance, so
that gateways that started together don't ask together for ever. What to ask is the policy's path, or
the readiness that the pool's dialect defines (a server may accept connections long before its model is
loaded); a pool that speaks plain http and names no path is not checked. gRPC has a service of its own for
the question (grpc_health.py). TorchServe's /ping says that the front end lives, whatever became of the
model's workers: with `expects: torchserve` its management API (HTTP, another port, also for gRPC) is
asked for the model, which is ready when a worker of it is. An instance is innocent until `unhealthy_after`
answers were bad in a row.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
import orjson

from gateway.dialects.catalogue import BY_NAME
from gateway.pipeline.pool import Instance, Pool
from gateway.upstream.asking import address_of, read_bounded
from gateway.upstream.tls import ClientTls

if TYPE_CHECKING:  # made only where an instance speaks gRPC
    from gateway.upstream.grpc_health import GrpcHealth

LIMIT = 64 * 1024  # bytes of an answer
JITTER = 0.1  # of the time between two checks, at most

HANDLERS = ("torchserve", "multi-model-server")

log = logging.getLogger("headgate.health")


@dataclass(slots=True)
class Streak:
    """Answers of one kind in a row."""

    good: int = 0
    bad: int = 0


class HealthChecks:
    """The checking tasks of one process's pools. on_change: told after verdicts that changed something."""

    def __init__(
        self, session: Callable[[], aiohttp.ClientSession], on_change: Callable[[], None] | None = None
    ) -> None:
        self._session = session
        self._client_tls = ClientTls()
        self._on_change = on_change
        self._grpc: GrpcHealth | None = None
        self._tasks: dict[str, tuple[Pool, str, asyncio.Task[None]]] = {}

    def watch(self, pools: Iterable[tuple[Pool, str]]) -> None:
        """Check exactly these pools from now on. The text beside a pool: its model's name upstream, or ""."""
        wanted = {pool.name: (pool, model) for pool, model in pools if question(pool, model) is not None}
        for name, (pool, model, task) in tuple(self._tasks.items()):
            known = wanted.get(name)
            if known is None or known[0] is not pool or known[1] != model:
                task.cancel()
                del self._tasks[name]
        for name, (pool, model) in wanted.items():
            if name not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._run(pool, model), name=f"health {name}")
                self._tasks[name] = (pool, model, task)

    async def close(self) -> None:
        """Stop checking."""
        tasks = [task for _, _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._grpc is not None:
            self._grpc.close()

    def _over_grpc(self) -> GrpcHealth:
        made = self._grpc
        if made is None:
            from gateway.upstream.grpc_health import GrpcHealth  # only where an instance speaks it

            made = self._grpc = GrpcHealth(self._client_tls)
        return made

    async def _run(self, pool: Pool, model: str) -> None:
        streaks: dict[str, Streak] = {}
        while True:
            instances = pool.members.instances
            verdicts = await asyncio.gather(*(self._ask(pool, model, instance) for instance in instances))
            before = [instance.healthy for instance in instances]
            for instance, well in zip(instances, verdicts, strict=True):
                _judge(pool, instance, streaks.setdefault(instance.id, Streak()), well)
            if self._on_change is not None and before != [instance.healthy for instance in instances]:
                self._on_change()
            for gone in streaks.keys() - {instance.id for instance in pool.members.instances}:
                del streaks[gone]
            await asyncio.sleep(pool.settings.health.every * (1.0 + JITTER * random.random()))

    async def _ask(self, pool: Pool, model: str, instance: Instance) -> bool:
        path = question(pool, model)
        assert path is not None
        if pool.is_grpc and pool.settings.health.expects != "torchserve":
            health = pool.settings.health
            if pool.speaks in BY_NAME:
                call = BY_NAME[pool.speaks].health_request(model)
                answer = await self._over_grpc().call(instance, call.path, call.body, health.timeout)
                return answer is not None and BY_NAME[pool.speaks].read_ready(200, answer.body or b"")
            return await self._over_grpc().ask(instance, health.service, health.timeout)
        settings = pool.settings.health
        timeout = aiohttp.ClientTimeout(total=settings.timeout)
        try:
            base, encrypted = address_of(instance, self._client_tls)
            if settings.port:
                base = f"{base.rpartition(':')[0]}:{settings.port}"
            async with self._session().get(
                f"{base}{path}", timeout=timeout, allow_redirects=False, **encrypted
            ) as response:
                body = await read_bounded(response, LIMIT)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        if settings.expects == "torchserve":
            return response.status == 200 and has_ready_worker(body)
        if settings.path or pool.speaks not in BY_NAME:
            return 200 <= response.status < 300
        return BY_NAME[pool.speaks].read_ready(response.status, body)


def question(pool: Pool, model: str) -> str | None:
    """Return the path to GET at this pool's instances, None when they are not to be checked.

    A pool that speaks gRPC is asked in gRPC; the text is then that service's path.
    """
    health = pool.settings.health
    if not health.enabled:
        return None
    if pool.is_grpc and pool.speaks not in BY_NAME:
        return "/grpc.health.v1.Health/Check"
    if health.path:
        return health.path
    if health.expects == "torchserve":
        return f"/models/{quote(model, safe='')}" if model else None
    dialect = BY_NAME.get(pool.speaks)
    if dialect is None:
        return None
    if pool.speaks in HANDLERS and not health.port:
        model = ""  # only the management port tells of the model
    return dialect.health_path(model).decode("latin-1") or None


def has_ready_worker(body: bytes) -> bool:
    """Tell whether TorchServe's description of a model (a list, an entry per version) has a READY worker."""
    try:
        versions = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(versions, list) and any(
        isinstance(worker, dict) and worker.get("status") == "READY"
        for version in versions
        if isinstance(version, dict) and isinstance(version.get("workers"), list)
        for worker in version["workers"]
    )


def _judge(pool: Pool, instance: Instance, streak: Streak, well: bool) -> None:
    health = pool.settings.health
    if well:
        streak.good, streak.bad = streak.good + 1, 0
    else:
        streak.good, streak.bad = 0, streak.bad + 1
    if instance.healthy and streak.bad >= health.unhealthy_after:
        instance.healthy = False
        log.warning("instance %s of pool %s is not healthy", instance.id, pool.name)
    elif not instance.healthy and streak.good >= health.healthy_after:
        instance.healthy = True
        instance.recover()
        log.info("instance %s of pool %s is healthy again", instance.id, pool.name)
