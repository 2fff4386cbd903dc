"""What `drift` found: alarms, and how near the next one is."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from gateway.pipeline.pressure import Pressure
from gateway.telemetry.metrics import gauge

LABELS = ("endpoint", "version", "of")


def drifts(pressure: Pressure) -> Iterator[Metric]:
    """Every stream of numbers that is watched."""
    alarms = CounterMetricFamily(
        "headgate_drift_alarms", "Alarms because a version predicts otherwise than it used to.", labels=LABELS
    )
    for key, watch in sorted(pressure.drifts.items()):
        alarms.add_metric(key, watch.alarms)
    yield alarms
    yield gauge(
        "headgate_drift_evidence",
        "Evidence of a drift as a share of what an alarm takes (logarithms).",
        LABELS,
        {key: watch.evidence for key, watch in pressure.drifts.items()},
    )
