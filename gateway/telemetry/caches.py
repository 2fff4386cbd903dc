"""The kept answers of one process as metrics: how much there is, what had to leave, who had not to ask."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from gateway.pipeline.answers import AnswerStore
from gateway.telemetry.metrics import counter, gauge


def caches(answers: AnswerStore) -> Iterator[Metric]:
    """Yield the families of the store of answers."""
    now = {
        "headgate_cache_bytes": ("Memory that kept answers take.", answers.size),
        "headgate_cache_entries": ("Answers in memory.", len(answers)),
        "headgate_cache_window": (
            "Share of the memory for newcomers; 1: as LRU, 0.01: as LFU.",
            answers.window,
        ),
    }
    for name, (meaning, value) in now.items():
        yield gauge(name, meaning, (), {(): float(value)})
    yield counter("headgate_cache_evictions", "Answers that had to leave for others.", answers.evictions)
    yield counter("headgate_cache_collapsed", "Requests that waited for another's answer.", answers.collapsed)
