"""The workers of one host: one slot each, filled anew when its process dies, exchanged one by one on request.

A slot has a socket per listening address (SO_REUSEPORT: the kernel spreads connections over them), which the
supervisor keeps. So a connection that waits to be accepted survives its worker: while the slot is empty a
neighbour accepts from its socket too, and the replacement goes on where the dead one stopped.

    slot: worker starts ──► serves ──► dies ──► neighbour covers, at once or after a pause the next starts
                                  └──► exchanged: the new one serves before the old one is asked to leave

A worker that is not heard of for `HANG` seconds is killed, and so is one that doesn't start or leave in time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from gateway.governance.restart import Backoff
from gateway.runtime import messages
from gateway.runtime.hand import Hand, State
from gateway.runtime.nursery import NoNursery, Nursery
from gateway.runtime.registries import CannotServe

HANG = 5.0  # s of silence
START = 60.0  # s until a new worker must serve
OVERTIME = 5.0  # s beyond its grace until a leaving worker is killed
LOOK = 0.25  # s between two looks at everybody

log = logging.getLogger("headgate.workers")


@dataclass(slots=True)
class Slot:
    """A place for one worker. restarts: how often it was filled because the last one died."""

    number: int
    hand: Hand | None = None
    restarts: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Crew:
    """Keeps `size` workers. heed: their messages; on_gone: told of each that ended.

    sockets: per listener, one bound socket per slot. also: further descriptors that workers inherit.
    """

    def __init__(
        self,
        size: int,
        sockets: Mapping[str, Sequence[socket.socket]],
        also: Sequence[int],
        now: Callable[[], float],
        heed: Callable[[Hand, messages.FromWorker], None],
        on_gone: Callable[[Hand], None],
    ) -> None:
        self.slots = [Slot(number) for number in range(size)]
        self.hands: set[Hand] = set()  # all that are not gone
        self.stopping = False
        self._descriptors = [one.fileno() for ones in sockets.values() for one in ones]
        self._descriptors += also
        self._now = now
        self._heed = heed
        self._on_gone = on_gone
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._nursery: Nursery | None = None
        self._nursing = asyncio.Lock()
        self._covers: dict[Hand, tuple[int, ...]] = {}

    @property
    def ready(self) -> list[Hand]:
        """The workers that serve and are not about to leave, by slot."""
        return sorted((one for one in self.hands if one.state is State.READY), key=lambda one: one.slot)

    @property
    def restarts(self) -> int:
        """Workers replaced because they died, so far."""
        return sum(slot.restarts for slot in self.slots)

    def welcomed(self, hand: Hand) -> None:
        """A worker serves now: it needs no neighbour any more."""
        hand.is_ready()
        self._cover()

    # Starting

    async def start(self) -> None:
        """Fill all slots. Raises CannotServe when one of the first workers can't start."""
        try:
            for slot in self.slots:
                slot.hand = await self._launch(slot)
        except NoNursery as error:
            raise CannotServe(str(error), 4) from error
        await asyncio.gather(*(slot.hand.settled.wait() for slot in self.slots if slot.hand is not None))
        for slot in self.slots:
            hand = slot.hand
            if hand is not None and hand.state is not State.READY:
                failed = hand.failure
                why = f"worker {slot.number} did not start" if failed is None else failed.why
                raise CannotServe(why, 4 if failed is None else failed.code)
        for slot in self.slots:
            self._own(self._keep(slot), f"slot {slot.number}")
        self._own(self._watch(), "heartbeats")

    async def _launch(self, slot: Slot) -> Hand:
        hand = Hand(slot.number, next(self._numbers), self._now, self._heed)
        async with self._nursing:
            if self._nursery is None or not self._nursery.is_alive:
                self._nursery = await Nursery.start(self._descriptors)
        await hand.start(self._nursery)
        self.hands.add(hand)
        self._own(self._bury(hand), f"worker {hand.pid}")
        log.info("worker %d (pid %d) starts", slot.number, hand.pid)
        return hand

    async def _bury(self, hand: Hand) -> None:
        await hand.gone.wait()
        self.hands.discard(hand)
        self._covers.pop(hand, None)
        self._on_gone(hand)
        self._cover()

    # Running

    async def _keep(self, slot: Slot) -> None:
        """Fill the slot again whenever its worker dies."""
        while not self.stopping:
            hand = slot.hand
            if hand is not None:
                await hand.gone.wait()
            async with slot.changing:
                if self.stopping or slot.hand is not hand:
                    continue  # it was exchanged meanwhile
                pause = slot.backoff.pause(0.0 if hand is None else self._now() - hand.since)
                if pause:
                    log.warning("worker %d keeps dying: the next one starts in %.1f s", slot.number, pause)
                    await asyncio.sleep(pause)
                slot.restarts += 1
                try:
                    slot.hand = await self._launch(slot)
                except NoNursery as error:  # no memory, too many processes: that may pass
                    log.error("worker %d can't be started: %s", slot.number, error)
                    slot.hand = None

    async def exchange(self, grace: float, farewell: float) -> str:
        """Replace the workers one by one, each before it leaves, by new ones of the code on disk.

        Returns why it stopped half-way, or "".
        """
        try:
            nursery, old_nursery = await Nursery.start(self._descriptors), self._nursery
        except NoNursery as error:
            return str(error)
        self._nursery = nursery
        try:
            return await self._exchange(grace, farewell)
        finally:
            if old_nursery is not None:
                self._own(self._close(old_nursery), "old nursery")

    async def _close(self, nursery: Nursery) -> None:
        """Keep a nursery as long as it has to tell how its workers ended."""
        nursery.let_go_of_sockets()
        while nursery.is_alive and nursery.is_needed:  # noqa: ASYNC110  # by the clock: it is in no hurry
            await asyncio.sleep(LOOK)
        nursery.close()
        await nursery.wait()

    async def _exchange(self, grace: float, farewell: float) -> str:
        for slot in self.slots:
            async with slot.changing:
                if self.stopping:
                    return "the gateway is stopping"
                try:
                    new = await self._launch(slot)
                except NoNursery as error:
                    return str(error)
                await new.settled.wait()
                if new.state is not State.READY:
                    why = "it ended" if new.failure is None else new.failure.why
                    return f"the new worker {slot.number} can't serve: {why}; the others stay as they were"
                old, slot.hand = slot.hand, new
                if old is not None:
                    old.leave(grace, farewell)
        return ""

    async def _watch(self) -> None:
        """Kill who hangs."""
        while True:
            before = self._now()
            await asyncio.sleep(LOOK)
            now = self._now()
            if now - before > 2 * LOOK:
                continue  # we are late ourselves: what they said may be waiting
            for hand in tuple(self.hands):
                match hand.state:
                    case State.STARTING if now - hand.since > START:
                        hand.kill(f"it does not serve {START:g} s after its start")
                    case State.READY if now - hand.heard > HANG:
                        hand.kill(f"it was not heard of for {HANG:g} s")
                    case State.LEAVING if now > hand.until + OVERTIME:
                        hand.kill("its grace is over")

    def _cover(self) -> None:
        """Let a neighbour accept for each slot without a worker."""
        ready = self.ready
        served = {hand.slot for hand in ready}
        orphans = [slot.number for slot in self.slots if slot.number not in served]
        wanted: dict[Hand, list[int]] = {hand: [] for hand in ready}
        for place, orphan in enumerate(orphans):
            if ready and not self.stopping:
                wanted[ready[place % len(ready)]].append(orphan)
        for hand, slots in wanted.items():
            if self._covers.get(hand, ()) != tuple(slots):
                self._covers[hand] = tuple(slots)
                hand.send(messages.Cover(tuple(slots)))

    # Stopping

    async def stop(self, grace: float, farewell: float) -> None:
        """Let all leave, then end who is left."""
        self.stopping = True
        if self._nursery is not None:
            self._nursery.let_go_of_sockets()
        for hand in tuple(self.hands):
            hand.leave(grace, farewell)
        gone = [asyncio.ensure_future(hand.gone.wait()) for hand in self.hands]
        if gone:
            _, late = await asyncio.wait(gone, timeout=grace + OVERTIME)
            for hand in tuple(self.hands):
                hand.kill("its grace is over")
            await asyncio.gather(*late)
        if self._nursery is not None:
            self._nursery.close()
            await self._nursery.wait()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _own(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task '%s' ended by a bug", task.get_name(), exc_info=task.exception())

    def __repr__(self) -> str:
        return f"<Crew of {len(self.slots)} | {len(self.ready)} ready, {self.restarts} restarts>"
