"""Real model servers that hang, crawl, crash again and again: found out, answered for, and found again.

`make test` does so with Triton, `make test-peers` with all of them. Clients go on asking while it happens;
nobody may be told anything but the numbers or, where the policy has one, its lesser answer, nor wait for
longer than the policy says. How long it took to find out and to come back is kept for docs/peers.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from gateway.pipeline.pool import Instance
from tests.integration.running import slack
from tests.integration.test_grpc import off
from tests.integration.test_model_servers import ROWS, N, Y, posted, tfs_rows
from tests.runtime.running import Running, running, until
from tests.services.peers.servers import SIGNATURE, Server

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

TIMEOUT = 0.5  # s: the endpoint's
PAUSE = 0.05  # s between an answer and the client's next question
CHECKS = "every: 200ms, timeout: 500ms, unhealthy_after: 2, healthy_after: 1"
LESSER = '{"y": [[0, 0], [0, 0]], "n": [0, 0]}'


@dataclass(frozen=True)
class Heard:
    """What a client was told, and after how many seconds: `numbers`, `lesser`, or what was wrong."""

    at: float
    took: float
    what: str


def own(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    """Ask a server that speaks no dialect."""
    said = posted(port, "/predict", {"x": rows})
    return said["y"], said["n"]


def ask(speaks: str, port: int) -> Heard:
    started = time.monotonic()
    try:
        y, n = (own if speaks == "http" else tfs_rows)(port, ROWS)
        flat = np.ravel(n).tolist()  # MLServer makes [2] a [2, 1]
        what = "numbers" if (y, flat) == (Y, N) else "lesser" if not np.any(y) else f"{y} {n}"
    except Exception as failed:
        what = f"{failed!r}"[:300]
    return Heard(started, time.monotonic() - started, what)


def lesser(speaks: str) -> str:
    """The verbs of an endpoint that rather says zeros than nothing."""
    predict = "predict: {y: [0, 0], n: 0}"
    step = f"respond: {{status: 200, body: '{LESSER}'}}" if speaks == "http" else predict
    when = "when: [breaker_open, timeout, unavailable]"
    return f"    timeout: {TIMEOUT}s\n    degrade: {{{when}, steps: [{{{step}}}]}}\n"


@asynccontextmanager
async def asked(gateway: Running, speaks: str) -> AsyncIterator[list[Heard]]:
    """Two clients ask until the block is left; begins once the server itself has answered."""
    heard: list[Heard] = []
    port = gateway.worker.http_address[1]

    async def go_on_asking() -> None:
        while True:
            heard.append(await off(partial(ask, speaks, port)))
            await asyncio.sleep(PAUSE)

    clients = [asyncio.create_task(go_on_asking()) for _ in range(2)]
    try:
        await told(heard, "numbers", 20)
        yield heard
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def told(heard: list[Heard], what: str, patience: float) -> float:
    """Wait for somebody who asked from now on to hear this; returns after how long, s."""
    since = time.monotonic()
    return await until(lambda: any(one.what == what and one.at >= since for one in heard), patience)


def judge(heard: list[Heard], allowed: set[str], longest: float) -> None:
    assert {one.what for one in heard} <= allowed, Counter(one.what for one in heard)
    assert max(one.took for one in heard) < longest + slack() / 3


def instances_of(gateway: Running) -> tuple[Instance, ...]:
    return gateway.worker.snapshot.pools["peer"].members.instances


def first(server: Server, over_grpc: bool = False) -> tuple[str, bool]:
    """What it speaks first of all, and whether that has a readiness to be asked for."""
    speaks = next((one for one in server.pools if one.endswith("-grpc") is over_grpc), None)
    if speaks is None:
        pytest.skip(f"{server.name} speaks no gRPC")
    return speaks, not speaks.startswith("paddle")


async def test_a_server_that_hangs_is_out_after_two_checks_and_back_after_one(
    server: Server, tmp_path: Path
) -> None:
    speaks, is_checked = first(server)
    page = server.page(speaks, health=CHECKS, verbs=lesser(speaks))
    async with running(tmp_path, page) as gateway, asked(gateway, speaks) as heard:
        (instance,) = instances_of(gateway)
        server.process.hang()
        try:
            if is_checked:
                out = await until(lambda: not instance.healthy, 2.2 + slack())
                await told(heard, "lesser", 1)
                assert min(one.took for one in heard if one.what == "lesser") < TIMEOUT / 2  # nobody waits
            else:  # nothing tells but the time that each of them loses
                out = await told(heard, "lesser", TIMEOUT + slack())
        finally:
            server.process.go_on()
        back = await told(heard, "numbers", 1 + slack())
    judge(heard, {"numbers", "lesser"}, TIMEOUT)
    server.record({"fault": "hangs", "out": out, "back": back})


async def test_a_server_that_crawls_is_left_alone_by_the_breaker_until_a_probe_is_answered(
    server: Server, tmp_path: Path
) -> None:
    """It works for a tenth of a second after each one and a half of nothing."""
    speaks, _ = first(server)
    breaker = "breaker: {consecutive: 3, min_calls: 1000, cool_down: 500ms}"
    page = server.page(speaks, pool=breaker, health="enabled: false", verbs=lesser(speaks))
    async with running(tmp_path, page) as gateway, asked(gateway, speaks) as heard:
        (instance,) = instances_of(gateway)
        assert instance.breaker is not None
        began = gateway.worker.now()
        opened_at: float | None = None
        while gateway.worker.now() < began + 4:
            server.process.hang()
            await asyncio.sleep(1.5)
            opened_at = opened_at or instance.breaker.opened_at
            server.process.go_on()
            await asyncio.sleep(0.1)
        assert opened_at is not None
        assert min(one.took for one in heard if one.what == "lesser") < TIMEOUT / 2  # nobody waits
        promised = instance.breaker.retry_after(gateway.worker.now())
        back = await told(heard, "numbers", promised + 1 + slack())
        await until(lambda: instance.state(gateway.worker.now()) == "up", 1)
    judge(heard, {"numbers", "lesser"}, TIMEOUT)
    server.record({"fault": "crawls", "out": opened_at - began, "back": back})


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_server_that_crashes_again_and_again_gets_no_call_before_it_is_ready(
    server: Server, protocol: str, tmp_path: Path
) -> None:
    speaks, is_checked = first(server, protocol == "grpc")
    page = server.page(speaks, health=CHECKS, verbs=lesser(speaks))
    async with running(tmp_path, page) as gateway, asked(gateway, speaks) as heard:
        (instance,) = instances_of(gateway)
        for _ in range(2):
            server.process.kill()
            if is_checked:
                out = await until(lambda: not instance.healthy, 1 + slack())
            else:
                out = await told(heard, "lesser", 1 + slack())
            failures = instance.failures
            await off(server.process.start)
            if is_checked:
                assert instance.failures == failures
            back = await told(heard, "numbers", 1 + slack())
    judge(heard, {"numbers", "lesser"}, TIMEOUT)
    server.record({"fault": "crashes" if protocol == "http" else "crashes, gRPC", "out": out, "back": back})


async def test_one_of_two_that_hangs_or_dies_is_shunned_and_no_client_sees_it(
    server: Server, twin: Server, tmp_path: Path
) -> None:
    speaks, _ = first(server)
    pool = (
        "balance: round_robin, eject: {for: 300ms}, retry: {budget: 100%, floor: 50}, per_try_timeout: 300ms"
    )
    page = server.page(speaks, pool, "enabled: false", "    timeout: 5s\n", beside=twin.pools[speaks])
    async with running(tmp_path, page) as gateway, asked(gateway, speaks) as heard:
        (other,) = (one for one in instances_of(gateway) if one.port == twin.pools[speaks])
        await until(lambda: other.successes > 3)
        seen = {}

        def state() -> str:
            return other.state(gateway.worker.now())

        for fault, break_it, mend, shunned in (
            ("one of two hangs", twin.process.hang, twin.process.go_on, {"doubted", "ejected"}),
            ("one of two dies", twin.process.kill, twin.process.start, {"ejected"}),
        ):
            failures = other.failures  # a slow first call may have raised doubt before
            break_it()
            out = await until(lambda before=failures: other.failures > before, 3 + slack())
            out += await until(lambda words=shunned: state() in words, 3 + slack())
            await off(mend)
            successes = other.successes
            promised = max(0.0, other.ejected_until - gateway.worker.now())
            back = await until(lambda before=successes: other.successes > before, promised + 2 + slack())
            seen[fault] = {"out": out, "back": back}
    judge(heard, {"numbers"}, 0.3 * 2)
    for fault, took in seen.items():
        server.record({"fault": fault, **took})


@pytest.mark.parametrize("stops", ["hangs", "is cut off"])
async def test_an_answer_that_stops_in_its_middle_is_never_completed(stops: str, tmp_path: Path) -> None:
    """As uvicorn's, whose head and body come apart. Not a real server: none can be stopped just there."""
    whole = b'{"predictions": [{"y": [3.0, 4.0], "n": 1}]}'

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole[:10])
        await writer.drain()
        if stops == "hangs":
            await reader.read()  # until the gateway has had enough
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(half, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    page = (
        f"pools:\n  peer: {{instances: ['127.0.0.1:{port}'], speaks: kserve-v1, health: off, "
        f"signature: '{SIGNATURE}'}}\n"
        "endpoints:\n  double:\n    model: double\n    send: peer\n    authenticate: none\n"
        + lesser("kserve-v1")
    )
    async with listening, running(tmp_path, page) as gateway:
        (instance,) = instances_of(gateway)
        rows = {"instances": [{"x": [1.5, 2.0]}]}
        async with gateway.http.post("/v1/models/double:predict", json=rows) as passed:
            assert passed.status == 200  # it was on its way
            with pytest.raises(aiohttp.ClientPayloadError):
                await passed.read()
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]}
        async with gateway.http.post("/v2/models/double/infer", json={"inputs": [tensor]}) as translated:
            assert translated.headers["x-degraded"] == "predict"
            assert [one["data"] for one in (await translated.json())["outputs"]] == [[0, 0], [0]]
        assert (instance.successes, instance.failures) == (0, 2)
