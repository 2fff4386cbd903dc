from __future__ import annotations

import re

from gateway.runtime.policies import FIXED, LIVE_LIMITS
from tests.docker.files import METRIC, ROOT

TEXT = (ROOT / "docs" / "operating.md").read_text()


def test_every_metric_that_is_named_stands_in_the_sources() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    named = set(METRIC.findall(TEXT))
    assert len(named) > 20
    assert [name for name in named if f'"{name.removesuffix("_total")}"' not in sources] == []


def test_every_metric_of_the_sources_is_named() -> None:
    """Those of a family that share a prefix are named once, the others by their ends: `_ejected`."""
    telemetry = ("gateway/telemetry/metrics.py", "gateway/runtime/gauges.py", "gateway/runtime/listening.py")
    sources = "".join((ROOT / path).read_text() for path in telemetry)
    exported = set(re.findall(r'"(headgate_\w+)"', sources))
    ends = set(re.findall(r"`(_\w+)`", TEXT))
    missing = {name for name in exported if name not in TEXT and not any(name.endswith(end) for end in ends)}
    assert missing == set()


def test_every_field_of_the_access_log_is_explained() -> None:
    source = (ROOT / "gateway" / "telemetry" / "log_lines.py").read_text()
    written = set(re.findall(r'^\s+"(\w+)": ', source, re.MULTILINE)) | set(
        re.findall(r'line\["(\w+)"\]', source)
    )
    explained = set(re.findall(r"`(\w+)`", TEXT.split("## Access log")[1].split("## Traces")[0]))
    assert len(written) > 20
    assert written - explained == set()


def test_what_takes_a_restart_is_said() -> None:
    found = re.search(
        r"([^.]+) take effect at the next\s+start, and so do the `limits` other than ([^;]+);", TEXT
    )
    assert found is not None
    fixed, live = (re.findall(r"`(\w+)`", part) for part in found.groups())
    assert tuple(fixed) == FIXED
    assert set(live) == LIVE_LIMITS


def test_every_path_of_the_admin_api_is_listed() -> None:
    source = (ROOT / "gateway" / "admin" / "app.py").read_text()
    paths = set(re.findall(r'web\.(?:get|post|delete|put)\("(/\w+)', source))
    assert len(paths) > 8
    assert [path for path in paths if path not in TEXT] == []
