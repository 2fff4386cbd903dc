"""A worker's process, from its birth in the nursery to its end.

Everything it needs comes through the channel. Signals are the supervisor's business: a terminal's Ctrl-C
reaches all processes, and a worker that stopped by itself would be replaced. Only SIGTERM, which whole groups
are sent, lets it drain.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from pathlib import Path

from gateway.admin.listening import AdminBindError
from gateway.runtime import messages
from gateway.runtime.link import Link, LinkLost
from gateway.runtime.logs import start_logging
from gateway.runtime.policies import PoliciesInvalid, read
from gateway.runtime.registries import CannotStart
from gateway.runtime.serve import fastest_loop, overrule, settle_memory
from gateway.runtime.worker import Worker
from gateway.server.listener import BindError

ORPHAN_GRACE = 5.0  # s for requests under way when the supervisor is gone
FAREWELL = 0.25  # s that idle connections may stay then
OVERTIME = 5  # s after its grace a worker that can't end is ended

log = logging.getLogger("headgate.workers")


def main(slot: int, end: socket.socket) -> int:
    """Serve until the supervisor at the other end says leave, or is gone. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        return runner.run(_serve(slot, end))


async def _serve(slot: int, end: socket.socket) -> int:
    try:
        link = await Link.open(end, slot)
    except LinkLost as error:
        log.error("worker %d does not start: %s", slot, error)
        return 4
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, link.leave.set)
    worker = _make(link)
    if worker is None:
        await link.close()
        return 1
    try:
        await worker.start()
    except (BindError, AdminBindError) as error:
        return await _fail(link, worker, 3, str(error))
    except (PoliciesInvalid, CannotStart) as error:
        return await _fail(link, worker, 1, str(error))
    settle_memory()
    link.attach(worker)
    await link.leave.wait()
    leaving = link.leaving
    drain = worker.schema.limits.drain
    if link.is_lost:
        leaving = messages.Leave(min(ORPHAN_GRACE, drain), FAREWELL)
    elif not leaving.grace:  # SIGTERM went to the whole group, or to this worker alone
        leaving = messages.Leave(drain, FAREWELL)
    link.let_go_of_sockets()
    signal.alarm(int(leaving.grace) + OVERTIME)  # its default action ends even a process that hangs
    broken = await worker.stop(leaving.grace, leaving.farewell)
    if broken:
        log.warning("worker %d: %d connections were broken after the grace period", slot, broken)
    return 0


def _make(link: Link) -> Worker | None:
    welcome = link.welcome
    folder = Path(welcome.folder)
    loaded = read(folder, welcome.files)
    started = loaded if welcome.started is None else read(folder, welcome.started)
    if loaded.schema is None or started.schema is None:
        link.fail(1, loaded.report() or started.report())
        return None
    schema = overrule(started.schema, **welcome.overruled)
    start_logging(schema.log.level)
    return Worker(folder, loaded, schema, link)


async def _fail(link: Link, worker: Worker, code: int, why: str) -> int:
    link.fail(code, why)
    await worker.stop(0.0)
    return code
