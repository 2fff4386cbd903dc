"""Throttle and cache over a real Redis: two gateways, one count, one answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.config.units import Duration
from gateway.filters import cache, throttle
from gateway.stores.redis import Address, RedisBlobs, RedisClient, RedisCounters
from tests.fakes.traffic import Sent, Traffic
from tests.services.redis import RedisServer

pytestmark = pytest.mark.service("redis")


@pytest.fixture
async def clients(redis_server: RedisServer) -> AsyncIterator[tuple[RedisClient, RedisClient]]:
    one, other = (RedisClient(Address.parse(redis_server.url), timeout=1.0) for _ in range(2))
    assert await one.open()
    assert await other.open()
    yield one, other
    await one.close()
    await other.close()


async def until(condition: Callable[[], bool], within: float = 5.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


def statuses(sent: list[Sent], traffic: Traffic) -> list[int]:
    """Answer what reached an instance, and return every request's status."""
    for call in traffic.upstream.calls:
        call.answer(b'{"predictions": [7]}')
    return [one.down.status for one in sent]


async def test_two_gateways_count_as_one(clients: tuple[RedisClient, RedisClient]) -> None:
    gateways = [Traffic(counters=RedisCounters(client)) for client in clients]
    sent: list[list[Sent]] = []
    for traffic in gateways:
        traffic.use(throttle.KIND, throttle.Throttle.from_text("1/min burst 7"), policy="house")
        sent.append([traffic.send() for _ in range(10)])
    await until(lambda: all(one.down.answered or one.ctx.attempts for group in sent for one in group))
    told = [code for group, traffic in zip(sent, gateways, strict=True) for code in statuses(group, traffic)]
    assert (told.count(200), told.count(429)) == (7, 13)


async def test_without_redis_a_gateway_counts_its_share(
    clients: tuple[RedisClient, RedisClient], redis_server: RedisServer
) -> None:
    traffic = Traffic(counters=RedisCounters(clients[0]), gateways=2)
    traffic.use(throttle.KIND, throttle.Throttle.from_text("1/min burst 8"))
    redis_server.kill()
    await until(lambda: not clients[0].is_up)
    sent = [traffic.send() for _ in range(10)]
    await until(lambda: all(one.down.answered or one.ctx.attempts for one in sent))
    told = statuses(sent, traffic)
    assert (told.count(200), told.count(429)) == (4, 6)


async def test_an_answer_that_one_gateway_asked_for_is_a_hit_on_the_other(
    clients: tuple[RedisClient, RedisClient],
) -> None:
    first, second = (Traffic(blobs=RedisBlobs(client)) for client in clients)
    for traffic in (first, second):
        traffic.use(cache.KIND, cache.Cache(Duration(30.0)))
    asked = first.send()
    await until(lambda: asked.ctx.attempts == 1)
    first.upstream.calls[0].answer(b'{"predictions": [7]}')
    await until(lambda: asked.down.answered)
    again = second.send()
    await until(lambda: again.down.answered)
    assert again.down.field(b"cache-status") == b"headgate; hit"
    assert again.down.body == b'{"predictions": [7]}'
