from __future__ import annotations

from collections import Counter

import pytest

from gateway.config.kind import Reference
from gateway.config.units import Ratio
from gateway.filters.send import KIND, Send
from gateway.pipeline.choice import Explicit
from gateway.pipeline.filter import Rule
from tests.fakes.traffic import Traffic


def digits() -> Traffic:
    return Traffic(
        {"digits-v1": 1, "digits-v2": 1},
        versions={"1": "digits-v1", "2": "digits-v2"},
        labels={"stable": "1", "canary": "2"},
    )


@pytest.mark.parametrize(
    ("target", "pool"),
    [("stable", "digits-v1"), ("newest", "digits-v2"), ("2", "digits-v2"), ("digits-v1", "digits-v1")],
)
def test_everything_goes_to_one_target(target: str, pool: str) -> None:
    traffic = digits()
    (send,) = traffic.use(KIND, Send.from_text(target))
    ctx = traffic.context()
    assert send.on_request(ctx) is None
    assert ctx.pool is traffic.pools[pool]
    assert ctx.chosen_by == "send"


def test_weights_share_the_requests_within_binomial_bounds() -> None:
    traffic = digits()
    (send,) = traffic.use(KIND, Send({"stable": Ratio(0.8), "canary": Ratio(0.2)}))
    served: Counter[str] = Counter()
    for _ in range(5000):
        ctx = traffic.context()
        send.on_request(ctx)
        served[ctx.version] += 1
    assert abs(served["2"] - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5
    assert served.total() == 5000


def test_what_the_url_chose_is_left_alone() -> None:
    traffic = digits()
    traffic.add(Explicit(traffic.parts))
    traffic.use(KIND, Send.from_text("stable"))
    traffic.send(b"/v1/models/digits/versions/2:predict")
    assert traffic.upstream.calls[0].request.path == b"/v1/models/digits/versions/2:predict"
    assert traffic.observer.done == []


def test_weights_must_add_up() -> None:
    assert list(Send({"a": Ratio(0.5), "b": Ratio(0.5)}).check()) == []
    assert "90%" in next(iter(Send({"a": Ratio(0.5), "b": Ratio(0.4)}).check()))


def test_a_share_of_nothing_reaches_nobody() -> None:
    assert list(Send({"a": Ratio(1.0), "b": Ratio(0.0)}).names()) == [
        Reference("target", "a"),
        Reference("target", "b", reached=False),
    ]


def test_a_target_that_was_not_checked_is_found_out_at_build_time() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        digits().use(KIND, Send.from_text("nowhere"))


def test_what_an_operator_sends_beats_a_release_and_not_the_url() -> None:
    traffic = digits()
    rule = Rule(Send.from_text("stable"), "overrides.digits", override=True)
    (send,) = KIND.build((rule,), traffic.parts)
    ctx = traffic.context()
    ctx.chosen_by, ctx.arm, ctx.pool = "release", "candidate", traffic.pools["digits-v2"]
    send.on_request(ctx)
    assert (ctx.pool, ctx.chosen_by, ctx.arm) == (traffic.pools["digits-v1"], "send", "")
    ctx.chosen_by, ctx.pool = "url", traffic.pools["digits-v2"]
    send.on_request(ctx)
    assert ctx.pool is traffic.pools["digits-v2"]
