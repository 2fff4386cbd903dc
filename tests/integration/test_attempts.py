"""Several attempts over real sockets: a whole gateway in this process before scripted instances."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fakes.wires import Instance, Script, answers, serving
from tests.integration.running import slack
from tests.runtime.running import Running, running, until
from tests.services.etcd import free_port

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"


def slow(seconds: float, every: int) -> Script:
    """Answer at once, but every n-th request after `seconds`: a straggler, as a pause makes them."""

    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await instance.read_request(reader)
            if len(instance.heads) % every == 0:
                await asyncio.sleep(seconds)
            writer.write(OK)

    return script


async def reset(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a request and break the connection."""
    await instance.read_request(reader)
    writer.transport.abort()


async def silent(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read requests and never answer."""
    while True:
        await instance.read_request(reader)


class Scene(AsyncExitStack):
    """Instances by name, and a gateway before them."""

    async def instance(self, script: Script) -> Instance:
        return await self.enter_async_context(serving(script))

    async def gateway(self, folder: Path, page: str) -> Running:
        return await self.enter_async_context(running(folder, page))


def page(ports: list[int], verbs: str = "", pool: str = "", others: str = "") -> str:
    addresses = ", ".join(f"'127.0.0.1:{port}'" for port in ports)
    return f"""
pools:
  main: {{instances: [{addresses}], balance: round_robin{pool}}}
{others}
endpoints:
  api: {{match: /**, authenticate: none, send: main{verbs}}}
"""


def metric(gateway: Running, name: str, **labels: str) -> float:
    total = 0.0
    for line in gateway.worker.metrics().decode().splitlines():
        if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


@pytest.mark.parametrize(
    ("bad", "cause"),
    [(reset, "reset"), (answers(BUSY), "503"), (silent, "timeout"), (None, "connect")],
    ids=["resets", "answers 503", "hangs", "refuses"],
)
async def test_one_bad_instance_of_three_costs_no_client_its_request(
    tmp_path: Path, bad: Script | None, cause: str
) -> None:
    async with Scene() as scene:
        good = [await scene.instance(answers(OK)) for _ in range(2)]
        bad_port = free_port() if bad is None else (await scene.instance(bad)).port
        pool = ", per_try_timeout: 200ms, health: off"
        gateway = await scene.gateway(tmp_path, page([good[0].port, bad_port, good[1].port], pool=pool))
        statuses = Counter([await gateway.status("/") for _ in range(100)])
        assert statuses == {200: 100}
        assert metric(gateway, "headgate_retries_total", cause=cause) >= 1
        assert metric(gateway, "headgate_failed_tries_total") <= 10


async def test_a_post_is_sent_to_one_instance_only_unless_it_is_safe(tmp_path: Path) -> None:
    async with Scene() as scene:
        bad, good = await scene.instance(reset), await scene.instance(answers(OK))
        gateway = await scene.gateway(
            tmp_path, page([bad.port, good.port], pool=", eject: {consecutive: 99}")
        )
        seen: Counter[int] = Counter()
        for _ in range(6):
            async with gateway.http.post("/", data=b"{}") as answer:
                seen[answer.status] += 1
        assert set(seen) == {502, 200}  # the bad one is doubted and asked less
        assert len(bad.heads) + len(good.heads) == 6


async def test_in_a_total_outage_instances_get_a_fifth_more_than_clients_send(tmp_path: Path) -> None:
    async with Scene() as scene:
        instances = [await scene.instance(answers(BUSY)) for _ in range(3)]
        gateway = await scene.gateway(tmp_path, page([one.port for one in instances], pool=", health: off"))
        requests = 300
        for _ in range(requests // 10):
            statuses = await asyncio.gather(*(gateway.status("/") for _ in range(10)))
            assert set(statuses) == {503}
        attempts = sum(len(one.heads) for one in instances)
        assert attempts <= 1.2 * requests


async def test_in_a_total_outage_of_dead_processes_too(tmp_path: Path) -> None:
    async with Scene() as scene:
        gateway = await scene.gateway(tmp_path, page([free_port() for _ in range(3)], pool=", health: off"))
        requests = 300
        for _ in range(requests // 10):
            statuses = await asyncio.gather(*(gateway.status("/") for _ in range(10)))
            assert set(statuses) == {503}
        assert metric(gateway, "headgate_retries_total") <= 0.2 * requests


@pytest.mark.parametrize("hedge", [False, True])
async def test_hedging_cuts_the_tail_of_stragglers(tmp_path: Path, hedge: bool) -> None:
    async with Scene() as scene:
        instances = [await scene.instance(slow(0.25, every)) for every in (23, 31, 37)]
        pool = ", hedge: {at: p90, warm_up: 50, at_least: 10ms}" if hedge else ""
        gateway = await scene.gateway(tmp_path, page([one.port for one in instances], pool=pool))
        for _ in range(60):
            await gateway.status("/")
        took = []
        for _ in range(200):
            before = time.perf_counter()
            assert await gateway.status("/") == 200
            took.append(time.perf_counter() - before)
        p99 = statistics.quantiles(took, n=100)[98]
        sent = sum(len(one.heads) for one in instances)
        if not hedge:
            assert p99 > 0.2
            assert sent == 260
            return
        assert p99 < 0.05 * slack()
        assert sent <= 260 * 1.2
        won = metric(gateway, "headgate_hedges_total", result="won")
        assert won >= 3
        members = gateway.worker.snapshot.pools["main"].members
        assert all(one.in_flight == 0 for one in members.instances)
        # What was cut off was closed, not kept: the answer to it would be the next request's.
        await until(lambda: sum(one.lost for one in instances) >= won)


async def test_a_backend_sees_the_time_that_is_left(tmp_path: Path) -> None:
    async with Scene() as scene:
        bad, good = await scene.instance(silent), await scene.instance(answers(OK))
        pool = ", per_try_timeout: 300ms"
        gateway = await scene.gateway(tmp_path, page([bad.port, good.port], ", timeout: 2s", pool))
        while not bad.heads:
            assert await gateway.status("/", **{"x-request-timeout-ms": "500"}) == 200
        told = [
            int(re.findall(rb"x-request-timeout-ms: (\d+)", head)[0])
            for head in (bad.heads[0], good.heads[-1])
        ]
        assert told[0] == 300  # what one try may take
        assert 100 <= told[1] <= 200  # what the first one left
        assert re.findall(rb"x-headgate-attempt: (\d+)", good.heads[-1]) == [b"2"]
        assert await gateway.status("/", **{"x-request-timeout-ms": "soon"}) == 400


async def test_a_hurried_client_is_told_in_time_and_the_instance_is_not_blamed(tmp_path: Path) -> None:
    async with Scene() as scene:
        hung = await scene.instance(silent)
        gateway = await scene.gateway(tmp_path, page([hung.port], ", timeout: 5s"))
        before = time.perf_counter()
        async with gateway.http.get("/", headers={"x-request-timeout-ms": "100"}) as answer:
            assert answer.status == 504
            assert answer.headers["x-headgate-reason"] == "upstream_timeout"
        assert 0.1 <= time.perf_counter() - before < 0.2 * slack()
        (instance,) = gateway.worker.snapshot.pools["main"].members.instances
        assert instance.failures == 0


@pytest.mark.parametrize("kind", ["dead", "hung", "well"])
async def test_a_mirror_is_never_in_the_primarys_way(tmp_path: Path, kind: str) -> None:
    async with Scene() as scene:
        primary = await scene.instance(answers(OK))
        shadow = None if kind == "dead" else await scene.instance(silent if kind == "hung" else answers(OK))
        port = free_port() if shadow is None else shadow.port
        others = f"  shadow: {{instances: ['127.0.0.1:{port}'], health: off}}"
        verbs = ", mirror: {to: shadow, timeout: 500ms, copies: 4}"
        gateway = await scene.gateway(tmp_path, page([primary.port], verbs, others=others))
        took = []
        for _ in range(50):
            before = time.perf_counter()
            async with gateway.http.post("/a?b=1", data=b"{}", headers={"x-kept": "1"}) as answer:
                assert (answer.status, await answer.read()) == (200, b"ok")
            took.append(time.perf_counter() - before)
        assert max(took) < 0.25 * slack()
        assert len(primary.heads) == 50
        assert not any(b"x-headgate-mirror" in head for head in primary.heads)
        await until(lambda: metric(gateway, "headgate_mirrored_total") == 50)
        if kind == "well":
            assert shadow is not None
            assert metric(gateway, "headgate_mirrored_total", result="answered") == 50
            assert len(shadow.heads) == 50
            assert all(b"x-headgate-mirror: 1" in head and b"x-kept: 1" in head for head in shadow.heads)
            assert shadow.bodies == [b"{}"] * 50
        if kind == "hung":
            assert shadow is not None
            assert len(shadow.heads) <= 8
            assert metric(gateway, "headgate_mirrored_total", result="dropped") >= 40
