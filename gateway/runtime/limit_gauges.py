"""What limits did, for the metrics: by policy and limit, never by whose they are.

A throttle of a thousand principals is one line. Its counts start anew when its rules change.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from prometheus_client.core import CounterMetricFamily, Metric

from gateway.filters.throttling import Throttling
from gateway.pipeline.ports import CounterStore
from gateway.pipeline.quotas import Quotas
from gateway.pipeline.snapshot import Snapshot
from gateway.telemetry.metrics import gauge

LABELS = ("endpoint", "policy", "limit")


def limits(snapshot: Snapshot, counters: CounterStore, quotas: Quotas) -> Iterator[Metric]:
    """What the limits of the running policies let pass, refused and let wait, and what they asked stores."""
    passed: dict[tuple[str, ...], float] = {}
    refused: dict[tuple[str, ...], float] = {}
    waited: dict[tuple[str, ...], float] = {}
    for endpoint in snapshot.endpoints.values():
        for filter in endpoint.chain.filters:
            if not isinstance(filter, Throttling):
                continue
            for level in filter.levels:
                key = (endpoint.name, level.rule.policy, level.limit)
                passed[key] = passed.get(key, 0.0) + level.passed
                refused[key] = refused.get(key, 0.0) + level.refused
                waited[key] = waited.get(key, 0.0) + level.waited
    yield _counter("headgate_limit_passed", "Requests that a limit let pass.", LABELS, passed)
    yield _counter("headgate_limit_refused", "Requests that it refused.", LABELS, refused)
    yield _counter("headgate_limit_waited", "Requests that it made wait for their turn.", LABELS, waited)
    calls: dict[tuple[str, ...], float] = {
        ("quotas",): float(quotas.calls),
        ("counters",): float(getattr(counters, "calls", 0)),
    }
    yield _counter("headgate_limit_store_calls", "Messages for limits to shared stores.", ("use",), calls)
    yield gauge(
        "headgate_quota_left_ratio",
        "What is left to whom the least is left; 0: somebody's quota is used up.",
        ("policy", "window"),
        _left(quotas),
    )


def _counter(
    name: str, meaning: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for key, number in sorted(values.items()):
        family.add_metric(key, number)
    return family


def _left(quotas: Quotas) -> dict[tuple[str, ...], float]:
    least: dict[tuple[str, ...], float] = {}
    for key, (left, whole) in quotas.left().items():
        spec, policy, *_ = key.split(b"\0")
        label = (policy.decode(), spec.decode())
        least[label] = min(least.get(label, inf), left / whole)
    return least
