from __future__ import annotations

import pytest

from gateway.config.resolve import Who
from gateway.filters.degrade import KIND as DEGRADE
from gateway.filters.degrade import Degrade, Respond, Step
from gateway.filters.quota import KIND, Quota
from gateway.filters.throttle import KIND as THROTTLE
from gateway.filters.throttle import Throttle
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Rule
from gateway.pipeline.ports import Principal
from tests.fakes.traffic import Traffic, instances

ALICE = Principal("alice", plan="free", tenant="acme")
BOB = Principal("bob", plan="free", tenant="acme")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100000/day per principal", Quota(100_000, "day", "principal")),
        ("2_000_000 tokens/month per tenant", Quota(2_000_000, "month", "tenant", "tokens")),
        ("10/24h", Quota(10, "24h")),
        ("10/day in Europe/Berlin", Quota(10, "day", zone="Europe/Berlin")),
        ("5 rows/week per plan in Asia/Tokyo", Quota(5, "week", "plan", "rows", "Asia/Tokyo")),
    ],
)
def test_the_short_form_says_it_all(text: str, expected: Quota) -> None:
    assert Quota.from_text(text) == expected
    assert str(Quota.from_text(str(expected))) == str(expected)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("100", "expected a quota like"),
        ("0/day", "at least 1"),
        ("5/30s", "use a throttle"),
        ("5/fortnight", "expected hour, day, week"),
        ("5/day per nobody", "expected per principal"),
        ("5 apples/day", "expected requests, rows"),
        ("5/day in Atlantis", "expected a time zone"),
    ],
)
def test_what_is_no_quota_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Quota.from_text(text)


def test_who_spent_it_is_told_when_the_window_ends_and_by_which_quota() -> None:
    traffic = Traffic()
    (quota,) = traffic.use(KIND, Quota.from_text("2/day per principal"), policy="free-tier")
    contexts = [traffic.context(principal=ALICE) for _ in range(3)]
    first, second, refusal = [quota.on_request(ctx) for ctx in contexts]
    assert (first, second) == (None, None)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.policy) == (429, "quota_exhausted", "free-tier")
    midnight = 86400 - traffic.clock.wall() % 86400
    assert refusal.retry_after is not None
    assert midnight - 1e-3 <= refusal.retry_after <= midnight + 30.0
    assert (b"ratelimit-policy", b'"free-tier:day";q=2;w=86400') in refusal.headers
    assert quota.on_request(traffic.context(principal=BOB)) is None
    traffic.clock.advance(midnight + 1)
    assert quota.on_request(traffic.context(principal=ALICE)) is None


def test_a_request_that_is_refused_costs_no_quota() -> None:
    traffic = Traffic()
    traffic.use(KIND, Quota.from_text("3/day"))
    traffic.use(THROTTLE, Throttle.from_text("1/s burst 1"))
    traffic.send()
    assert [traffic.send().down.status for _ in range(4)] == [429, 429, 429, 429]
    traffic.clock.advance(2.0)
    traffic.send()
    traffic.clock.advance(2.0)
    third = traffic.send()
    traffic.upstream.calls[-1].answer()
    left = [value for name, value in third.down.response.headers if name == b"ratelimit"]
    assert left[1].startswith(b'"endpoints.digits:day";r=0;t=')
    traffic.clock.advance(2.0)
    refused = traffic.send().down
    assert (refused.status, refused.field(b"x-headgate-reason")) == (429, b"quota_exhausted")


def test_rows_that_no_instance_computed_come_back() -> None:
    traffic = Traffic()
    traffic.use(KIND, Quota.from_text("3 rows/month"))
    sent = traffic.send(body=instances([[1, 2], [3, 4]]))
    traffic.upstream.calls[0].answer()
    assert sent.down.status == 200
    refused = traffic.send(body=instances([[1, 2], [3, 4]])).down
    assert refused.field(b"x-headgate-reason") == b"quota_exhausted"
    traffic.send(body=instances([[1, 2]]))
    assert len(traffic.upstream.calls) == 2


def test_a_ladder_may_answer_instead() -> None:
    traffic = Traffic()
    traffic.use(KIND, Quota.from_text("1/day"))
    traffic.use(DEGRADE, Degrade((Step(respond=Respond(status=200, body="{}")),), when=("quota",)))
    traffic.send()
    lesser = traffic.send().down
    assert (lesser.status, lesser.field(b"x-degraded")) == (200, b"respond")


def test_a_rehearsal_counts_and_refuses_nobody() -> None:
    traffic = Traffic()
    rule = Rule(Quota.from_text("1/day"), "free-tier", who=Who(plans=frozenset({"free"})), enforce=False)
    traffic.use_rules(KIND, rule)
    sent = [traffic.send(principal=ALICE) for _ in range(2)]
    assert [one.exchange.ctx.rehearsed for one in sent] == [(), (("free-tier", "quota_exhausted"),)]
