"""What is counted, read back with Prometheus' own parser."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal, UpstreamTimeout
from gateway.pipeline.ports import Principal
from gateway.telemetry.metrics import Metrics, counter, gauge
from tests.fakes.context import make_context
from tests.fakes.traffic import Traffic, instances
from tests.runtime.running import backend, echo_page, running


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}


def values(family: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    """The family's plain samples by these labels' values."""
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for sample in family.samples
        if sample.name in (family.name, f"{family.name}_total")
    }


def finished(status: int = 200, seconds: float = 0.01) -> Context:
    ctx = make_context()
    ctx.status, ctx.finished = status, ctx.started + seconds
    return ctx


def test_nothing_seen_is_a_page_that_parses() -> None:
    assert "headgate_requests" in families(Metrics())


def test_requests_add_up_by_endpoint_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 429, 200, 503):
        metrics.observe(finished(status))
    counts = values(families(metrics)["headgate_requests"], "endpoint", "status")
    assert counts == {("-", "200"): 3, ("-", "429"): 1, ("-", "503"): 1}


def test_a_served_request_counts_its_bytes_its_pool_and_its_tries() -> None:
    traffic = Traffic()
    sent = traffic.send(body=instances([[1, 2]]))
    traffic.clock.advance(0.2)
    traffic.upstream.calls[0].answer(b'{"predictions": []}')
    metrics = Metrics()
    metrics.observe(traffic.observer.done[0])
    page = families(metrics)
    assert values(page["headgate_request_bytes"]) == {(): len(instances([[1, 2]]))}
    assert values(page["headgate_response_bytes"]) == {(): len(sent.down.body)}
    assert values(page["headgate_pool_requests"], "endpoint", "pool") == {("digits", "digits-v1"): 1}
    assert values(page["headgate_retries"]) == {}


def test_latency_is_a_histogram_whose_buckets_are_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.0001, 0.01, 0.01, 0.3, 1000.0):
        metrics.observe(finished(200, seconds))
    samples = families(metrics)["headgate_request_seconds"].samples
    buckets = [(float(one.labels["le"]), one.value) for one in samples if one.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert buckets[-1] == (float("inf"), 5)
    assert next(count for bound, count in buckets if bound >= 0.5) == 4
    (count,) = (one.value for one in samples if one.name.endswith("_count"))
    (total,) = (one.value for one in samples if one.name.endswith("_sum"))
    assert (count, total) == (5, pytest.approx(1000.3201))


def test_refusals_errors_caches_and_lesser_answers_are_counted_by_what_decided() -> None:
    metrics = Metrics()
    refused, failed, cached, lesser, rehearsed = (finished() for _ in range(5))
    refused.refusal = Refusal(429, "throttled", "no")
    refused.refusal.policy = "free-tier"
    failed.error = UpstreamTimeout("late")
    cached.cache_status = b"headgate; hit"
    lesser.degraded = "pool digits-lite"
    rehearsed.rehearsed = (("strict", "throttled"),)
    for ctx in (refused, failed, cached, lesser, rehearsed):
        metrics.observe(ctx)
    page = families(metrics)
    assert values(page["headgate_refusals"], "policy", "code") == {("free-tier", "throttled"): 1}
    assert values(page["headgate_errors"], "code") == {(failed.error.code,): 1}
    assert sum(values(page["headgate_cache"], "status").values()) == 1
    assert values(page["headgate_degraded"], "step") == {("pool digits-lite",): 1}
    assert values(page["headgate_rehearsed_refusals"], "policy", "code") == {("strict", "throttled"): 1}


def test_no_label_comes_from_a_request() -> None:
    """Else who sends requests decides how much memory the gateway and its Prometheus need."""
    metrics = Metrics()
    for number in range(500):
        mark = b"made-up-%d" % number
        ctx = make_context(
            (b"x-request-id", mark),
            (b"host", mark),
            method=b"M%d" % number,
            path=b"/" + mark,
            query=mark,
            address=f"10.0.{number // 250}.{number % 250}",
            principal=Principal(mark.decode(), plan=mark.decode(), tenant=mark.decode()),
        )
        ctx.status, ctx.finished, ctx.version = 404, ctx.started, mark.decode()
        ctx.refusal = Refusal(404, "unknown_endpoint", mark.decode())
        metrics.observe(ctx)
    assert b"made-up" not in metrics.text()
    assert len(metrics.series) == len(metrics.refusals) == 1


def test_label_values_are_escaped() -> None:
    shown = gauge("headgate_x", "X.", ("pool",), {('a"b\\c\nd',): 1.0})
    text = Metrics().text([shown, counter("headgate_y", "Y.", 3)]).decode()
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    assert parsed["headgate_x"].samples[0].labels == {"pool": 'a"b\\c\nd'}
    assert values(parsed["headgate_y"]) == {(): 3}


async def test_a_whole_gateway_shows_pools_instances_and_itself(tmp_path: Path) -> None:
    async with backend() as behind, running(tmp_path, echo_page(behind.port)) as gateway:
        assert [await gateway.status(path) for path in ("/echo/a", "/echo/b", "/none")] == [200, 200, 404]
        async with gateway.admin.get("/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            page = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    requests = values(page["headgate_requests"], "endpoint", "status")
    assert requests == {("echo", "200"): 2, ("-", "404"): 1}
    assert values(page["headgate_pool_requests"], "endpoint", "pool") == {("echo", "echo"): 2}
    assert values(page["headgate_instance_up"], "pool") == {("echo",): 1}
    assert values(page["headgate_pool_instances"], "pool") == {("echo",): 1}
    for name in ("headgate_access_log_dropped", "headgate_policies_failures"):
        assert (page[name].type, values(page[name])) == ("counter", {(): 0})
    assert values(page["headgate_policies_ok"]) == {(): 1}
