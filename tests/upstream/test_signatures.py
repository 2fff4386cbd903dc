"""Signatures learnt from a real HTTP server: asked once, kept, refreshed, never asked for twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.dialects.metadata import Signature
from gateway.pipeline.pool import Facts, Pool
from gateway.pipeline.pool_verbs import PoolSettings
from gateway.pipeline.promise import Promise
from gateway.upstream import signatures
from gateway.upstream.asking import make_session
from gateway.upstream.signatures import ModelSignatures
from tests.fakes.clock import ManualClock
from tests.fakes.traffic import SeededIds
from tests.runtime.running import Backend, backend, kserve, until


class Learning:
    """A pool of one server, and what asks it."""

    def __init__(self, known: ModelSignatures, behind: Backend, clock: ManualClock) -> None:
        self.known = known
        self.behind = behind
        self.clock = clock
        self.pool = Pool("p", PoolSettings(), SeededIds(), speaks="kserve-v2")
        self.find(behind.port)

    def find(self, *ports: int) -> None:
        self.pool.update([Facts(str(port), "127.0.0.1", port) for port in ports], self.clock.now())

    def ask(self) -> Signature | Promise[Signature | None] | None:
        return self.known.signature(self.pool, "m", "")

    async def learn(self) -> Signature | None:
        answer = self.ask()
        if not isinstance(answer, Promise):
            return answer
        told: list[Signature | None] = []
        answer.then(told.append, lambda error: pytest.fail(str(error)))
        await until(lambda: told)
        return told[0]


@pytest.fixture
async def learning() -> AsyncIterator[Learning]:
    async with backend() as behind, make_session() as session:
        behind.handler = kserve
        clock = ManualClock()
        known = ModelSignatures(lambda: session, clock.now)
        yield Learning(known, behind, clock)
        await known.close()


async def test_a_signature_is_asked_for_once_and_kept(learning: Learning) -> None:
    first = await learning.learn()
    assert first is not None
    assert [spec.name for spec in first.inputs] == ["x"]
    assert learning.ask() is first
    assert learning.behind.paths == ["/v2/models/m"]


async def test_all_who_ask_meanwhile_wait_for_one_answer(learning: Learning) -> None:
    promises = [learning.ask() for _ in range(10)]
    assert len({id(promise) for promise in promises}) == 1
    await learning.learn()
    assert len(learning.behind.paths) == 1


async def test_it_outlives_every_instance(learning: Learning) -> None:
    first = await learning.learn()
    learning.find()
    learning.clock.advance(signatures.REFRESH * 2)
    assert learning.ask() is first


async def test_an_old_one_is_given_at_once_and_asked_for_anew_once(learning: Learning) -> None:
    first, go = await learning.learn(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await kserve(request)

    learning.behind.handler = slow
    learning.clock.advance(signatures.REFRESH + 1)
    for _ in range(5):
        assert learning.ask() is first
        learning.clock.advance(signatures.PAUSE + 0.1)  # the answer takes longer than the pause
        await asyncio.sleep(0)
    await until(lambda: len(learning.behind.paths) == 2)
    go.set()
    await until(lambda: learning.ask() is not first)
    assert len(learning.behind.paths) == 2


async def test_the_next_instance_is_asked_when_one_does_not_tell(learning: Learning) -> None:
    learning.find(1, learning.behind.port)
    assert await learning.learn() is not None


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"{}"), (200, b"{"), (200, b"[]"), (200, b'{"inputs": 1}')]
)
async def test_what_can_not_be_read_is_unknown_and_not_asked_for_in_a_storm(
    learning: Learning, status: int, body: bytes
) -> None:
    async def odd(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    learning.behind.handler = odd
    assert await learning.learn() is None
    assert learning.ask() is None
    assert len(learning.behind.paths) == 1
    learning.behind.handler = kserve
    learning.clock.advance(signatures.PAUSE + 0.1)
    assert await learning.learn() is not None


async def test_plain_http_has_no_signatures(learning: Learning) -> None:
    plain = Pool("h", PoolSettings(), SeededIds(), speaks="http")
    assert learning.known.signature(plain, "m", "") is None


async def test_closing_tells_those_who_wait(learning: Learning) -> None:
    hang = asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        await hang.wait()
        return web.Response()

    learning.behind.handler = never
    answer = learning.ask()
    assert isinstance(answer, Promise)
    await until(lambda: learning.behind.paths)
    await learning.known.close()
    assert answer.done
    hang.set()


async def test_a_server_that_names_no_tensors_tells_no_signature(learning: Learning) -> None:
    async def bare(request: web.Request) -> web.Response:
        return web.json_response({"name": "m", "versions": ["1.0"], "inputs": [], "outputs": []})

    learning.behind.handler = bare
    assert await learning.learn() is None
    learning.clock.advance(5.0)
    assert await learning.learn() is None  # kept: it is not asked again each time
    assert len(learning.behind.requests) == 1
