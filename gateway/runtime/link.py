"""A worker's end of the line to its supervisor: what it is told, and what it tells.

The line's end is the supervisor's end: a worker never outlives it by more than its own drain. While the
supervisor is only slow, everything stays as it was last told, and throttles do as `on_store_failure` says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine, Mapping, Sequence
from typing import Protocol

import orjson
from prometheus_client.core import Metric

from gateway.admin.views import View
from gateway.discovery.members import Member, read_member
from gateway.discovery.relayed import RelayedRegistry
from gateway.governance.meters import Meters
from gateway.pipeline.releases import Live, Releases, Told
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime import messages
from gateway.runtime.channel import Channel
from gateway.runtime.policies import Policies
from gateway.runtime.releasing import aside, releases_of
from gateway.runtime.sharing import Sharing
from gateway.runtime.tallies import Objectives, Tallies
from gateway.runtime.tallies import heed as heed_tallies
from gateway.stores.leased import Draw, LeasedCounters
from gateway.telemetry.families import families
from gateway.telemetry.metrics import Metrics

LOOK = 0.05  # s between two looks at the instances
BEAT = 0.25  # s between two signs of life
GATHER = 0.1  # s between two tellings of what releases came to
LEAST_COUNT = 0.5  # s between two tellings of the metrics, at least,
COUNT_SHARE = 50  # and so many times what one costs
PATIENCE = 30.0  # s for the supervisor's welcome

log = logging.getLogger("headgate.workers")


class LinkLost(Exception):
    """There is no supervisor (any more), or it speaks another version."""


class Crewman(Protocol):
    """What the link needs of its worker."""

    policies: Policies
    draining: bool
    meters: Meters

    @property
    def snapshot(self) -> Snapshot:
        """The running snapshot."""
        ...

    @property
    def counted(self) -> Metrics:
        """What this process counted so far."""
        ...

    @property
    def connections(self) -> int:
        """Client connections open now."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        ...

    @property
    def objectives(self) -> Objectives:
        """What clients are promised, by endpoint."""
        ...

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def traffic(self) -> list[Metric]:
        """Gauges."""
        ...

    async def instances(self) -> list[View]:
        """Every instance."""
        ...

    async def purge(self, what: str | None) -> int:
        """Forget cached answers."""
        ...

    def outdated(self, what: str) -> None:
        """Another worker's request made cached answers untrue."""
        ...

    async def quotas_left(self, who: str, most: int) -> View:
        """Show what is left of quotas."""
        ...

    async def explain(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Mapping[str, object]:
        """Decide one request."""
        ...

    async def cover(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        """Accept from these as well, and from no others besides the own ones."""
        ...


class Link:
    """The line to the supervisor. `leave` is set when it asks to leave, or is gone."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.registry = RelayedRegistry()
        self._followed: tuple[Snapshot | None, Sequence[Live]] = (None, ())
        self.releases = Releases(aside)
        self.leave = asyncio.Event()
        self.leaving = messages.Leave(0.0, 0.0)  # what it asked
        self.is_lost = False
        self._channel: Channel | None = None
        self._welcome: asyncio.Future[messages.Welcome] = asyncio.get_running_loop().create_future()
        self._counters: LeasedCounters | None = None
        self._crewman: Crewman | None = None
        self._sharing = Sharing()
        self._tallies = Tallies()
        self._unwell: frozenset[tuple[str, str]] = frozenset()
        self._heard: list[messages.Sighting] = []
        self._rounds: asyncio.Queue[messages.Prepare | messages.Commit | messages.Abort] = asyncio.Queue()
        self._covered: tuple[int, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, end: socket.socket, slot: int) -> Link:
        """Say hello and wait for the welcome. Raises LinkLost."""
        link = cls(slot)
        link._channel = await Channel.open(end, link._on_frame, link._on_end)
        link._send(messages.Hello(messages.VERSION, slot, os.getpid()))
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(link._welcome)
        except TimeoutError as error:
            raise LinkLost("the supervisor did not answer") from error
        return link

    @property
    def welcome(self) -> messages.Welcome:
        """What the supervisor said at the start."""
        return self._welcome.result()

    def count(self) -> int:
        """How many workers there are."""
        return self.welcome.workers

    def socket_of(self, name: str) -> socket.socket:
        """The bound socket of a listener, of this worker's slot."""
        return self._socket(name, self.slot)

    def _socket(self, name: str, slot: int) -> socket.socket:
        return socket.socket(fileno=os.dup(self.welcome.sockets[name][slot]))

    def lock_of(self, target: str) -> int:
        """The descriptor to lock while writing to this target of the access log; -1: none."""
        return self.welcome.lock if target in ("stdout", "stderr") else -1

    def let_go_of_sockets(self) -> None:
        """Close what was inherited: a worker that leaves must not keep a port open."""
        for descriptors in self.welcome.sockets.values():
            for descriptor in descriptors:
                try:
                    os.close(descriptor)
                except OSError as error:
                    log.debug("descriptor %d: %s", descriptor, error)

    def open_counters(self, timeout: float) -> LeasedCounters:
        """Make the store whose lender is the supervisor. timeout: s."""
        loop = asyncio.get_running_loop()
        self._counters = LeasedCounters(self._draw, loop, loop.time, timeout)
        return self._counters

    # Serving

    def attach(self, crewman: Crewman) -> None:
        """The worker serves: from now on what is told reaches it, and what it does is told."""
        self._crewman = crewman
        for task in (self._look, self._beat, self._tell, self._policies, self._gather):
            self._own(task(crewman))
        self._send(messages.Ready())
        if self._covered:
            self._own(self._cover(crewman))

    async def close(self) -> None:
        """Tell the last figures and hang up."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._counters is not None:
            self._counters.close()
        if self._crewman is not None:
            self._tell_counts(self._crewman)
            self._tell_evidence(self._crewman)
        if self._channel is not None:
            self._channel.close()

    def tell_outdated(self, what: str) -> None:
        """Tell the other workers which cached answers a request made untrue."""
        self._send(messages.Outdated(what))

    def fail(self, code: int, why: str) -> None:
        """Say why this worker can't start."""
        self._send(messages.Failed(code, why))

    def _own(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a worker's task ended by a bug", exc_info=task.exception())

    async def _look(self, crewman: Crewman) -> None:
        while True:
            now = crewman.now()
            seen = self._sharing.look(crewman.snapshot, self._unwell, now)
            heard, self._heard = self._heard, []
            self._sharing.heed(crewman.snapshot, heard, now)
            if seen:
                self._send(messages.Saw(tuple(seen)))
            tallies = self._tallies.look(crewman.snapshot, crewman.objectives, now)
            if tallies:
                self._send(messages.Tallied(tuple(tallies)))
            paid = crewman.meters.told()
            if paid:
                self._send(messages.Paid(paid))
            await asyncio.sleep(LOOK)

    async def _beat(self, crewman: Crewman) -> None:
        while True:  # a beat is a beat: there is no event to wait for
            self._send(messages.Beat(crewman.connections, crewman.in_flight, crewman.draining))
            await asyncio.sleep(BEAT)

    async def _gather(self, crewman: Crewman) -> None:
        while True:
            await asyncio.sleep(GATHER)
            self._tell_evidence(crewman)

    def _tell_evidence(self, crewman: Crewman) -> None:
        gathered = [live.take() for live in self._lives(crewman.snapshot)]
        told = tuple(one for one in gathered if one is not None)
        drifted = tuple(self.releases.take_drifted())
        if told or drifted:
            self._send(messages.Evidence(told, drifted))

    def _lives(self, snapshot: Snapshot) -> Sequence[Live]:
        """The releases of a snapshot, looked for once."""
        if self._followed[0] is not snapshot:
            self._followed = snapshot, [one.live for one in releases_of(snapshot)]
        return self._followed[1]

    def _released(self, told: Told) -> None:
        crewman = self._crewman
        self.releases.heed(told, None)
        if crewman is not None:
            for live in self._lives(crewman.snapshot):
                if live.name == told.name and live.key == told.key:
                    live.heed(told)
        if told.holding:
            self._send(messages.Holding(told.name, told.revision))

    async def _tell(self, crewman: Crewman) -> None:
        while True:  # noqa: ASYNC110  # metrics are told by the clock
            await asyncio.sleep(max(LEAST_COUNT, COUNT_SHARE * self._tell_counts(crewman)))

    def _tell_counts(self, crewman: Crewman) -> float:
        """Tell the metrics; returns how long that took, s."""
        started = crewman.now()
        channel = self._channel
        if channel is not None and channel.waiting < 1 << 20:  # a slow supervisor gets the next ones
            told = families((*crewman.counted.collect(), *crewman.traffic()))
            self._send(messages.Counted(tuple(told)))
        return crewman.now() - started

    async def _policies(self, crewman: Crewman) -> None:
        """Prepare and commit in the order in which the supervisor says so."""
        while True:
            match await self._rounds.get():
                case messages.Prepare(number, files):
                    self._send(messages.Prepared(number, await crewman.policies.prepare(files)))
                case messages.Commit():
                    crewman.policies.commit()
                case messages.Abort():
                    crewman.policies.abort()

    async def _cover(self, crewman: Crewman) -> None:
        names = self.welcome.sockets
        await crewman.cover(
            {
                name: [self._socket(name, slot) for slot in self._covered if slot != self.slot]
                for name in names
            }
        )

    async def _answer(self, crewman: Crewman, ask: messages.Ask) -> None:
        wanted = orjson.loads(ask.text)
        answer: object
        match ask.what:
            case "instances":
                answer = await crewman.instances()
            case "purge":
                answer = await crewman.purge(wanted["what"])
            case "quotas":
                answer = await crewman.quotas_left(wanted["who"], wanted["most"])
            case "explain":
                body = wanted["body"].encode()
                answer = dict(await crewman.explain(wanted["method"], wanted["url"], wanted["headers"], body))
        self._send(messages.Told(ask.number, orjson.dumps(answer, default=str)))

    # The line

    def _send(self, message: messages.FromWorker) -> None:
        if self._channel is not None:
            self._channel.send(messages.encode(message))

    def _draw(self, draw: Draw) -> None:
        self._send(messages.Drawing(draw))

    def _on_frame(self, data: bytes) -> None:
        try:
            self._heed(messages.read_from_supervisor(data))
        except messages.BadMessage as error:
            log.error("the supervisor says what is not understood: %s", error)
            if self._channel is not None:
                self._channel.abort()

    def _heed(self, message: messages.FromSupervisor) -> None:
        crewman = self._crewman
        match message:
            case messages.Drawn(number, answers) if self._counters is not None:
                self._counters.answered(number, answers)
            case messages.Members(service, members):
                self.registry.put(service, _members(members))
            case messages.Unwell(instances):
                self._unwell = frozenset(instances)
            case messages.Saw(sightings):
                self._heard += sightings
            case messages.Tallied(tallies) if crewman is not None:
                heed_tallies(crewman.snapshot, crewman.objectives, tallies, crewman.now())
            case messages.Paid(payments) if crewman is not None:
                crewman.meters.heard(payments, crewman.now())
            case messages.Outdated(what) if crewman is not None:
                crewman.outdated(what)
            case messages.Prepare() | messages.Commit() | messages.Abort():
                self._rounds.put_nowait(message)
            case messages.Ask() if crewman is not None:
                self._own(self._answer(crewman, message))
            case messages.Count() if crewman is not None:
                self._tell_counts(crewman)
            case messages.Cover(slots):
                self._covered = slots
                if crewman is not None:
                    self._own(self._cover(crewman))
            case messages.Released(told):
                self._released(told)
            case messages.Leave():
                self.leaving = message
                self.leave.set()
            case messages.Welcome():
                self._greeted(message)

    def _greeted(self, welcome: messages.Welcome) -> None:
        if welcome.version != messages.VERSION:
            self._refuse("the supervisor runs another version: restart it")
        elif not self._welcome.done():
            for service, members in welcome.members.items():
                self.registry.put(service, _members(members))
            self._unwell = frozenset(welcome.unwell)
            self._heard += welcome.sightings
            for told in welcome.releases:
                self.releases.heed(told, None)
            self._welcome.set_result(welcome)

    def _on_end(self) -> None:
        self.is_lost = True
        self._refuse("the supervisor is gone")
        if self._counters is not None:
            self._counters.close()
        self.leave.set()

    def _refuse(self, why: str) -> None:
        if not self._welcome.done():
            self._welcome.set_exception(LinkLost(why))


def _members(members: tuple[tuple[str, bytes], ...]) -> list[Member]:
    read = (read_member(member_id, value) for member_id, value in members)
    return [member for member in read if isinstance(member, Member)]
