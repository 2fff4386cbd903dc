"""Ledgers of quotas: a file that processes share and Redis keep the law of the one in memory."""

from __future__ import annotations

import asyncio
import random
import stat
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.governance.allowance import Ask, MemoryLedger, Told
from gateway.pipeline.ports import Claim, Grant, StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.pipeline.quotas import Quotas
from gateway.stores.quota_file import FileLedger, QuotaFile
from gateway.stores.quota_reports import QuotaReports
from gateway.stores.redis import Address, RedisClient
from gateway.stores.redis_quotas import RedisLedger

real = pytest.mark.service("redis")
DAILY = Claim(b"day UTC\0daily", 1.0, 300 / 86400, 300.0)


def story(seed: int) -> list[list[Ask]]:
    dice = random.Random(seed)
    until = time.time() + 1000.0
    asks = []
    for step in range(120):
        slot = 1000 + step // 20 * 10
        asks.append(
            [
                Ask(
                    b"key %d" % dice.randrange(3),
                    slot,
                    slot - 20,
                    until,
                    50.0,
                    need := float(dice.randrange(0, 4)),
                    need + dice.choice((0.0, 40.0)),
                    dice.choice((0.0, 0.0, 1.5, -2.0)),
                )
                for _ in range(dice.randrange(1, 3))
            ]
        )
    return asks


async def told(answer: Promise) -> object:
    future = asyncio.get_running_loop().create_future()
    answer.then(future.set_result, future.set_exception)
    return await future


async def taken(quotas: Quotas, claim: Claim) -> Grant:
    grant = quotas.take([claim], 0.0)
    if isinstance(grant, Promise):
        grant = await told(grant)
    assert isinstance(grant, Grant)
    return grant


@pytest.mark.parametrize("seed", range(3))
def test_a_file_keeps_the_law(seed: int, tmp_path: Path) -> None:
    file, reference = QuotaFile(tmp_path / "q.db"), MemoryLedger()
    for asks in story(seed):
        assert file.draw(asks) == reference.draw(asks)
    file.close()


def test_a_file_is_private_survives_its_process_and_forgets_what_counts_no_more(tmp_path: Path) -> None:
    path = tmp_path / "state" / "q.db"
    ask = Ask(b"k", 0, 0, 100.0, 10.0, 4.0, 4.0)
    first = QuotaFile(path)
    assert first.draw([ask]) == [Told(4.0, 6.0, 0)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = QuotaFile(path)  # the first one is still open, as after kill -9
    assert second.draw([ask]) == [Told(4.0, 2.0, 0)]
    second.forget(101.0)
    assert second.draw([ask]) == [Told(4.0, 6.0, 0)]
    first.close()
    second.close()


async def test_two_workers_share_a_file_and_together_spend_the_quota_and_no_more(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    ledgers = [FileLedger(tmp_path / "q.db", loop) for _ in range(2)]
    workers = [Quotas(ledger, time.time) for ledger in ledgers]
    reports = [QuotaReports(worker, loop, ledger) for worker, ledger in zip(workers, ledgers, strict=True)]
    for report in reports:
        report.start()
    passed = 0
    for step in range(280):
        passed += (await taken(workers[step % 2], DAILY)).allowed
    assert passed <= 300
    await reports[0].close()
    passed += sum([(await taken(workers[1], DAILY)).allowed for _ in range(320)])
    assert passed == 300
    await reports[1].close()
    for ledger in ledgers:
        await ledger.close()
    with pytest.raises(StoreUnavailable):
        await told(ledgers[0].draw([]))


async def test_a_file_that_cannot_be_used_is_told_of_once(tmp_path: Path, caplog) -> None:
    (tmp_path / "taken").write_text("not a folder")
    ledger = FileLedger(tmp_path / "taken" / "q.db", asyncio.get_running_loop())
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await told(ledger.draw([Ask(b"k", 0, 0, 1.0, 1.0, 1.0, 1.0)]))
    assert len(caplog.records) == 1
    await ledger.close()


@real
async def test_redis_keeps_the_law(redis_server) -> None:
    async with AsyncExitStack() as stack:
        client = RedisClient(Address.parse(redis_server.url), timeout=1.0)
        assert await client.open()
        stack.push_async_callback(client.close)
        ledger, reference = RedisLedger(client, b"{law}:"), MemoryLedger()
        for asks in story(7):
            got = await told(ledger.draw(asks))
            assert got == reference.draw(asks)


@real
async def test_every_ledger_tells_what_was_drawn(redis_server, tmp_path: Path) -> None:
    client = RedisClient(Address.parse(redis_server.url), timeout=1.0)
    assert await client.open()
    file, redis, reference = (
        FileLedger(tmp_path / "q.db", asyncio.get_running_loop()),
        RedisLedger(client, b"{told}:"),
        MemoryLedger(),
    )
    many = [Ask(b"key %d" % n, 0, 0, time.time() + 1000.0, 50.0, 1.0, 1.0) for n in range(1200)]
    for asks in [*story(3), many]:
        reference.draw(asks)
        await told(file.draw(asks))
        await told(redis.draw(asks))
    expected = {key: {slot: n for slot, n in slots.items() if n} for key, slots in reference.drawn(10_000)}
    assert len(expected) == 1200
    for ledger in (file, redis):
        drawn = await told(ledger.drawn(10_000))
        assert {key: {slot: n for slot, n in slots.items() if n} for key, slots in drawn} == expected
        assert len(await told(ledger.drawn(700))) == 700
    assert len(reference.drawn(700)) == 700
    await file.close()
    await client.close()
    for ledger in (file, redis):
        with pytest.raises(StoreUnavailable):
            await told(ledger.drawn(10))


@real
async def test_gateways_on_one_redis_together_spend_the_quota_and_no_more(redis_server) -> None:
    async with AsyncExitStack() as stack:
        gateways = []
        for _ in range(4):
            client = RedisClient(Address.parse(redis_server.url), timeout=1.0)
            assert await client.open()
            stack.push_async_callback(client.close)
            gateways.append(Quotas(RedisLedger(client), time.time))
        claim = Claim(b"day UTC\0shared", 1.0, 2000 / 86400, 2000.0)
        grants = [await taken(gateways[step % 4], claim) for step in range(2400)]
        passed = sum(grant.allowed for grant in grants)
        assert 1990 <= passed <= 2000
        assert sum(gateway.calls for gateway in gateways) < 2400
        for gateway in gateways:  # what lies idle goes back; the last ones pass then
            await told(gateway.report(idle=0.0) or _done())
        await asyncio.sleep(0.26)
        passed += sum([(await taken(gateways[0], claim)).allowed for _ in range(20)])
        assert passed == 2000


def _done() -> Promise[None]:
    promise: Promise[None] = Promise()
    promise.resolve(None)
    return promise
