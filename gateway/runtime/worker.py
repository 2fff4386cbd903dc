"""One worker: everything that serves, put together, started and stopped in order.

Starting: the policies are read and checked (a mistake ends the start, with every line that is wrong),
stores and registry are opened (one that is away is no reason not to start), the snapshot is built, the
ports are bound. Stopping: readiness turns false, the ports close, requests under way get `limits.drain` to
end, then everything is closed in reverse.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web
from prometheus_client.core import Metric

from gateway.admin.app import make_app
from gateway.admin.listening import Listening
from gateway.config.listing import listing
from gateway.config.load import Loaded
from gateway.config.schema import LocalRegistry as LocalRegistryConfig
from gateway.config.schema import Schema, Store
from gateway.discovery.etcd import EtcdSettings, TlsFiles
from gateway.discovery.etcd_registry import EtcdRegistry
from gateway.discovery.file import FileRegistry
from gateway.discovery.local import LocalRegistry
from gateway.discovery.registry import Discovery, RegistryStatus
from gateway.governance.overload import Gauge
from gateway.http.forwarded import Forwarding
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.exchange import begin
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.ports import BlobStore, CounterStore
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.routes import Routes
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime.build import Built, Ports
from gateway.runtime.explain import explain
from gateway.runtime.listening import client_ports, handshakes, make_listeners, renew
from gateway.runtime.membership import Membership
from gateway.runtime.policies import Policies
from gateway.runtime.world import SystemClock, SystemIds
from gateway.server.listener import Listener
from gateway.server.timers import SweptTimers
from gateway.server.tls import TlsUnusable
from gateway.stores.memory import MemoryCounters
from gateway.stores.redis import Address, RedisBlobs, RedisClient, RedisCounters
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics, counter, gauge
from gateway.telemetry.observer import Telemetry
from gateway.telemetry.tracing import Tracing
from gateway.upstream.asking import make_session
from gateway.upstream.health import HealthChecks
from gateway.upstream.issuers import Issuers
from gateway.upstream.signatures import ModelSignatures
from gateway.upstream.upstream import HttpUpstream

LOOK = 0.05  # s between two looks at the event loop's lag
LAGS = 20  # looks of which the p90 counts
TOLERABLE_LAG = 0.1  # s: a machine that stutters is no reason to refuse anybody

log = logging.getLogger("headgate")


class CannotStart(Exception):
    """Something that the policies name is not to be had here; the text says what."""


class Worker:
    """A whole gateway in one process. Implements admin.app.Operations."""

    def __init__(self, folder: Path, loaded: Loaded, schema: Schema) -> None:
        """schema: what was loaded, with what the command line overrules."""
        self.schema = schema
        self.draining = False
        self._folder = folder
        self._loaded = loaded
        self._clock = SystemClock()
        self._ids = SystemIds()
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self._listeners: dict[str, Listener] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # Starting

    async def start(self) -> None:
        """Start everything.

        Raises PoliciesInvalid, CannotStart, BindError and AdminBindError; `stop` then stops what was started.
        """
        loop = asyncio.get_running_loop()
        schema = self.schema
        self._stack.push_async_callback(self._close_session)
        self._telemetry = self._open_telemetry(schema)
        timers = SweptTimers(loop)
        self._stack.callback(timers.close)
        self._upstream = HttpUpstream(loop, timers)
        self._stack.callback(self._upstream.close)
        self._pressure = Pressure()
        self._signatures = ModelSignatures(self._http, self._clock.now)
        self._stack.push_async_callback(self._signatures.close)
        self._registry = await self._open_registry(schema)
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
        await self._open_admin(schema)
        for name, port in client_ports(schema.listen).items():
            await self._listeners[name].start(port.address.host, port.address.port)
            self._stack.callback(self._listeners[name].close)
        self._own(self.policies.watch(), "policy watch")
        self._own(self._watch_pressure(), "pressure")

    def _install(self, built: Built) -> None:
        """Make a build the running one: one assignment, then what follows it."""
        self.gateway.snapshot = built.snapshot
        pools = built.snapshot.pools
        self._membership.follow((pools[name], config) for name, config in built.pool_configs.items())
        models = {
            pool.name: pool.model or endpoint.model
            for endpoint in built.snapshot.endpoints.values()
            for pool in (*endpoint.versions.values(), *endpoint.pools)
        }
        renew(self._listeners, built.schema.listen)
        self._issuers.retire(built.schema.issuers.values())
        if built.schema.issuers:
            self._own(self._issuers.warm(), "issuers' keys")
        self._health.watch((pool, models.get(pool.name, pool.model)) for pool in pools.values())

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

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = make_session()
        return self._session

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open_telemetry(self, schema: Schema) -> Telemetry:
        self._metrics = Metrics()
        access_log = AccessLog(
            schema.log.access, self._clock, chance=self._ids.chance, sample=schema.log.sample
        )
        tracing = None
        if schema.telemetry.otlp:
            headers = {name: secret.reveal() for name, secret in schema.telemetry.headers.items()}
            try:
                tracing = Tracing.over_otlp(
                    schema.telemetry.otlp, self._clock, schema.telemetry.service, headers
                )
            except ImportError as missing:
                raise CannotStart(f"telemetry.otlp: {missing} (pip install 'headgate[otlp]')") from missing
        telemetry = Telemetry(self._metrics, access_log, tracing)
        telemetry.start()
        self._stack.callback(telemetry.close)
        return telemetry

    async def _open_registry(self, schema: Schema) -> Discovery | None:
        wanted = schema.registry
        registry: LocalRegistry | EtcdRegistry | FileRegistry
        if wanted.local is not None:
            registry = LocalRegistry(snapshot=wanted.local.snapshot)
        elif wanted.etcd is not None:
            etcd = wanted.etcd
            tls = TlsFiles(etcd.ca, etcd.cert, etcd.key) if etcd.ca or etcd.cert else None
            password = None if etcd.password is None else etcd.password.reveal()
            settings = EtcdSettings(etcd.servers, etcd.namespace, etcd.user, password, tls, etcd.timeout)
            try:
                registry = EtcdRegistry(settings, snapshot=etcd.snapshot)
            except OSError as error:  # ssl.SSLError is one, too
                files = ", ".join(file for file in (etcd.ca, etcd.cert, etcd.key) if file)
                raise CannotStart(f"registry.etcd: {files}: {error.strerror or error}") from error
        elif wanted.file is not None:
            registry = FileRegistry(self._folder / wanted.file.path)
        else:
            return None
        await registry.start()
        self._stack.push_async_callback(registry.close)
        return registry

    async def _ports(self, schema: Schema) -> Ports:
        local = MemoryCounters()
        counters: CounterStore = local
        if not schema.stores.counters.in_memory:
            counters = RedisCounters(await self._open_redis(schema.stores.counters, "counters"))
        blobs: BlobStore | None = None
        if not schema.stores.cache.in_memory:
            blobs = RedisBlobs(await self._open_redis(schema.stores.cache, "cache"))
        self._answers = AnswerStore(schema.stores.cache.size, blobs)
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
            gateways=_alone,
            traces=bool(schema.telemetry.otlp),
        )

    async def _open_redis(self, store: Store, use: str) -> RedisClient:
        password = "" if store.password is None else store.password.reveal()
        client = RedisClient(
            Address.parse(store.url, password),
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

    async def _watch_pressure(self) -> None:
        """Measure how late the event loop is, and how full the gateway and its pools are."""
        gauge = Gauge(tolerable_lag=TOLERABLE_LAG, relief=0.5)
        lags = [0.0] * LAGS
        turn = 0
        while True:
            before, worked = self._clock.now(), time.thread_time()
            await asyncio.sleep(LOOK)
            now = self._clock.now()
            # Our own work only: a machine that gave the processor to others is no overload of ours.
            lags[turn % LAGS] = max(0.0, min(now - before - LOOK, time.thread_time() - worked))
            turn += 1
            pressure = self._pressure
            pressure.lag = sorted(lags)[int(0.9 * (LAGS - 1))]
            fullest = max((pool.in_flight / pool.limit for pool in self.snapshot.pools.values()), default=0.0)
            limit = self.schema.limits.connections
            pressure.level = gauge.sense(pressure.lag, pressure.in_flight, limit, now, fullest)

    @property
    def http_address(self) -> tuple[str, int]:
        """Where clients come in."""
        return self._listeners["http"].address

    @property
    def grpc_address(self) -> tuple[str, int] | None:
        """Where gRPC clients come in, None when there is no such port."""
        listener = self._listeners.get("grpc")
        return None if listener is None else listener.address

    # admin.app.Operations

    @property
    def snapshot(self) -> Snapshot:
        """The running snapshot."""
        return self.gateway.snapshot

    def now(self) -> float:
        """Seconds, monotonic."""
        return self._clock.now()

    def scrape(self) -> Callable[[], bytes]:
        """Read the gauges, which only the event loop may; returns what writes all as Prometheus text."""
        return partial(self._metrics.text, list(self._gauges()))

    def metrics(self) -> bytes:
        """Everything as Prometheus text."""
        return self.scrape()()

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

    async def reload(self) -> Mapping[str, object]:
        """Read the policies now."""
        return (await self.policies.reload()).view()

    def purge(self, endpoint: str | None) -> int:
        """Forget cached answers."""
        return self._answers.purge(self._clock.wall(), endpoint=endpoint)

    async def explain(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Mapping[str, object]:
        """Decide one request, spending and sending nothing."""
        return await explain(self.gateway, method, url, headers, body)

    def _gauges(self) -> Iterable[Metric]:
        """Pools, instances, registry, log and policies as gauges, at scrape time."""
        now = self._clock.now()
        members = [(pool, one) for pool in self.snapshot.pools.values() for one in pool.members.instances]
        labels = ("pool", "instance")
        keyed = {(pool.name, one.id): one for pool, one in members}
        yield gauge(
            "headgate_instance_up",
            "1 where calls may go.",
            labels,
            {key: float(one.usable(now)) for key, one in keyed.items()},
        )
        yield gauge(
            "headgate_instance_ejected",
            "1 while an instance is left alone after failures.",
            labels,
            {key: float(now < one.ejected_until) for key, one in keyed.items()},
        )
        yield gauge(
            "headgate_instance_breaker_open",
            "1 while its breaker is not closed.",
            labels,
            {key: float(one.state(now).startswith("breaker")) for key, one in keyed.items()},
        )
        yield gauge(
            "headgate_instance_in_flight",
            "Calls under way.",
            labels,
            {key: float(one.in_flight) for key, one in keyed.items()},
        )
        yield gauge(
            "headgate_pool_instances",
            "Instances known.",
            ("pool",),
            {(pool.name,): float(len(pool.members.instances)) for pool in self.snapshot.pools.values()},
        )
        single: dict[str, tuple[str, float]] = {
            "headgate_connections": (
                "Client connections open.",
                sum(listener.connections for listener in self._listeners.values()),
            ),
            "headgate_in_flight": ("Requests under way.", self._pressure.in_flight),
            "headgate_pressure": ("0 at ease .. 1.", self._pressure.level),
            "headgate_loop_lag_seconds": ("p90 lateness of the event loop.", self._pressure.lag),
            "headgate_policies_version": ("Counts loads.", self.snapshot.version),
            "headgate_policies_ok": ("0 when the last reading failed.", float(self.policies.report.ok)),
        }
        status = self.registry_status()
        if status is not None:
            single["headgate_discovery_stale_seconds"] = ("Since the registry was live.", status.stale)
        for name, (meaning, value) in single.items():
            yield gauge(name, meaning, (), {(): float(value)})
        yield handshakes(self._listeners)
        yield counter("headgate_policies_failures", "Readings that failed.", self.policies.failures)
        yield counter(
            "headgate_access_log_dropped",
            "Lines that could not be written.",
            self._telemetry.access_log.dropped,
        )
        if self._telemetry.tracing is not None:
            yield counter(
                "headgate_traces_dropped",
                "Sampled requests whose spans did not reach the receiver.",
                self._telemetry.tracing.dropped,
            )

    # Stopping

    async def stop(self) -> int:
        """Drain, then close everything in reverse. Returns how many connections had to be broken."""
        self.draining = True
        grace = self.schema.limits.drain
        broken = sum(await asyncio.gather(*(one.drain(grace) for one in self._listeners.values())))
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
