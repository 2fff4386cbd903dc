"""Counters behind a lender: answered at once or by its word, and what happens when it is silent."""

from __future__ import annotations

import asyncio

import pytest

from gateway.governance.leases import Lender
from gateway.pipeline.ports import Claim, Grant, StoreUnavailable
from gateway.pipeline.promise import Eventual, Promise
from gateway.stores.leased import Draw, LeasedCounters, answer


class Desk:
    """A lender that answers in the loop's next turn, unless it is stopped."""

    def __init__(self, timeout: float = 0.1) -> None:
        self.loop = asyncio.get_running_loop()
        self.lender = Lender()
        self.draws: list[Draw] = []
        self.stopped = False
        self.store = LeasedCounters(self.take, self.loop, self.loop.time, timeout)

    def take(self, draw: Draw) -> None:
        self.draws.append(draw)
        if not self.stopped:
            self.loop.call_soon(self.reply, draw)

    def reply(self, draw: Draw) -> None:
        self.store.answered(draw.number, answer(self.lender, 0, draw, self.loop.time()))

    async def ask(self, *claims: Claim) -> Grant:
        return await wait(self.store.take(claims, self.loop.time()))


async def wait(grant: Eventual[Grant]) -> Grant:
    if not isinstance(grant, Promise):
        return grant
    future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
    grant.then(future.set_result, future.set_exception)
    return await future


def claim(key: bytes = b"k", cost: float = 1.0, rate: float = 1.0, burst: float = 2.0) -> Claim:
    return Claim(key, cost, rate, burst)


async def test_a_small_bucket_is_decided_by_the_lender_to_the_token() -> None:
    desk = Desk()
    assert [(await desk.ask(claim())).allowed for _ in range(4)] == [True, True, False, False]
    assert len(desk.draws) == 3  # the last one was denied from memory
    desk.store.close()


async def test_what_is_asked_in_one_turn_travels_as_one_message() -> None:
    desk = Desk()
    now = desk.loop.time()
    grants = [desk.store.take((claim(b"%d" % number),), now) for number in range(10)]
    assert [(await wait(grant)).allowed for grant in grants] == [True] * 10
    assert [len(draw.asks) for draw in desk.draws] == [10]
    desk.store.close()


async def test_a_busy_bucket_is_spent_from_a_lease() -> None:
    desk = Desk()
    wide = claim(rate=1_000_000, burst=100_000)
    end = desk.loop.time() + 0.4
    local = asked = 0
    while desk.loop.time() < end:
        grant = desk.store.take((wide,), desk.loop.time())
        if isinstance(grant, Promise):
            asked += 1
            await wait(grant)
        else:
            local += 1
        await asyncio.sleep(0)
    assert local > 5 * asked
    assert len(desk.draws) < local / 5
    assert repr(desk.store.borrower).startswith("<Borrower 1 buckets known")
    desk.store.close()


async def test_what_is_given_back_can_be_spent_again() -> None:
    desk = Desk()
    narrow = claim(rate=0.001, burst=1.0)
    assert (await desk.ask(narrow)).allowed
    assert not (await desk.ask(narrow)).allowed
    desk.store.settle([claim(cost=-1.0, rate=0.001, burst=1.0)], desk.loop.time())
    await asyncio.sleep(0.01)
    assert (await desk.ask(narrow)).allowed
    desk.store.close()


async def test_a_silent_lender_costs_the_timeout_once_and_then_nothing() -> None:
    desk = Desk(timeout=0.05)
    desk.stopped = True
    started = desk.loop.time()
    with pytest.raises(StoreUnavailable):
        await desk.ask(claim())
    assert 0.03 <= desk.loop.time() - started < 1.0  # a tick early rather than a tick late
    refused = desk.store.take((claim(),), desk.loop.time())
    assert isinstance(refused, Promise)
    assert refused.done
    with pytest.raises(StoreUnavailable):
        await wait(refused)
    assert "silent" in repr(desk.store)
    desk.store.close()


async def test_an_answer_that_comes_too_late_ends_the_silence_and_its_tokens_go_back() -> None:
    desk = Desk(timeout=0.05)
    desk.stopped = True
    narrow = claim(rate=0.001, burst=1.0)
    with pytest.raises(StoreUnavailable):
        await desk.ask(narrow)
    desk.stopped = False
    desk.reply(desk.draws[0])
    assert not desk.store.is_silent
    await asyncio.sleep(0)
    assert (await desk.ask(narrow)).allowed
    desk.store.close()


async def test_who_waits_when_it_is_closed_is_told() -> None:
    desk = Desk()
    desk.stopped = True
    grant = desk.store.take((claim(),), desk.loop.time())
    await asyncio.sleep(0)
    desk.store.close()
    with pytest.raises(StoreUnavailable):
        await wait(grant)
