"""A traffic verb with `enforce: false` decides and records, and changes nothing of the request."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.units import Duration, Ratio
from gateway.filters import cache, degrade, importance, release, send
from gateway.pipeline.context import Context
from gateway.pipeline.filter import FilterKind, Rule
from tests.fakes.traffic import Traffic, instances


def state(ctx: Context) -> tuple[object, ...]:
    return (
        ctx.pool,
        ctx.version,
        ctx.chosen_by,
        ctx.arm,
        ctx.importance,
        ctx.degraded,
        ctx.cache_status,
        ctx.want_whole,
        ctx.slots,
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (send.KIND, send.Send.from_text("2")),
        (release.KIND, release.Release(weight=Ratio(1.0))),
        (importance.KIND, importance.Importance("sheddable")),
        (degrade.KIND, degrade.Degrade.from_text("digits-v2")),
        (cache.KIND, cache.Cache(Duration(30.0))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_rule_that_is_not_enforced_changes_nothing(kind: FilterKind[Any], value: object) -> None:
    traffic = Traffic(
        {"digits-v1": 1, "digits-v2": 1},
        versions={"1": "digits-v1", "2": "digits-v2"},
        labels={"stable": "1"},
    )
    (rehearsed,) = traffic.use_rules(kind, Rule(value, "trial", enforce=False))
    (acting,) = traffic.use_rules(kind, Rule(value, "real"))
    ctx = traffic.context(body=instances([[1, 2]]))
    ctx.trail = []
    before = state(ctx)
    assert rehearsed.on_request(ctx) is None
    assert state(ctx) == before
    acting.on_request(ctx)
    assert state(ctx) != before
