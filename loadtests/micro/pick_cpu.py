"""What one pick costs, by the number of instances and by what the pool asks of it: CPU time, no call is made.

    python -m loadtests.micro.pick_cpu [--instances N ...]
    PYTHONPATH=.native/lib python -P -m loadtests.micro.pick_cpu        the compiled form, after `make native`

The hot loop flatters: the same instances stay in the processor's cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from random import Random

import gateway.governance.picker as picker_module
from gateway.governance.picker import LeastCost, RoundRobin, TwoChoices
from gateway.pipeline.pool import Facts, Instance
from gateway.pipeline.pool_verbs import PoolSettings
from gateway.runtime.world import SystemIds

PICKS = 2000
ROUNDS = 7
BEGAN = 100.0

Shape = Callable[[list[Instance], Random], Callable[[float], object]]


def _known(instances: list[Instance], rng: Random, under_way: int = 4) -> None:
    for one in instances:
        one.latency.record(rng.uniform(0.01, 0.03), BEGAN)
        one.in_flight = rng.randrange(under_way)


def _plain(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    _known(instances, rng)
    picker = LeastCost(instances, rng=rng.random)
    return lambda now: picker.pick(0, now, ())


def _equals(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    picker = LeastCost(instances, rng=rng.random)
    return lambda now: picker.pick(0, now, ())


def _retry(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    _known(instances, rng)
    picker = LeastCost(instances, rng=rng.random)
    tried = tuple(instances[:1])
    return lambda now: picker.pick(0, now, tried)


def _zones(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    _known(instances, rng)
    for index, one in enumerate(instances):
        one.zone = "abc"[index % 3]
    picker = LeastCost(instances, home="a", far=3.0, slow_start=30.0, rng=rng.random)
    return lambda now: picker.pick(0, now, ())


def _reports(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    _known(instances, rng)
    for one in instances:
        one.elsewhere = rng.uniform(0.1, 1.0)
    picker = LeastCost(instances, rng=rng.random)
    return lambda now: picker.pick(0, now, ())


def _affinity(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    _known(instances, rng)
    picker = LeastCost(instances, rng=rng.random)
    warm = {one.key: 0.5 for one in instances[::10]}
    return lambda now: picker.pick_warm(warm, 10.0, now, ())


def _two(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    _known(instances, rng)
    picker = TwoChoices(instances, rng=rng.random)
    return lambda now: picker.pick(0, now, ())


def _turns(instances: list[Instance], rng: Random) -> Callable[[float], object]:
    picker = RoundRobin(instances)
    return lambda now: picker.pick(0, now, ())


SHAPES: dict[str, Shape] = {
    "least cost": _plain,
    "least cost, all equal": _equals,
    "least cost, a second try": _retry,
    "least cost, zones and slow start": _zones,
    "least cost, load reported": _reports,
    "least cost, affinity": _affinity,
    "two choices": _two,
    "round robin": _turns,
}


def cost(shape: Shape, count: int) -> float:
    """Return the microseconds of CPU that a pick of `count` instances takes: the best of some rounds.

    Time passes at 5,000 picks/s, so what is looked at four times a second is in it.
    """
    ids = SystemIds()
    instances = [
        Instance(Facts(str(n), "127.0.0.1", 9000 + n), PoolSettings(), ids, 0.0) for n in range(count)
    ]
    pick = shape(instances, Random(1))
    best = float("inf")
    now = BEGAN
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(PICKS):
            now += 0.0002
            pick(now)
        best = min(best, time.process_time() - began)
    return best / PICKS * 1e6


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, nargs="*", default=[1, 3, 10, 30, 100, 200])
    counts = parser.parse_args().instances
    is_compiled = not str(picker_module.__file__).endswith(".py")
    print(f"us per pick, {'compiled' if is_compiled else 'interpreted'}, by instances")
    print(f"{'':34}" + "".join(f"{count:>8}" for count in counts))
    for name, shape in SHAPES.items():
        print(f"{name:34}" + "".join(f"{cost(shape, count):8.2f}" for count in counts), flush=True)


if __name__ == "__main__":
    main()
