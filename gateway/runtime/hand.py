"""One worker process, as its supervisor sees it: how it is started, what is known of it, how it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from enum import Enum

import orjson

from gateway.runtime import messages
from gateway.runtime.channel import Channel
from gateway.runtime.nursery import NoNursery, Nursery
from gateway.telemetry.families import Family

LAST_WORD = 1.0  # s from the end of its line until a worker counts as ended, whatever it does
ANSWER = 5.0  # s that an operator's question may take

log = logging.getLogger("headgate.workers")


class State(Enum):
    """starting --Ready--> ready --Leave--> leaving --> gone; any --its process ended--> gone."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    GONE = "gone"


class NoAnswer(Exception):
    """The worker ended, or took too long."""


class Hand:
    """One process of the crew. number: never given twice; heed: called with every message but answers."""

    def __init__(
        self,
        slot: int,
        number: int,
        now: Callable[[], float],
        heed: Callable[[Hand, messages.FromWorker], None],
    ) -> None:
        self.slot = slot
        self.number = number
        self.state = State.STARTING
        self.pid = 0
        self.since = now()  # its start
        self.heard = self.since  # its last sign of life
        self.until = 0.0  # when it must have left
        self.connections = 0
        self.in_flight = 0
        self.families: Sequence[Family] = ()
        self.round = 0  # of the policies that it runs
        self.failure: messages.Failed | None = None
        self.settled = asyncio.Event()  # ready or gone
        self.gone = asyncio.Event()
        self._now = now
        self._heed = heed
        self._channel: Channel | None = None
        self._status: int | None = None
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._questions = 0
        self._counted: asyncio.Future[None] | None = None
        self._prepared: asyncio.Future[tuple[str, ...]] | None = None

    async def start(self, nursery: Nursery) -> None:
        """Let the nursery make the process. Raises NoNursery."""
        here, there = socket.socketpair()
        try:
            self.pid = await nursery.bear(self.slot, there.fileno(), self._on_status)
        except NoNursery:
            here.close()
            raise
        finally:
            there.close()
        self.since = self.heard = self._now()
        self._channel = Channel(
            self._on_frame, self._on_end
        )  # its hello, which is answered, may be here already
        await self._channel.speak(here)

    def _on_status(self, status: int) -> None:
        """The nursery says how it ended."""
        self._status = os.waitstatus_to_exitcode(status)
        self._over()

    def _on_end(self) -> None:
        """The line is gone, and the process with it: what is left of it must not go on alone."""
        asyncio.get_running_loop().call_later(LAST_WORD, self._over)

    def _over(self) -> None:
        if self.state is State.GONE:
            return
        if self._status is None:  # nobody told how it ended: it may still be there
            self._signal(signal.SIGKILL)
        say = log.info if self.state is State.LEAVING and self._status == 0 else log.warning
        say("worker %d (pid %d) ended: %s", self.slot, self.pid, _how(self._status))
        self.state = State.GONE
        if self._channel is not None:
            self._channel.close()
        for waiting in (*self._asked.values(), self._counted, self._prepared):
            if waiting is not None and not waiting.done():
                waiting.set_exception(NoAnswer("the worker ended"))
                waiting.exception()
        self.gone.set()
        self.settled.set()

    # Speaking

    def send(self, message: messages.FromSupervisor) -> None:
        """Tell it something."""
        if self._channel is not None:
            self._channel.send(messages.encode(message))

    def is_ready(self) -> None:
        """It serves, with the policies that run now."""
        self.state = State.READY
        self.settled.set()
        log.info(
            "worker %d (pid %d) serves, %.1f s after its start", self.slot, self.pid, self._now() - self.since
        )

    def leave(self, grace: float, farewell: float) -> None:
        """Ask it to stop accepting and to end when its requests have."""
        if self.state in (State.STARTING, State.READY):
            self.state = State.LEAVING
            self.until = self._now() + grace
            self.send(messages.Leave(grace, farewell))

    def kill(self, why: str) -> None:
        """End it now."""
        if self.pid and self.state is not State.GONE:
            log.error("worker %d (pid %d) is killed: %s", self.slot, self.pid, why)
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Signal it, as long as nobody has reaped it: its id can't be another's then."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ask(self, what: messages.Question, wanted: object) -> object:
        """Ask an operator's question; returns JSON values. Raises NoAnswer."""
        self._questions += 1
        number = self._questions
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self.send(messages.Ask(number, what, orjson.dumps(wanted)))
        try:
            async with asyncio.timeout(ANSWER):
                return orjson.loads(await answer)
        except TimeoutError as error:
            raise NoAnswer("the worker did not answer in time") from error
        finally:
            del self._asked[number]

    async def count(self) -> None:
        """Let it tell its metrics now. Raises NoAnswer."""
        if self._counted is None or self._counted.done():
            self._counted = asyncio.get_running_loop().create_future()
            self.send(messages.Count())
        try:
            async with asyncio.timeout(ANSWER):
                await asyncio.shield(self._counted)
        except TimeoutError as error:
            raise NoAnswer("the worker did not answer in time") from error

    async def prepare(self, round: int, files: messages.Files, patience: float) -> tuple[str, ...]:
        """Let it build these policies; returns why it can't. Raises NoAnswer."""
        self._prepared = asyncio.get_running_loop().create_future()
        self.send(messages.Prepare(round, files))
        try:
            async with asyncio.timeout(patience):
                return await self._prepared
        except TimeoutError as error:
            raise NoAnswer("it did not answer in time") from error

    def _on_frame(self, data: bytes) -> None:
        try:
            message = messages.read_from_worker(data)
        except messages.BadMessage as error:
            self.kill(f"it says what is not understood: {error}")
            return
        self.heard = self._now()
        match message:
            case messages.Told(number, answer):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_result(answer)
            case messages.Counted(told):
                self.families = told
                if self._counted is not None and not self._counted.done():
                    self._counted.set_result(None)
            case messages.Prepared(_, errors):
                if self._prepared is not None and not self._prepared.done():
                    self._prepared.set_result(errors)
            case messages.Beat(connections, in_flight, _):
                self.connections, self.in_flight = connections, in_flight
            case messages.Failed():
                self.failure = message
            case _:
                self._heed(self, message)

    def __repr__(self) -> str:
        return (
            f"<Hand of slot {self.slot}, pid {self.pid} | {self.state.value}, {self.connections} connections>"
        )


def _how(code: int | None) -> str:
    if code is None:
        return "its line is gone"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
