"""The cache of several workers, as processes: what is asked once, and what reaches all of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.runtime.crews import crewed, page
from tests.runtime.running import backend, model_page
from tests.services.redis import RedisServer

redis = pytest.mark.service("redis")

CONNECTIONS = 32  # enough that every worker has some: the kernel spreads them
TTL = 2.0
PAUSE = 0.03  # s that an instance takes
SECONDS = 5.0

Get = Callable[[aiohttp.ClientSession], Awaitable[str]]


@asynccontextmanager
async def connections(port: int, count: int = CONNECTIONS) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """Clients with one connection each."""
    async with AsyncExitStack() as stack:
        made = [
            aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=1))
            for _ in range(count)
        ]
        yield [await stack.enter_async_context(one) for one in made]


# Without Redis: what is outdated is so in all workers


@pytest.mark.parametrize("how", ["post", "purge"])
async def test_what_is_outdated_is_so_in_every_worker_of_the_host(tmp_path: Path, how: str) -> None:
    version, calls = 1, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal version, calls
        if request.method == "POST":
            version += 1
        else:
            calls += 1
        return web.Response(text=str(version), headers={"cache-control": "max-age=600"})

    async with backend() as made:
        made.handler = answer
        kept = page(made.port, "    cache: {ttl: 0s, scope: shared}\n")
        async with crewed(tmp_path, kept, 3) as gateway, connections(gateway.port) as clients:

            async def told() -> set[str]:
                answers = [await client.get("/orders/7") for client in clients]
                return {await one.text() for one in answers}

            assert await told() == {"1"}
            assert calls == 3, "each worker has asked"
            if how == "purge":
                version += 1
                url = f"127.0.0.1:{gateway.port}/orders/7"
                async with gateway.admin.delete("/cache", params={"url": url}) as purged:
                    assert await purged.json() == {"purged": 6}, "an answer and the names of its fields, each"
            else:
                async with clients[0].post("/orders/7") as posted:
                    assert posted.status == 200
            ends = time.monotonic() + 5.0
            while await told() != {"2"}:
                assert time.monotonic() < ends, "some worker still gives what is outdated"
            assert calls == 6


# On one Redis: asked once by all workers of all gateways


@dataclass
class Instance:
    """Takes its time, and remembers when it was asked for what, and had answered."""

    asked: defaultdict[object, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        started = time.monotonic()
        if request.method == "GET" and request.path.startswith("/v2/"):
            tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
            output = {"name": "y", "datatype": "FP32", "shape": [-1]}
            return web.json_response({"name": "m", "platform": "t", "inputs": [tensor], "outputs": [output]})
        await asyncio.sleep(PAUSE)
        if request.method == "GET":
            self.asked[request.path].append((started, time.monotonic()))
            return web.Response(text="x", headers={"cache-control": f"max-age={TTL:.0f}", "etag": '"1"'})
        data = (await request.json())["inputs"][0]["data"]
        first = data[::2]
        for row in first:
            self.asked[row].append((started, time.monotonic()))
        output = {"name": "y", "datatype": "FP32", "shape": [len(first)], "data": first}
        return web.json_response({"model_name": "m", "outputs": [output]})

    def per_key_and_ttl(self, slack: float) -> float:
        """Calls for each that was needed: one is not needed while the answer before it is fresh."""
        calls = needless = 0
        for times in self.asked.values():
            times.sort()
            calls += len(times)
            needless += sum(begun < answered + TTL - slack for (_, answered), (begun, _) in pairwise(times))
        assert calls > needless
        return calls / (calls - needless)


async def get_one(client: aiohttp.ClientSession) -> None:
    async with client.get(f"/orders/{random.randrange(12)}", headers={"host": "shop.example"}) as answer:
        assert await answer.text() == "x"


async def predict_one(client: aiohttp.ClientSession) -> None:
    await predict(client, [random.randrange(12)])


async def predict_batch(client: aiohttp.ClientSession) -> None:
    first = random.randrange(4)
    await predict(client, [3 * first, 3 * first + 1, 3 * first + 2])


async def predict_overlapping(client: aiohttp.ClientSession) -> None:
    first = random.randrange(10)
    await predict(client, [first, first + 1, first + 2])


async def predict(client: aiohttp.ClientSession, rows: list[int]) -> None:
    data = [number for row in rows for number in (float(row), 1.0)]
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": data}]}
    async with client.post("/v2/models/m/infer", json=asked) as answer:
        assert (await answer.json())["outputs"][0]["data"] == rows


@redis
@pytest.mark.parametrize(
    ("verb", "ask", "slack"),
    [
        ("{ttl: 0s, scope: shared}", get_one, 1.0),  # its age counts from Date, in whole seconds
        ("{ttl: 0s, scope: shared, stale_while_revalidate: 10s}", get_one, 1.0),
        ("{ttl: 2s, scope: shared}", predict_one, 0.0),
        ("{ttl: 2s, scope: shared, stale_while_revalidate: 10s}", predict_one, 0.0),
        ("{ttl: 2s, scope: shared, rows: true}", predict_batch, 0.0),
        ("{ttl: 2s, scope: shared, rows: true}", predict_overlapping, 0.0),
    ],
    ids=["get", "get-stale", "whole", "whole-stale", "rows", "rows-overlapping"],
)
async def test_two_gateways_of_four_workers_ask_once_per_key_and_ttl(
    tmp_path: Path,
    redis_server: RedisServer,
    verb: str,
    ask: Callable[[aiohttp.ClientSession], Awaitable[None]],
    slack: float,
) -> None:
    instance = Instance()
    base = f"registry: static\nstores:\n  cache: {{url: '{redis_server.url}', timeout: 1s}}\n"
    async with backend() as made, AsyncExitStack() as stack:
        made.handler = instance.answer
        of = page if ask is get_one else model_page
        policies = of(made.port, f"    cache: {verb}\n")
        clients: list[aiohttp.ClientSession] = []
        for name in ("one", "other"):
            folder = tmp_path / name
            folder.mkdir()
            gateway = await stack.enter_async_context(crewed(folder, policies, 4, base=base))
            clients += await stack.enter_async_context(connections(gateway.port, 16))
        for client in clients:
            await client.get("/v2/models/m")  # every worker knows the signature
        ends = time.monotonic() + SECONDS

        async def keep_asking(client: aiohttp.ClientSession) -> None:
            while time.monotonic() < ends:
                await ask(client)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(keep_asking(client) for client in clients))
        ratio = instance.per_key_and_ttl(slack)
        assert ratio <= 1.05
