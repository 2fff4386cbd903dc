"""What the admin API shows: plain data made from the running objects, read without touching them."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.discovery.registry import RegistryStatus
from gateway.pipeline.pool import Instance, Pool
from gateway.pipeline.snapshot import Endpoint, Snapshot

View = dict[str, object]


def instance(one: Instance, pool: Pool, now: float) -> View:
    """Show one instance: where it is, whether calls go there and why not, what it does now."""
    breaker = one.breaker
    return {
        "id": one.id,
        "pool": pool.name,
        "address": f"{one.host}:{one.port}",
        "state": pool.state(one, now),
        "share": round(pool.members.picker.share(one, now), 3),
        "weight": one.weight,
        "version": one.facts.version,
        "in_flight": one.in_flight,
        "latency_ms": round(one.latency.value * 1000, 3),
        "successes": one.successes,
        "failures": one.failures,
        "healthy": one.healthy,
        "zone": one.zone,
        "doubted_for": round(max(0.0, one.doubted_until - now), 1),
        "ejected_for": round(max(0.0, one.ejected_until - now), 1),
        "breaker": None if breaker is None else breaker.state.value,
        "breaker_retry_after": None if breaker is None else round(breaker.retry_after(now), 1),
    }


def pool(one: Pool, now: float) -> View:
    """Show one pool and what governs it."""
    usable = sum(1 for member in one.members.instances if member.usable(now))
    return {
        "name": one.name,
        "speaks": one.speaks,
        "version": one.version,
        "instances": len(one.members.instances),
        "usable": usable,
        "in_flight": one.in_flight,
        "limit": round(one.limit),
        "balance": one.settings.balance.by,
        "breaker": None if one.breaker is None else one.breaker.state.value,
    }


def endpoint(one: Endpoint) -> View:
    """Show one endpoint: its filters in order, its versions and labels."""
    return {
        "name": one.name,
        "model": one.model or None,
        "defined_at": one.origin,
        "filters": [filter.name for filter in one.chain.filters],
        "versions": {version: pool.name for version, pool in one.versions.items()},
        "labels": one.label_versions,
        "pool": None if one.pool is None else one.pool.name,
    }


def instances(snapshot: Snapshot, now: float) -> list[View]:
    """Show every instance of every pool."""
    return [instance(one, pool, now) for pool in snapshot.pools.values() for one in pool.members.instances]


def worker(slot: int, pid: int, state: str, connections: int, in_flight: int, restarts: int) -> View:
    """Show one serving process. restarts: how often its slot was filled anew because a worker died."""
    return {
        "slot": slot,
        "pid": pid,
        "state": state,
        "connections": connections,
        "in_flight": in_flight,
        "restarts": restarts,
    }


def registry(status: RegistryStatus | None) -> View | None:
    """Show how the registry stands."""
    if status is None:
        return None
    return {
        "name": status.name,
        "live": status.live,
        "stale_seconds": round(status.stale, 1),
        "reason": status.reason,
        "revision": status.revision,
        "services": dict(status.services),
        "held": dict(status.held),
        "rejected": dict(status.rejected),
    }


def not_ready(snapshot: Snapshot, now: float) -> list[str]:
    """Say why the gateway should not get traffic yet: the pools that endpoints need and that have nobody."""
    return sorted(_empty(snapshot.endpoints.values(), now))


def _empty(endpoints: Iterable[Endpoint], now: float) -> set[str]:
    needed = {one.pool for one in endpoints if one.pool is not None}
    return {f"pool '{pool.name}' has no usable instance" for pool in needed if not pool.usable(now)}
