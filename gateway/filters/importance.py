"""Who goes without first when the gateway is pressed: sheddable requests, then normal, critical ones never.

`importance: sheddable` on an endpoint or a policy, `importance:` on a plan or a principal. A request is
sheddable as soon as one of the two says so (an import job of a paying customer is still an import job), else
critical if one does, else normal.

The pressure is one number, 0.0 to 1.0, that the edges measure (event-loop lag, requests in flight, full
pools); governance/overload.py has the law. One `Shedder` serves all endpoints of a gateway, because "the
lowest tenth" means of all requests, not of each endpoint's. Pools refuse by importance too, when their own
calls run out (pipeline/pool.py); this filter is the cheap No before any work was done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.config import schema
from gateway.config.kind import setting
from gateway.filters.shedding import ImportanceFilter
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule


@dataclass(frozen=True, slots=True)
class Importance:
    """Who goes first, and first goes without, under pressure."""

    level: schema.Importance = setting("normal", "critical, normal or sheddable", short=True)


def _build(rules: Sequence[Rule[Importance]], parts: Parts) -> Iterable[Filter]:
    return [ImportanceFilter(rule, rule.value.level, parts) for rule in rules]


KIND = FilterKind("importance", Importance, summary="who goes without first under pressure", build=_build)
