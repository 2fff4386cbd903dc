"""Where workers are born, and how their ends are told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from gateway.runtime.nursery import NoNursery, Nursery
from tests.runtime.running import until


async def test_a_worker_is_born_has_a_name_and_its_end_is_told() -> None:
    nursery = await Nursery.start([])
    ends: list[int] = []
    here, there = socket.socketpair()
    with here:
        pid = await nursery.bear(7, there.fileno(), ends.append)
        there.close()
        await until(lambda: Path(f"/proc/{pid}/comm").read_text() == "headgate-w7\n")
        assert nursery.is_needed
        os.kill(pid, signal.SIGKILL)
        await until(lambda: ends)
    assert os.waitstatus_to_exitcode(ends[0]) == -signal.SIGKILL
    assert not nursery.is_needed
    nursery.close()
    await nursery.wait()


async def test_a_worker_without_a_supervisor_ends_by_itself() -> None:
    nursery = await Nursery.start([])
    ends: list[int] = []
    here, there = socket.socketpair()
    await nursery.bear(0, there.fileno(), ends.append)
    there.close()
    here.close()
    await until(lambda: ends)
    assert os.waitstatus_to_exitcode(ends[0]) == 4
    nursery.close()
    await nursery.wait()


async def test_what_was_inherited_is_let_go_of_on_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        nursery = await Nursery.start([listening.fileno()])
    with socket.create_connection(address):
        pass  # the nursery holds it open
    nursery.let_go_of_sockets()

    def refused() -> bool:
        with socket.socket() as client:
            return client.connect_ex(address) != 0

    await until(refused)
    nursery.close()
    await nursery.wait()


async def test_one_that_died_bears_nobody() -> None:
    nursery = await Nursery.start([])
    nursery.close()
    await nursery.wait()
    await asyncio.sleep(0)
    here, there = socket.socketpair()
    with here, there, pytest.raises(NoNursery):
        await nursery.bear(0, there.fileno(), lambda status: None)
