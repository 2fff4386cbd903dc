from __future__ import annotations

from collections import Counter

import pytest

from gateway.filters.importance import KIND, Importance, ImportanceFilter
from gateway.pipeline.errors import Refusal
from gateway.pipeline.ports import Principal
from tests.fakes.traffic import Traffic


@pytest.mark.parametrize(
    ("own", "principals", "together"),
    [
        ("normal", "", 1),
        ("critical", "", 0),
        ("sheddable", "", 2),
        ("normal", "critical", 0),
        ("critical", "normal", 0),
        ("sheddable", "critical", 2),
        ("critical", "sheddable", 2),
    ],
)
def test_a_request_is_as_important_as_endpoint_and_principal_make_it(
    own: str, principals: str, together: int
) -> None:
    traffic = Traffic()
    (filter,) = traffic.use(KIND, Importance(own))  # type: ignore[arg-type]
    ctx = traffic.context(principal=Principal("alice", importance=principals))
    assert filter.on_request(ctx) is None
    assert ctx.importance == together


def shed(level: float, *importances: str, count: int = 3000) -> Counter[str]:
    traffic = Traffic()
    filters = {name: traffic.use(KIND, Importance(name))[0] for name in set(importances)}  # type: ignore[arg-type]
    for number in range(600):  # the mix has to be known first
        filters[importances[number % len(importances)]].on_request(traffic.context())
    traffic.parts.pressure.level = level
    refused: Counter[str] = Counter()
    for number in range(count):
        name = importances[number % len(importances)]
        refused[name] += isinstance(filters[name].on_request(traffic.context()), Refusal)
    return refused


def test_sheddable_requests_go_first_whatever_their_endpoint() -> None:
    refused = shed(0.3, "sheddable", "normal")
    assert refused["normal"] == 0
    assert 780 < refused["sheddable"] < 1020  # 30 % of all, all of them sheddable


def test_then_normal_ones_and_critical_ones_never() -> None:
    refused = shed(1.0, "sheddable", "normal", "critical")
    assert (refused["sheddable"], refused["normal"], refused["critical"]) == (1000, 1000, 0)


def test_nobody_goes_without_while_there_is_no_pressure() -> None:
    assert shed(0.0, "sheddable", "normal").total() == 0


def test_who_goes_without_is_told_so() -> None:
    traffic = Traffic()
    traffic.use(KIND, Importance("sheddable"))
    traffic.parts.pressure.level = 1.0
    down = traffic.send().down
    assert (down.status, down.field(b"x-headgate-reason")) == (503, b"overloaded")
    assert down.field(b"retry-after") == b"1"


def test_all_endpoints_of_a_gateway_share_one_shedder() -> None:
    traffic = Traffic()
    (one,) = traffic.use(KIND, Importance("normal"))
    (other,) = traffic.use(KIND, Importance("sheddable"))
    assert isinstance(one, ImportanceFilter)
    assert isinstance(other, ImportanceFilter)
    assert one._shedder is other._shedder
