"""Turns, and what counts as failed."""

from __future__ import annotations

from collections.abc import Callable

from loadtests.bench.window import Broken, Window, failures, interleave


def counting(log: list[str], name: str, failed: int = 0) -> Callable[[], Window]:
    def window() -> Window:
        log.append(name)
        return Window(100, float(len(log)), 1000.0, 1.0, 2.0, failed)

    return window


def test_contestants_take_turns_within_a_round_and_the_first_round_is_thrown_away() -> None:
    log: list[str] = []
    measured, broken = interleave(
        {name: counting(log, name) for name in "ab"}, 2, settle=lambda seconds: None
    )
    assert log == ["a", "b"] * 3
    assert not broken
    assert [windows["a"].cpu_us for windows in measured] == [3.0, 5.0]


def test_failed_requests_are_summed_over_the_rounds_and_only_told_where_there_are_any() -> None:
    contestants = {"good": counting([], "good"), "bad": counting([], "bad", failed=2)}
    assert failures(interleave(contestants, 3, settle=lambda seconds: None)[0]) == {"bad": 6}
    assert failures([]) == {}


def test_whoever_breaks_is_out_of_all_rounds_and_the_others_go_on() -> None:
    log: list[str] = []

    def breaking() -> Window:
        if len(log) == 2:
            raise Broken("it ended")
        return Window(1, 1.0, 1.0, 1.0, 1.0)

    contestants = {"good": counting(log, "good"), "bad": breaking}
    measured, broken = interleave(contestants, 3, settle=lambda seconds: None)
    assert broken == {"bad": "it ended"}
    assert [set(windows) for windows in measured] == [{"good"}] * 3
