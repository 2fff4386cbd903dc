"""Where workers are born: a process that has imported everything and runs nothing, forked once per worker.

    supervisor ── start, with a descriptor ──► nursery ── fork ──► worker (child.py)
               ◄── born PID, ended PID STATUS ──        ◄── exit ──

A fork of it serves after some tens of milliseconds where a new interpreter takes most of a second, and shares
the pages of code and modules with its siblings (docs/adr/0020-workers.md has the figures). It is no fork of
the supervisor, which has an event loop, threads and state. A rolling restart starts a new nursery, so it
runs the code that is on disk then; a worker that dies is replaced from the old one, so no crash upgrades half
a gateway. It opens nothing and reads no policies: what a worker knows it is told (link.py).

One datagram per word, over a socket pair that keeps their bounds (SOCK_SEQPACKET).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import gateway

MOST = 64  # bytes of a word
PATIENCE = 60.0  # s until a nursery must have imported everything
PR_SET_NAME = 15  # linux/prctl.h

log = logging.getLogger("headgate.workers")


class NoNursery(Exception):
    """It could not be started, or it is gone."""


# The supervisor's end


class Nursery:
    """The running nursery. Workers that were born there go on when it ends; there are no new ones then."""

    def __init__(self, control: socket.socket, process: asyncio.subprocess.Process) -> None:
        self.is_alive = True
        self._control = control
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._births: list[asyncio.Future[int]] = []
        self._ends: dict[int, Callable[[int], None]] = {}
        self._loop.add_reader(control.fileno(), self._hear)

    @classmethod
    async def start(cls, descriptors: Sequence[int]) -> Nursery:
        """Start one whose workers inherit these descriptors. Raises NoNursery."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.runtime.nursery", str(there.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(there.fileno(), *descriptors),
                env=_environment(),
            )
        except OSError as error:
            here.close()
            raise NoNursery(str(error)) from error
        finally:
            there.close()
        made = cls(here, process)
        try:
            async with asyncio.timeout(PATIENCE):
                await made._ready
        except (TimeoutError, NoNursery) as error:
            made.close()
            raise NoNursery("workers can't be made: see the lines above") from error
        return made

    async def bear(self, slot: int, channel: int, on_end: Callable[[int], None]) -> int:
        """Make a worker of this slot; returns its process id. on_end: told its wait status.

        Raises NoNursery.
        """
        if not self.is_alive:
            raise NoNursery("it is gone")
        birth: asyncio.Future[int] = self._loop.create_future()
        self._births.append(birth)
        try:
            socket.send_fds(self._control, [b"%d" % slot], [channel])
        except OSError as error:
            self._births.remove(birth)
            raise NoNursery(str(error)) from error
        pid = await birth
        self._ends[pid] = on_end
        return pid

    @property
    def is_needed(self) -> bool:
        """Whether workers live that were born here."""
        return bool(self._ends)

    def let_go_of_sockets(self) -> None:
        """Close what workers would have inherited: no more will be born, and the port must close."""
        with contextlib.suppress(OSError):
            self._control.send(b"close")

    def close(self) -> None:
        """End it."""
        if self.is_alive:
            self._end()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._process.wait()

    def _hear(self) -> None:
        while self.is_alive:
            try:
                word = self._control.recv(MOST)
            except BlockingIOError:
                return
            except OSError:
                word = b""
            match word.split():
                case [b"ready"]:
                    self._ready.set_result(None)
                case [b"born", pid]:
                    self._births.pop(0).set_result(int(pid))
                case [b"ended", pid, status]:
                    # in the next turn: whoever waits for its birth hears of that first
                    self._loop.call_soon(self._ended, int(pid), int(status))
                case _:
                    self._end()

    def _ended(self, pid: int, status: int) -> None:
        on_end = self._ends.pop(pid, None)
        if on_end is not None:
            on_end(status)

    def _end(self) -> None:
        self.is_alive = False
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        _fail(self._ready)
        for birth in self._births:
            _fail(birth)


def _fail(waiting: asyncio.Future[None] | asyncio.Future[int]) -> None:
    if not waiting.done():
        waiting.set_exception(NoNursery("it is gone"))
        waiting.exception()  # it was looked at, whether anybody waits or not


def _environment() -> dict[str, str]:
    """Ours, and where this package lies: the new interpreter looks nowhere else for it."""
    root = str(Path(gateway.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not known else f"{root}{os.pathsep}{known}"}


# The nursery itself


def main(control: socket.socket, inherited: Sequence[int]) -> int:
    """Fork a worker for every word until the supervisor is gone. In the worker: its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; it ends with its supervisor
    from gateway.runtime import child  # all that a worker needs, before the first fork

    gc.collect()
    gc.freeze()  # so that no collection touches, and copies, what is shared
    try:
        born = _nurse(control, inherited)
    except BrokenPipeError:
        born = None
    return 0 if born is None else child.main(*born)


def _nurse(control: socket.socket, inherited: Sequence[int]) -> tuple[int, socket.socket] | None:
    """Return, in a new worker, its slot and its line; None when the supervisor is gone."""
    control.send(b"ready")
    poll = select.poll()
    poll.register(control, select.POLLIN)
    children: dict[int, int] = {}  # descriptor of the process -> its id
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in children:
                pid = children.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                control.send(b"ended %d %d" % (pid, os.waitpid(pid, 0)[1]))
                continue
            word, handed, _, _ = socket.recv_fds(control, MOST, 1)
            if not word:
                return None
            if word == b"close":
                for one in inherited:
                    os.close(one)
                continue
            pid = os.fork()
            if pid == 0:
                control.close()
                for other in children:
                    os.close(other)
                name_process(f"headgate-w{int(word)}")
                return int(word), socket.socket(fileno=handed[0])
            os.close(handed[0])
            control.send(b"born %d" % pid)
            watched = os.pidfd_open(pid)
            children[watched] = pid
            poll.register(watched, select.POLLIN)


def name_process(name: str) -> None:
    """Give this process the name that `ps -o comm` and `top` show (15 bytes of it)."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _inherited(control: int) -> list[int]:
    """The descriptors that were passed on purpose: all but the standard ones and the line."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]
    return [one for one in found if one > 2 and one != control and os.path.exists(f"/proc/self/fd/{one}")]


if __name__ == "__main__":
    line = socket.socket(fileno=int(sys.argv[1]))
    code = main(line, _inherited(line.fileno()))
    sys.stdout.flush()
    os._exit(code)  # no destructor of what belongs to the nursery runs in a worker
