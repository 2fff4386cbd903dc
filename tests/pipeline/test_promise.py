from __future__ import annotations

import pytest

from gateway.pipeline.promise import Eventual, Promise, resolved


def settled(promise: Promise[int]) -> list[object]:
    box: list[object] = []
    promise.then(box.append, box.append)
    return box


def test_a_chained_step_gets_the_value_when_it_comes() -> None:
    first: Promise[int] = Promise()
    chained = first.chain(lambda value: value + 1)
    assert not chained.done

    first.resolve(1)
    assert settled(chained) == [2]


def test_a_step_may_promise_in_turn() -> None:
    second: Promise[int] = Promise()
    chained = resolved(1).chain(lambda _: second)
    assert not chained.done

    second.resolve(5)
    assert settled(chained) == [5]


def test_a_failure_passes_the_step_by() -> None:
    first: Promise[int] = Promise()
    error = ValueError("no")

    def step(value: int) -> Eventual[int]:
        pytest.fail("the step was taken")

    chained = first.chain(step)
    first.reject(error)
    assert settled(chained) == [error]


def test_what_a_step_raises_is_the_chains_failure() -> None:
    error = ValueError("a bug")

    def step(value: int) -> Eventual[int]:
        raise error

    assert settled(resolved(1).chain(step)) == [error]


def test_settling_twice_keeps_the_first() -> None:
    promise: Promise[int] = Promise()
    promise.resolve(1)
    promise.reject(ValueError("late"))
    promise.resolve(2)
    assert settled(promise) == [1]
