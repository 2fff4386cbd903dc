"""Counters in a real Redis: two gateways spend from one bucket, exactly; without Redis each counts alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.running import FREE, PREDICT, Answer, Demo, Running, fresh_row, slack, tfs, until
from tests.services.redis import RedisServer, need_redis

pytestmark = [pytest.mark.service("redis"), pytest.mark.slow]

RATE, BURST = 5.0, 5.0  # of the free plan
FOUND = {
    "digits-v1": "find: digits, version: v1",
    "digits-v2": "find: digits, version: v2",
    "digits-lite": "find: digits-lite",
    "digits-grpc": "find: digits-grpc, version: v1",
}


@dataclass(slots=True)
class Pair:
    """Two gateways on one Redis, with the same instances behind them."""

    redis: RedisServer
    first: Demo
    second: Running


def point_to(folder: Path, server: RedisServer) -> None:
    """Let the policies of a folder count in this Redis."""
    path = folder / "gateway.yaml"
    text = path.read_text()
    assert "stores: {counters: memory, cache: memory}" in text
    path.write_text(text.replace("counters: memory", f'counters: "{server.url}"'))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    need_redis()
    server = RedisServer(tmp_path / "redis")
    first, second = Demo(tmp_path / "first"), Running(tmp_path / "second", "--registry", "static")
    try:
        point_to(first.policies, server)
        first.start()
        point_to(second.policies, server)
        by_pool: dict[str, list[str]] = {}
        for one in first.instances():
            by_pool.setdefault(one["pool"], []).append(one["address"])
        for pool, found in FOUND.items():
            second.edit("digits.yaml", f"{{{found},", f"{{instances: [{', '.join(by_pool[pool])}],")
        second.start()
        yield Pair(server, first, second)
    finally:
        second.stop()
        first.stop()
        server.kill()


def spend(gateways: list[Running], seconds: float, pause: float = 0.01) -> tuple[list[Answer], float]:
    """Ask all of them at once with the free plan's key; returns the answers and how long that took."""
    answers: list[Answer] = []
    end = time.monotonic() + seconds

    def ask(gateway: Running) -> None:
        client = gateway.client()
        while time.monotonic() < end:
            answers.append(client.ask(PREDICT, tfs(fresh_row()), FREE))
            time.sleep(pause)

    before = time.monotonic()
    threads = [threading.Thread(target=ask, args=(gateway,)) for gateway in gateways for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.monotonic() - before


def test_two_gateways_spend_from_one_bucket_exactly(pair: Pair) -> None:
    time.sleep(1.1)  # the bucket is full
    answers, took = spend([pair.first, pair.second], 2.0)
    assert {answer.status for answer in answers} == {200, 429}
    granted = sum(answer.status == 200 for answer in answers)
    print(f"{granted} of {len(answers)} granted in {took:.2f} s; the law allows {BURST + RATE * took:.1f}")
    assert granted <= BURST + RATE * took
    assert granted >= BURST + RATE * 2.0 - 2
    with pair.redis.control() as control:
        assert control.dbsize() > 0


def test_without_redis_each_gateway_counts_alone_within_100_ms_and_nothing_fails(pair: Pair) -> None:
    assert pair.second.predict().status == 200
    pair.redis.kill()
    answers, took = spend([pair.second], 1.5)
    assert {answer.status for answer in answers} == {200, 429}
    granted = sum(answer.status == 200 for answer in answers)
    slowest = max(answer.took for answer in answers)
    print(f"{granted} granted in {took:.2f} s, the slowest answer after {slowest * 1000:.0f} ms")
    assert granted <= BURST + RATE * took
    assert granted >= BURST
    assert slowest <= 0.1 * slack()
    assert pair.second.is_ready()
    pair.redis.restart()

    def counts_there() -> bool:
        pair.second.predict(headers=FREE)
        with pair.redis.control() as control:
            return control.dbsize() > 0

    until(counts_there, "Redis to count again", 10)


def test_a_redis_that_hangs_holds_no_request_for_longer_than_its_timeout(pair: Pair) -> None:
    assert pair.second.predict().status == 200
    pair.redis.freeze()
    try:
        answers = [pair.second.predict() for _ in range(10)]
    finally:
        pair.redis.thaw()
    assert {answer.status for answer in answers} == {200}
    slowest = max(answer.took for answer in answers)
    print(f"the slowest answer after {slowest * 1000:.0f} ms")
    assert slowest <= 0.1 * slack()
    assert sum(answer.took for answer in answers) <= 10 * 0.1 * slack()


def test_a_gateway_starts_without_redis(tmp_path: Path) -> None:
    need_redis()
    server = RedisServer(tmp_path / "redis")
    server.kill()
    demo = Demo(tmp_path / "demo")
    point_to(demo.policies, server)
    with demo:
        statuses = [demo.predict(headers=FREE).status for _ in range(8)]
        assert set(statuses) == {200, 429}
        server.start()

        def counts_there() -> bool:
            demo.predict(headers=FREE)
            with server.control() as control:
                return control.dbsize() > 0

        try:
            until(counts_there, "Redis to be found", 10)
        finally:
            server.kill()
