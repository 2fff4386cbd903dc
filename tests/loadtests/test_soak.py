"""The verdict of the soak test: what is growth, and what is noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.soak import Sample, judge, slope


def hour(per_hour: float, *, noise: float = 0.3, bursts: int = 0, tasks: float = 0.0) -> list[Sample]:
    """An hour's samples, growing by so many MiB and tasks."""
    rng = random.Random(1)
    samples = [
        Sample(at, 60 + per_hour * at / 3600 + rng.uniform(-noise, noise), 7 + tasks * at / 3600, 50, 32, 0)
        for at in range(0, 3600, 5)
    ]
    for one in rng.sample(samples, bursts):
        one.memory += 20
    return samples


def test_a_flat_hour_passes() -> None:
    assert judge(hour(0.0), []) == []


def test_bursts_bend_nothing() -> None:
    assert judge(hour(0.0, bursts=40), []) == []


def test_two_mebibytes_an_hour_are_found() -> None:
    (found,) = judge(hour(2.0), [])
    assert "memory grows" in found


def test_a_leak_of_tasks_is_found() -> None:
    (found,) = judge(hour(0.0, tasks=5), [])
    assert "tasks grow" in found


def test_errors_and_bugs_are_found() -> None:
    samples = hour(0.0)
    samples[-1].bugs = 1
    assert len(judge(samples, ["500"])) == 2


@given(st.floats(-100, 100), st.floats(0, 1000))
def test_the_slope_of_a_line_is_its_slope(per_hour: float, first: float) -> None:
    times = [float(at) for at in range(0, 600, 5)]
    assert slope(times, [first + per_hour * at / 3600 for at in times]) == pytest.approx(per_hour, abs=1e-3)
