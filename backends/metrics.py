"""Numbers per model and version: plain integers on the hot path, Prometheus families when somebody
scrapes.

Counting is two or three additions and one bisection (under a microsecond); prometheus_client's own
`.labels().observe()` costs 3–4 µs each, which four of them would turn into a tenth of a small model's
request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

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

_PREFIX = "headgate_backend_"
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


class Load:
    """How busy the whole server is: what its answers say in `x-headgate-load`."""

    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.in_flight = 0  # requests read and not answered yet
        self.waiting = 0  # of them, those in queues

    def __str__(self) -> str:
        return f"running={self.in_flight - self.waiting}, waiting={self.waiting}"


class ModelMetrics:
    """What one model version did since the process began."""

    __slots__ = (
        "batch_rows",
        "cancelled",
        "engine_seconds",
        "expired",
        "failures",
        "in_flight",
        "latency",
        "padded_rows",
        "queued_rows",
        "requests",
        "restarts",
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
        self.expired = 0  # dropped before dispatch because their deadline could not be met
        self.padded_rows = 0  # rows that the engine computed for nobody
        self.restarts = 0  # of the model's own processes


# Name, meaning, and attribute of ModelMetrics: everything that is one number per model version
_COUNTERS = (
    ("requests", "Inference requests answered", "requests"),
    ("cancelled", "Requests dropped from the queue because the client left", "cancelled"),
    ("expired", "Requests dropped from the queue because their deadline could not be met", "expired"),
    ("engine_seconds", "Time inside the engine", "engine_seconds"),
    ("padded_rows", "Rows computed for nobody, to fill a shape bucket", "padded_rows"),
    ("restarts", "Processes of an isolated model started in a dead one's place", "restarts"),
)
_GAUGES = (
    ("queued_rows", "Rows waiting for the engine", "queued_rows"),
    ("in_flight", "Inference requests read and not answered yet", "in_flight"),
)
_HISTOGRAMS = (
    ("request_seconds", "From the request's last byte to its answer", "latency"),
    ("batch_rows", "Rows per call of the engine", "batch_rows"),
)


class MetricsPage(Collector):
    """Everything that `/metrics` shows. Read only when scraped."""

    def __init__(
        self,
        models: Callable[[], Iterable[tuple[str, str, str, ModelMetrics]]],
        refused: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        """models: gives (model, version, provider, metrics) of every version served now.

        refused: gives (model, version) of those that can't be served.
        """
        self._models = models
        self._refused = refused
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the families; prometheus_client calls this."""
        models = [
            ((model, version), provider, numbers) for model, version, provider, numbers in self._models()
        ]
        info = InfoMetricFamily(_PREFIX + "model", "Model versions served and where they run", labels=_LABELS)
        refused = GaugeMetricFamily(_PREFIX + "refused", "Model versions that failed to load", labels=_LABELS)
        failures = CounterMetricFamily(
            _PREFIX + "failures", "Inference requests answered with an error", labels=(*_LABELS, "status")
        )
        for key in self._refused():
            refused.add_metric(key, 1)
        for key, provider, numbers in models:
            info.add_metric(key, {"provider": provider})
            for status, count in sorted(numbers.failures.items()):
                failures.add_metric((*key, str(status)), count)
        yield from (info, refused, failures)
        for kind, families in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, meaning, attribute in families:
                family = kind(_PREFIX + name, meaning, labels=_LABELS)
                for key, _, numbers in models:
                    family.add_metric(key, getattr(numbers, attribute))
                yield family
        for name, meaning, attribute in _HISTOGRAMS:
            spread = HistogramMetricFamily(_PREFIX + name, meaning, labels=_LABELS)
            for key, _, numbers in models:
                buckets, total = getattr(numbers, attribute).family()
                spread.add_metric(key, buckets=buckets, sum_value=total)
            yield spread
