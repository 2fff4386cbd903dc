"""Rate leases on a real Redis: the script keeps the reference's law, and several gateways keep the limit."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from gateway.governance.rate_leases import Draw, RateLender
from gateway.pipeline.ports import Claim, StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.stores.redis import Address, RedisClient
from gateway.stores.redis_leases import LeasedRedisCounters
from tests.services.redis import need_redis

real = pytest.mark.service("redis")
LIMIT = Claim(b"limit", 1.0, 1000.0, 100.0)
SMALL = Claim(b"small", 1.0, 5.0, 5.0)


async def counters(server, stack, name=b"a", patience=1.0):
    client = RedisClient(Address.parse(server.url), timeout=patience)
    assert await client.open()
    stack.push_async_callback(client.close)
    loop = asyncio.get_running_loop()
    store = LeasedRedisCounters(client, loop, name, loop.time)
    stack.callback(store.close)
    return store


async def taken(store, *claims):
    grant = store.take(claims, asyncio.get_running_loop().time())
    if not isinstance(grant, Promise):
        return grant
    future = asyncio.get_running_loop().create_future()
    grant.then(future.set_result, future.set_exception)
    return await future


@real
async def test_the_script_lends_what_the_reference_lends(redis_server):
    need_redis()
    steps = [
        (1, Draw(b"k", 10.0, 1000.0, 100.0, 300.0)),
        (2, Draw(b"k", 5.0, 1000.0, 100.0, 900.0)),
        (1, Draw(b"k", 0.0, 1000.0, 100.0, 300.0, 12.0)),
        (3, Draw(b"k", 90.0, 1000.0, 100.0, 0.0)),
        (1, Draw(b"k", 0.0, 1000.0, 100.0, 0.0, 20.0)),
        (2, Draw(b"k", 0.0, 1000.0, 100.0, 900.0, 3.0)),
        (3, Draw(b"k", 200.0, 1000.0, 100.0)),
        *((holder, Draw(b"few", 1.0, 200.0, 20.0, 60.0)) for holder in (1, 2, 3)),
        (1, Draw(b"few", 1.0, 200.0, 20.0, 60.0)),  # three are too many for it
    ]
    lender = RateLender()
    async with AsyncExitStack() as stack:
        stores = {name: await counters(redis_server, stack, b"%d" % name) for name in (1, 2, 3)}
        for holder, draw in steps:
            said = asyncio.get_running_loop().create_future()
            stores[holder]._ask([draw], said.set_result)
            word = await said
            ours = lender.decide(holder, [draw], time.time())
            assert (word.allowed, word.binding) == (ours.allowed, ours.binding)
            assert word.retry_after == pytest.approx(ours.retry_after, abs=0.02)
            assert word.remaining == pytest.approx(ours.remaining, abs=20)
            for theirs, mine in zip(word.shares, ours.shares, strict=True):
                assert theirs.flow == pytest.approx(mine.flow)
                assert theirs.cap == pytest.approx(mine.cap)
                assert theirs.fair == pytest.approx(mine.fair)
                assert theirs.tokens == pytest.approx(mine.tokens, abs=10)


@real
async def test_four_gateways_of_two_workers_keep_one_limit_with_few_calls(redis_server):
    need_redis()
    async with AsyncExitStack() as stack:
        stores = [await counters(redis_server, stack, b"%d" % i) for i in range(8)]
        loop = asyncio.get_running_loop()
        granted, asked = [], 0
        began = loop.time()
        while (now := loop.time()) < began + 3.0:  # 1,600 requests/s, unevenly spread, for a limit of 1,000
            due = int((now - began) * 1600) - asked
            for _ in range(due):
                asked += 1
                store = stores[min(asked % 11, 7)]
                grant = store.take((LIMIT,), now)
                if isinstance(grant, Promise):
                    grant.then(lambda g: granted.append(loop.time()) if g.allowed else None, lambda _: None)
                elif grant.allowed:
                    granted.append(now)
            await asyncio.sleep(0.005)
        length = loop.time() - began
        calls = sum(store.calls for store in stores)
    granted.sort()
    for window in (0.1, 1.0, length):
        most = max(sum(at <= t < at + window for t in granted) for at in granted[::50])
        assert most <= 1.02 * (1000.0 * window + 100.0) + 10  # ten: the loop's own clock is 5 ms coarse
    print(f"used {len(granted) / (1000.0 * length):.1%}, {1000 * calls / asked:.0f} calls per 1,000 requests")
    assert len(granted) >= 0.97 * 1000.0 * length
    assert calls <= 0.05 * asked


@real
async def test_a_small_limit_is_exact_over_gateways(redis_server):
    need_redis()
    async with AsyncExitStack() as stack:
        stores = [await counters(redis_server, stack, b"%d" % i) for i in range(4)]
        grants = await asyncio.gather(*[taken(stores[i % 4], SMALL) for i in range(40)])
    assert sum(grant.allowed for grant in grants) == 5
    assert all(grant.retry_after > 0 for grant in grants if not grant.allowed)


@real
async def test_levels_are_spent_together_or_not_at_all(redis_server):
    need_redis()
    async with AsyncExitStack() as stack:
        store = await counters(redis_server, stack)
        wide = Claim(b"wide", 1.0, 1.0, 6.0)
        for _ in range(5):
            assert (await taken(store, wide, SMALL)).allowed
        refused = await taken(store, wide, SMALL)
        assert not refused.allowed
        assert refused.binding == 1
        assert (await taken(store, wide)).allowed


@real
async def test_a_frozen_redis_costs_less_than_a_tenth_of_a_second(redis_server):
    need_redis()
    async with AsyncExitStack() as stack:
        store = await counters(redis_server, stack, patience=0.09)
        assert (await taken(store, SMALL)).allowed
        redis_server.freeze()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await taken(store, SMALL)
        assert time.monotonic() - began < 0.1
        redis_server.thaw()


@real
async def test_a_share_outlives_the_store_until_it_is_over(redis_server):
    need_redis()
    async with AsyncExitStack() as stack:
        store = await counters(redis_server, stack)
        for _ in range(40):
            await taken(store, LIMIT)
            await asyncio.sleep(0.002)
        assert store.borrower.is_active
        redis_server.kill()
        allowed = 0
        for _ in range(30):
            grant = store.take((LIMIT,), asyncio.get_running_loop().time())
            allowed += not isinstance(grant, Promise) and grant.allowed
            await asyncio.sleep(0.005)
        assert allowed > 20


@real
async def test_what_is_given_back_can_be_spent_again(redis_server):
    need_redis()
    async with AsyncExitStack() as stack:
        store = await counters(redis_server, stack)
        for _ in range(5):
            assert (await taken(store, SMALL)).allowed
        store.settle((Claim(b"small", -2.0, 5.0, 5.0),), asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        assert (await taken(store, SMALL)).allowed
