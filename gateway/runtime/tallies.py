"""What each worker's calls came to, counted together: n workers find a bad instance as fast as one would.

Every worker reads the counters of its instances some tens of times a second, so that a request pays nothing
for it, and tells how much they grew: failures and slow calls at the next look, successes along with them or
once a second. The others feed that to the breakers and the ejector of their own, which decide as if the calls
had been theirs.

The order within a tally is lost, so successes are spread evenly between its failures (`spread`). Put on
one side they would make a row of failures, or a peak of evidence, that never was: at 1,000 calls and
5 scattered failures per look a healthy instance would be out.

The pool as a whole is the instance "": only its breaker listens. An endpoint's objective (`slo`) is an
instance of the pool "": it burns in all workers or in none, and their ladders of lesser answers follow.
Latencies and calls in flight stay private.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.governance.slo import Objective
from gateway.pipeline.pool import Instance, Pool
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime.messages import Tally

EVERY: Final = 1.0  # s between two tellings of successes

Objectives = Mapping[str, Objective]
"""By endpoint (pipeline/pressure.py)."""


@dataclass(slots=True)
class _Told:
    """What was told of an instance (or of a pool, or an objective): calls so far."""

    of: Instance | Pool | Objective
    successes: int
    failures: int
    slow: int


class Tallies:
    """The calls of one process's instances, as far as the others were told."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], _Told] = {}
        self._told_all_at = 0.0

    def look(self, snapshot: Snapshot, objectives: Objectives, now: float) -> list[Tally]:
        """Return what is to be told now."""
        is_time = now >= self._told_all_at + EVERY
        if is_time:
            self._told_all_at = now
        before, self._told = self._told, {}
        found: list[Tally] = []
        for key, of, successes, failures, slow in _counted(snapshot, objectives):
            told = before.get(key)
            if told is None or told.of is not of:
                told = _Told(of, successes, failures, slow)  # what was before is too old to tell
            elif failures > told.failures or slow > told.slow or (is_time and successes > told.successes):
                found.append(
                    Tally(*key, successes - told.successes, failures - told.failures, slow - told.slow)
                )
                told.successes, told.failures, told.slow = successes, failures, slow
            self._told[key] = told
        return found


def heed(snapshot: Snapshot, objectives: Objectives, tallies: Iterable[Tally], now: float) -> None:
    """Let breakers, ejectors and objectives learn what other workers' calls came to."""
    for tally in tallies:
        if not tally.pool:
            objective = objectives.get(tally.instance)
            if objective is not None:
                objective.learn(tally.successes, tally.failures, now)
            continue
        pool = snapshot.pools.get(tally.pool)
        if pool is None:
            continue
        if not tally.instance:
            if pool.breaker is not None:
                pool.breaker.learn(tally.successes, tally.failures, tally.slow, now)
            continue
        for instance in pool.members.instances:
            if instance.id == tally.instance:
                pool.learn_calls(instance, tally.successes, tally.failures, tally.slow, now)


def _counted(
    snapshot: Snapshot, objectives: Objectives
) -> Iterator[tuple[tuple[str, str], Instance | Pool | Objective, int, int, int]]:
    for endpoint, objective in objectives.items():
        yield ("", endpoint), objective, objective.good, objective.bad, 0
    for pool in snapshot.pools.values():
        successes = failures = 0
        for one in pool.members.instances:
            slow = 0 if one.breaker is None else one.breaker.slow_calls
            successes += one.successes
            failures += one.failures
            yield (pool.name, one.id), one, one.successes, one.failures, slow
        if pool.breaker is not None:
            yield (pool.name, ""), pool, successes, failures, pool.breaker.slow_calls
