"""Two gateways on one real Redis: who fetches, and what was purged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest

from gateway.pipeline.answers import AnswerStore, Kept, Windows, tag
from gateway.pipeline.ports import Lease
from gateway.pipeline.promise import Promise
from gateway.stores import redis_shared
from gateway.stores.redis import Address, RedisClient
from gateway.stores.redis_shared import SharedRedisBlobs
from tests.services.redis import RedisServer

pytestmark = pytest.mark.service("redis")

T = TypeVar("T")

DIGITS = tag("endpoint", "digits")


class Gateway:
    """What one process has of the shared cache."""

    def __init__(self, server: RedisServer, name: bytes) -> None:
        self.client = RedisClient(Address.parse(server.url), timeout=1.0)
        self.blobs = SharedRedisBlobs(self.client, name, time.monotonic, time.time)
        self.answers = AnswerStore(100_000, self.blobs, self.blobs)

    async def start(self) -> Gateway:
        await self.client.open()
        self.blobs.follow(self.answers.heard, self.answers.trust)
        return self

    async def stop(self) -> None:
        await self.blobs.close()
        await self.client.close()

    def keep(self, key: bytes = b"k" * 16, body: bytes = b"7") -> None:
        now, wall = time.monotonic(), time.time()
        kept = Kept(now, Windows(60.0), [], body, dialect="d", style="", id=None, tags=(DIGITS,))
        assert self.answers.keep(key, kept, wall, wall)

    async def find(self, key: bytes = b"k" * 16) -> Kept | None:
        return await value(self.answers.find(key, time.monotonic(), time.time()))


async def value(eventual: T | Promise[T]) -> T:
    if not isinstance(eventual, Promise):
        return eventual
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    eventual.then(future.set_result, future.set_exception)
    return await future


async def until(condition: Callable[[], bool], within: float = 5.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


@pytest.fixture
async def pair(redis_server: RedisServer) -> AsyncIterator[tuple[Gateway, Gateway]]:
    one, other = await Gateway(redis_server, b"one").start(), await Gateway(redis_server, b"other").start()
    await until(lambda: one.answers.trusted and other.answers.trusted)
    yield one, other
    await one.stop()
    await other.stop()


@pytest.mark.parametrize("what", [DIGITS, f"key:{(b'k' * 16).hex()}", None], ids=["tag", "key", "all"])
async def test_a_purge_of_one_gateway_holds_on_the_other(
    pair: tuple[Gateway, Gateway], what: str | None
) -> None:
    one, other = pair
    one.keep()
    assert await other.find() is not None
    assert one.answers.purge_tag(what, time.time()) == 1
    await until(lambda: len(other.answers) == 0)
    assert await other.find() is None


async def test_a_gateway_that_starts_later_gives_nothing_that_was_purged_before(
    pair: tuple[Gateway, Gateway], redis_server: RedisServer
) -> None:
    one, other = pair
    one.keep()
    assert await value(one.blobs.get(b"k" * 16)) is not None
    other.answers.purge_tag(DIGITS, time.time())  # it has not the answer, so can't delete the blob
    with redis_server.control() as control:
        assert control.exists(b"headgate:blob:" + b"k" * 16)
    late = Gateway(redis_server, b"late")
    await late.client.open()
    try:
        assert await late.find() is None, "what was purged is not known yet"
        late.blobs.follow(late.answers.heard, late.answers.trust)
        await until(lambda: late.answers.trusted)
        assert await late.find() is None
    finally:
        await late.stop()


async def test_what_was_kept_after_a_purge_is_given_by_who_starts_later(redis_server: RedisServer) -> None:
    with redis_server.control() as control:
        long_ago = int(time.time() * 1000) - 10_000
        control.xadd("headgate:blob:purges", {"what": DIGITS, "by": "gone"}, id=f"{long_ago}-0")
    writer, late = Gateway(redis_server, b"writer"), Gateway(redis_server, b"late")
    await writer.client.open()
    writer.keep()
    assert await value(writer.blobs.get(b"k" * 16)) is not None
    await late.start()
    try:
        await until(lambda: late.answers.trusted)
        assert await late.find() is not None
    finally:
        await late.stop()
        await writer.stop()


async def test_a_gateways_own_purge_takes_nothing_that_it_keeps_after_that(
    pair: tuple[Gateway, Gateway],
) -> None:
    one, other = pair
    one.answers.purge_tag(DIGITS, time.time())
    one.keep()
    for number in range(2):  # what comes after it in the stream was heard, so it was read
        other.answers.purge_tag(f"tag:{number}", time.time())
        await until(lambda number=number: f"tag:{number}" in one.answers._purged)  # type: ignore[misc]
    assert len(one.answers) == 1


async def test_after_a_gap_longer_than_what_is_remembered_everything_counts_as_purged(
    pair: tuple[Gateway, Gateway], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_shared, "LENGTH", 3)
    one, _ = pair
    one.keep()
    with redis_server.control() as control, control.pipeline() as many:
        for number in range(5):
            many.xadd("headgate:blob:purges", {"what": f"tag:{number}", "by": "third"})
        many.execute()
    await until(lambda: len(one.answers) == 0)


async def test_a_purge_while_redis_is_away_is_told_when_it_is_back(
    pair: tuple[Gateway, Gateway], redis_server: RedisServer
) -> None:
    one, other = pair
    one.keep()
    assert await other.find() is not None
    redis_server.kill()
    await until(lambda: not one.client.is_up and not other.answers.trusted)
    one.answers.purge_tag(DIGITS, time.time())
    assert len(one.answers) == 0, "at once where it was asked for"
    assert await other.find() is not None, "its own memory is all it has"
    redis_server.restart()
    await until(lambda: len(other.answers) == 0, within=10)


async def test_a_purge_is_told_again_to_a_redis_that_has_lost_it(
    pair: tuple[Gateway, Gateway], redis_server: RedisServer
) -> None:
    one, _ = pair
    one.answers.purge_tag(DIGITS, time.time())
    assert await value(one.blobs.get(b"k")) is None  # after it, on the same connection
    with redis_server.control() as control:
        assert control.xlen(b"headgate:blob:purges") == 1
    redis_server.restart()

    def told() -> bool:
        with redis_server.control() as control:
            return control.xlen(b"headgate:blob:purges") > 0

    await until(told, within=10)


async def test_one_gateway_fetches_and_the_lease_goes_on_when_it_is_given_back(
    pair: tuple[Gateway, Gateway],
) -> None:
    one, other = (gateway.blobs for gateway in pair)
    assert await value(one.lease(b"k")) is Lease.OURS
    assert await value(other.lease(b"k")) is Lease.THEIRS
    one.release(b"k", True)
    await value(one.get(b"k"))
    assert await value(other.lease(b"k")) is Lease.OURS
    other.release(b"k", False)
    await value(other.get(b"k"))
    assert await value(one.lease(b"k")) is Lease.NOBODYS, "what came can't be shared: nobody waits"


async def test_a_lease_ends_with_its_holder(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.redis_shared.LEASE", 0.05)
    one, other = (gateway.blobs for gateway in pair)
    assert await value(one.lease(b"k")) is Lease.OURS
    await asyncio.sleep(0.1)
    assert await value(other.lease(b"k")) is Lease.OURS
    one.release(b"k", True)  # too late: it is another's by now
    assert await value(one.lease(b"k")) is Lease.THEIRS


async def test_without_redis_everybody_fetches(
    pair: tuple[Gateway, Gateway], redis_server: RedisServer
) -> None:
    one, _ = pair
    redis_server.kill()
    await until(lambda: not one.client.is_up)
    assert await value(one.blobs.lease(b"k")) is Lease.NOBODYS
