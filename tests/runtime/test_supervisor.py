"""Several workers as one gateway, as processes: what dies, what is exchanged, what is shared."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway import __version__
from gateway.runtime.form import form
from tests.runtime.crews import Crewed, crewed, page
from tests.runtime.hammer import Hammer, excess, quick_backend
from tests.runtime.running import until, write

NEXT = 0.25  # s between two reloads


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with quick_backend() as made:
        yield made


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and wasn't waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """The process that bore another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


# Nobody loses a request


async def test_reloads_and_a_rolling_restart_lose_no_request(tmp_path: Path, port: int) -> None:
    """The short form; the 50,000 requests over 10 reloads and 3 restarts are the slow test below."""
    async with crewed(tmp_path, page(port), 2) as gateway:
        before = await gateway.pids()
        busy, idle = Hammer(gateway.port, clients=6), Hammer(gateway.port, clients=10, pause=0.3)
        async with busy.running(), idle.running():
            gateway.signal(signal.SIGUSR2)
            for number in range(3):
                await asyncio.sleep(NEXT)
                write(tmp_path, page(port, f"    throttle: {10**6 + number}/s\n"))
                gateway.signal(signal.SIGHUP)
            await gateway.until_exchanged(before)
            await asyncio.sleep(NEXT)
        assert (busy.failures, idle.failures) == ([], [])
        assert set(busy.statuses) | set(idle.statuses) == {200}
        assert gateway.said("policies reloaded") == 3
        await gateway.until_said("rolling restart done")


@pytest.mark.slow
async def test_50_000_requests_over_10_reloads_and_3_rolling_restarts_lose_none(
    tmp_path: Path, port: int
) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        busy, idle = Hammer(gateway.port, clients=16), Hammer(gateway.port, clients=20, pause=0.7)
        async with busy.running(), idle.running():
            for restart in range(3):
                before = await gateway.pids()
                gateway.signal(signal.SIGUSR2)
                for number in range(4):
                    await asyncio.sleep(NEXT)
                    write(tmp_path, page(port, f"    throttle: {10**6 + 10 * restart + number}/s\n"))
                    gateway.signal(signal.SIGHUP)
                await gateway.until_exchanged(before)
            await gateway.until(lambda: busy.answered + idle.answered >= 50_000)
        assert (busy.failures, idle.failures) == ([], [])
        assert set(busy.statuses) | set(idle.statuses) == {200}
        assert gateway.said("policies reloaded") >= 10


async def test_a_killed_worker_costs_its_own_requests_and_nothing_else(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        pids = await gateway.pids()
        hammer = Hammer(gateway.port, clients=16)
        async with hammer.running():
            await asyncio.sleep(0.3)
            os.kill(pids[0], signal.SIGKILL)
            await gateway.until(gateway_is_whole_without(gateway, pids[0]))
            await asyncio.sleep(0.3)
        assert len(hammer.failures) <= 16  # a connection of the dead worker had one request under way
        assert set(hammer.statuses) == {200}
        assert (await gateway.workers())[0]["restarts"] == 1
        assert await gateway.metric("headgate_worker_restarts_total") == 1
        if hammer.failures:  # all at the one moment
            instants = [instant for instant, _ in hammer.failures]
            assert max(instants) - min(instants) < 0.5


def gateway_is_whole_without(gateway: Crewed, pid: int, size: int = 2) -> Callable[[], Awaitable[bool]]:
    async def whole() -> bool:
        now = (await gateway.pids()).values()
        return pid not in now and len(now) == size

    return whole


async def test_while_a_slot_is_empty_its_neighbour_accepts_for_it(tmp_path: Path, port: int) -> None:
    """Both workers die in turn while one can't come back: nobody who connects waits."""
    async with crewed(tmp_path, page(port), 2) as gateway:
        for _ in range(3):  # a slot that keeps dying is empty for longer and longer
            pids = await gateway.pids()
            os.kill(pids[0], signal.SIGKILL)
            await gateway.until(gateway_is_whole_without(gateway, pids[0]))
        os.kill((await gateway.pids())[0], signal.SIGKILL)
        await gateway.until_said("keeps dying")
        hammer = Hammer(gateway.port, clients=8)
        started = time.monotonic()
        async with asyncio.timeout(3), hammer.running():
            await asyncio.sleep(0.2)
        assert not hammer.failures
        assert hammer.answered >= 8
        assert time.monotonic() - started < 2


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        pids = await gateway.pids()
        os.kill(pids[1], signal.SIGSTOP)
        await gateway.until_said("was not heard of")
        await gateway.until(gateway_is_whole_without(gateway, pids[1]))


# The end


async def test_sigterm_lets_requests_under_way_end_in_every_worker(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        pids = list((await gateway.pids()).values())
        async with aiohttp.ClientSession() as client:
            asked = [
                asyncio.create_task(client.get(f"http://127.0.0.1:{gateway.port}/slow")) for _ in range(8)
            ]
            await asyncio.sleep(0.2)
            gateway.signal(signal.SIGTERM)
            answers = await asyncio.gather(*asked)
            assert [answer.status for answer in answers] == [200] * 8
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
        assert not any(alive(pid) for pid in pids)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", gateway.port)


async def test_a_killed_supervisor_takes_its_workers_with_it(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        pids = list((await gateway.pids()).values())
        gateway.process.kill()
        await gateway.process.wait()
        await until(lambda: not any(alive(pid) for pid in pids), 10)
        await until(lambda: refuses(gateway.port), 10)


# Policies


async def test_a_broken_edit_is_run_by_nobody_and_a_good_one_by_all(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 3) as gateway:
        write(tmp_path, "nonsense: {}\n")
        await gateway.until_said("policies not reloaded")
        hammer = Hammer(gateway.port, clients=12)
        async with hammer.running():
            await asyncio.sleep(0.2)
        assert set(hammer.statuses) == {200}
        config = await gateway.json("/config")
        assert not config["last_reload"]["ok"]
        assert "page.yaml:1:1" in config["last_reload"]["errors"][0]
        write(tmp_path, page(port, "    throttle: 1/h burst 1\n"))
        await gateway.until_said("policies reloaded")
        await asyncio.sleep(0.1)
        hammer = Hammer(gateway.port, clients=12)
        async with hammer.running():
            await asyncio.sleep(0.3)
        assert hammer.statuses[200] == 1
        assert hammer.statuses[429] > 20


async def test_a_replacement_runs_the_policies_of_now(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        write(tmp_path, page(port, "    throttle: 1/h burst 3\n"))
        await gateway.until_said("policies reloaded")
        pids = await gateway.pids()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        await gateway.until_exchanged(pids)
        hammer = Hammer(gateway.port, clients=8)
        async with hammer.running():
            await asyncio.sleep(0.3)
        assert hammer.statuses[200] == 3


async def test_a_signal_that_comes_while_it_starts_ends_nothing(tmp_path: Path, port: int) -> None:
    write(tmp_path, "registry: static\n", "gateway.yaml")
    write(tmp_path, page(port))
    for options in ([], ["--workers", "2"]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--policies", str(tmp_path), *options),
            *("--http", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--access-log", "off"),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            is_ready = asyncio.create_task(ready(process.stderr))
            async with asyncio.timeout(30):
                for number in (signal.SIGHUP, signal.SIGUSR2):  # none can before it runs
                    await until(partial(heeds, process.pid, number))
                while not is_ready.done():
                    process.send_signal(signal.SIGHUP)
                    process.send_signal(signal.SIGUSR2)
                    await asyncio.sleep(0.02)
                await is_ready
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            assert await process.wait() == 0


def heeds(pid: int, number: signal.Signals) -> bool:
    """Whether a process handles or ignores a signal by now."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    masks = int(status["SigIgn"], 16) | int(status["SigCgt"], 16)
    return bool(masks & 1 << (number - 1))


async def ready(stderr: asyncio.StreamReader) -> None:
    while line := await stderr.readline():
        if line.startswith(b"ready "):
            return
    raise AssertionError("it ended")


# Throttles


@pytest.mark.parametrize(
    ("workers", "rate", "burst", "pause"),
    [(4, 100, 10, 0.005), (4, 5, 1, 0.005), (4, 1000, 100, 0.0)],
    ids=["100/s", "5/s", "1000/s"],
)
async def test_a_throttle_holds_over_all_workers(
    tmp_path: Path, port: int, workers: int, rate: float, burst: float, pause: float
) -> None:
    # Where the supervisor gets no turn for 100 ms, `local` would let every worker count for itself.
    verb = f"    throttle: {{rate: {rate}/s, burst: {burst}, on_store_failure: closed}}\n"
    async with crewed(tmp_path, page(port, verb), workers) as gateway:
        hammer = Hammer(gateway.port, clients=16, pause=pause)
        async with hammer.running():
            await asyncio.sleep(3.0)
        granted = sorted(hammer.granted)
        seconds = granted[-1][1] - granted[0][0]
        assert len({one["slot"] for one in await gateway.workers()}) == workers
        assert len(granted) <= 1.02 * (rate * seconds + burst)
        assert excess(granted, rate) <= 1.02 * (burst + rate * 0.02) + 1
        # A busy machine leaves clients without a turn for longer than a bucket holds: that is lost to all.
        lost = sum(max(0.0, gap - burst / rate) for gap in hammer.gaps) * rate
        if hammer.answered > 3 * rate * seconds and not hammer.statuses[503]:  # all was asked for
            assert len(granted) >= 0.93 * (rate * seconds - lost)  # alone it is 0.97 and more


async def test_demand_that_moves_to_another_worker_is_served(tmp_path: Path, port: int) -> None:
    """Connections of one worker fall silent, those of another begin: the rate goes with them."""
    async with crewed(tmp_path, page(port, "    throttle: 200/s burst 20\n"), 4) as gateway:
        first = Hammer(gateway.port, clients=1, pause=0.002)
        async with first.running():
            await asyncio.sleep(1.5)
        second = Hammer(gateway.port, clients=8, pause=0.005)
        async with second.running():
            await asyncio.sleep(1.0)
        lost = sum(max(0.0, gap - 0.1) for gap in second.gaps) * 200
        assert second.answered > 1.5 * len(second.granted) or lost  # more was asked than there was
        assert len(second.granted) >= 0.9 * (200 - lost)


async def test_a_supervisor_that_hangs_leaves_the_policy_to_decide(tmp_path: Path, port: int) -> None:
    verbs = "    throttle: {rate: 5/s, on_store_failure: open}\n"
    async with crewed(tmp_path, page(port, verbs), 2) as gateway:
        hammer = Hammer(gateway.port, clients=2, pause=0.02)
        async with hammer.running():
            await asyncio.sleep(0.5)
            refused = hammer.statuses[429]
            gateway.signal(signal.SIGSTOP)
            try:
                before = hammer.statuses[200]
                await asyncio.sleep(1.5)
                assert hammer.statuses[200] > before + 20
            finally:
                gateway.signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
            again = hammer.statuses[429]
            await asyncio.sleep(0.5)
        assert refused > 5
        assert hammer.statuses[429] > again
        assert not hammer.failures


# What operators see


async def test_metrics_are_those_of_all_workers_and_never_go_down(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 3) as gateway:
        hammer = Hammer(gateway.port, clients=12, pause=0.005)
        async with hammer.running():
            await asyncio.sleep(0.5)
        assert await gateway.metric("headgate_requests_total", status="200") == hammer.answered
        assert await gateway.metric("headgate_request_seconds_count") == hammer.answered
        assert await gateway.metric("headgate_workers") == 3
        assert await gateway.metric("headgate_build_info", version=__version__, form=form()) == 1
        before = await gateway.pids()
        os.kill(before[0], signal.SIGKILL)
        seen = hammer.answered
        gateway.signal(signal.SIGUSR2)
        while not set((await gateway.pids()).values()).isdisjoint(before.values()):
            counted = await gateway.metric("headgate_requests_total", status="200")
            assert counted >= seen
            await asyncio.sleep(0.05)
        assert await gateway.metric("headgate_requests_total", status="200") == seen


async def test_the_admin_api_answers_for_the_host(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port, "    throttle: 50/s\n"), 2) as gateway:
        hammer = Hammer(gateway.port, clients=8)
        async with hammer.running():
            await asyncio.sleep(0.3)
        (instance,) = await gateway.json("/instances")
        assert instance["successes"] == hammer.statuses[200]
        assert instance["state"] == "up"
        assert await gateway.json("/readyz") == {"ready": True}
        assert (await gateway.json("/config"))["version"] == 1
        asked = {"method": "GET", "url": "/x"}
        async with gateway.admin.post("/explain", json=asked) as answer:
            told = await answer.json()
        assert told["endpoint"] == "quick"
        assert "throttle" in [step["filter"] for step in told["trail"]]
        async with gateway.admin.post("/reload") as answer:
            assert (await answer.json())["ok"]
        async with gateway.admin.delete("/cache") as answer:
            assert await answer.json() == {"purged": 0}


async def test_instances_that_register_reach_all_workers(tmp_path: Path, port: int) -> None:
    policies = (
        "pools: {quick: {find: quick}}\nendpoints: {quick: {match: /**, authenticate: none, send: quick}}\n"
    )
    async with crewed(tmp_path, policies, 3, base="registry: local\n") as gateway:
        async with gateway.admin.get("/readyz") as answer:
            assert answer.status == 503
        registration = {"id": "one", "address": f"127.0.0.1:{port}"}
        async with gateway.admin.post("/registry/quick", json=registration) as answer:
            assert answer.status == 201
            lease = (await answer.json())["lease"]
        await asyncio.sleep(0.2)
        hammer = Hammer(gateway.port, clients=12)
        async with hammer.running():
            await asyncio.sleep(0.2)
        assert set(hammer.statuses) == {200}
        before = await gateway.pids()
        gateway.signal(signal.SIGUSR2)
        await gateway.until_exchanged(before)
        hammer = Hammer(gateway.port, clients=12)
        async with hammer.running():
            await asyncio.sleep(0.2)
        assert set(hammer.statuses) == {200}  # the new ones were told
        async with gateway.admin.delete(f"/registry/leases/{lease}") as answer:
            assert answer.status == 204
        await asyncio.sleep(0.2)
        hammer = Hammer(gateway.port, clients=12)
        async with hammer.running():
            await asyncio.sleep(0.2)
        assert set(hammer.statuses) == {503}


async def test_lines_of_several_workers_are_whole(tmp_path: Path, port: int) -> None:
    target = tmp_path / "access.log"
    async with crewed(tmp_path, page(port), 3, "--access-log", str(target)) as gateway:
        hammer = Hammer(gateway.port, clients=12, path="/" + "x" * 3000)
        async with hammer.running():
            await asyncio.sleep(0.7)
        gateway.signal(signal.SIGTERM)
        await gateway.process.wait()
    lines = target.read_text().splitlines()
    assert len(lines) == hammer.answered
    assert {json.loads(line)["status"] for line in lines} == {200}


# Starts that fail


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [(["--workers", "0"], 2, "1 to 256"), (["--workers", "many"], 2, "many")],
    ids=["none", "no number"],
)
async def test_a_wrong_number_of_workers_ends_with_2(
    tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    await ends(tmp_path, options, code, said)


async def test_a_taken_port_ends_with_3_though_sockets_are_shared(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        other = tmp_path / "other"
        other.mkdir()
        address = f"127.0.0.1:{gateway.port}"
        await ends(other, ["--workers", "2", "--http", address], 3, address)


async def ends(folder: Path, options: list[str], code: int, said: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--policies", str(folder)),
        *("--http", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--access-log", "off", *options),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == code, errors
    assert said in errors.decode()
    assert "Traceback" not in errors.decode()


# The nursery, and what a rolling restart takes over


async def test_a_nursery_that_died_is_replaced_when_the_next_worker_is_needed(
    tmp_path: Path, port: int
) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        pids = await gateway.pids()
        nursery = parent_of(pids[0])
        os.kill(nursery, signal.SIGKILL)
        await asyncio.sleep(0.1)
        hammer = Hammer(gateway.port, clients=8)
        async with hammer.running():
            await asyncio.sleep(0.2)
        assert not hammer.failures  # workers don't need it
        os.kill(pids[0], signal.SIGKILL)
        await gateway.until(gateway_is_whole_without(gateway, pids[0]))
        await gateway.until_said("its line is gone")


async def test_a_rolling_restart_takes_over_what_a_reload_cannot(tmp_path: Path, port: int) -> None:
    async with crewed(tmp_path, page(port), 2) as gateway:
        small = "registry: static\nlimits: {drain: 5s, url_bytes: 64B}\n"
        write(tmp_path, small, "gateway.yaml")
        await gateway.until_said("takes effect at the next start")
        assert await answered(gateway, "/" + "x" * 100) == 200
        before = await gateway.pids()
        os.kill(before[0], signal.SIGKILL)  # a crash takes over nothing: all workers stay alike
        await gateway.until(gateway_is_whole_without(gateway, before[0]))
        assert {await answered(gateway, "/" + "x" * 100) for _ in range(8)} == {200}
        before = await gateway.pids()
        gateway.signal(signal.SIGUSR2)
        await gateway.until_exchanged(before)
        assert {await answered(gateway, "/" + "x" * 100) for _ in range(8)} == {414}


async def answered(gateway: Crewed, path: str) -> int:
    """Ask once, on a connection of its own."""
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{gateway.port}{path}") as answer,
    ):
        return answer.status


async def test_long_lines_of_several_workers_are_whole_in_a_pipe(tmp_path: Path, port: int) -> None:
    """Writes above PIPE_BUF bytes are not atomic by themselves."""
    command = [sys.executable, "-m", "gateway", "serve", "--policies", str(tmp_path), "--workers", "3"]
    command += ["--http", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--access-log", "stdout"]
    write(tmp_path, "registry: static\n", "gateway.yaml")
    write(tmp_path, page(port))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stdout is not None
    assert process.stderr is not None
    logging = asyncio.create_task(process.stdout.read())
    while not (line := (await process.stderr.readline()).decode()).startswith("ready "):
        assert line
    hammer = Hammer(int(line.split()[1].rpartition(":")[2]), clients=12, path="/" + "x" * 7000)
    async with hammer.running():
        await asyncio.sleep(0.5)
    process.terminate()
    await process.wait()
    lines = (await logging).splitlines()
    assert len(lines) == hammer.answered
    assert {json.loads(line)["status"] for line in lines} == {200}


# Users see one gateway


async def test_an_instance_that_one_worker_ejects_is_left_alone_by_all(tmp_path: Path, port: int) -> None:
    """A port where nobody listens: the first call finds it out, and no other worker has to."""
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"127.0.0.1:{dead.getsockname()[1]}"
        policies = page(port).replace("instances: [", f"eject: {{for: 30s}}, instances: ['{address}', ")
        async with crewed(tmp_path, policies, 3) as gateway:
            hammer = Hammer(gateway.port, clients=12, pause=0.01)
            async with hammer.running():

                async def ejected() -> bool:
                    found = await gateway.json("/instances")
                    return (address, "ejected") in {(one["id"], one["state"]) for one in found}

                await gateway.until(ejected)
                await asyncio.sleep(0.3)  # told, and what was under way is over
                before = await gateway.json("/instances")
                await asyncio.sleep(0.5)
                after = await gateway.json("/instances")
            assert set(hammer.statuses) == {200}
            assert failures(after, address) == failures(before, address)
            replaced = await gateway.pids()
            os.kill(replaced[0], signal.SIGKILL)
            await gateway.until(gateway_is_whole_without(gateway, replaced[0], 3))
            assert await gateway.metric("headgate_instance_ejected", instance=address) == 1


async def test_a_breaker_opens_by_what_all_workers_saw_together(tmp_path: Path) -> None:
    """Twelve calls over four workers: none of them saw enough, together they did."""

    async def fail(request: web.Request) -> web.Response:
        return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/", fail)
    breaker = "breaker: {errors: 50%, min_calls: 12, window: 60s, cool_down: 60s}"
    async with TestServer(app, host="127.0.0.1") as server:
        policies = page(server.port or 0).replace("instances:", f"{breaker}, instances:")
        await _opens_together(tmp_path, policies)


async def _opens_together(tmp_path: Path, policies: str) -> None:
    async with crewed(tmp_path, policies, 4) as gateway:

        async def ask() -> int:
            async with (
                aiohttp.ClientSession() as http,  # a connection of its own: the kernel picks the worker
                http.get(f"http://127.0.0.1:{gateway.port}/") as answer,
            ):
                return answer.status

        assert [await ask() for _ in range(12)] == [500] * 12

        async def opened() -> bool:
            return {one["state"] for one in await gateway.json("/instances")} == {"breaker_open"}

        await gateway.until(opened, "the breaker of every worker")

        async def refused() -> bool:
            return {await ask() for _ in range(8)} == {503}

        await gateway.until(refused, "no worker that sends any more")


def failures(views: list[dict[str, Any]], instance: str) -> int:
    return sum(view["failures"] for view in views if view["id"] == instance)
