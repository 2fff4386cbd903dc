"""The ladder of lesser answers, and injected faults: a whole gateway before scripted instances."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from tests.fakes.wires import Instance, answers, serving
from tests.runtime.running import Running, running
from tests.services.etcd import free_port

FULL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfull"
LITE = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlite"

PAGE = """
limits: {{faults: allowed}}
pools:
  main: {{instances: ['127.0.0.1:{main}'], health: off{pool}}}
  lite: {{instances: ['127.0.0.1:{lite}'], health: off}}
endpoints:
  api: {{match: /**, authenticate: none, send: main{verbs}}}
"""


class Slow:
    """A script that answers after `seconds`, which may change."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(
        self, instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            await instance.read_request(reader)
            await asyncio.sleep(self.seconds)
            writer.write(FULL)


async def ask(gateway: Running, **headers: str) -> tuple[int, str]:
    async with gateway.http.get("/", headers=headers) as answer:
        await answer.read()
        return answer.status, answer.headers.get("x-degraded", "")


def shown(gateway: Running, line: str) -> list[str]:
    return [one for one in gateway.worker.metrics().decode().splitlines() if one.startswith(line)]


async def test_a_pool_too_slow_for_its_objective_is_spared_and_gets_its_requests_back(tmp_path: Path) -> None:
    script = Slow(0.08)
    verbs = (
        ", slo: {latency: 40ms, ratio: 90%, window: 6s, burn: 2x, min_calls: 3}"
        ", degrade: {when: [slo_burn], steps: [{pool: lite}], calm: 1s}"
    )
    async with serving(script) as main, serving(answers(LITE)) as lite:
        page = PAGE.format(main=main.port, lite=lite.port, verbs=verbs, pool="")
        async with running(tmp_path, page) as gateway:
            await until_answered(gateway, (200, "pool:lite"), 5.0)
            assert shown(gateway, "headgate_degraded_total{")[0].endswith(
                '{endpoint="api",step="pool:lite",trigger="slo_burn"} 1.0'
            )
            assert shown(gateway, "headgate_degrade_level{") == [
                'headgate_degrade_level{endpoint="api",policy="endpoints.api"} 1.0'
            ]
            assert shown(gateway, 'headgate_slo_burn_rate{endpoint="api",window="long"}')
            asked = len(main.heads)
            assert {await ask(gateway) for _ in range(20)} == {(200, "pool:lite")}
            assert len(main.heads) == asked
            script.seconds = 0.0
            await until_answered(gateway, (200, ""), 10.0)
            assert {await ask(gateway) for _ in range(20)} == {(200, "")}


async def until_answered(gateway: Running, wanted: tuple[int, str], within: float) -> None:
    clock = asyncio.get_running_loop().time
    end = clock() + within
    while await ask(gateway) != wanted:
        assert clock() < end, f"never answered {wanted}"
        await asyncio.sleep(0.01)


async def test_what_a_full_pool_can_not_take_gets_the_lesser_answer(tmp_path: Path) -> None:
    verbs = ", degrade: {steps: [{pool: lite}]}"
    async with serving(Slow(0.3)) as main, serving(answers(LITE)) as lite:
        page = PAGE.format(
            main=main.port, lite=lite.port, verbs=verbs, pool=", concurrency: {limit: 2}, queue: off"
        )
        async with running(tmp_path, page) as gateway:
            answered = Counter(await asyncio.gather(*(ask(gateway) for _ in range(10))))
            assert answered[200, "pool:lite"] >= 8
            assert sum(answered.values()) == answered[200, "pool:lite"] + answered[200, ""]
            assert 'trigger="overloaded"' in shown(gateway, "headgate_degraded_total{")[0]


async def test_a_dead_pool_is_answered_for_down_to_the_honest_error(tmp_path: Path) -> None:
    verbs = ", degrade: {steps: [{pool: lite}, {respond: {status: 503, retry_after: 5s}}]}"
    page = PAGE.format(main=free_port(), lite=free_port(), verbs=verbs, pool="")
    async with running(tmp_path, page) as gateway:
        assert await ask(gateway) == (503, "respond")


async def test_faults_touch_those_that_ask_for_them_and_no_instance(tmp_path: Path) -> None:
    verbs = ", fault: {delay: 50ms, abort: 503, when: {x-fault: please}}"
    async with serving(answers(FULL)) as main:
        page = PAGE.format(main=main.port, lite=free_port(), verbs=verbs, pool="")
        async with running(tmp_path, page) as gateway:
            assert await ask(gateway) == (200, "")
            began = asyncio.get_running_loop().time()
            assert [await ask(gateway, **{"x-fault": "please"}) for _ in range(3)] == [(503, "")] * 3
            assert asyncio.get_running_loop().time() - began >= 0.15
            assert len(main.heads) == 1
            assert shown(gateway, "headgate_faults_total{") == [
                'headgate_faults_total{endpoint="api",fault="delay=50ms abort=503"} 3.0'
            ]
            (instance,) = gateway.worker.gateway.snapshot.pools["main"].members.instances
            assert (instance.successes, instance.failures) == (1, 0)
