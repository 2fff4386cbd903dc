"""Every setting shows in its own words, no secret does, and what differs never reads alike."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gateway.config.kind import setting_of, yaml_name
from gateway.config.listing import listing
from gateway.config.load import load
from gateway.config.schema import Limits, Schema
from gateway.config.units import Duration, Instant, Size
from gateway.filters.catalog import KINDS

SECRET = "a-very-secret-word"
PAGE = f"""
listen: {{admin: {{token: "${{env:LISTED}}"}}}}
stores: {{counters: {{url: "redis://h:6379/0", password: "${{env:LISTED}}", timeout: 50ms}}}}
telemetry: {{headers: {{authorization: "${{env:LISTED}}"}}}}
limits: {{trusted_proxies: [10.0.0.0/8], drain: 1m30s, url_bytes: 4KiB}}
plans: {{free: {{}}}}
principals:
  alice: {{plan: free, keys: ["sha256:{"ab" * 32}"], may: {{models: [m]}}, throttle: 5/s}}
pools:
  a: {{instances: ["127.0.0.1:1", {{address: "127.0.0.1:2", weight: 2.5}}], speaks: kserve-v2}}
  b: {{find: b, version: v2}}
endpoints:
  m:
    model: m
    versions: {{1: a, 2: b}}
    labels: {{stable: 1}}
    send: {{stable: 90%, 2: 10%}}
    throttle: [5/s, 3/min per principal burst 9]
    timeout: 1500ms
    breaker: {{errors: 40%, slow: {{over: 700ms, ratio: 30%}}}}
  h: {{match: {{path: /h, methods: [GET], headers: {{x-env: eu}}}}, send: b}}
policies:
  p: {{applies_to: {{endpoints: [m]}}, enforce: false, until: "2030-01-01 06:00Z", throttle: 1/s}}
"""


def lines(folder: Path, page: str, overrides: str = "") -> list[str]:
    (folder / "page.yaml").write_text(page)
    if overrides:
        (folder / "overrides.yaml").write_text(overrides)
    loaded = load(folder, KINDS)
    assert loaded.schema is not None, loaded.report()
    return listing(loaded.schema)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTED", SECRET)


@pytest.mark.parametrize(
    "line",
    [
        "endpoints.h.match.headers.x-env = eu",
        "endpoints.h.match.methods = [GET]",
        "endpoints.h.match.path = /h",
        "endpoints.m.breaker.errors = 40%",
        "endpoints.m.breaker.slow.over = 700ms",
        "endpoints.m.breaker.slow.ratio = 30%",
        "endpoints.m.labels.stable = 1",
        "endpoints.m.throttle[0].rate = 5/s",
        "endpoints.m.throttle[1].burst = 9",
        "endpoints.m.throttle[1].per = principal",
        "endpoints.m.versions.2 = b",
        "limits.drain = 90s",
        "limits.trusted_proxies = [10.0.0.0/8]",
        "limits.url_bytes = 4KiB",
        "listen.admin.token = (secret)",
        "plans.free = {}",
        "policies.p.applies_to.endpoints = [m]",
        "policies.p.enforce = false",
        "policies.p.until = 2030-01-01 06:00Z",
        "pools.a.instances[1].address = 127.0.0.1:2",
        "pools.a.instances[1].weight = 2.5",
        "pools.b.find = b",
        "pools.b.version = v2",
        "principals.alice.may.models = [m]",
        "principals.alice.throttle.rate = 5/s",
        "stores.counters.password = (secret)",
        "stores.counters.timeout = 50ms",
        "telemetry.headers.authorization = (secret)",
    ],
)
def test_a_setting_shows_as_it_is_written(tmp_path: Path, line: str) -> None:
    assert line in lines(tmp_path, PAGE)


def test_no_secret_shows(tmp_path: Path) -> None:
    assert SECRET not in "\n".join(lines(tmp_path, PAGE))


def test_the_lines_are_sorted_and_each_path_stands_there_once(tmp_path: Path) -> None:
    shown = lines(tmp_path, PAGE)
    paths = [line.partition(" = ")[0] for line in shown]
    assert shown == sorted(shown)
    assert len(paths) == len(set(paths))


def test_what_nobody_wrote_does_not_show() -> None:
    assert listing(Schema()) == []


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_every_limit_shows_once_it_differs(name: str) -> None:
    usual = getattr(Limits(), name)
    other = {"underscores": "pass", "trusted_proxies": ("10.0.0.0/8",)}.get(name) or usual + type(usual)(1)
    assert [line.partition(" = ")[0] for line in listing(Schema(limits=Limits(**{name: other})))] == [
        f"limits.{name}"
    ]


def test_every_setting_of_the_top_has_a_line_of_its_own() -> None:
    for field in fields(Schema):
        if not setting_of(field).internal:
            assert yaml_name(field) == field.name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('until: "2030-01-01 06:00Z"', 'until: "2030-01-01 06:01Z"'),
        ("drain: 1m30s", "drain: 90001ms"),
        ("weight: 2.5", "weight: 2.5000001"),
        ("errors: 40%", "errors: 40.01%"),
        ("url_bytes: 4KiB", "url_bytes: 4097"),
        ("burst 9", "burst 10000001"),
        ("methods: [GET]", "methods: []"),
        ("stable: 90%, 2: 10%", "stable: 80%, 2: 20%"),
    ],
)
def test_what_differs_never_reads_alike(tmp_path: Path, before: str, after: str) -> None:
    assert before in PAGE
    assert lines(tmp_path, PAGE) != lines(tmp_path, PAGE.replace(before, after))


def test_an_override_shows_with_its_end(tmp_path: Path) -> None:
    shown = lines(tmp_path, PAGE, 'm: {throttle: 1/s, until: "2030-01-01 06:00:30Z"}\n')
    assert "overrides.m.throttle.rate = 1/s" in shown
    assert "overrides.m.until = 2030-01-01 06:00:30Z" in shown


def test_units_are_their_own_types_only_by_name() -> None:
    """Why the listing must ask the annotation: at run time a duration is a float like any other."""
    assert type(Duration(1.0)) is type(Instant(1.0)) is float
    assert type(Size(1)) is int
