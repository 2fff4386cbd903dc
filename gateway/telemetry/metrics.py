"""Counters and histograms of the traffic: integers in plain lists while requests run, Prometheus text when
asked.

A request costs a dict look-up and a few additions here (a labelled prometheus_client observation costs ten
times that); a `prometheus_client` collector reads the integers at scrape time. Label values come from the
configuration (endpoint, pool, policy, code), never from requests, so their number is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from gateway.governance.histogram import Histogram
from gateway.http.grpc import Status
from gateway.pipeline.context import Context, Tried

OTHER: Final = "-"
NOT_FAILED: Final = frozenset(("answered", "slower", "dropped"))  # of `Tried.ended`

K = TypeVar("K", bound=tuple[str, ...])


class Series:
    """What is counted per endpoint and status. pools: requests by the pool that served them."""

    __slots__ = ("bytes_in", "bytes_out", "latency", "pools", "requests", "upstream")

    def __init__(self) -> None:
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.pools: dict[str, int] = {}
        self.latency = Histogram()
        self.upstream = Histogram()


class Metrics:
    """All counters of one worker. `observe` is on the request path; the rest is not."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, int], Series] = {}
        self.refusals: dict[tuple[str, str, str], int] = {}  # endpoint, policy, code
        self.rehearsed: dict[tuple[str, str, str], int] = {}  # endpoint, policy, code
        self.errors: dict[tuple[str, str], int] = {}  # endpoint, code
        self.cache: dict[tuple[str, str], int] = {}  # endpoint, status
        self.degraded: dict[tuple[str, str, str], int] = {}  # endpoint, step, trigger
        self.faults: dict[tuple[str, str], int] = {}  # endpoint, fault
        self.grpc: dict[tuple[str, str], int] = {}  # endpoint, status
        self.retries: dict[tuple[str, str], int] = {}  # pool, cause
        self.failed_tries: dict[tuple[str, str], int] = {}  # pool, cause
        self.hedges: dict[tuple[str, str], int] = {}  # pool, won | lost
        self.errands: dict[tuple[str, str, str], int] = {}  # endpoint, pool, result
        self.mirrored: dict[tuple[str, str, str], int] = {}  # endpoint, pool, result
        self.mirror_latency: dict[tuple[str, str], Histogram] = {}  # endpoint, pool
        self.unread: dict[tuple[str, str], int] = {}  # code, status
        self.bugs = 0

    def observe(self, ctx: Context) -> None:
        """Count one finished request."""
        endpoint = OTHER if ctx.endpoint is None else ctx.endpoint.name
        key = (endpoint, ctx.status)
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series()
        series.requests += 1
        series.latency.observe(ctx.finished - ctx.started)
        series.bytes_out += ctx.body_sent
        if ctx.body_received:
            series.bytes_in += ctx.body_received
        elif ctx.request.length:
            series.bytes_in += ctx.request.length
        if ctx.upstream_seconds:
            series.upstream.observe(ctx.upstream_seconds)
        if ctx.pool is not None and ctx.attempts:
            pool = ctx.pool.name
            series.pools[pool] = series.pools.get(pool, 0) + 1
        if ctx.tries is not None:
            self._observe_tries(ctx.tries)
        if ctx.refusal is not None:
            _count(self.refusals, (endpoint, ctx.refusal.policy or ctx.answered_by, ctx.refusal.code))
        for policy, code in ctx.rehearsed:
            _count(self.rehearsed, (endpoint, policy, code))
        if ctx.error is not None:
            _count(self.errors, (endpoint, ctx.error.code))
        if ctx.cache_status:
            _count(self.cache, (endpoint, ctx.cache_status.decode("latin-1")))
        if ctx.degraded:
            _count(self.degraded, (endpoint, ctx.degraded, ctx.degraded_by))
        if ctx.fault:
            _count(self.faults, (endpoint, ctx.fault))
        if ctx.grpc_status >= 0:
            _count(self.grpc, (endpoint, Status(ctx.grpc_status).name))

    def _observe_tries(self, tries: Sequence[Tried]) -> None:
        for tried in tries:
            if tried.again:
                _count(self.retries, (tried.pool, tried.ended))
            if tried.kind == "hedge":
                _count(self.hedges, (tried.pool, "won" if tried.ended == "answered" else "lost"))
            if tried.ended not in NOT_FAILED:
                _count(self.failed_tries, (tried.pool, tried.ended))

    def observe_errand(self, endpoint: str, pool: str, result: str) -> None:
        """Count a step of a graph, or a batch."""
        _count(self.errands, (endpoint, pool, result))

    def observe_mirrored(self, endpoint: str, pool: str, result: str, seconds: float) -> None:
        """Count one mirrored copy. seconds: 0.0 for one that was not made."""
        _count(self.mirrored, (endpoint, pool, result))
        if seconds:
            latency = self.mirror_latency.get((endpoint, pool))
            if latency is None:
                latency = self.mirror_latency[endpoint, pool] = Histogram()
            latency.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield everything as Prometheus metric families (implements prometheus_client's Collector)."""
        yield from self._collect_requests()
        yield _counter(
            "headgate_refusals", "Requests refused.", ("endpoint", "policy", "code"), self.refusals
        )
        yield _counter(
            "headgate_rehearsed_refusals",
            "What policies with `enforce: false` would refuse.",
            ("endpoint", "policy", "code"),
            self.rehearsed,
        )
        yield _counter("headgate_errors", "Requests failed.", ("endpoint", "code"), self.errors)
        yield _counter("headgate_cache", "What the cache said.", ("endpoint", "status"), self.cache)
        labels = ("endpoint", "step", "trigger")
        yield _counter("headgate_degraded", "Lesser answers given.", labels, self.degraded)
        yield _counter("headgate_faults", "Faults injected.", ("endpoint", "fault"), self.faults)
        yield _counter("headgate_grpc", "gRPC calls by their status.", ("endpoint", "status"), self.grpc)
        pools: Counter[tuple[str, str]] = Counter()
        for (endpoint, _), series in self.series.items():
            pools.update({(endpoint, pool): number for pool, number in series.pools.items()})
        yield _counter("headgate_pool_requests", "Requests by serving pool.", ("endpoint", "pool"), pools)
        yield from self._collect_tries()
        yield _counter(
            "headgate_unread",
            "Answers given before there was a request: malformed heads, too many connections.",
            ("code", "status"),
            self.unread,
        )
        yield CounterMetricFamily("headgate_bugs", "Requests ended by a bug of the gateway.", value=self.bugs)

    def _collect_tries(self) -> Iterator[Metric]:
        labels = ("pool", "cause")
        yield _counter(
            "headgate_retries", "Further tries, by what the one before ended with.", labels, self.retries
        )
        yield _counter("headgate_failed_tries", "Tries that an instance failed.", labels, self.failed_tries)
        yield _counter(
            "headgate_hedges", "Second attempts beside a slow first one.", ("pool", "result"), self.hedges
        )
        labels = ("endpoint", "pool")
        yield _counter("headgate_errands", "Steps of graphs, and batches.", (*labels, "result"), self.errands)
        yield _counter("headgate_mirrored", "Copies of requests.", (*labels, "result"), self.mirrored)
        latency = HistogramMetricFamily("headgate_mirror_seconds", "What copies took.", labels=labels)
        for key, histogram in sorted(self.mirror_latency.items()):
            latency.add_metric(key, _buckets(histogram), histogram.total)
        yield latency

    def observe_unread(self, code: str, status: int) -> None:
        """Count an answer that was given before there was a request."""
        _count(self.unread, (code, str(status)))

    def _collect_requests(self) -> Iterator[Metric]:
        labels = ("endpoint", "status")
        requests = CounterMetricFamily("headgate_requests", "Requests answered.", labels=labels)
        received = CounterMetricFamily("headgate_request_bytes", "Bytes of request bodies.", labels=labels)
        sent = CounterMetricFamily("headgate_response_bytes", "Bytes of answers' bodies.", labels=labels)
        latency = HistogramMetricFamily(
            "headgate_request_seconds", "From the head's arrival to the last byte.", labels=labels
        )
        upstream = HistogramMetricFamily(
            "headgate_upstream_seconds", "Until the instance's head, over all tries.", labels=labels
        )
        for (endpoint, status), series in sorted(self.series.items()):
            values = (endpoint, str(status))
            requests.add_metric(values, series.requests)
            received.add_metric(values, series.bytes_in)
            sent.add_metric(values, series.bytes_out)
            latency.add_metric(values, _buckets(series.latency), series.latency.total)
            if series.upstream.count:
                upstream.add_metric(values, _buckets(series.upstream), series.upstream.total)
        yield from (requests, received, sent, latency, upstream)

    def text(self, further: Iterable[Metric] = ()) -> bytes:
        """Render the exposition format, `further` metrics (pools, registries, listeners) behind our own.

        May run in another thread than `observe`: each dict is copied by one step that no thread interrupts.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        registry.register(_Read(further))
        return generate_latest(registry)


class _Read:
    """Metrics that were read already, as a Collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _count(counter: dict[K, int], key: K) -> None:
    counter[key] = counter.get(key, 0) + 1


def _counter(name: str, meaning: str, labels: tuple[str, ...], counts: dict[K, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, number in sorted(counts.items()):
        family.add_metric(values, number)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return cumulative buckets as Prometheus wants them, the last one +Inf."""
    buckets, running = [], 0
    for bound, number in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        running += number
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
    return buckets


def counter(name: str, meaning: str, number: float) -> Metric:
    """Make a counter family of one number without labels."""
    return CounterMetricFamily(name, meaning, value=number)


def gauge(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[K, float]) -> Metric:
    """Make a gauge family from label values and numbers."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for key, number in sorted(values.items()):
        family.add_metric(key, number)
    return family
