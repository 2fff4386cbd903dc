"""A server as a child process, registered exactly while it can serve.

    start CMD ───► its port accepts (and the health path answers 200) ───► register ───► keep the lease
    SIGTERM ─────► deregister (≤ 1 s) ───► pass the signal on ───► wait for the grace ───► SIGKILL
    CMD ends ────► deregister ───► its exit code is ours

Gateways are told to stop sending before the server stops answering. When this process itself is killed with
SIGKILL nobody renews, and the lease runs out. The child leads a process group of its own: Ctrl-C in a
terminal then reaches only this process, so that the order above holds, and a signal passed on reaches the
whole group, also behind `sh -c` and reloaders.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

import aiohttp

from gateway.cli.register import Plan
from gateway.discovery.members import format_address
from gateway.discovery.registration import Registration, check_request, registry_at

_LOOK_EVERY: Final = 0.05  # s
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Say = Callable[[str], None]


class Trouble(Exception):
    """The server could not be started or registered; the message says why."""


def run_child(plan: Plan, say: Say) -> int:
    """Run the plan to its end. Returns the child's exit code; raises Trouble; ValueError for a bad plan."""
    return asyncio.run(_run(plan, say))


async def _run(plan: Plan, say: Say) -> int:
    await _check(plan)
    child = await _start(plan)
    stop: asyncio.Queue[int] = asyncio.Queue()
    with _signals(child, stop):
        ended = asyncio.create_task(child.wait(), name="child")
        asked = asyncio.create_task(stop.get(), name="asked to stop")
        try:
            await _serve(plan, say, {ended, asked})
        finally:
            code = await _stop(child, ended, asked.result() if asked.done() else signal.SIGTERM, plan.grace)
            asked.cancel()
    return code if code >= 0 else 128 - code


async def _serve(plan: Plan, say: Say, until: set[asyncio.Task[int]]) -> None:
    """Wait until the child serves, register it, and deregister it when one of `until` is done."""
    ready = asyncio.create_task(_until_serving(plan), name="until serving")
    try:
        await asyncio.wait({ready, *until}, return_when=asyncio.FIRST_COMPLETED)
        if any(task.done() for task in until):
            return
        ready.result()
    finally:
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)
    registration = await Registration.open(
        plan.registry,
        plan.service,
        plan.address,
        version=plan.version,
        models=plan.models,
        labels=plan.labels,
        weight=plan.weight,
        ttl=plan.ttl,
        token=plan.token,
    )
    announce = asyncio.create_task(_announce(plan, registration, say), name="announce")
    try:
        await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
    finally:
        announce.cancel()
        await registration.close()
        say(f"{plan.service}: {registration.reason}" if registration.reason != "closed" else "deregistered")


async def _announce(plan: Plan, registration: Registration, say: Say) -> None:
    """Say when the instance is registered and when it no longer is, and why; each once."""
    where = f"{plan.service} at {format_address(plan.address)}"
    was: bool | None = None
    while True:
        is_registered = registration.is_registered
        if is_registered and was is not True:
            say(f"{where} is registered")
            was = True
        elif not is_registered and registration.reason is not None and was is not False:
            say(f"{where} is not registered, still trying: {registration.reason}")
            was = False
        await asyncio.sleep(_LOOK_EVERY)


# The child


async def _check(plan: Plan) -> None:
    """Find the mistakes before anything runs."""
    check_request(plan.service, plan.address, plan.ttl)
    try:
        await registry_at(plan.registry, token=plan.token).close()
    except OSError as error:
        raise Trouble(f"the registry's TLS files: {error}") from error
    if await _accepts(plan.address):
        raise Trouble(f"something else already listens on {format_address(plan.address)}")


async def _start(plan: Plan) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *plan.command, env=dict(plan.environment), start_new_session=True
        )
    except OSError as error:
        raise Trouble(f"cannot run {plan.command[0]}: {error.strerror}") from error


async def _stop(
    child: asyncio.subprocess.Process, ended: asyncio.Task[int], number: int, grace: float
) -> int:
    if not ended.done():
        _send(child, number)
        await asyncio.wait({ended}, timeout=grace)
    if not ended.done():
        _send(child, signal.SIGKILL)
    return await ended


def _send(child: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


@contextlib.contextmanager
def _signals(child: asyncio.subprocess.Process, stop: asyncio.Queue[int]) -> Iterator[None]:
    """SIGTERM and SIGINT ask to stop, a second one ends the wait; the others are the child's business."""
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def ask(number: int) -> None:
        asked.append(number)
        stop.put_nowait(number)
        if len(asked) > 1:
            _send(child, signal.SIGKILL)

    for number in _STOPPING:
        loop.add_signal_handler(number, ask, number)
    for number in _PASSED_ON:
        loop.add_signal_handler(number, _send, child, number)
    try:
        yield
    finally:
        for number in (*_STOPPING, *_PASSED_ON):
            loop.remove_signal_handler(number)


# Is it serving?


async def _until_serving(plan: Plan) -> int:
    """Return (0) once the address accepts connections and the health path, if any, answers 200."""
    try:
        async with asyncio.timeout(plan.start_within):
            while not await _accepts(plan.address):  # noqa: ASYNC110 - another process's port sends no event
                await asyncio.sleep(_LOOK_EVERY)
            if plan.health is not None:
                await _until_healthy(f"http://{format_address(plan.address)}/{plan.health.lstrip('/')}")
    except TimeoutError:
        what = f"GET {plan.health} did not answer 200" if plan.health else "it accepts no connections"
        raise Trouble(
            f"{format_address(plan.address)}: {what} within {plan.start_within:g} s; "
            "does the server listen on the port it was given?"
        ) from None
    return 0


async def _until_healthy(url: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with session.get(url, allow_redirects=False) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(_LOOK_EVERY)


async def _accepts(address: tuple[str, int]) -> bool:
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(*address)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
