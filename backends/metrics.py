"""Numbers per model and version: plain integers on the hot path, Prometheus families when somebody
scrapes.

Counting is two or three additions and one bisection (under a microsecond); prometheus_client's own
`.labels().observe()` costs 3–4 µs each, which four of them would turn into a tenth of a small model's
request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # s
ROWS_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

_LABELS = ("model", "version")


class Histogram:
    """Counts by upper bound, and the sum of what was observed."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in the first bucket whose bound is not below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self) -> tuple[list[tuple[str, float]], float]:
        """Return cumulative counts by bound, +Inf last, and the sum, as prometheus_client wants them."""
        total, buckets = 0, []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, self._sum


class ModelMetrics:
    """What one model version did since the process began."""

    __slots__ = (
        "batch_rows",
        "cancelled",
        "engine_seconds",
        "failures",
        "in_flight",
        "latency",
        "queued_rows",
        "requests",
    )

    def __init__(self) -> None:
        self.requests = 0  # inference requests answered, well or badly
        self.failures: Counter[int] = Counter()  # of them, by HTTP status
        self.latency = Histogram(LATENCY_BOUNDS)  # from the body's last byte to the answer, s
        self.batch_rows = Histogram(ROWS_BOUNDS)  # rows per call of the engine
        self.engine_seconds = 0.0  # inside the engine
        self.queued_rows = 0  # waiting now
        self.in_flight = 0  # requests read and not answered yet
        self.cancelled = 0  # dropped before dispatch because the client had left


class MetricsPage(Collector):
    """Everything that `/metrics` shows. Read only when scraped."""

    def __init__(self, models: Iterable[tuple[str, str, str, ModelMetrics]]) -> None:
        """models: (model, version, provider, metrics) of every version served."""
        self._models = list(models)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the families; prometheus_client calls this."""
        prefix = "headgate_backend_"
        info = InfoMetricFamily(prefix + "model", "Model versions served and where they run", labels=_LABELS)
        requests = CounterMetricFamily(prefix + "requests", "Inference requests answered", labels=_LABELS)
        failures = CounterMetricFamily(
            prefix + "failures", "Inference requests answered with an error", labels=(*_LABELS, "status")
        )
        cancelled = CounterMetricFamily(
            prefix + "cancelled", "Requests dropped from the queue because the client left", labels=_LABELS
        )
        engine = CounterMetricFamily(prefix + "engine_seconds", "Time inside the engine", labels=_LABELS)
        queued = GaugeMetricFamily(prefix + "queued_rows", "Rows waiting for the engine", labels=_LABELS)
        in_flight = GaugeMetricFamily(
            prefix + "in_flight", "Inference requests read and not answered yet", labels=_LABELS
        )
        latency = HistogramMetricFamily(
            prefix + "request_seconds", "From the request's last byte to its answer", labels=_LABELS
        )
        batches = HistogramMetricFamily(prefix + "batch_rows", "Rows per call of the engine", labels=_LABELS)
        for model, version, provider, metrics in self._models:
            key = (model, version)
            info.add_metric(key, {"provider": provider})
            requests.add_metric(key, metrics.requests)
            for status, count in sorted(metrics.failures.items()):
                failures.add_metric((*key, str(status)), count)
            cancelled.add_metric(key, metrics.cancelled)
            engine.add_metric(key, metrics.engine_seconds)
            queued.add_metric(key, metrics.queued_rows)
            in_flight.add_metric(key, metrics.in_flight)
            for family, histogram in ((latency, metrics.latency), (batches, metrics.batch_rows)):
                buckets, total = histogram.family()
                family.add_metric(key, buckets=buckets, sum_value=total)
        yield from (info, requests, failures, cancelled, engine, queued, in_flight, latency, batches)
