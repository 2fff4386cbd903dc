"""What one worker finds out about an instance is told to the others: they are one gateway to its users.

Told are transitions: an ejection, a breaker that opened, a breaker that was closed by its probes. Everything
is read from the instances some tens of times a second, so that a request pays nothing for it. An instant is
the same in all processes of a host, for they share its monotonic clock. What the supervisor's health checks
say travels as the whole set of those that are unwell, and is applied again at every look: a verdict about an
instance that the worker doesn't know yet isn't lost.

The breaker of a whole pool is told of as that of the instance "". The counts that lead to a transition are
told too, in their own way (tallies.py). What is not shared: latencies and calls in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from gateway.governance.breaker import Breaker, State
from gateway.pipeline.pool import Instance, Pool
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime.messages import Sighting


@dataclass(slots=True)
class _Known:
    """What was told of an instance, or heard."""

    instance: Instance | Pool
    ejected_until: float
    changes: int


class Sharing:
    """The instances of one process, and what the others know of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}

    def look(self, snapshot: Snapshot, unwell: Set[tuple[str, str]] | None, now: float) -> list[Sighting]:
        """Apply what the health checks say (None: they are done here), and return what is new here."""
        seen: list[Sighting] = []
        known, self._known = self._known, {}
        for pool, instance in _instances(snapshot):
            key = (pool.name, instance.id)
            if unwell is not None:
                _judge(instance, key not in unwell)
            before = known.get(key)
            if before is None or before.instance is not instance:
                before = _Known(instance, 0.0, 0)
            if instance.ejected_until > max(now, before.ejected_until):
                seen.append(Sighting(*key, "ejected", instance.ejected_until))
            seen += _moved(key, instance.breaker, before.changes, now)
            self._known[key] = _Known(instance, instance.ejected_until, _changes(instance.breaker))
        for pool in snapshot.pools.values():
            if pool.breaker is not None:
                key = (pool.name, "")
                before = known.get(key)
                seen += _moved(
                    key, pool.breaker, before.changes if before and before.instance is pool else 0, now
                )
                self._known[key] = _Known(pool, 0.0, pool.breaker.changes)
        return seen

    def heed(self, snapshot: Snapshot, sightings: Iterable[Sighting], now: float) -> None:
        """Apply what another worker found out."""
        for sighting in sightings:
            pool = snapshot.pools.get(sighting.pool)
            if pool is not None and not sighting.instance:
                _apply(pool.breaker, sighting, now)
                self._known[sighting.pool, ""] = _Known(pool, 0.0, _changes(pool.breaker))
                continue
            for instance in () if pool is None else pool.members.instances:
                if instance.id == sighting.instance:
                    if sighting.what == "ejected":
                        instance.ejected_until = max(instance.ejected_until, sighting.until)
                    _apply(instance.breaker, sighting, now)
                    key = (sighting.pool, instance.id)
                    self._known[key] = _Known(instance, instance.ejected_until, _changes(instance.breaker))


def _changes(breaker: Breaker | None) -> int:
    return 0 if breaker is None else breaker.changes


def _moved(key: tuple[str, str], breaker: Breaker | None, changes: int, now: float) -> list[Sighting]:
    """What is to be told of a breaker that had so many changes when it was last looked at."""
    if breaker is None or breaker.changes == changes:
        return []
    match breaker.state:
        case State.OPEN:
            return [Sighting(*key, "opened", breaker.open_until)]
        case State.CLOSED:
            return [Sighting(*key, "closed", now)]
    return []  # half open: found out by everybody's own clock


def _apply(breaker: Breaker | None, sighting: Sighting, now: float) -> None:
    match sighting.what:
        case "opened" if breaker is not None and sighting.until > now:
            breaker.open_too(sighting.until, now)
        case "closed" if breaker is not None:
            breaker.close_too()


def _judge(instance: Instance, is_well: bool) -> None:
    if instance.healthy is not is_well:
        instance.healthy = is_well
        if is_well:
            instance.recover()  # as upstream/health.py does


def _instances(snapshot: Snapshot) -> Iterator[tuple[Pool, Instance]]:
    for pool in snapshot.pools.values():
        for instance in pool.members.instances:
            yield pool, instance


def unwell(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    """Return the instances that fail their health checks."""
    return frozenset((pool.name, one.id) for pool, one in _instances(snapshot) if not one.healthy)
