from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.resolve import Who
from gateway.config.units import Rate
from gateway.filters.throttle import KIND, Throttle
from gateway.filters.throttling import BytesThrottle, HeadThrottle, RowsThrottle
from gateway.pipeline.errors import Refusal, UpstreamConnectError
from gateway.pipeline.filter import Rule
from gateway.pipeline.ports import Principal, StoreUnavailable
from gateway.pipeline.promise import Promise
from tests.fakes.traffic import Ledger, Traffic, instances

ALICE = Principal("alice", plan="free", tenant="acme")
BOB = Principal("bob", plan="free", tenant="acme")


def throttle(text: str, **changes: object) -> Throttle:
    read = Throttle.from_text(text)
    return Throttle(**{**{name: getattr(read, name) for name in Throttle.__slots__}, **changes})


# Reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50/s", Throttle(Rate(50, 1))),
        ("5/s per principal burst 5", Throttle(Rate(5, 1), "principal", 5.0)),
        ("20000 rows/min per tenant", Throttle(Rate(20000, 60), "tenant", cost="rows")),
        ("1 request/s", Throttle(Rate(1, 1))),
        ("10 requests/30s per header:x-team", Throttle(Rate(10, 30), "header:x-team")),
        ("1000000 bytes/s per address burst 65536", Throttle(Rate(1e6, 1), "address", 65536.0, "bytes")),
    ],
)
def test_the_short_form_says_it_all(text: str, expected: Throttle) -> None:
    assert Throttle.from_text(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("50", "expected a throttle like"),
        ("50/s per nobody", "expected per principal"),
        ("50/s per header:", "expected per principal"),
        ("50/s burst 0", "burst of at least 1"),
        ("50 apples/s", "expected requests, rows, bytes"),
        ("0/s", "above zero"),
        ("50/fortnight", "expected a period"),
    ],
)
def test_what_is_no_throttle_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Throttle.from_text(text)


@pytest.mark.parametrize(
    ("text", "burst"), [("5/s", 1.0), ("50/s", 5.0), ("60/min", 1.0), ("5/s burst 5", 5.0)]
)
def test_the_default_burst_is_a_tenth_of_a_second_but_at_least_one(text: str, burst: float) -> None:
    assert Throttle.from_text(text).size == burst


@given(st.sampled_from(["5/s", "20000 rows/min per tenant", "7 bytes/30s per header:a burst 9"]))
def test_a_throttle_is_read_as_it_is_written(text: str) -> None:
    written = str(Throttle.from_text(text))
    assert str(Throttle.from_text(written)) == written


# Deciding


def test_who_goes_over_is_told_when_to_come_back_and_by_which_policy() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("5/s burst 2"), policy="free-tier")
    assert [head.on_request(traffic.context()) for _ in range(2)] == [None, None]
    refusal = head.on_request(traffic.context())
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.policy) == (429, "rate_limited", "free-tier")
    assert refusal.retry_after is not None
    assert 0.2 - 1e-6 <= refusal.retry_after <= 0.25 + 1e-6  # jitter: never earlier than true
    assert (b"ratelimit-policy", b'"free-tier";q=5;w=1') in refusal.headers
    assert (b"ratelimit", b'"free-tier";r=0;t=1') in refusal.headers


def test_an_answer_says_how_much_is_left_once() -> None:
    traffic = Traffic()
    traffic.use(KIND, throttle("5/s burst 5"), policy="free-tier")
    sent = traffic.send()
    traffic.upstream.calls[0].answer()
    assert sent.down.field(b"ratelimit") == b'"free-tier";r=4;t=1'
    for _ in range(4):
        traffic.send()
    refused = traffic.send().down
    assert refused.status == 429
    assert refused.field(b"retry-after") == b"1"
    assert [value for name, value in refused.response.headers if name == b"ratelimit"] == [
        b'"free-tier";r=0;t=1'
    ]
    assert refused.field(b"x-headgate-policy") == b"free-tier"


@pytest.mark.parametrize(
    ("rate", "member"),
    [
        ("100/min", b'"p";q=100;w=60'),
        ("0.5/s", b'"p";q=1;w=2'),
        ("3/500ms", b'"p";q=6;w=1'),
        ("10 rows/s", b'"p";q=10;w=1;qu="rows"'),
        ("10 bytes/s", b'"p";q=10;w=1;qu="content-bytes"'),
    ],
)
def test_quota_and_window_are_whole_numbers(rate: str, member: bytes) -> None:
    traffic = Traffic()
    traffic.use(KIND, throttle(rate, burst=100.0), policy="p")
    sent = traffic.send()
    traffic.upstream.calls[0].answer()
    assert sent.down.field(b"ratelimit-policy") == member


def test_a_name_that_is_no_plain_text_is_escaped() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("1/h"), policy='a"b\\ü')
    head.on_request(traffic.context())
    refusal = head.on_request(traffic.context())
    assert isinstance(refusal, Refusal)
    assert refusal.headers[0] == (b"ratelimit-policy", b'"a\\"b\\\\?";q=1;w=3600')


def test_all_must_have_room_or_nothing_is_spent() -> None:
    traffic = Traffic(counters=(ledger := Ledger()))
    (head,) = traffic.use(KIND, throttle("100/s burst 100"), throttle("1/s per principal"))
    assert head.on_request(traffic.context(principal=ALICE)) is None
    spent = ledger.balance()
    refusal = head.on_request(traffic.context(principal=ALICE))
    assert isinstance(refusal, Refusal)
    assert refusal.details["limit"] == "1/s per principal burst 1"
    assert ledger.balance() == spent
    assert head.on_request(traffic.context(principal=BOB)) is None


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("principal", {"principal": ALICE}, {"principal": BOB}),
        ("tenant", {"principal": BOB}, {"principal": Principal("eve", tenant="evil")}),
        ("plan", {"principal": BOB}, {"principal": Principal("carol", plan="pro")}),
        ("address", {"address": "10.0.0.1"}, {"address": "10.0.0.2"}),
        ("header:x-team", {"headers": [(b"x-team", b"a")]}, {"headers": [(b"x-team", b"b" * 100)]}),
    ],
)
def test_each_key_has_a_bucket_of_its_own(per: str, same: dict, other: dict) -> None:  # type: ignore[type-arg]
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle(f"1/h per {per}"))
    first = {"principal": ALICE, "address": "10.0.0.1", "headers": [(b"x-team", b"a")]}
    assert head.on_request(traffic.context(**first)) is None
    assert isinstance(head.on_request(traffic.context(**{**first, **same})), Refusal)
    assert head.on_request(traffic.context(**{**first, **other})) is None


def test_somebody_without_a_tenant_or_a_name_is_counted_by_the_next_best() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("1/h per tenant"))
    loner = Principal("loner")
    assert head.on_request(traffic.context(principal=loner)) is None
    assert isinstance(head.on_request(traffic.context(principal=loner, address="10.9.9.9")), Refusal)
    assert head.on_request(traffic.context()) is None
    assert isinstance(head.on_request(traffic.context()), Refusal)
    assert head.on_request(traffic.context(address="10.0.0.2")) is None


def test_a_policys_bucket_per_principal_is_shared_by_endpoints_and_the_endpoint_wide_one_is_not() -> None:
    counters = Ledger()
    one, other = Traffic(counters=counters), Traffic(counters=counters, endpoint="letters")
    for per, shared in (("principal", True), ("endpoint", False)):
        (here,) = KIND.build([Rule(throttle(f"1/h per {per}"), f"by-{per}")], one.parts)
        (there,) = KIND.build([Rule(throttle(f"1/h per {per}"), f"by-{per}")], other.parts)
        assert here.on_request(one.context(principal=ALICE)) is None
        assert isinstance(there.on_request(other.context(principal=ALICE)), Refusal) is shared


def test_a_rule_holds_only_for_whom_and_when_it_says() -> None:
    traffic = Traffic()
    wall = traffic.clock.wall()
    (head,) = traffic.use_rules(
        KIND,
        Rule(throttle("1/h"), "free-tier", who=Who(plans=frozenset({"free"}))),
        Rule(throttle("1/h"), "later", since=wall + 10),
    )
    assert head.on_request(traffic.context(principal=Principal("carol", plan="pro"))) is None
    assert head.on_request(traffic.context(principal=ALICE)) is None
    assert isinstance(head.on_request(traffic.context(principal=ALICE)), Refusal)
    traffic.clock.advance(11)
    pro = Principal("carol", plan="pro")
    assert head.on_request(traffic.context(principal=pro)) is None
    refusal = head.on_request(traffic.context(principal=pro))
    assert isinstance(refusal, Refusal)
    assert refusal.policy == "later"


def test_the_same_throttle_written_twice_counts_once() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("2/h burst 2"), throttle("2/h burst 2"))
    assert [head.on_request(traffic.context()) for _ in range(2)] == [None, None]


# Rows and bytes


def test_rows_are_spent_by_a_filter_of_their_own_that_sees_the_body() -> None:
    traffic = Traffic()
    filters = traffic.use(KIND, throttle("10/s"), throttle("100 rows/s burst 100"))
    assert [type(one) for one in filters] == [HeadThrottle, RowsThrottle]
    assert [(one.place, one.needs_body) for one in filters] == [(50, False), (70, True)]
    assert traffic.send(body=instances([[0, 0]] * 60)).ctx.refusal is None
    refused = traffic.send(body=instances([[0, 0]] * 60))
    assert refused.ctx.refusal is not None
    assert refused.ctx.refusal.code == "rate_limited"


def test_when_rows_are_refused_the_request_is_given_back() -> None:
    traffic = Traffic(counters=(ledger := Ledger()))
    traffic.use(KIND, throttle("10/s burst 10"), throttle("10 rows/s burst 10"))
    assert traffic.send(body=instances([[0, 0]] * 11)).down.status == 429
    assert ledger.balance() == {}


def test_what_costs_more_than_a_full_bucket_is_told_not_to_come_back() -> None:
    traffic = Traffic()
    traffic.use(KIND, throttle("10 rows/s burst 10"))
    down = traffic.send(body=instances([[0, 0]] * 11)).down
    assert (down.status, down.field(b"x-headgate-reason")) == (429, b"cost_above_burst")
    assert down.field(b"retry-after") is None
    assert down.field(b"ratelimit") == b'"endpoints.digits";r=10'


@pytest.mark.parametrize("reached", [True, False])
def test_rows_stay_spent_only_when_an_instance_was_asked(reached: bool) -> None:
    traffic = Traffic({"digits-v1": 1 if reached else 0}, counters=(ledger := Ledger()))
    traffic.use(KIND, throttle("100 rows/s burst 100"))
    sent = traffic.send(body=instances([[0, 0]] * 7))
    if reached:
        traffic.upstream.calls[0].answer()
    assert sent.down.answered
    assert sum(ledger.balance().values()) == (7 if reached else 0)


def test_what_is_no_prediction_costs_no_rows() -> None:
    traffic = Traffic()
    (rows,) = traffic.use(KIND, throttle("1 rows/h"))
    for _ in range(3):
        assert rows.on_request(traffic.context(b"/v1/models/digits/metadata", method=b"GET")) is None


def test_announced_bytes_are_spent_before_the_body_is_read() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("100 bytes/s burst 100"))
    assert isinstance(head, BytesThrottle)
    assert not head.needs_body
    assert head.on_request(traffic.context(body=None, length=80)) is None
    assert isinstance(head.on_request(traffic.context(body=None, length=80)), Refusal)
    assert head.on_request(traffic.context(length=0)) is None


@pytest.mark.parametrize("collected", [True, False])
def test_bytes_of_unknown_length_are_charged_after_the_fact(collected: bool) -> None:
    traffic = Traffic(counters=(ledger := Ledger()))
    (head,) = traffic.use(KIND, throttle("100 bytes/s burst 100"))
    ctx = traffic.context(body=None, length=None)
    assert head.on_request(ctx) is None
    if collected:
        ctx.request.length = 150
    else:
        assert head.on_request_chunk(ctx, b"x" * 150, True) == b"x" * 150
    head.on_done(ctx)
    assert sum(ledger.balance().values()) == 150
    assert isinstance(head.on_request(traffic.context(body=None, length=None)), Refusal)


# Rehearsing and explaining


def test_a_throttle_that_is_not_enforced_counts_and_refuses_nobody() -> None:
    traffic = Traffic()
    (head,) = traffic.use_rules(KIND, Rule(throttle("1/h"), "trial", enforce=False))
    assert isinstance(head, HeadThrottle)
    for _ in range(3):
        ctx = traffic.context()
        ctx.trail = []
        assert head.on_request(ctx) is None
    assert head.would_refuse == 2
    assert ctx.trail is not None
    assert [decision.verdict for decision in ctx.trail] == ["would refuse"]


def test_an_explained_request_spends_nothing() -> None:
    traffic = Traffic(counters=(ledger := Ledger()))
    (head,) = traffic.use_rules(
        KIND, Rule(throttle("2/h burst 2"), "real"), Rule(throttle("9/h"), "trial", enforce=False)
    )
    for _ in range(5):
        ctx = traffic.context()
        ctx.dry, ctx.trail = True, []
        assert head.on_request(ctx) is None
        assert ctx.trail[0].numbers["remaining"] == 1
    assert ledger.balance() == {}


# The store


@pytest.mark.parametrize(
    ("choice", "status"), [("open", None), ("closed", 503), ("local", None)], ids=["open", "closed", "local"]
)
def test_without_its_store_each_throttle_does_what_it_says(choice: str, status: int | None) -> None:
    traffic = Traffic(counters=(ledger := Ledger(late=True)))
    traffic.use(KIND, throttle("5/s", on_store_failure=choice))
    sent = traffic.send()
    assert not sent.down.answered
    ledger.fail(StoreUnavailable("away"))
    if status is None:
        assert len(traffic.upstream.calls) == 1
    else:
        assert sent.down.status == status
        assert sent.down.field(b"x-headgate-reason") == b"store_unavailable"


def test_counting_locally_gives_each_gateway_its_share() -> None:
    traffic = Traffic(counters=(ledger := Ledger(late=True)), gateways=4)
    (head,) = traffic.use(KIND, throttle("8/s burst 8"))
    verdicts = []
    for _ in range(3):
        verdict = head.on_request(traffic.context())
        assert isinstance(verdict, Promise)
        verdict.then(verdicts.append, pytest.fail)
        ledger.fail(StoreUnavailable("away"))
    assert [type(one) for one in verdicts] == [type(None), type(None), Refusal]
    assert 0.5 - 1e-6 <= verdicts[2].retry_after <= 0.625


def test_a_bug_in_the_store_is_not_taken_for_its_absence() -> None:
    traffic = Traffic(counters=(ledger := Ledger(late=True)))
    (head,) = traffic.use(KIND, throttle("8/s", on_store_failure="open"))
    verdict = head.on_request(traffic.context())
    assert isinstance(verdict, Promise)
    failures: list[Exception] = []
    verdict.then(lambda _: None, failures.append)
    ledger.fail(ZeroDivisionError())
    assert [type(one) for one in failures] == [ZeroDivisionError]


def test_what_is_granted_to_a_request_that_has_ended_is_given_back() -> None:
    traffic = Traffic(counters=(ledger := Ledger(late=True)))
    traffic.use(KIND, throttle("8/s burst 8"))
    sent = traffic.send()
    sent.exchange.on_client_gone()
    ledger.answer()
    assert ledger.balance() == {}
    assert traffic.upstream.calls == []


# Laws


@settings(max_examples=60, deadline=None)
@given(
    rate=st.integers(1, 50),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 0.3), min_size=1, max_size=120),
    late=st.booleans(),
)
def test_never_more_than_rate_times_time_plus_burst(
    rate: int, burst: int, gaps: list[float], late: bool
) -> None:
    traffic = Traffic(counters=(ledger := Ledger(late=late)))
    (head,) = traffic.use(KIND, throttle(f"{rate}/s burst {burst}"), throttle("1000/s per address burst 9"))
    granted: list[float] = []
    dice = random.Random(len(gaps))
    for gap in gaps:
        traffic.clock.advance(gap)
        now = traffic.clock.now()
        verdict = head.on_request(traffic.context())
        if isinstance(verdict, Promise):
            verdict.then(lambda late, now=now: granted.append(now) if late is None else None, pytest.fail)
            while ledger.asked and dice.random() < 0.7:
                ledger.answer()
        elif verdict is None:
            granted.append(now)
    while ledger.asked:
        ledger.answer()
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            allowed = rate * (granted[last] - granted[first]) + burst
            assert last - first + 1 <= math.floor(allowed + 1e-3)


EVENTS = ("answer the store", "fail the store", "answer", "fail", "leave", "time out")


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 40),
    path=st.lists(st.sampled_from(EVENTS), max_size=7),
    late=st.booleans(),
    instances_known=st.booleans(),
)
def test_whatever_happens_each_claim_is_kept_or_given_back_exactly_once(
    count: int, path: list[str], late: bool, instances_known: bool
) -> None:
    traffic = Traffic({"digits-v1": int(instances_known)}, counters=(ledger := Ledger(late=late)))
    traffic.use_rules(
        KIND,
        Rule(throttle("10/s burst 10"), "all"),
        Rule(throttle("30 rows/s burst 30"), "rows"),
        Rule(throttle("35 rows/s burst 35"), "trial", enforce=False),
    )
    sent = traffic.send(body=instances([[0, 0]] * count), timeout=5.0)
    for event in path:
        match event:
            case "answer the store" if ledger.asked:
                ledger.answer()
            case "fail the store" if ledger.asked:
                ledger.fail(StoreUnavailable("away"))
            case "answer" if traffic.upstream.calls and not sent.down.answered:
                traffic.upstream.calls[-1].answer()
            case "fail" if traffic.upstream.calls and not sent.down.answered:
                traffic.upstream.calls[-1].fail(UpstreamConnectError("refused"))
            case "leave":
                sent.exchange.on_client_gone()
            case "time out":
                traffic.clock.advance(6)
                traffic.timers.fire()
    sent.exchange.on_client_gone()
    while ledger.asked:
        ledger.answer()
    asked_an_instance = bool(traffic.upstream.calls)
    for key, spent in ledger.balance().items():
        if key.startswith(b"all"):
            assert spent == 1
        else:
            assert asked_an_instance
            assert spent == count


# Warm-up


def test_a_cold_throttle_lets_a_third_pass_and_all_of_it_once_it_is_warm() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("100/s", warm_up=10.0))

    def passed_in_a_second() -> int:
        passed = 0
        for _ in range(200):
            traffic.clock.advance(0.005)
            passed += head.on_request(traffic.context()) is None
        return passed

    seconds = [passed_in_a_second() for _ in range(12)]
    assert 30 <= seconds[0] <= 42
    assert seconds == sorted(seconds) or abs(seconds[-1] - seconds[-2]) <= 1
    assert seconds[-1] >= 97


@pytest.mark.parametrize(
    ("text", "complaint"), [("5/s per principal", "everybody shares"), ("5/s burst 2", "burst of at least 3")]
)
def test_warming_up_is_for_shared_limits_with_room_for_a_cold_request(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        throttle(text, warm_up=10.0)


# Hot values


def test_only_values_that_come_often_are_limited() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("10/s", per="segment:2", hot=50))
    passed = {b"hot": 0, b"cold": 0}
    for step in range(1000):
        traffic.clock.advance(0.005)
        passed[b"hot"] += head.on_request(traffic.context(path=b"/items/hot")) is None
        path = b"/items/%d" % (step % 200)
        passed[b"cold"] += head.on_request(traffic.context(path=path)) is None
    assert passed[b"cold"] == 1000
    assert 50 <= passed[b"hot"] <= 62


def test_a_claim_of_a_token_tells_buckets_apart() -> None:
    traffic = Traffic()
    (head,) = traffic.use(KIND, throttle("1/s burst 1", per="claim:team"))
    reds = Principal("a", claims={"team": "red"}), Principal("b", claims={"team": "red"})
    blue = Principal("c", claims={"team": "blue"})
    assert head.on_request(traffic.context(principal=reds[0])) is None
    assert isinstance(head.on_request(traffic.context(principal=reds[1])), Refusal)
    assert head.on_request(traffic.context(principal=blue)) is None


def test_hot_needs_to_know_whose_values() -> None:
    with pytest.raises(ValueError, match="with `per`"):
        throttle("1/s", hot=10)
