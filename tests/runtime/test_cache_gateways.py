"""The cache over real sockets: asked once however many ask, over two gateways on a real Redis too."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from tests.runtime.running import Backend, Running, backend, kserve, model_page, question, running, until
from tests.services.redis import RedisServer

INFER = "/v2/models/m/infer"
KEPT = "    cache: {ttl: 60s, scope: shared}\n"
BY_ROWS = "    cache: {ttl: 60s, scope: shared, rows: true}\n"
redis = pytest.mark.service("redis")


class Slow:
    """A model server that takes its time, and counts what it is asked."""

    def __init__(self, made: Backend, pause: float) -> None:
        self.asked: Counter[tuple[float, ...]] = Counter()
        self.pause = pause
        made.handler = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            self.asked[tuple((await request.json())["inputs"][0]["data"])] += 1
            await asyncio.sleep(self.pause)
        return await kserve(request)


class SlowByRows(Slow):
    """One whose answers have a row for each row asked: its first number."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
            output = {"name": "y", "datatype": "FP32", "shape": [-1]}
            return web.json_response({"name": "m", "platform": "t", "inputs": [tensor], "outputs": [output]})
        data = (await request.json())["inputs"][0]["data"]
        await super().answer(request)
        output = {"name": "y", "datatype": "FP32", "shape": [len(data) // 2], "data": data[::2]}
        return web.json_response({"model_name": "m", "outputs": [output]})


async def ask(gateway: Running, *row: float) -> tuple[int, str]:
    async with gateway.http.post(INFER, json=question(*row)) as answer:
        await answer.read()
        return answer.status, answer.headers.get("cache-status", "")


async def ask_and_reset(gateway: Running, leave: asyncio.Event, *row: float) -> None:
    """Ask, and reset the connection when told to: one that only ends may still want its answer."""
    body = json.dumps(question(*row)).encode()
    head = (
        f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    )
    _, writer = await asyncio.open_connection(*gateway.worker.http_address)
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await leave.wait()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def outlive(model: Slow, first: Running, others: Running) -> float:
    """Let the first one's client leave while twenty wait; returns how long they did after that, s."""
    for gateway in {id(first): first, id(others): others}.values():
        await ask(gateway, 0.0, 0.0)  # the signature is known
    leave, model.pause = asyncio.Event(), 4.0
    leading = asyncio.create_task(ask_and_reset(first, leave, 1.0, 1.0))
    await until(lambda: model.asked[1.0, 1.0] == 1)
    model.pause = 0.1  # for the successor
    waiting = [asyncio.create_task(ask(others, 1.0, 1.0)) for _ in range(20)]
    await until(lambda: others.worker._answers.collapsed >= 19)
    leave.set()
    left = asyncio.get_running_loop().time()
    told = await asyncio.gather(*waiting)
    await leading
    assert {status for status, _ in told} == {200}
    assert model.asked[1.0, 1.0] == 2, "the leader's and its successor's"
    return asyncio.get_running_loop().time() - left


@pytest.fixture
async def slow() -> AsyncIterator[tuple[Slow, int]]:
    async with backend() as made:
        yield Slow(made, 0.1), made.port


@pytest.fixture
async def pair(
    slow: tuple[Slow, int], redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[tuple[Running, Running]]:
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(on_redis(tmp_path / name, slow[1], redis_server))
            for name in ("one", "other")
        ]
        yield one, other


def on_redis(folder: Path, port: int, server: RedisServer, kept: str = KEPT):
    folder.mkdir(exist_ok=True)
    base = f"log: {{access: off}}\nstores:\n  cache: {{url: '{server.url}', timeout: 1s}}\n"
    return running(folder, model_page(port, kept), base)


async def test_forty_who_ask_at_once_cost_one_call_per_question(
    slow: tuple[Slow, int], tmp_path: Path
) -> None:
    model, port = slow
    async with running(tmp_path, model_page(port, KEPT)) as gateway:
        told = await asyncio.gather(*(ask(gateway, row, 1.0) for row in (1.0, 2.0) for _ in range(20)))
        assert {status for status, _ in told} == {200}
        assert dict(model.asked) == {(1.0, 1.0): 1, (2.0, 1.0): 1}
        assert await ask(gateway, 1.0, 1.0) == (200, "headgate; hit")


async def test_a_flight_survives_its_leaders(slow: tuple[Slow, int], tmp_path: Path) -> None:
    model, port = slow
    async with running(tmp_path, model_page(port, KEPT)) as gateway:
        assert await outlive(model, gateway, gateway) < 2.0


@redis
async def test_two_gateways_ask_once_together(slow: tuple[Slow, int], pair: tuple[Running, Running]) -> None:
    model, _ = slow
    told = await asyncio.gather(
        *(ask(gateway, row, 2.0) for row in (1.0, 2.0, 3.0) for gateway in pair for _ in range(8))
    )
    assert {status for status, _ in told} == {200}
    assert set(model.asked.values()) == {1}
    assert len(model.asked) == 3


@redis
async def test_the_other_gateway_goes_on_when_the_one_that_asks_loses_its_client(
    slow: tuple[Slow, int], pair: tuple[Running, Running]
) -> None:
    model, _ = slow
    assert await outlive(model, *pair) < 2.0, "the lease, of 3 s, was given back"


@redis
@pytest.mark.parametrize("where", ["here", "there"])
async def test_a_batch_fetches_what_another_was_to_bring_when_that_ones_client_leaves(
    redis_server: RedisServer, tmp_path: Path, where: str
) -> None:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(backend())
        model = SlowByRows(made, 0.1)
        one, other = [
            await stack.enter_async_context(on_redis(tmp_path / name, made.port, redis_server, BY_ROWS))
            for name in ("one", "other")
        ]
        for gateway in (one, other):
            await ask(gateway, 0.0, 0.0)  # the signature is known
        leave, model.pause = asyncio.Event(), 4.0
        leading = asyncio.create_task(ask_and_reset(one, leave, 1.0, 1.0, 2.0, 2.0))
        await until(lambda: model.asked[1.0, 1.0, 2.0, 2.0] == 1)
        model.pause = 0.1
        joining = asyncio.create_task(ask(one if where == "here" else other, 2.0, 2.0, 3.0, 3.0))
        await until(lambda: model.asked[3.0, 3.0] == 1)
        leave.set()
        left = asyncio.get_running_loop().time()
        assert await joining == (200, "headgate; fwd=partial; collapsed; stored")
        assert asyncio.get_running_loop().time() - left < 2.0, "the lease, of 3 s, was given back"
        await leading
        assert model.asked[2.0, 2.0] == 1, "the row that the other was to bring"
        assert (await ask(other, 3.0, 3.0, 2.0, 2.0))[1] == "headgate; hit"


@redis
async def test_a_purge_on_one_gateway_holds_on_the_other_and_a_new_one_starts_warm(
    slow: tuple[Slow, int], pair: tuple[Running, Running], redis_server: RedisServer, tmp_path: Path
) -> None:
    model, port = slow
    one, other = pair
    await ask(one, 1.0, 1.0)
    assert await ask(other, 1.0, 1.0) == (200, "headgate; hit")
    async with on_redis(tmp_path / "late", port, redis_server) as late:
        await until(lambda: late.worker._answers.trusted)
        assert await ask(late, 1.0, 1.0) == (200, "headgate; hit"), "what others asked is known"
    assert model.asked[1.0, 1.0] == 1
    async with one.admin.delete("/cache?model=m") as purged:
        assert (await purged.json())["purged"] == 1
    await until(lambda: len(other.worker._answers) == 0)
    assert (await ask(other, 1.0, 1.0))[1].startswith("headgate; fwd=miss")
    assert model.asked[1.0, 1.0] == 2


@redis
async def test_without_redis_each_gateway_goes_on_alone(
    slow: tuple[Slow, int], pair: tuple[Running, Running], redis_server: RedisServer
) -> None:
    model, _ = slow
    await ask(pair[0], 1.0, 1.0)
    redis_server.kill()
    assert await ask(pair[0], 1.0, 1.0) == (200, "headgate; hit")
    told = await asyncio.gather(*(ask(gateway, 5.0, 5.0) for gateway in pair for _ in range(8)))
    assert {status for status, _ in told} == {200}
    assert model.asked[5.0, 5.0] == 2, "once for each gateway"
