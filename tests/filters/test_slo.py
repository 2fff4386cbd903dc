from __future__ import annotations

import pytest

from gateway.config.units import Duration
from gateway.filters import importance, slo
from gateway.filters.slo import KIND, Slo
from gateway.pipeline.errors import Refusal
from tests.fakes.traffic import Traffic


def counted(traffic: Traffic) -> tuple[float, float]:
    return traffic.parts.pressure.objectives["digits"].rates(traffic.clock.now())


@pytest.mark.parametrize(
    ("status", "slow", "burns"),
    [(200, False, 0.0), (200, True, 100.0), (404, False, 0.0), (500, False, 100.0), (503, True, 100.0)],
)
def test_errors_and_late_first_bytes_are_bad(status: int, slow: bool, burns: float) -> None:
    traffic = Traffic()
    traffic.use(KIND, Slo(Duration(0.3)))
    traffic.use(importance.KIND, importance.Importance())
    traffic.send()
    traffic.clock.advance(0.4 if slow else 0.2)
    traffic.upstream.calls[0].answer(b"{}", status)
    assert counted(traffic) == pytest.approx((burns, burns))


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("status", 499),
        ("degraded", "respond"),
        ("dry", True),
        ("refusal", Refusal(429, "rate_limited", "slow down")),
    ],
)
def test_what_says_nothing_of_the_service_is_left_out(change: str, value: object) -> None:
    traffic = Traffic()
    (filter,) = traffic.use(KIND, Slo())
    ctx = traffic.context()
    ctx.status = 429 if change == "refusal" else 500
    setattr(ctx, change, value)
    filter.on_done(ctx)
    assert counted(traffic) == (0.0, 0.0)
    assert filter.on_request(ctx) is None


def test_a_call_whose_grpc_status_blames_the_server_is_bad() -> None:
    traffic = Traffic()
    (filter,) = traffic.use(KIND, Slo())
    for status in (0, 14):
        ctx = traffic.context()
        ctx.status, ctx.grpc_status = 200, status
        filter.on_done(ctx)
    assert counted(traffic) == pytest.approx((50.0, 50.0))


def test_the_refusals_of_our_own_capacity_are_bad() -> None:
    traffic = Traffic()
    (filter,) = traffic.use(KIND, Slo())
    ctx = traffic.context()
    ctx.status, ctx.refusal = 503, Refusal(503, "overloaded", "too much")
    filter.on_done(ctx)
    assert counted(traffic) == pytest.approx((100.0, 100.0))


def test_an_objective_that_left_the_policies_makes_room_for_the_next() -> None:
    traffic = Traffic()
    (before,) = traffic.use(KIND, Slo())
    (after,) = traffic.use(KIND, Slo(Duration(1.0)))
    before.close()
    assert isinstance(after, slo.SloFilter)
    assert traffic.parts.pressure.objectives == {"digits": after.objective}
    after.close()
    assert traffic.parts.pressure.objectives == {}
