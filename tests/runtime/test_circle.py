"""Several gateways over one real Redis release as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.pipeline.ports import StoreUnavailable
from gateway.pipeline.releases import Gathered
from gateway.runtime.circle import Asked, Circle
from gateway.stores.redis import Address, RedisClient
from gateway.stores.redis_releases import AT_ONCE, Met, RedisTable
from tests.fakes.versions import ROLLING, Fleet, load, page, version
from tests.runtime.running import Running, question, running
from tests.services.redis import RedisServer

INFER = "/v2/models/m/infer"


# The circle, on a table of this process


class Table:
    """What RedisTable does, for seats of one process; test_redis_and_this_table_agree holds it to that."""

    def __init__(self) -> None:
        self.is_up = True
        self.loses_replies = False
        self.leader = b""
        self.state = b""
        self.entries: list[bytes] = []

    def seat(self, name: str) -> Circle:
        return Circle(Seat(self, name.encode()), name)


class Seat:
    def __init__(self, table: Table, me: bytes) -> None:
        self._table = table
        self._me = me

    async def meet(self, entries: Any) -> Met:
        table = self._table
        if not table.is_up:
            raise StoreUnavailable("away")
        table.entries += entries
        table.leader = table.leader or self._me
        if table.loses_replies:
            raise StoreUnavailable("the reply was lost")
        leads = table.leader == self._me
        return Met(leads, table.state, table.entries[:AT_ONCE] if leads else [])

    async def decide(self, state: bytes, taken: int) -> bool:
        table = self._table
        if not table.is_up:
            raise StoreUnavailable("away")
        if table.leader != self._me:
            return False
        table.state = state
        del table.entries[:taken]
        return True


def seen(candidate: int, epoch: int = 0) -> Gathered:
    return Gathered("m", epoch, (0, candidate), (0, 0), 0, 0, {}, "", 0)


def counts(gathered: list[Gathered]) -> list[int]:
    return [one.requests[1] for one in gathered]


async def test_the_first_one_leads_and_hears_the_others_once() -> None:
    table = Table()
    one, other = table.seat("one"), table.seat("other")
    assert (await one.meet(), one.role) == ((None, [], []), "here")
    other.gathered([seen(3)])
    assert (await other.meet(), other.role) == ((None, [], []), "elsewhere")
    assert counts((await one.meet()).gathered) == [3]
    assert counts((await one.meet()).gathered) == []  # still on the table: it wasn't decided yet
    await one.decide({"m": {"x": 1}})
    assert table.entries == []
    assert (await other.meet()).releases == {"m": {"x": 1}}
    assert (await other.meet()).releases is None


async def test_what_was_sent_twice_because_a_reply_was_lost_counts_once() -> None:
    table = Table()
    one, other = table.seat("one"), table.seat("other")
    await one.meet()
    other.gathered([seen(3)])
    table.loses_replies = True
    await other.meet()
    assert other.is_alone
    table.loses_replies = False
    await other.meet()
    assert len(table.entries) == 2
    assert counts((await one.meet()).gathered) == [3]


async def test_what_a_leader_took_in_and_died_with_is_taken_in_by_the_next_one() -> None:
    table = Table()
    one, other, third = table.seat("one"), table.seat("other"), table.seat("third")
    await one.meet()
    third.gathered([seen(3)])
    await third.meet()
    await one.decide({"m": {"step": 1}})
    await one.meet()
    table.leader = b""  # its lease ended: it is gone
    news = await other.meet()
    assert (other.leads, news.releases, counts(news.gathered)) == (True, {"m": {"step": 1}}, [3])
    await one.decide({"m": {"step": 2}})  # it was only asleep
    assert not one.leads
    assert b"2" not in table.state


async def test_what_was_gathered_alone_is_counted_by_one_side_only_even_if_the_table_forgot_all() -> None:
    table = Table()
    one = table.seat("one")
    await one.meet()
    await one.decide({"m": {"step": 1}})
    table.is_up = False
    await one.meet()
    assert one.role == "alone"
    one.gathered([seen(3)])  # and into its own course, see Releasing.gather
    table.is_up, table.state, table.leader = True, b"", b""
    news = await one.meet()
    assert (one.leads, news.gathered, news.releases) == (True, [], None)
    table.is_up = False
    await one.meet()
    one.gathered([seen(4)])
    table.is_up = True
    table.state = b'{"heard": {}, "releases": {"m": {"step": 1}}}'
    news = await one.meet()
    assert (news.releases, counts(news.gathered)) == ({"m": {"step": 1}}, [3, 4])


async def test_a_state_from_before_an_act_is_not_taken_over_until_the_leader_heard_of_it() -> None:
    table = Table()
    one, other = table.seat("one"), table.seat("other")
    await one.meet()
    await one.decide({"m": {"step": 1}})
    act = Asked("m", "rollback", "hand", ("a", "b"))
    other.asked(act)
    assert (await other.meet()).releases is None
    assert (await one.meet()).asked == [act]
    await one.decide({"m": {"step": 0}})
    assert (await other.meet()).releases == {"m": {"step": 0}}


@pytest.mark.service("redis")
async def test_redis_and_this_table_agree(redis_server: RedisServer) -> None:
    plain = Table()
    clients = [RedisClient(Address.parse(redis_server.url), timeout=1.0) for _ in range(2)]
    for client in clients:
        await client.open()
    real = [RedisTable(client, name) for client, name in zip(clients, (b"one", b"other"), strict=True)]
    fake = [Seat(plain, b"one"), Seat(plain, b"other")]
    for first, second in (real, fake):
        assert await first.meet([b"1"]) == Met(True, b"", [b"1"])
        assert await second.meet([b"2", b"3"]) == Met(False, b"", [])
        assert not await second.decide(b"mine", 3)
        assert await first.meet([]) == Met(True, b"", [b"1", b"2", b"3"])
        assert await first.decide(b"state", 2)
        assert await first.meet([]) == Met(True, b"state", [b"3"])
        assert await second.meet([]) == Met(False, b"state", [])
    for client in clients:
        await client.close()
    with pytest.raises(StoreUnavailable):
        await real[0].meet([])


# Whole gateways


@asynccontextmanager
async def pair(
    folder: Path, redis: RedisServer, text: str, registry: str = "static"
) -> AsyncIterator[tuple[Running, Running]]:
    base = f"registry: {registry}\nlog: {{access: off}}\nstores: {{shared_releases: '{redis.url}'}}\n"
    for name in ("one", "other"):
        (folder / name).mkdir()
    async with (
        running(folder / "one", text, base=base) as one,
        running(folder / "other", text, base=base) as other,
    ):
        yield one, other


async def ask(gateway: Running, count: int) -> set[str]:
    """Who answers."""
    served = set()
    for _ in range(count):
        async with gateway.http.post(INFER, json=question(1, 2)) as answer:
            await answer.read()
            served.add(answer.headers.get("x-served-by", ""))
    return served


def shown(gateway: Running) -> Any:
    (one,) = gateway.worker.releases()
    return one


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # there is no event: it happens in another gateway
            await asyncio.sleep(0.02)
    assert condition(), what


@pytest.mark.service("redis")
async def test_two_gateways_gather_together_decide_once_and_go_on_without_redis(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async with (
        version("v1") as stable,
        version("v2") as candidate,
        pair(tmp_path, redis_server, page(stable, candidate, "{weight: 50%, judge: {}}")) as (one, other),
    ):
        await until(lambda: {shown(one)["decided"], shown(other)["decided"]} == {"here", "elsewhere"}, "")
        await ask(one, 10)
        await ask(other, 10)
        for gateway in (one, other):
            await until(lambda: sum(shown(gateway)["requests"].values()) == 20, "all evidence")  # noqa: B023
        follower = one if shown(one)["decided"] == "elsewhere" else other
        leader = other if follower is one else one

        # What a person does at one of them, both do.
        follower.worker.move_release("m", "rollback")
        await until(lambda: shown(leader)["phase"] == "rolled_back", "a person's word")
        assert await ask(leader, 8) == {"v1"}
        leader.worker.move_release("m", "resume")
        await until(lambda: shown(follower)["phase"] == "ramping", "the leader's word")

        # Without Redis the one that meets a broken candidate takes it back, and the other hears of it later.
        redis_server.kill()
        await until(lambda: shown(one)["decided"] == shown(other)["decided"] == "alone", "being alone")
        candidate.broken = 1.0
        for _ in range(40):
            await ask(follower, 5)
            if shown(follower)["phase"] == "rolled_back":
                break
            await asyncio.sleep(0.05)
        assert shown(follower)["phase"] == "rolled_back"
        assert shown(leader)["phase"] == "ramping"
        redis_server.start()
        await until(lambda: shown(leader)["phase"] == "rolled_back", "what was done alone")
        assert shown(follower)["phase"] == "rolled_back"


def address(gateway: Running) -> str:
    return "http://{}:{}".format(*gateway.worker.http_address)


async def until_they_meet(one: Running, other: Running) -> None:
    roles = {"here", "elsewhere"}
    await until(lambda: {shown(one)["decided"], shown(other)["decided"]} == roles, "one that leads")


@pytest.mark.service("redis")
async def test_a_blue_green_flip_of_two_gateways_loses_nothing(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    sample = '{path: /v2/models/m/infer, body: \'{"inputs": [{"shape": [1, 2]}]}\'}'
    async with version("v1") as stable, version("v2", broken=1.0) as candidate:
        text = page(stable, candidate, f"{{kind: blue_green, ready: {{sample: {sample}}}}}")
        async with pair(tmp_path, redis_server, text) as (one, other):
            await until_they_meet(one, other)
            async with load(address(one), address(other)) as seen:
                await until(lambda: candidate.asked > 0, "the sample")
                assert await ask(one, 5) == await ask(other, 5) == {"v1"}
                candidate.broken = 0.0
                for gateway in (one, other):
                    await until(lambda: shown(gateway)["weight"] == 1, "the flip")  # noqa: B023
                    assert await ask(gateway, 5) == {"v2"}
                other.worker.move_release("m", "rollback")
                for gateway in (one, other):
                    await until(lambda: shown(gateway)["weight"] == 0, "the way back")  # noqa: B023
                    assert await ask(gateway, 5) == {"v1"}
            assert seen.keys() == {(200, "v1"), (200, "v2")}


@pytest.mark.service("redis")
async def test_a_rolling_update_behind_two_gateways_loses_nothing(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async with (
        version("v1") as a,
        version("v1") as b,
        version("v2") as c,
        version("v2") as d,
        pair(tmp_path, redis_server, ROLLING, "local") as (one, other),
    ):
        await until_they_meet(one, other)
        fleet = Fleet(one.admin, other.admin)
        for instance in (a, b):
            await fleet.add("m-1", instance)
        pools = [gateway.worker.snapshot.pools for gateway in (one, other)]
        await until(lambda: all(len(of["m1"].members.instances) == 2 for of in pools), "stable")
        await asyncio.sleep(0.3)  # a look: how many there were at first
        async with load(address(one), address(other)) as seen:
            for old, new, weight in ((a, c, 0.5), (b, d, 1.0)):
                await fleet.add("m-2", new)
                for gateway in (one, other):
                    await until(lambda: shown(gateway)["weight"] == weight, "its share")  # noqa: B023
                await fleet.remove(old)
                await asyncio.sleep(0.2)
            for gateway in (one, other):
                await until(lambda: shown(gateway)["phase"] == "promoted", "the end")  # noqa: B023
                assert await ask(gateway, 5) == {"v2"}
        assert seen.keys() == {(200, "v1"), (200, "v2")}


@pytest.mark.service("redis")
async def test_while_redis_is_away_no_gateway_climbs(tmp_path: Path, redis_server: RedisServer) -> None:
    terms = "{ramp: [10%, 100%], pause: 1s, requests: 1, judge: {}}"
    async with (
        version("v1") as stable,
        version("v2") as candidate,
        pair(tmp_path, redis_server, page(stable, candidate, terms)) as (one, other),
    ):
        redis_server.kill()
        await until(lambda: shown(one)["decided"] == shown(other)["decided"] == "alone", "being alone")
        for _ in range(4):
            await ask(one, 30)
            await ask(other, 30)
            await asyncio.sleep(0.5)
        assert [shown(gateway)["weight"] for gateway in (one, other)] == [0.1, 0.1]
        redis_server.start()
        await until(lambda: shown(one)["weight"] == shown(other)["weight"] == 1.0, "what it waited for")
