from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.metrics import LATENCY_BOUNDS, Histogram, MetricsPage, ModelMetrics


@given(st.lists(st.floats(0, 100)))
def test_a_bucket_counts_what_is_not_above_its_bound(values: list[float]) -> None:
    histogram = Histogram(LATENCY_BOUNDS)
    for value in values:
        histogram.observe(value)
    buckets, total = histogram.family()
    assert [count for _, count in buckets] == [
        *(sum(value <= bound for value in values) for bound in LATENCY_BOUNDS),
        len(values),
    ]
    assert buckets[-1][0] == "+Inf"
    assert abs(total - sum(values)) < 1e-6


def test_every_number_is_on_the_page_under_model_and_version() -> None:
    metrics = ModelMetrics()
    metrics.requests, metrics.cancelled, metrics.queued_rows, metrics.in_flight = 5, 2, 3, 1
    metrics.engine_seconds = 0.25
    metrics.failures[503] = 4
    metrics.latency.observe(0.002)
    metrics.batch_rows.observe(8)
    page = (
        MetricsPage(lambda: [("digits", "1", "CPUExecutionProvider", metrics)], lambda: [("digits", "2")])
        .render()
        .decode()
        .splitlines()
    )
    prefix, labels = "headgate_backend_", '{model="digits",version="1"}'
    for line in (
        f'{prefix}model_info{{model="digits",provider="CPUExecutionProvider",version="1"}} 1.0',
        f"{prefix}requests_total{labels} 5.0",
        f'{prefix}failures_total{{model="digits",status="503",version="1"}} 4.0',
        f"{prefix}cancelled_total{labels} 2.0",
        f"{prefix}engine_seconds_total{labels} 0.25",
        f"{prefix}queued_rows{labels} 3.0",
        f"{prefix}in_flight{labels} 1.0",
        f'{prefix}request_seconds_bucket{{le="0.0025",model="digits",version="1"}} 1.0',
        f'{prefix}request_seconds_bucket{{le="0.001",model="digits",version="1"}} 0.0',
        f"{prefix}request_seconds_sum{labels} 0.002",
        f'{prefix}batch_rows_bucket{{le="8.0",model="digits",version="1"}} 1.0',
    ):
        assert line in page
