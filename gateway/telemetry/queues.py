"""The queues of pools as metrics: how many wait, for how long, who left unserved and why, and the limit."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from gateway.pipeline.snapshot import Snapshot
from gateway.telemetry.metrics import gauge


def queues(snapshot: Snapshot, now: float) -> Iterator[Metric]:
    """Yield the families of pools' limits and queues; a pool that never was full has no queue."""
    pools = snapshot.pools
    waiting = {name: pool.queue for name, pool in pools.items() if pool.queue is not None}
    yield gauge(
        "headgate_pool_limit",
        "Calls that may be under way now.",
        ("pool",),
        {(name,): pool.limit for name, pool in pools.items()},
    )
    yield gauge(
        "headgate_queue_length",
        "Requests that wait for a full pool.",
        ("pool",),
        {(name,): float(queue.size) for name, queue in waiting.items()},
    )
    yield gauge(
        "headgate_queue_oldest_seconds",
        "How long the one that waits longest has waited.",
        ("pool",),
        {(name,): queue.age(now) for name, queue in waiting.items()},
    )
    yield gauge(
        "headgate_queue_tail_seconds",
        "What nearly all calls take (p95); who has less time left is turned away.",
        ("pool",),
        {(name,): queue.tail for name, queue in waiting.items()},
    )
    turned_away = CounterMetricFamily(
        "headgate_queue_turned_away", "Requests that a full pool's queue refused.", labels=("pool", "why")
    )
    waits = HistogramMetricFamily(
        "headgate_queue_wait_seconds", "How long those waited that were sent.", labels=("pool",)
    )
    for name, queue in sorted(waiting.items()):
        for why, number in queue.turned_away.items():
            turned_away.add_metric((name, why), number)
        below = 0
        buckets: list[tuple[str, float]] = []
        for bound, number in zip((*queue.waits.bounds, float("inf")), queue.waits.counts, strict=True):
            below += number
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), below))
        waits.add_metric((name,), buckets, queue.waits.total)
    yield turned_away
    yield waits
