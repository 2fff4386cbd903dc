"""Several workers as one gateway: `headgate serve --workers N`.

The supervisor serves no request. It owns what there must be once per host, and tells its workers:

    listening sockets       bound here, one per slot (crew.py)
    policy folder           read and checked here, prepared by every worker, then run by all or by none
    registry, health        watched here; whole sets go to all workers
    counters                the buckets are here, workers spend from leases (governance/leases.py)
    transitions             ejections and breakers that one worker found are told to the others (sharing.py)
    metrics, admin API      joined here; what a dead worker had counted is kept

It builds the policies too, so that it shows and judges what runs, and so that its pools' members carry the
verdicts. When it is slow, workers go on with what they know; when it dies they end (link.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from aiohttp import web

from gateway.admin.app import make_app
from gateway.admin.listening import Listening
from gateway.config.load import Loaded
from gateway.config.schema import LocalRegistry as LocalRegistryConfig
from gateway.config.schema import Schema
from gateway.discovery.local import LocalRegistry
from gateway.discovery.members import Member, write_member
from gateway.discovery.registry import Discovery
from gateway.governance.leases import Lender
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.releases import Releases
from gateway.runtime import messages
from gateway.runtime.build import Built, Ports
from gateway.runtime.circle import take_seat
from gateway.runtime.crew import Crew
from gateway.runtime.hand import Hand, NoAnswer, State
from gateway.runtime.host import Host
from gateway.runtime.listening import client_ports
from gateway.runtime.membership import Membership
from gateway.runtime.policies import Policies
from gateway.runtime.registries import open_registry
from gateway.runtime.releasing import Releasing, state_file
from gateway.runtime.sharing import Sharing, unwell
from gateway.runtime.world import SystemClock, SystemIds
from gateway.server.listener import bind
from gateway.stores.leased import answer
from gateway.stores.memory import MemoryCounters
from gateway.upstream.asking import make_session
from gateway.upstream.health import HealthChecks
from gateway.upstream.issuers import Issuers
from gateway.upstream.samples import Samples
from gateway.upstream.signatures import ModelSignatures

PREPARE = 30.0  # s that workers may take to build new policies
FAREWELL = 10.0  # s that idle connections stay at a worker that was replaced: nothing waits for it
SWEEP = 1.0  # s between two looks at forgotten leases
Overruled = dict[str, str | None]

log = logging.getLogger("headgate.workers")


class Supervisor:
    """The one process beside the workers."""

    def __init__(self, folder: Path, loaded: Loaded, schema: Schema, size: int, overruled: Overruled) -> None:
        """schema: what was loaded, with what the command line overrules."""
        self.schema = schema
        self._folder = folder
        self._loaded = loaded
        self._size = size
        self._overruled = overruled
        self._clock = SystemClock()
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self._sockets: dict[str, list[socket.socket]] = {}
        self._lock = os.memfd_create("access-log")
        self._lender = Lender()
        self._sharing = Sharing()
        self._sightings: dict[tuple[str, str, str], messages.Sighting] = {}
        self._members: dict[str, frozenset[Member]] = {}
        self._relays: dict[str, asyncio.Task[None]] = {}
        self._round = 0
        self._agreed: list[Hand] = []
        self._started_files: Mapping[str, bytes] = loaded.files
        self._rolling = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._book = Releases()

    # Starting

    async def start(self) -> None:
        """Start everything and wait until all workers serve.

        Raises PoliciesInvalid, CannotStart, CannotServe, BindError and AdminBindError.
        """
        schema = self.schema
        self._stack.push_async_callback(self._close_session)
        self._bind()
        self._registry: Discovery | None = await open_registry(schema, self._folder)
        if self._registry is not None:
            self._stack.push_async_callback(self._registry.close)
        self._membership = Membership(self._registry, self._clock.now)
        self._stack.push_async_callback(self._membership.close)
        self._health = HealthChecks(self._http, self._tell_health)
        self._stack.push_async_callback(self._health.close)
        descriptors = [self._lock]
        self.crew = Crew(self._size, self._sockets, descriptors, self._clock.now, self._heed, self._buried)
        self._releasing = Releasing(
            state_file(self._folder, schema.stores.releases),
            self._book,
            self._clock,
            Samples(self._http).ask,
            lambda told: self._tell(messages.Released(told)),
            lambda: frozenset(hand.number for hand in self.crew.ready),
            await take_seat(schema.stores.shared_releases, self._stack, SystemIds().chance),
        )
        self._stack.push_async_callback(self._releasing.close)
        self.policies = Policies(
            self._folder, self._ports(schema), self._clock.wall, self._install, self._agree
        )
        self.host = Host(self.crew, self.policies, self._registry, self._clock.now, self._releasing)
        self.policies.start(self._loaded)
        await self._open_admin(schema)
        await self.crew.start()
        self._own(self.policies.watch(), "policy watch")
        self._own(self._sweep(), "leases")
        self._own(self._releasing.run(), "releases")

    def _bind(self) -> None:
        """Bind one socket per slot and listener; nobody else may have the address."""
        for name, port in client_ports(self.schema.listen).items():
            host, number = port.address.host, port.address.port
            if number:
                bind(host, number).close()  # without SO_REUSEPORT: fails where anybody listens
            first = bind(host, number, reuse_port=True)
            self._stack.callback(first.close)
            others = [bind(host, first.getsockname()[1], reuse_port=True) for _ in range(1, self._size)]
            for other in others:
                self._stack.callback(other.close)
            self._sockets[name] = [first, *others]

    def _ports(self, schema: Schema) -> Ports:
        """What a build needs; nothing of it is used, for no request comes here."""
        counters = MemoryCounters()
        issuers = Issuers(self._http, self._clock.now, self._folder)
        self._stack.push_async_callback(issuers.close)
        signatures = ModelSignatures(self._http, self._clock.now)
        self._stack.push_async_callback(signatures.close)
        return Ports(
            clock=self._clock,
            ids=SystemIds(),
            counters=counters,
            local_counters=counters,
            blobs=None,
            answers=AnswerStore(schema.stores.cache.size, None),
            issuers=issuers.follow,
            signatures=signatures,
            pressure=Pressure(),
            gateways=lambda: self._size,
            traces=bool(schema.telemetry.otlp),
            releases=self._book,
        )

    async def _open_admin(self, schema: Schema) -> None:
        listen = schema.listen.admin
        local = self._registry if isinstance(self._registry, LocalRegistry) else None
        wanted = schema.registry.local or LocalRegistryConfig()
        app = make_app(self.host, host=listen.address.host, token=listen.token, local=local, ttl=wanted.ttl)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        admin = Listening(runner)
        await admin.start(listen.address.host, listen.address.port)
        self.admin_address = admin.address

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = make_session()
        return self._session

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _own(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task '%s' ended by a bug", task.get_name(), exc_info=task.exception())

    @property
    def http_address(self) -> tuple[str, int]:
        """Where clients come in."""
        host, port = self._sockets["http"][0].getsockname()[:2]
        return host, port

    # What workers say

    def _heed(self, hand: Hand, message: messages.FromWorker) -> None:
        match message:
            case messages.Drawing(draw):
                answers = answer(self._lender, hand.number, draw, self._clock.now())
                if draw.asks:
                    hand.send(messages.Drawn(draw.number, tuple(answers)))
            case messages.Saw(sightings):
                self._saw(hand, sightings)
            case messages.Tallied() | messages.Paid() | messages.Outdated():
                self._tell(message, but=hand)
            case messages.Evidence(gathered, drifted):
                self._releasing.gather(gathered)
                self._releasing.drifted(drifted)
            case messages.Holding(release, revision):
                self._releasing.heard(hand.number, release, revision)
            case messages.Hello(version, _, _):
                if version != messages.VERSION:
                    hand.kill("its code speaks another version of the channel: restart the whole gateway")
                else:
                    self._welcome(hand)
            case messages.Ready():
                if hand.state is State.STARTING:
                    self._own(self._catch_up(hand), f"worker {hand.pid} catches up")

    def _welcome(self, hand: Hand) -> None:
        hand.round = self._round
        same = self._started_files is self.policies.files
        now = self._clock.now()
        hand.send(
            messages.Welcome(
                version=messages.VERSION,
                folder=str(self._folder),
                files=dict(self.policies.files),
                started=None if same else dict(self._started_files),
                overruled=self._overruled,
                sockets={name: tuple(one.fileno() for one in ones) for name, ones in self._sockets.items()},
                workers=self._size,
                lock=self._lock,
                members={service: _written(members) for service, members in self._members.items()},
                unwell=tuple(sorted(unwell(self.host.snapshot))),
                sightings=tuple(one for one in self._sightings.values() if one.until > now),
                releases=tuple(self._releasing.telling()),
            )
        )

    async def _catch_up(self, hand: Hand) -> None:
        """A worker that started from older policies takes the newest before it counts as ready."""
        while hand.round != self._round and hand.state is State.STARTING:
            number = self._round
            try:
                errors = await hand.prepare(number, dict(self.policies.files), PREPARE)
            except NoAnswer as error:
                errors = (str(error),)
            if errors:
                hand.kill(f"it can't take the policies that run: {'; '.join(errors)}")
                return
            hand.send(messages.Commit(number))
            hand.round = number
        if hand.state is State.STARTING:
            self.crew.welcomed(hand)

    def _saw(self, hand: Hand, sightings: Sequence[messages.Sighting]) -> None:
        now = self._clock.now()
        self._sharing.heed(self.host.snapshot, sightings, now)
        for one in sightings:
            what = "ejected" if one.what == "ejected" else "breaker"
            self._sightings[one.pool, one.instance, what] = one
        self._sightings = {key: one for key, one in self._sightings.items() if one.until > now}
        self._tell(messages.Saw(tuple(sightings)), but=hand)

    def _buried(self, hand: Hand) -> None:
        self._lender.forget(hand.number)
        self.host.retire(hand)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self._lender.sweep(self._clock.now())

    # What workers are told

    def _tell(self, message: messages.FromSupervisor, but: Hand | None = None) -> None:
        for hand in self.crew.hands:
            if hand is not but and hand.state in (State.STARTING, State.READY):
                hand.send(message)

    def _tell_health(self) -> None:
        self._tell(messages.Unwell(tuple(sorted(unwell(self.host.snapshot)))))

    async def _relay(self, service: str, registry: Discovery) -> None:
        async for members in registry.watch(service):
            self._members[service] = members
            self._tell(messages.Members(service, _written(members)))

    # Policies

    async def _agree(self, loaded: Loaded) -> tuple[str, ...]:
        """Let all workers build the new policies; returns who can't, and then nobody runs them."""
        number = self._round + 1
        hands = self.crew.ready
        files = dict(loaded.files)
        answers = await asyncio.gather(
            *(hand.prepare(number, files, PREPARE) for hand in hands), return_exceptions=True
        )
        errors: list[str] = []
        self._agreed = []
        for hand, said in zip(hands, answers, strict=True):
            if hand.state is State.GONE:
                continue  # its replacement starts from what runs then
            if isinstance(said, NoAnswer):
                errors.append(f"worker {hand.slot} (pid {hand.pid}): {said}")
            elif isinstance(said, BaseException):
                raise said
            elif said:
                errors += [f"worker {hand.slot} (pid {hand.pid}): {error}" for error in said]
            else:
                self._agreed.append(hand)
        if errors:
            for hand in hands:
                hand.send(messages.Abort(number))
            return tuple(errors)
        self._round = number
        return ()

    def _install(self, built: Built) -> None:
        """Make a build the running one, here and in all workers that have it ready."""
        agreed, self._agreed = self._agreed, []
        for hand in agreed:
            hand.send(messages.Commit(self._round))
            hand.round = self._round
        self._releasing.adopt(built.snapshot)
        pools = built.snapshot.pools
        self._membership.follow((pools[name], config) for name, config in built.pool_configs.items())
        models = {
            pool.name: pool.model or endpoint.model
            for endpoint in built.snapshot.endpoints.values()
            for pool in (*endpoint.versions.values(), *endpoint.pools)
        }
        self._health.watch((pool, models.get(pool.name, pool.model)) for pool in pools.values())
        self._follow({config.find for config in built.pool_configs.values() if config.find is not None})

    def _follow(self, services: set[str]) -> None:
        """Pass on exactly these services' members."""
        for service in self._relays.keys() - services:
            self._relays.pop(service).cancel()
            self._members.pop(service, None)
        if self._registry is not None:
            for service in services - self._relays.keys():
                self._relays[service] = self._own(self._relay(service, self._registry), f"relay {service}")

    def reload_soon(self) -> None:
        """Read the policies, as SIGHUP asks; the report says how it went."""

        async def reload() -> None:
            await self.policies.reload()

        self._own(reload(), "reload")

    def exchange_soon(self) -> None:
        """Replace the workers one by one, as SIGUSR2 asks; a second wish while it goes on is ignored."""
        if not self._rolling and not self.host.draining:
            self._rolling = True
            self._own(self._exchange(), "rolling restart")

    async def _exchange(self) -> None:
        log.info("rolling restart of %d workers", self._size)
        self._started_files = self.policies.files  # what only a restart changes is read anew
        try:
            why = await self.crew.exchange(self.schema.limits.drain, FAREWELL)
        finally:
            self._rolling = False
        if why:
            log.error("rolling restart stopped: %s", why)
        else:
            log.info("rolling restart done")

    # Stopping

    async def stop(self) -> int:
        """Let the workers drain, then close everything in reverse. Returns 0: they say what they broke."""
        for sockets in self._sockets.values():
            for one in sockets:
                one.close()  # from now on only workers hold the port, and they let go of it
        if hasattr(self, "host"):
            self.host.draining = True
            await self.crew.stop(self.schema.limits.drain, 0.25)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()
        await asyncio.sleep(0)
        return 0


def _written(members: frozenset[Member]) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((member.id, write_member(member)) for member in members))
