"""Metrics of several processes as those of one."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.families import Family, families, lasting, merged, text
from gateway.telemetry.metrics import Metrics, counter, gauge
from tests.telemetry.test_metrics import finished


def worker(statuses: list[int], connections: float, up: float) -> list[Family]:
    metrics = Metrics()
    for status in statuses:
        metrics.observe(finished(status=status))
    return families(
        [
            *metrics.collect(),
            counter("headgate_access_log_dropped", "Lines.", 2),
            gauge("headgate_connections", "Open.", (), {(): connections}),
            gauge("headgate_instance_up", "1 where calls may go.", ("pool",), {("p",): up}),
            gauge("headgate_pressure", "0 at ease.", (), {(): connections / 10}),
        ]
    )


def values(written: bytes) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(written.decode()):
        for sample in family.samples:
            found[sample.name + str(sorted(sample.labels.items()))] = sample.value
    return found


def test_what_goes_through_unchanged_is_written_as_prometheus_client_writes_it() -> None:
    metrics = Metrics()
    metrics.observe(finished(status=200))
    metrics.observe(finished(status=404))
    assert text(families(metrics.collect())) == metrics.text()


def test_counters_and_histograms_add_up() -> None:
    host = values(text(merged([worker([200, 200, 404], 1, 1), worker([200, 503], 2, 1)])))
    single = values(text(worker([200, 200, 404, 200, 503], 3, 1)))
    for name, value in host.items():
        if re.match("headgate_(requests|request_seconds|refusals)", name):
            assert value == single[name], name
    assert host["headgate_access_log_dropped_total[]"] == 4


def test_gauges_are_joined_by_what_they_mean() -> None:
    host = values(text(merged([worker([], 1, 1), worker([], 3, 0)])))
    assert host["headgate_connections[]"] == 4
    assert host["headgate_pressure[]"] == 0.3
    assert host["headgate_instance_up[('pool', 'p')]"] == 0


def test_what_a_dead_process_counted_stays_and_its_gauges_go() -> None:
    host = values(text(merged([worker([200], 1, 1), lasting(worker([200, 200], 5, 0))])))
    assert host["headgate_requests_total[('endpoint', '-'), ('status', '200')]"] == 3
    assert host["headgate_connections[]"] == 1
    assert host["headgate_instance_up[('pool', 'p')]"] == 1
