from __future__ import annotations

import asyncio

import pytest

from gateway.discovery.members import Member
from gateway.discovery.registry import Board, Discovery, RegistryStatus
from gateway.discovery.static import StaticRegistry
from tests.discovery.watching import Watcher

A = Member("a", ("127.0.0.1", 9001))
B = Member("b", ("127.0.0.1", 9002))


async def test_a_watch_says_nothing_before_anything_is_known() -> None:
    board = Board()
    watch = aiter(board.watch("digits"))
    first = asyncio.ensure_future(anext(watch))
    done, _ = await asyncio.wait({first}, timeout=0.01)
    assert not done
    board.publish({})
    assert await first == frozenset()


async def test_a_late_watcher_begins_with_the_present_set() -> None:
    board = Board()
    board.publish({"digits": [A]})
    assert await anext(aiter(board.watch("digits"))) == {A}


async def test_a_slow_reader_misses_sets_in_between_but_not_the_last() -> None:
    board = Board()
    board.publish({"digits": [A]})
    watch = aiter(board.watch("digits"))
    assert await anext(watch) == {A}
    board.publish({"digits": [A, B]})
    board.publish({"digits": []})
    board.publish({"digits": [B]})
    assert await anext(watch) == {B}


async def test_the_same_set_again_wakes_nobody() -> None:
    board = Board()
    board.publish({"digits": [A]})
    watch = aiter(board.watch("digits"))
    await anext(watch)
    board.publish({"digits": [A]})
    board.publish({"faces": [B]})
    following = asyncio.ensure_future(anext(watch))
    done, _ = await asyncio.wait({following}, timeout=0.01)
    assert not done
    board.publish({"digits": [B]})
    assert await following == {B}


async def test_closing_ends_every_watch_and_forgets_the_watchers() -> None:
    board = Board()
    board.publish({"digits": [A]})

    async def read() -> list[frozenset[Member]]:
        return [members async for members in board.watch("digits")]

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.sleep(0)
    board.close()
    assert await asyncio.gather(*readers) == [[frozenset({A})]] * 3
    assert repr(board) == "<Board | 1 services, 0 watchers>"


async def test_a_reader_that_goes_away_is_forgotten() -> None:
    registry = StaticRegistry({"digits": [A]})
    watcher = Watcher(registry)
    await watcher.until({9001})
    await watcher.close()
    assert "0 watchers" in repr(registry._board)


async def test_static_instances_are_one_set_and_always_live() -> None:
    registry: Discovery = StaticRegistry({"digits": [A, B]})
    await registry.start()
    watcher = Watcher(registry)
    await watcher.until({9001, 9002})
    assert registry.status() == RegistryStatus("static", live=True, services={"digits": 2})
    await registry.close()
    await watcher.close()
    assert len(watcher.seen) == 1


@pytest.mark.parametrize("service", ["digits", "nobody"])
async def test_a_service_without_members_is_an_empty_set(service: str) -> None:
    registry = StaticRegistry({"digits": []})
    assert await anext(aiter(registry.watch(service))) == frozenset()
