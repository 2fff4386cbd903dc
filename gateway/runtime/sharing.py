"""What one worker finds out about an instance is told to the others: they are one gateway to its users.

Told are transitions: an ejection, a breaker that opened, a breaker that was closed by its probes. Everything
is read from the instances some tens of times a second, so that a request pays nothing for it. An instant is
the same in all processes of a host, for they share its monotonic clock. What the supervisor's health checks
say travels as the whole set of those that are unwell, and is applied again at every look: a verdict about an
instance that the worker doesn't know yet isn't lost.

What is not shared: latencies, in-flight calls and the counts that lead to a transition. With n workers an
instance that fails one call in ten is found by the first worker that has seen enough of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from gateway.governance.breaker import State
from gateway.pipeline.pool import Instance, Pool
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime.messages import Sighting


@dataclass(slots=True)
class _Known:
    """What was told of an instance, or heard."""

    instance: Instance
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
            breaker = instance.breaker
            changes = 0 if breaker is None else breaker.changes
            before = known.get(key)
            if before is None or before.instance is not instance:
                before = _Known(instance, 0.0, 0)
            if instance.ejected_until > max(now, before.ejected_until):
                seen.append(Sighting(*key, "ejected", instance.ejected_until))
            if breaker is not None and changes != before.changes:
                if breaker.state is State.OPEN:
                    seen.append(Sighting(*key, "opened", breaker.open_until))
                elif breaker.state is State.CLOSED:
                    seen.append(Sighting(*key, "closed", now))
            self._known[key] = _Known(instance, instance.ejected_until, changes)
        return seen

    def heed(self, snapshot: Snapshot, sightings: Iterable[Sighting], now: float) -> None:
        """Apply what another worker found out."""
        for sighting in sightings:
            pool = snapshot.pools.get(sighting.pool)
            for instance in () if pool is None else pool.members.instances:
                if instance.id == sighting.instance:
                    _apply(instance, sighting, now)
                    changes = 0 if instance.breaker is None else instance.breaker.changes
                    key = (sighting.pool, instance.id)
                    self._known[key] = _Known(instance, instance.ejected_until, changes)


def _apply(instance: Instance, sighting: Sighting, now: float) -> None:
    breaker = instance.breaker
    match sighting.what:
        case "ejected":
            instance.ejected_until = max(instance.ejected_until, sighting.until)
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
