"""Active checks against a real HTTP server that is well or ill on command."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from gateway.config.units import Duration
from gateway.pipeline.pool import Facts, Instance, Pool
from gateway.pipeline.pool_verbs import Health, PoolSettings
from gateway.upstream.asking import make_session
from gateway.upstream.health import HealthChecks, has_ready_worker, question
from tests.fakes.traffic import SeededIds
from tests.runtime.running import Backend, backend, until

FAST = Health(every=Duration(0.01), timeout=Duration(0.2))


@dataclass
class Checked:
    checks: HealthChecks
    behind: Backend
    status: int = 200
    body: bytes = b""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=self.status, body=self.body)

    def pool(self, health: Health = FAST, speaks: str = "kserve-v2", port: int = 0) -> Pool:
        pool = Pool("p", PoolSettings(health=health), SeededIds(), speaks=speaks)
        pool.update([Facts("a", "127.0.0.1", port or self.behind.port)], 0.0)
        return pool


@pytest.fixture
async def session() -> AsyncIterator[Callable[[], aiohttp.ClientSession]]:
    async with make_session() as made:
        yield lambda: made


@pytest.fixture
async def checked(session: Callable[[], aiohttp.ClientSession]) -> AsyncIterator[Checked]:
    async with backend() as behind:
        made = Checked(HealthChecks(session), behind)
        behind.handler = made.answer
        yield made
        await made.checks.close()


def only(pool: Pool) -> Instance:
    (instance,) = pool.members.instances
    return instance


@pytest.mark.parametrize(
    ("health", "speaks", "model", "path"),
    [
        (Health(), "http", "m", None),
        (Health(path="/healthz"), "http", "", "/healthz"),
        (Health(), "kserve-v2", "m", "/v2/models/m/ready"),
        (Health(), "tensorflow-serving", "m", "/v1/models/m"),
        (Health(path="/up"), "kserve-v2", "m", "/up"),
        (Health(enabled=False), "kserve-v2", "m", None),
        (Health(expects="torchserve", port=8081), "http", "a/b", "/models/a%2Fb"),
        (Health(expects="torchserve", path="/models/x"), "http", "", "/models/x"),
    ],
)
def test_what_is_asked(health: Health, speaks: str, model: str, path: str | None) -> None:
    assert question(Pool("p", PoolSettings(health=health), SeededIds(), speaks=speaks), model) == path


async def test_an_instance_falls_ill_and_gets_well(checked: Checked) -> None:
    pool = checked.pool()
    checked.checks.watch([(pool, "m")])
    await until(lambda: len(checked.behind.paths) > 2)
    assert only(pool).healthy
    checked.status = 503
    await until(lambda: not only(pool).healthy)
    assert not only(pool).usable(0.0)
    checked.status = 200
    await until(lambda: only(pool).healthy)
    assert set(checked.behind.paths) == {"/v2/models/m/ready"}


async def test_what_was_held_against_an_instance_is_forgotten_when_it_gets_well(checked: Checked) -> None:
    pool = checked.pool()
    instance = only(pool)
    checked.checks.watch([(pool, "m")])
    checked.status = 500
    await until(lambda: not instance.healthy)
    instance.latency.record_error(30.0, 1.0)
    instance.doubted_until = float("inf")
    checked.status = 200
    await until(lambda: instance.healthy)
    assert (instance.latency.value, instance.doubted_until) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [1, 3])
async def test_so_many_bad_answers_in_a_row_make_it_ill(checked: Checked, bad: int) -> None:
    health = Health(every=Duration(0.01), timeout=Duration(0.2), unhealthy_after=bad)
    pool, asked = checked.pool(health), 0

    async def count(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        assert asked <= bad + 1 or not only(pool).healthy
        return web.Response(status=500)

    checked.behind.handler = count
    checked.checks.watch([(pool, "m")])
    await until(lambda: not only(pool).healthy)
    assert asked >= bad


@pytest.mark.parametrize(
    ("speaks", "status", "body", "healthy"),
    [
        ("kserve-v2", 200, b"", True),
        ("kserve-v2", 200, b'{"ready": false}', False),
        ("kserve-v2", 200, b"\xff[", True),
        ("kserve-v2", 302, b"", False),
        ("tensorflow-serving", 200, b'{"model_version_status": [{"state": "AVAILABLE"}]}', True),
        ("tensorflow-serving", 200, b'{"model_version_status": [{"state": "LOADING"}]}', False),
        ("tensorflow-serving", 200, b'{"model_version_status": [1, null]}', False),
        ("tensorflow-serving", 200, b"[[[", False),
    ],
)
async def test_answers_are_read_as_the_dialect_means_them(
    checked: Checked, speaks: str, status: int, body: bytes, healthy: bool
) -> None:
    checked.status, checked.body = status, body
    pool = checked.pool(speaks=speaks)
    checked.checks.watch([(pool, "m")])
    await until(lambda: len(checked.behind.paths) > 3)
    assert only(pool).healthy is healthy


async def test_nobody_at_the_address_is_ill(checked: Checked) -> None:
    pool = checked.pool(port=1)
    checked.checks.watch([(pool, "m")])
    await until(lambda: not only(pool).healthy)


async def test_the_bytes_of_an_answer_are_bounded(checked: Checked) -> None:
    checked.body = b"x" * 1_000_000
    pool = checked.pool(Health(path="/up", every=Duration(0.01), timeout=Duration(2.0)), "http")
    checked.checks.watch([(pool, "")])
    await until(lambda: len(checked.behind.paths) > 3)
    assert only(pool).healthy


async def test_a_pool_that_left_is_asked_no_more(checked: Checked) -> None:
    checked.checks.watch([(checked.pool(), "m")])
    await until(lambda: checked.behind.paths)
    (task,) = (task for *_, task in checked.checks._tasks.values())
    checked.checks.watch([])
    await until(task.done)
    assert checked.checks._tasks == {}


async def test_a_kept_pool_keeps_its_check_and_a_new_model_name_is_asked_for(checked: Checked) -> None:
    pool = checked.pool()
    checked.checks.watch([(pool, "m")])
    before = dict(checked.checks._tasks)
    checked.checks.watch([(pool, "m")])
    assert checked.checks._tasks == before
    checked.checks.watch([(pool, "n")])
    await until(lambda: "/v2/models/n/ready" in checked.behind.paths)


READY = b'[{"modelName": "m", "workers": [{"id": "9000", "status": "UNLOADING"}, {"status": "READY"}]}]'
LOADING = b'[{"modelName": "m", "workers": [{"id": "9000", "status": "LOADING"}]}]'


@pytest.mark.parametrize(
    ("body", "ready"),
    [
        (READY, True),
        (LOADING, False),
        (b'[{"workers": []}]', False),
        (b"[]", False),
        (b"{}", False),
        (b"[3]", False),
        (b'[{"workers": [3]}]', False),
        (b"not json", False),
    ],
)
def test_a_model_of_torchserve_is_ready_when_a_worker_is(body: bytes, ready: bool) -> None:
    assert has_ready_worker(body) is ready


@pytest.mark.parametrize("speaks", ["http", "torchserve-grpc"])
async def test_torchserve_is_asked_at_its_other_port_and_not_believed_when_no_worker_is_ready(
    checked: Checked, speaks: str
) -> None:
    health = Health(
        every=Duration(0.01), timeout=Duration(0.2), expects="torchserve", port=checked.behind.port
    )
    pool = checked.pool(health, speaks, port=1)
    checked.body = LOADING
    checked.checks.watch([(pool, "m")])
    await until(lambda: not only(pool).healthy)
    checked.body = READY
    await until(lambda: only(pool).healthy)
