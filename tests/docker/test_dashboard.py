from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.metrics import MetricsPage, ModelMetrics
from gateway.runtime.policies import read
from gateway.runtime.worker import Worker
from tests.docker.files import DOCKER, METRIC, expressions

DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana" / "dashboards" / "headgate.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    (tmp_path / "gateway.yaml").write_text(
        "listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0'}\n"
        "log: {access: off}\n"
        "telemetry: {otlp: 'http://127.0.0.1:1/v1/traces', sample: 0%}\n"
    )
    loaded = read(tmp_path)
    assert loaded.schema is not None, loaded.report()
    worker = Worker(tmp_path, loaded, loaded.schema)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()


def names(text: str) -> set[str]:
    """Return the series that a page in Prometheus' text format announces, whether or not they have values."""
    found: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return found


async def test_every_metric_of_the_dashboard_is_exported(worker: Worker) -> None:
    exported = names(worker.metrics().decode())
    exported |= names(MetricsPage(lambda: [("digits", "1", "CPU", ModelMetrics())]).render().decode())
    asked_for = {name: title for title, text in expressions(DASHBOARD) for name in METRIC.findall(text)}
    missing = {name: title for name, title in asked_for.items() if name not in exported}
    assert not missing
    assert len(asked_for) > 30


async def test_every_metric_of_the_gateway_is_on_the_dashboard(worker: Worker) -> None:
    shown = " ".join(text for _, text in expressions(DASHBOARD))
    families = re.findall(r"^# TYPE (headgate_\S+) ", worker.metrics().decode(), re.MULTILINE)
    assert [name for name in families if name not in shown] == []


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_asks_the_provisioned_source(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
    for target in panel["targets"]:
        text = target["expr"]
        assert text.count("(") == text.count(")")
        assert text.count("{") == text.count("}")
        for counter in re.findall(r"(headgate_\w+_(?:total|bucket|sum|count))\b", text):
            assert re.search(rf"(rate|increase)\({counter}", text), (
                f"{counter} only grows: its rate says something"
            )


def test_gauges_are_not_rated() -> None:
    for title, text in expressions(DASHBOARD):
        for name in re.findall(r"rate\((headgate_\w+)", text):
            assert name.endswith(("_total", "_bucket", "_sum", "_count")), title


def test_instances_of_pools_are_told_from_what_prometheus_calls_an_instance() -> None:
    """Prometheus' own label `instance` names the gateway scraped; ours arrives as `exported_instance`."""
    legends = [
        target["legendFormat"]
        for panel in PANELS
        for target in panel["targets"]
        if "headgate_instance_" in target["expr"]
    ]
    assert len(legends) == 6
    assert all("{{exported_instance}}" in legend for legend in legends)
