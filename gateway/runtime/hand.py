"""One worker process, as its supervisor sees it: how it is started, what is known of it, how it is asked."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

import orjson

import gateway
from gateway.runtime import messages
from gateway.runtime.channel import Channel
from gateway.telemetry.families import Family

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
        self._process: asyncio.subprocess.Process | None = None
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._questions = 0
        self._counted: asyncio.Future[None] | None = None
        self._prepared: asyncio.Future[tuple[str, ...]] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 before there is one."""
        return 0 if self._process is None else self._process.pid

    async def start(self, descriptors: Sequence[int]) -> None:
        """Start the process; it inherits these descriptors. Raises OSError."""
        here, there = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.runtime.child"),
                *("--slot", str(self.slot), "--channel", str(there.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(there.fileno(), *descriptors),
                env=_environment(),
            )
        except OSError:
            here.close()
            raise
        finally:
            there.close()
        self._channel = await Channel.open(here, self._on_frame, self._on_end)
        self._task = asyncio.get_running_loop().create_task(self._attend(self._process))

    async def _attend(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        await asyncio.sleep(0)  # what it said last is read before it counts as gone
        expected = self.state is State.LEAVING
        say = log.info if expected and code == 0 else log.warning
        say("worker %d (pid %d) ended: %s", self.slot, process.pid, _how(code))
        self.state = State.GONE
        if self._channel is not None:
            self._channel.close()
        for waiting in (*self._asked.values(), self._counted, self._prepared):
            if waiting is not None and not waiting.done():
                waiting.set_exception(NoAnswer("the worker ended"))
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
        if self._process is not None and self.state is not State.GONE:
            log.error("worker %d (pid %d) is killed: %s", self.slot, self.pid, why)
            self._process.send_signal(signal.SIGKILL)

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

    def _on_end(self) -> None:
        """The line is gone; the process follows, or is ended when its time is over."""

    def __repr__(self) -> str:
        return (
            f"<Hand of slot {self.slot}, pid {self.pid} | {self.state.value}, {self.connections} connections>"
        )


def _environment() -> dict[str, str]:
    """Ours, and where this package lies: the worker's interpreter looks nowhere else for it."""
    root = str(Path(gateway.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not known else f"{root}{os.pathsep}{known}"}


def _how(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
