"""Deadlines, priorities, shape buckets: what a batch is made of beyond arrival."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.batcher import Batcher
from backends.card import Batching
from backends.costs import Costs
from backends.errors import BackendError, EngineFailure, Expired, Overloaded
from backends.metrics import Load, ModelMetrics
from backends.padding import Padding, add_rows
from backends.tensors import Array, Tensors
from backends.waiting import LEVELS, NORMAL, Item, Waiting

PLAIN = Padding(Batching())


class Gate:
    """An engine that doubles x, one call at a time as the test lets it; remembers the rows of each call."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls: list[int] = []
        self.seen: list[list[float]] = []

    def run(self, inputs: Tensors) -> Mapping[str, Array]:
        self.open.wait(10)
        self.calls.append(len(inputs["x"]))
        self.seen.append([float(value) for value in inputs["x"].ravel()])
        return {"y": inputs["x"] * 2}


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def batcher(gate: Gate, executor: ThreadPoolExecutor, **values: object) -> tuple[Batcher, ModelMetrics]:
    metrics = ModelMetrics()
    settings: dict[str, object] = {
        "max_batch": 4,
        "max_queue": 8,
        "parallel": 1,
        "inline": False,
        "padding": PLAIN,
    }
    return Batcher(gate.run, executor, metrics, **{**settings, **values}), metrics  # type: ignore[arg-type]


def row(value: float) -> dict[str, Array]:
    return {"x": np.array([[value]], dtype=np.float32)}


async def held(one: Batcher, gate: Gate) -> asyncio.Future[Mapping[str, Array]]:
    """Keep the only call busy, so that what follows waits."""
    first = one.submit(row(0), 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return first


# Deadlines


async def test_what_can_no_longer_meet_its_deadline_is_dropped_without_a_call(
    executor: ThreadPoolExecutor,
) -> None:
    gate = Gate()
    one, metrics = batcher(gate, executor)
    first = await held(one, gate)
    now = asyncio.get_running_loop().time()
    late, calm = one.submit(row(1), 1, deadline=now - 1), one.submit(row(2), 1, deadline=now + 60)
    gate.open.set()
    await first
    with pytest.raises(Expired, match="deadline cannot be met"):
        await late
    assert (await calm)["y"].tolist() == [[4.0]]
    assert gate.seen == [[0.0], [2.0]]
    assert metrics.expired == 1


async def test_a_batch_is_only_as_large_as_its_tightest_deadline_allows(executor: ThreadPoolExecutor) -> None:
    gate = Gate()
    one, _ = batcher(gate, executor)
    for rows, seconds in ((1, 6.0), (2, 5.0), (4, 60.0)):
        one._costs.learn(rows, seconds)
    first = await held(one, gate)
    now = asyncio.get_running_loop().time()
    waiting = [one.submit(row(value), 1, deadline=now + 30) for value in range(1, 5)]
    gate.open.set()
    await asyncio.gather(first, *waiting)
    assert gate.calls[1] == 2  # three would take as long as four: a minute


async def test_one_slow_call_does_not_keep_everybody_out_for_ever(executor: ThreadPoolExecutor) -> None:
    gate = Gate()
    one, metrics = batcher(gate, executor)
    first = one.submit(row(0), 1)
    await asyncio.sleep(0.6)  # as when the process was stopped
    gate.open.set()
    await first
    loop = asyncio.get_running_loop()
    answered = 0
    for _ in range(40):
        try:
            await one.submit(row(1), 1, deadline=loop.time() + 0.3)
            answered += 1
        except Expired:
            pass
        await asyncio.sleep(0.05)
    assert metrics.expired > 5
    assert answered > 5
    await one.close()


def test_costs_are_learned_by_powers_of_two_and_guessed_in_between() -> None:
    costs = Costs()
    assert costs.expect(8) == 0.0
    costs.learn(4, 1.0)
    assert (costs.expect(3), costs.expect(4), costs.expect(8), costs.expect(16)) == (1.0, 1.0, 2.0, 4.0)
    assert costs.expect(1) == 1.0  # nothing smaller is known
    costs.learn(4, 9.0)
    assert costs.expect(4) == 2.0  # an eighth of the way


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(1e-6, 10.0)), min_size=1, max_size=30))
def test_an_expectation_lies_within_what_was_seen_or_is_scaled_by_rows(seen: list[tuple[int, float]]) -> None:
    costs = Costs()
    for rows, seconds in seen:
        costs.learn(rows, seconds)
    least, most = min(seconds for _, seconds in seen), max(seconds for _, seconds in seen)
    for rows, _ in seen:
        assert least * (1 - 1e-9) <= costs.expect(rows) <= most * (1 + 1e-9)


def test_joining_pays_until_a_batch_was_no_cheaper_per_row_and_is_tried_again_now_and_then() -> None:
    costs = Costs()
    assert costs.pays
    for _ in range(8):
        assert costs.pays
        costs.learn(4, 3.9)
    assert not costs.pays  # one size says nothing: the next goes alone, to see
    costs.learn(1, 1.0)
    tries = 0
    for _ in range(200):
        assert not costs.pays or tries < 4
        costs.learn(1, 1.0)
        tries += costs.pays
    assert 2 <= tries <= 4
    costs.learn(8, 2.0)
    assert costs.pays
    alone = 0
    for _ in range(3000):
        costs.learn(8, 2.0)
        alone += not costs.pays
    assert alone == 2


async def test_requests_go_alone_where_joining_saves_nothing(executor: ThreadPoolExecutor) -> None:
    gate = Gate()
    one, _ = batcher(gate, executor)
    one._costs.learn(1, 1.0)
    one._costs.learn(4, 4.0)
    one._costs.learn(1, 1.0)
    first = await held(one, gate)
    waiting = [one.submit(row(value), 1) for value in range(3)]
    gate.open.set()
    await asyncio.gather(first, *waiting)
    assert gate.calls == [1, 1, 1, 1]


# Priorities


async def test_the_more_urgent_go_first_and_equals_in_order(executor: ThreadPoolExecutor) -> None:
    gate = Gate()
    one, _ = batcher(gate, executor, max_batch=1)
    first = await held(one, gate)
    levels = (NORMAL, 9, 1, NORMAL)
    waiting = [one.submit(row(value), 1, level=level) for value, level in enumerate(levels, 1)]
    gate.open.set()
    await asyncio.gather(first, *waiting)
    assert gate.seen == [[0.0], [3.0], [1.0], [4.0], [2.0]]


async def test_the_youngest_of_the_lowest_makes_room_when_the_queue_is_full(
    executor: ThreadPoolExecutor,
) -> None:
    gate, load = Gate(), Load()
    one, metrics = batcher(gate, executor, max_queue=2, load=load)
    first = await held(one, gate)
    old, young = one.submit(row(1), 1), one.submit(row(2), 1)
    with pytest.raises(Overloaded, match="2 rows are waiting"):
        one.submit(row(3), 1)
    urgent = one.submit(row(4), 1, level=1)
    assert (metrics.queued_rows, load.waiting) == (2, 2)
    gate.open.set()
    await asyncio.gather(first, old, urgent)
    with pytest.raises(Overloaded, match="higher priority"):
        await young
    assert load.waiting == 0


@given(st.lists(st.tuples(st.integers(1, LEVELS), st.integers(1, 5)), max_size=30))
def test_a_queue_gives_by_level_then_by_arrival_and_counts_rows(items: list[tuple[int, int]]) -> None:
    loop = asyncio.new_event_loop()
    waiting = Waiting()
    made = [Item({}, rows, loop.create_future(), level=level) for level, rows in items]
    for item in made:
        waiting.add(item)
    assert waiting.rows == sum(rows for _, rows in items)
    assert [waiting.pop() for _ in made] == sorted(made, key=lambda item: item.level)
    assert (len(waiting), waiting.rows) == (0, 0)
    loop.close()


# Shape buckets


async def test_the_engine_sees_bucket_sizes_and_every_request_its_own_rows(
    executor: ThreadPoolExecutor,
) -> None:
    gate = Gate()
    padding = Padding(Batching(max_batch=8, buckets=(1, 4, 8)))
    one, metrics = batcher(gate, executor, max_batch=8, padding=padding)
    first = await held(one, gate)
    waiting = [one.submit(row(value), 1) for value in (1, 2, 3, 4, 5)]
    gate.open.set()
    answers = await asyncio.gather(first, *waiting)
    assert [answer["y"].tolist() for answer in answers] == [[[2.0 * value]] for value in range(6)]
    assert gate.calls == [1, 8]
    assert gate.seen[1] == [1, 2, 3, 4, 5, 5, 5, 5]
    assert metrics.padded_rows == 3


async def test_requests_of_different_lengths_share_a_call_where_a_card_pads_them(
    executor: ThreadPoolExecutor,
) -> None:
    gate = Gate()
    padding = Padding(Batching(lengths=(2, 4), pad={"x": 9.0}, cut=("y",)))
    one, _ = batcher(gate, executor, padding=padding)
    first = await held(one, gate)
    longer = one.submit({"x": np.array([[1, 2, 3]], dtype=np.float32)}, 1)
    longest = one.submit({"x": np.array([[4, 5, 6, 7]], dtype=np.float32)}, 1)
    gate.open.set()
    await first
    assert (await longer)["y"].tolist() == [[2, 4, 6]]
    assert (await longest)["y"].tolist() == [[8, 10, 12, 14]]
    assert gate.seen == [[0.0, 9.0], [1, 2, 3, 9, 4, 5, 6, 7]]


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True).map(sorted),
    st.integers(1, 80),
)
def test_a_bucket_is_the_smallest_that_holds_the_rows(buckets: list[int], rows: int) -> None:
    padding = Padding(Batching(max_batch=buckets[-1], buckets=tuple(buckets)))
    shown = padding.rows(rows)
    assert shown == min((size for size in buckets if size >= rows), default=rows)
    tensor = np.arange(rows)
    padded = add_rows(tensor, shown)
    assert padded[:rows].tolist() == tensor.tolist()
    assert set(padded[rows:].tolist()) <= {rows - 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"buckets": (4, 1), "max_batch": 4}, "growing"),
        ({"buckets": (1, 4), "max_batch": 8}, "last of buckets is max_batch"),
        ({"lengths": (16,)}, "lengths and pad need each other"),
    ],
)
def test_buckets_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batching(**values)  # type: ignore[arg-type]


# Asynchronous calls

Done = Callable[[Mapping[str, Array] | BackendError], None]


async def test_asynchronous_calls_are_answered_and_a_poisoned_one_fails_alone(
    executor: ThreadPoolExecutor,
) -> None:
    def run(inputs: Tensors) -> Mapping[str, Array]:
        if (inputs["x"] < 0).any():
            raise EngineFailure("poison")
        return {"y": inputs["x"] * 2}

    def start(inputs: Tensors, done: Done) -> None:
        def later() -> None:
            try:
                done(run(inputs))
            except EngineFailure as e:
                done(e)

        threading.Thread(target=later).start()

    values = {"max_batch": 4, "max_queue": 8, "parallel": 2}
    one = Batcher(run, executor, ModelMetrics(), inline=False, padding=PLAIN, start=start, **values)
    futures = [one.submit(row(value), 1) for value in (1, -1, 2)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    said = [str(one) if isinstance(one, BackendError) else one["y"].tolist() for one in answers]
    assert said == [[[2.0]], "poison", [[4.0]]]
    alone = one.submit(row(-1), 1)
    with pytest.raises(EngineFailure, match="poison"):
        await alone
    await one.close()


async def test_closing_waits_for_everything_that_was_submitted(executor: ThreadPoolExecutor) -> None:
    gate = Gate()
    one, _ = batcher(gate, executor)
    waiting = [one.submit(row(value), 1) for value in range(6)]
    closing = asyncio.ensure_future(one.close())
    await asyncio.sleep(0)
    assert one.closed
    assert not closing.done()
    gate.open.set()
    await closing
    assert all(future.done() for future in waiting)
