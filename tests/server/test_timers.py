"""Deadlines on a loop."""

from __future__ import annotations

import asyncio

from gateway.server.timers import SweptTimers
from tests.fakes.wires import until


async def test_a_deadline_is_met_not_before_and_shortly_after() -> None:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    met: list[float] = []
    deadline = loop.time() + 0.06
    timers.at(deadline, lambda: met.append(loop.time()))
    await until(lambda: met)
    assert deadline <= met[0] < deadline + 0.5
    timers.close()


async def test_a_bug_in_one_callback_does_not_keep_the_others_from_being_met() -> None:
    loop = asyncio.get_running_loop()
    bugs: list[object] = []
    loop.set_exception_handler(lambda _, context: bugs.append(context["exception"]))
    timers = SweptTimers(loop)
    met: list[int] = []
    timers.at(0.0, lambda: met.append(1 // 0))
    timers.at(0.0, lambda: met.append(1))
    await until(lambda: met)
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]
    timers.close()


async def test_what_is_called_off_in_the_same_sweep_stays_off() -> None:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    met: list[str] = []
    first = timers.at(0.0, lambda: (met.append("first"), second.cancel())[0])
    second = timers.at(0.0, lambda: met.append("second"))
    await until(lambda: met)
    await asyncio.sleep(0.06)
    assert met == ["first"]
    first.cancel()
    timers.close()


async def test_the_sweep_rests_while_there_is_nothing_to_meet() -> None:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop, 0.001)
    met: list[int] = []
    timers.at(0.0, lambda: met.append(1))
    await until(lambda: met and timers._handle is None)
    timers.at(0.0, lambda: met.append(2))
    await until(lambda: met == [1, 2])
    timers.close()


async def test_a_punctual_one_comes_within_milliseconds_and_can_be_called_off() -> None:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    met: list[float] = []
    deadline = loop.time() + 0.01
    timers.punctual(deadline, lambda: met.append(loop.time()))
    timers.punctual(deadline, lambda: met.append(-1.0)).cancel()
    await until(lambda: met)
    await asyncio.sleep(0.01)
    assert len(met) == 1
    assert -0.0015 <= met[0] - deadline < 0.02  # the sweeper's resolution alone would be 25 ms
    assert timers._handle is None
    timers.close()
