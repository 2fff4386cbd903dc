"""One worker: everything that serves, put together, started and stopped in order.

Starting: the policies are read and checked (a mistake ends the start, with every line that is wrong),
stores and registry are opened (one that is away is no reason not to start), the snapshot is built, the
ports are bound. Stopping: readiness turns false, the ports close, requests under way get `limits.drain` to
end, then everything is closed in reverse.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from prometheus_client.core import Metric

from gateway.admin import views
from gateway.admin.app import make_app
from gateway.admin.listening import Listening
from gateway.config.listing import listing
from gateway.config.load import Loaded
from gateway.config.schema import LocalRegistry as LocalRegistryConfig
from gateway.config.schema import Schema, Store
from gateway.config.units import Address
from gateway.discovery.local import LocalRegistry
from gateway.discovery.registry import Discovery, RegistryStatus
from gateway.governance.allowance import MemoryLedger
from gateway.governance.meters import Meters
from gateway.http.forwarded import Forwarding
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.errand import Errands
from gateway.pipeline.exchange import begin
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.mirroring import Mirrors
from gateway.pipeline.ports import CounterStore
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.quotas import Ledger, Quotas
from gateway.pipeline.releases import Releases
from gateway.pipeline.routes import Routes
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime import gauges
from gateway.runtime.build import Built, Ports
from gateway.runtime.circle import take_seat
from gateway.runtime.explain import explain
from gateway.runtime.limit_gauges import limits
from gateway.runtime.link import Link
from gateway.runtime.listening import client_ports, make_listeners, offer_tunnels, renew
from gateway.runtime.membership import Membership
from gateway.runtime.observing import open_telemetry
from gateway.runtime.policies import Policies
from gateway.runtime.quota_view import quotas_view
from gateway.runtime.registries import CannotStart, open_registry
from gateway.runtime.releasing import Releasing, aside, catch_up, read_act, state_file
from gateway.runtime.sensing import sense
from gateway.runtime.tallies import Objectives
from gateway.runtime.threads import WorkThreads
from gateway.runtime.world import SystemClock, SystemIds
from gateway.server.listener import Listener
from gateway.server.timers import SweptTimers
from gateway.server.tls import TlsUnusable
from gateway.stores.memory import MemoryCounters
from gateway.stores.quota_reports import QuotaReports
from gateway.stores.redis import Address as RedisAddress
from gateway.stores.redis import RedisClient
from gateway.stores.redis_leases import LeasedRedisCounters
from gateway.stores.redis_quotas import RedisLedger
from gateway.stores.redis_shared import SharedRedisBlobs
from gateway.telemetry.metrics import Metrics
from gateway.upstream.asking import make_session
from gateway.upstream.health import HealthChecks
from gateway.upstream.issuers import Issuers
from gateway.upstream.samples import Samples
from gateway.upstream.signatures import ModelSignatures
from gateway.upstream.upstream import HttpUpstream

if TYPE_CHECKING:
    from gateway.stores.quota_file import FileLedger

log = logging.getLogger("headgate")


class Worker:
    """A whole gateway in one process. Implements admin.app.Operations.

    One of several has a link to its supervisor, which then owns the sockets, reads policies and registry,
    checks instances, holds the counters and answers the admin API: the worker is told.
    """

    def __init__(self, folder: Path, loaded: Loaded, schema: Schema, link: Link | None = None) -> None:
        """schema: what was loaded, with what the command line overrules."""
        self.schema = schema
        self._link = link
        self.draining = False
        self._folder = folder
        self._loaded = loaded
        self._clock = SystemClock()
        self._ids = SystemIds()
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self._listeners: dict[str, Listener] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._releasing: Releasing | None = None  # None: the supervisor decides

    # Starting

    async def start(self) -> None:
        """Start everything.

        Raises PoliciesInvalid, CannotStart, BindError and AdminBindError; `stop` then stops what was started.
        """
        loop = asyncio.get_running_loop()
        schema = self.schema
        self._stack.push_async_callback(self._close_session)
        lock = -1 if self._link is None else self._link.lock_of(schema.log.access)
        self._telemetry = open_telemetry(schema, self._clock, self._ids.chance, lock)
        self._stack.callback(self._telemetry.close)
        timers = SweptTimers(loop)
        self._stack.callback(timers.close)
        self._upstream = HttpUpstream(loop, timers)
        self._stack.callback(self._upstream.close)
        self._pressure = Pressure()
        self._signatures = ModelSignatures(self._http, self._clock.now)
        self._stack.push_async_callback(self._signatures.close)
        self._registry = await self._find_registry(schema)
        self._membership = Membership(self._registry, self._clock.now)
        self._stack.push_async_callback(self._membership.close)
        self._health = HealthChecks(self._http)
        self._stack.push_async_callback(self._health.close)
        self.gateway = Gateway(
            _nothing(),
            upstream=self._upstream,
            clock=self._clock,
            timers=timers,
            ids=self._ids,
            signatures=self._signatures,
            observer=self._telemetry,
            pressure=self._pressure,
        )
        self._book = Releases(aside) if self._link is None else self._link.releases
        if self._link is None:
            file = state_file(self._folder, schema.stores.releases)
            ask = Samples(self._http).ask
            circle = await take_seat(schema.stores.shared_releases, self._stack, self._ids.chance)
            self._releasing = Releasing(file, self._book, self._clock, ask, circle=circle)
            self._stack.push_async_callback(self._releasing.close)
        ports = await self._ports(schema)
        self.policies = Policies(self._folder, ports, self._clock.wall, self._install)
        self.policies.start(self._loaded)
        try:
            self._listeners = make_listeners(
                schema.listen,
                schema.limits,
                partial(begin, self.gateway),
                timers,
                self._clock,
                self._telemetry.on_refused,
                lambda address: self.gateway.snapshot.forwarding.is_trusted(address),
            )
        except TlsUnusable as error:
            raise CannotStart(f"listen: {error}") from error
        offer_tunnels(self._listeners, self.gateway.snapshot.endpoints.values())
        if self._link is None:
            await self._open_admin(schema)
            self._own(self.policies.watch(), "policy watch")
        if self._releasing is not None:
            self._own(self._releasing.run(), "releases")
        for name, port in client_ports(schema.listen).items():
            self._stack.callback(self._listeners[name].close)
            await self._listen(self._listeners[name], name, port.address)
        self._own(sense(self.gateway, schema.limits.connections, self._clock), "pressure")

    def _install(self, built: Built) -> None:
        """Make a build the running one: one assignment, then what follows it."""
        if self._releasing is not None:
            self._releasing.adopt(built.snapshot)
        else:
            catch_up(built.snapshot, self._book)
        self.gateway.snapshot = built.snapshot
        pools = built.snapshot.pools
        self._membership.follow((pools[name], config) for name, config in built.pool_configs.items())
        models = {
            pool.name: pool.model or endpoint.model
            for endpoint in built.snapshot.endpoints.values()
            for pool in (*endpoint.versions.values(), *endpoint.pools)
        }
        renew(self._listeners, built.schema.listen)
        offer_tunnels(self._listeners, built.snapshot.endpoints.values())
        self._issuers.retire(built.schema.issuers.values())
        if built.schema.issuers:
            self._own(self._issuers.warm(), "issuers' keys")
        if self._link is None:
            self._health.watch((pool, models.get(pool.name, pool.model)) for pool in pools.values())

    async def _listen(self, listener: Listener, name: str, address: Address) -> None:
        """Bind, or take the socket that the supervisor has bound. Raises BindError."""
        if self._link is None:
            await listener.start(address.host, address.port)
        else:
            await asyncio.sleep(0)  # the members that were told are in their pools before anybody asks
            await listener.start_on(self._link.socket_of(name))

    async def _find_registry(self, schema: Schema) -> Discovery | None:
        if self._link is not None:
            return self._link.registry
        registry = await open_registry(schema, self._folder)
        if registry is not None:
            self._stack.push_async_callback(registry.close)
        return registry

    def _own(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Forget a task; one that failed is told, for nobody waits for it."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task '%s' ended by a bug", task.get_name(), exc_info=task.exception())

    def reload_soon(self) -> None:
        """Read the policies, as SIGHUP asks; the report says how it went."""

        async def reload() -> None:
            await self.policies.reload()

        self._own(reload(), "reload")

    def exchange_soon(self) -> None:
        """SIGUSR2: there is nobody to take over from a single process."""
        log.warning("a rolling restart needs several workers: headgate serve --workers N")

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = make_session()
        return self._session

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ports(self, schema: Schema) -> Ports:
        local = MemoryCounters()
        counters: CounterStore = local
        redis: RedisClient | None = None
        if self._link is not None and schema.stores.counters.in_memory:
            counters = self._link.open_counters(schema.stores.counters.timeout)
        if not schema.stores.counters.in_memory:
            redis = await self._open_redis(schema.stores.counters, "counters")
            loop = asyncio.get_running_loop()
            leased = LeasedRedisCounters(redis, loop, os.urandom(6).hex().encode(), self._clock.now)
            self._stack.callback(leased.close)
            counters = leased
        self.counters = counters
        quotas = self._open_quotas(schema, redis)
        gateways = _alone if self._link is None else self._link.count
        self.meters = Meters(gateways)
        blobs: SharedRedisBlobs | None = None
        if not schema.stores.cache.in_memory:
            blobs = await self._open_blobs(schema.stores.cache)
        self._answers = AnswerStore(schema.stores.cache.size, blobs, blobs)
        if blobs is not None:
            blobs.follow(self._answers.heard, self._answers.trust)
        if self._link is not None:
            self._answers.tell = self._link.tell_outdated
        threads = WorkThreads(asyncio.get_running_loop())
        self._stack.callback(threads.close)
        self._issuers = Issuers(self._http, self._clock.now, self._folder)
        self._stack.push_async_callback(self._issuers.close)
        return Ports(
            clock=self._clock,
            ids=self._ids,
            counters=counters,
            local_counters=local,
            blobs=blobs,
            answers=self._answers,
            issuers=self._issuers.follow,
            signatures=self._signatures,
            pressure=self._pressure,
            gateways=gateways,
            traces=bool(schema.telemetry.otlp),
            mirrors=Mirrors(self.gateway),
            errands=Errands(self.gateway),
            timers=self.gateway.timers,
            threads=threads,
            releases=self._book,
            quotas=quotas,
            local_quotas=Quotas(MemoryLedger(), self._clock.wall),
            meters=self.meters,
        )

    def _open_quotas(self, schema: Schema, redis: RedisClient | None) -> Quotas:
        """Count quotas where everybody who shares them looks: in Redis, in a file of this host, or here."""
        loop = asyncio.get_running_loop()
        ledger: Ledger = MemoryLedger()
        file: FileLedger | None = None
        if redis is not None:
            ledger = RedisLedger(redis)
        elif schema.stores.quotas != "memory":
            from gateway.stores.quota_file import FileLedger  # SQLite is loaded where there are quotas

            ledger = file = FileLedger(self._folder / schema.stores.quotas, loop)
            self._stack.push_async_callback(file.close)
        self.quotas = Quotas(ledger, self._clock.wall)
        reports = QuotaReports(self.quotas, loop, file)
        self._stack.push_async_callback(reports.close)
        reports.start()
        return self.quotas

    async def _open_blobs(self, store: Store) -> SharedRedisBlobs:
        client = await self._open_redis(store, "cache")
        me = os.urandom(6).hex().encode()
        blobs = SharedRedisBlobs(client, me, self._clock.now, self._clock.wall)
        self._stack.push_async_callback(blobs.close)
        return blobs

    async def _open_redis(self, store: Store, use: str) -> RedisClient:
        password = "" if store.password is None else store.password.reveal()
        client = RedisClient(
            RedisAddress.parse(store.url, password),
            timeout=store.timeout,
            rng=self._ids.chance,
            on_change=lambda is_up, why: log.warning(
                "store %s is %s %s", use, "up" if is_up else "down", why
            ),
        )
        await client.open()
        self._stack.push_async_callback(client.close)
        return client

    async def _open_admin(self, schema: Schema) -> None:
        listen = schema.listen.admin
        local = self._registry if isinstance(self._registry, LocalRegistry) else None
        wanted = self.schema.registry.local or LocalRegistryConfig()
        app = make_app(self, host=listen.address.host, token=listen.token, local=local, ttl=wanted.ttl)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        admin = Listening(runner)
        await admin.start(listen.address.host, listen.address.port)
        self.admin_address = admin.address

    # Running

    @property
    def http_address(self) -> tuple[str, int]:
        """Where clients come in."""
        return self._listeners["http"].address

    @property
    def grpc_address(self) -> tuple[str, int] | None:
        """Where gRPC clients come in, None when there is no such port."""
        listener = self._listeners.get("grpc")
        return None if listener is None else listener.address

    async def cover(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        """Accept from these bound sockets too, per listener, and from no others besides the own ones."""
        for name, listener in self._listeners.items():
            await listener.cover(sockets.get(name, ()))

    # admin.app.Operations

    @property
    def snapshot(self) -> Snapshot:
        """The running snapshot."""
        return self.gateway.snapshot

    def now(self) -> float:
        """Seconds, monotonic."""
        return self._clock.now()

    async def scrape(self) -> Callable[[], bytes]:
        """Read the gauges, which only the event loop may; returns what writes all as Prometheus text."""
        return self.metrics_writer()

    def metrics_writer(self) -> Callable[[], bytes]:
        """See `scrape`."""
        own = gauges.control(self.snapshot, self.policies, self.registry_status(), 1, 0)
        releases = () if self._releasing is None else self._releasing.metrics()
        return partial(self._telemetry.metrics.text, [*self.traffic(), *own, *releases])

    def metrics(self) -> bytes:
        """Everything as Prometheus text."""
        return self.metrics_writer()()

    async def instances(self) -> list[views.View]:
        """Every instance of every pool."""
        return views.instances(self.snapshot, self._clock.now())

    def workers(self) -> list[views.View]:
        """This one."""
        return [views.worker(0, os.getpid(), "ready", self.connections, self.in_flight, 0)]

    def lacking(self) -> list[str]:
        """Who answers this serves."""
        return []

    def registry_status(self) -> RegistryStatus | None:
        """How the registry stands."""
        return None if self._registry is None else self._registry.status()

    def last_reload(self) -> Mapping[str, object]:
        """How the last reading of the policies went."""
        return self.policies.report.view()

    def listing(self) -> list[str]:
        """The running policies, a line each."""
        assert self.policies.built is not None
        return listing(self.policies.built.schema)

    def releases(self) -> list[views.View]:
        """Every release."""
        return [] if self._releasing is None else self._releasing.views()

    def drifts(self) -> list[views.View]:
        """The last alarms of `drift`."""
        return [] if self._releasing is None else self._releasing.drifts()

    def move_release(self, name: str, word: str) -> views.View:
        """Move a release by hand."""
        assert self._releasing is not None
        return self._releasing.act(name, read_act(word))

    async def reload(self) -> Mapping[str, object]:
        """Read the policies now."""
        return (await self.policies.reload()).view()

    async def purge(self, what: str | None) -> int:
        """Forget cached answers under a tag, one by its key, or all."""
        return self._answers.purge_tag(what, self._clock.wall())

    def outdated(self, what: str) -> None:
        """Another worker's request made cached answers untrue: forget them here, too."""
        self._answers.heard(what, self._clock.wall())

    async def quotas_left(self, who: str, most: int) -> views.View:
        """Show what is left of quotas, and who spent it."""
        return await quotas_view(self.snapshot, self.quotas, self._clock.wall(), who, most)

    async def explain(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Mapping[str, object]:
        """Decide one request, spending and sending nothing."""
        return await explain(self.gateway, method, url, headers, body)

    @property
    def objectives(self) -> Objectives:
        """What clients are promised, by endpoint."""
        return self._pressure.objectives

    def traffic(self) -> list[Metric]:
        """What this process does now: gauges that only the event loop may read."""
        now = list(
            gauges.traffic(
                self.snapshot,
                self._listeners,
                self._pressure,
                self.gateway.tunnels,
                self._telemetry,
                self._clock.now(),
                self._answers,
            )
        )
        return [*now, *limits(self.snapshot, self.counters, self.quotas)]

    @property
    def counted(self) -> Metrics:
        """What this process counted so far."""
        return self._telemetry.metrics

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return sum(listener.connections for listener in self._listeners.values())

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._pressure.in_flight

    # Stopping

    async def stop(self, grace: float | None = None, farewell: float | None = None) -> int:
        """Drain, then close everything in reverse. Returns how many connections had to be broken.

        grace: s, where it isn't `limits.drain`. farewell: s that idle connections may stay.
        """
        self.draining = True
        grace = self.schema.limits.drain if grace is None else grace
        drains = [one.drain(grace, farewell) for one in self._listeners.values()]
        broken = sum(await asyncio.gather(*drains))
        if self._link is not None:
            await self._link.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()
        await asyncio.sleep(0)  # transports close in the next turn, and the loop may end with this call
        return broken


def _alone() -> int:
    return 1


def _nothing() -> Snapshot:
    """A snapshot before the first one: nothing is served."""
    return Snapshot(0, "", {}, {}, Routes((), ()).find, Forwarding())
