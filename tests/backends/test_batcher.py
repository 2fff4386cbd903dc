from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.batcher import Batcher
from backends.card import Batching
from backends.errors import BackendError, EngineFailure, Overloaded
from backends.execute import execute
from backends.metrics import ModelMetrics
from backends.padding import Padding
from backends.tensors import Array, Tensors
from backends.waiting import Item

PLAIN = Padding(Batching())

POISON = -1.0


class Engine:
    """Doubles x; fails on a batch that holds POISON; remembers each call's rows. `gate` holds calls up."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self.calls.append(len(inputs["x"]))
        self.entered.release()
        assert self.gate.wait(10)
        if (inputs["x"] == POISON).any():
            raise EngineFailure("poisoned")
        return {"y": inputs["x"] * 2}


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def threaded(engine: Engine, executor: ThreadPoolExecutor) -> AsyncIterator[Batcher]:
    yield make(engine, executor, inline=False)
    engine.gate.set()


def make(engine: Engine, executor: ThreadPoolExecutor, *, inline: bool, **settings: int | bool) -> Batcher:
    values = {"max_batch": 4, "max_queue": 8, "parallel": 1} | settings
    return Batcher(engine.run, executor, ModelMetrics(), inline=inline, padding=PLAIN, **values)


def x(*values: float) -> dict[str, Array]:
    return {"x": np.array(values, dtype=np.float32)}


async def entered(engine: Engine) -> None:
    assert await asyncio.to_thread(engine.entered.acquire, timeout=10)


@pytest.mark.parametrize("inline", [True, False])
async def test_what_arrives_in_one_turn_of_the_loop_is_one_call(
    engine: Engine, executor: ThreadPoolExecutor, inline: bool
) -> None:
    batcher = make(engine, executor, inline=inline)
    answers = await asyncio.gather(*(batcher.submit(x(value), 1) for value in (1, 2, 3)))
    assert [answer["y"].tolist() for answer in answers] == [[2], [4], [6]]
    assert engine.calls == [3]


async def test_a_request_that_finds_the_engine_idle_runs_in_the_next_turn(
    engine: Engine, executor: ThreadPoolExecutor
) -> None:
    batcher = make(engine, executor, inline=True)
    future = batcher.submit(x(1), 1)
    await asyncio.sleep(0)  # one turn of the loop, and no timer
    assert future.done()
    assert engine.calls == [1]


async def test_what_queues_while_the_engine_works_is_the_next_batch(
    engine: Engine, threaded: Batcher
) -> None:
    engine.gate.clear()
    first = threaded.submit(x(1), 1)
    await entered(engine)
    later = [threaded.submit(x(value), 1) for value in (2, 3)]
    await asyncio.sleep(0)
    later.append(threaded.submit(x(4), 1))
    engine.gate.set()
    await asyncio.gather(first, *later)
    assert engine.calls == [1, 3]


async def test_no_batch_exceeds_max_batch_and_order_is_kept(engine: Engine, threaded: Batcher) -> None:
    futures = [threaded.submit(x(*values), len(values)) for values in ((1,), (2, 3), (4, 5), (6,))]
    await asyncio.gather(*futures)
    assert engine.calls == [3, 3]


async def test_only_the_bad_request_of_a_batch_fails(engine: Engine, threaded: Batcher) -> None:
    futures = [threaded.submit(x(value), 1) for value in (1, POISON, 3)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(answers[1], EngineFailure)
    assert [answers[index]["y"].tolist() for index in (0, 2)] == [[2], [6]]


async def test_a_request_whose_client_left_never_reaches_the_engine(
    engine: Engine, threaded: Batcher
) -> None:
    engine.gate.clear()
    first = threaded.submit(x(1), 1)
    await entered(engine)
    left, stays = threaded.submit(x(2), 1), threaded.submit(x(3), 1)
    left.cancel()
    engine.gate.set()
    await asyncio.gather(first, stays)
    assert engine.calls == [1, 1]
    assert threaded._metrics.cancelled == 1
    assert threaded._metrics.queued_rows == 0


async def test_a_full_queue_refuses_at_once_and_recovers(engine: Engine, threaded: Batcher) -> None:
    engine.gate.clear()
    first = threaded.submit(x(0), 1)
    await entered(engine)
    waiting = [threaded.submit(x(1), 1) for _ in range(8)]
    with pytest.raises(Overloaded, match="8 rows are waiting"):
        threaded.submit(x(2), 1)
    engine.gate.set()
    await asyncio.gather(first, *waiting)
    assert (await threaded.submit(x(2), 1))["y"].tolist() == [4]


async def test_a_request_larger_than_the_queue_is_served_when_nothing_waits(
    engine: Engine, threaded: Batcher
) -> None:
    answer = await threaded.submit(x(*range(11)), 11)
    assert answer["y"].tolist() == [2 * value for value in range(11)]
    assert engine.calls == [4, 4, 3]


async def test_a_large_request_leaves_the_loop_even_for_an_inline_model(
    engine: Engine, executor: ThreadPoolExecutor
) -> None:
    batcher = make(engine, executor, inline=True)
    engine.gate.clear()
    future = batcher.submit(x(*range(5)), 5)
    await entered(engine)  # the loop runs while the engine is held up
    assert not future.done()
    engine.gate.set()
    assert len((await future)["y"]) == 5


async def test_requests_of_different_shapes_are_not_joined(executor: ThreadPoolExecutor) -> None:
    engine = Engine()
    batcher = make(engine, executor, inline=True)
    inputs = [{"x": np.ones(shape, dtype=np.float32)} for shape in ((1, 2), (1, 3), (1, 3))]
    answers = await asyncio.gather(*(batcher.submit(one, 1) for one in inputs))
    assert [answer["y"].shape for answer in answers] == [(1, 2), (1, 3), (1, 3)]
    assert engine.calls == [1, 2]


async def test_a_model_without_rows_runs_each_request_alone(
    engine: Engine, executor: ThreadPoolExecutor
) -> None:
    batcher = make(engine, executor, inline=True, joinable=False)
    await asyncio.gather(*(batcher.submit(x(1, 2), 1) for _ in range(3)))
    assert engine.calls == [2, 2, 2]


async def test_parallel_calls_are_bounded(engine: Engine, executor: ThreadPoolExecutor) -> None:
    batcher = make(engine, executor, inline=False, parallel=2, max_batch=1)
    engine.gate.clear()
    futures = [batcher.submit(x(value), 1) for value in range(3)]
    await entered(engine)
    await entered(engine)
    assert repr(batcher) == "<Batcher 2/2 calls, 1 requests of 1 rows waiting>"
    engine.gate.set()
    await asyncio.gather(*futures)
    assert engine.calls == [1, 1, 1]


async def test_a_bug_in_a_call_fails_its_requests_and_not_the_batcher(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def run(inputs: Tensors) -> dict[str, Array]:
        raise KeyError("secret detail")

    batcher = Batcher(
        run, executor, ModelMetrics(), max_batch=4, max_queue=8, parallel=1, inline=False, padding=PLAIN
    )
    for _ in range(2):
        with pytest.raises(EngineFailure, match=r"^internal error$"):
            await batcher.submit(x(1), 1)
    assert "batch_failed" in caplog.text


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), poisoned=st.sets(st.integers(0, 7)))
def test_every_request_gets_its_own_rows_or_its_own_failure(sizes: list[int], poisoned: set[int]) -> None:
    loop = asyncio.new_event_loop()
    try:
        batch = [
            Item(
                x(*[POISON if index in poisoned else index * 100 + row for row in range(size)]),
                size,
                loop.create_future(),
            )
            for index, size in enumerate(sizes)
        ]
    finally:
        loop.close()
    answers, seconds = execute(Engine().run, batch, max_batch=4, padding=PLAIN)
    assert seconds >= 0
    for index, (item, answer) in enumerate(zip(batch, answers, strict=True)):
        if index in poisoned:
            assert isinstance(answer, BackendError)
        else:
            assert not isinstance(answer, BackendError)
            assert (answer["y"] == item.inputs["x"] * 2).all()


def test_a_model_that_gives_other_row_counts_is_not_scattered_wrongly() -> None:
    def first_row(inputs: Tensors) -> dict[str, Array]:
        return {"y": inputs["x"][:1]}

    loop = asyncio.new_event_loop()
    try:
        batch = [Item(x(value), 1, loop.create_future()) for value in (1, 2)]
    finally:
        loop.close()
    answers, _ = execute(first_row, batch, max_batch=4, padding=PLAIN)
    assert [answer["y"].tolist() for answer in answers] == [[1], [2]]
