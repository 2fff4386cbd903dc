"""Metrics of several processes as those of one: counters and histograms add up, gauges by what they mean.

A family is a metric with all its lines, as plain values that travel. What a process that died had counted is
kept (`lasting`), so that a counter of the host never goes down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One line."""

    name: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """One metric. kind: Prometheus' word for it."""

    name: str
    kind: str
    meaning: str
    samples: tuple[Sample, ...]


HIGHEST: Final = frozenset(
    {
        "headgate_instance_ejected",
        "headgate_instance_doubted",
        "headgate_pool_breaker_open",
        "headgate_instance_breaker_open",
        "headgate_pool_instances",
        "headgate_queue_oldest_seconds",
        "headgate_queue_tail_seconds",
        "headgate_cache_window",
        "headgate_pressure",
        "headgate_degrade_level",
        "headgate_slo_burn_rate",
        "headgate_drift_evidence",
        "headgate_loop_lag_seconds",
        "headgate_policies_version",
        "headgate_discovery_stale_seconds",
    }
)
"""Gauges of which the host has the highest of its processes'."""

LOWEST: Final = frozenset(
    {"headgate_instance_up", "headgate_policies_ok", "headgate_instance_share", "headgate_quota_left_ratio"}
)
"""Gauges of which the host has the lowest. All others add up."""


def families(metrics: Iterable[Metric]) -> list[Family]:
    """Turn a collector's metrics into plain values."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            tuple(
                Sample(sample.name, tuple(sample.labels.items()), float(sample.value))
                for sample in metric.samples
            ),
        )
        for metric in metrics
    ]


def merged(parts: Iterable[Sequence[Family]]) -> list[Family]:
    """Make one of several processes' families; the order is that of the first that has them."""
    known: dict[str, tuple[Family, dict[tuple[str, Labels], float]]] = {}
    for part in parts:
        for family in part:
            _, values = known.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                before = values.get((name, labels))
                values[name, labels] = value if before is None else _joined(family.name, before, value)
    return [
        first._replace(samples=tuple(Sample(name, labels, value) for (name, labels), value in values.items()))
        for first, values in known.values()
    ]


def _joined(name: str, one: float, other: float) -> float:
    if name in HIGHEST:
        return max(one, other)
    return min(one, other) if name in LOWEST else one + other


def lasting(part: Iterable[Family]) -> list[Family]:
    """What stays of a process that ended: all but gauges."""
    return [family for family in part if family.kind != "gauge"]


def text(part: Iterable[Family]) -> bytes:
    """Write Prometheus' exposition format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(part))
    return generate_latest(registry)


class _Collector:
    def __init__(self, part: Iterable[Family]) -> None:
        self._part = list(part)

    def collect(self) -> Iterable[Metric]:
        for family in self._part:
            metric = Metric(family.name, family.meaning, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric
