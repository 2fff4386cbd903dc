from __future__ import annotations

from gateway.filters.debug import KIND, Debug
from gateway.http.message import Response
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, Rule
from gateway.pipeline.pool import Facts, Instance, Pool
from gateway.pipeline.pool_verbs import PoolSettings
from tests.fakes.context import make_context, make_parts
from tests.playbooks.stage import CountingIds

IDS = CountingIds()


def debug(on: bool = True) -> Filter:
    (made,) = KIND.build([Rule(Debug(on))], make_parts())
    return made


def served() -> Context:
    ctx = make_context()
    ctx.pool = Pool("digits-v2", PoolSettings(), IDS)
    ctx.instance = Instance(Facts("digits-2", "10.0.0.7", 8000), PoolSettings(), IDS, 0.0)
    ctx.version, ctx.attempts = "2", 3
    return ctx


def told(ctx: Context, response: Response) -> dict[bytes, bytes]:
    answered = debug().on_response(ctx, response)
    assert isinstance(answered, Response)
    assert len(answered.headers) == len(dict(answered.headers))
    return dict(answered.headers)


def test_an_answer_says_who_served_it() -> None:
    assert told(served(), Response(200)) == {
        b"x-headgate-pool": b"digits-v2",
        b"x-headgate-version": b"2",
        b"x-headgate-instance": b"digits-2",
        b"x-headgate-attempts": b"3",
    }


def test_no_address_is_told() -> None:
    assert b"10.0.0.7" not in b"".join(told(served(), Response(200)).values())


def test_what_an_upstream_says_under_these_names_is_replaced() -> None:
    theirs = Response(200, [(b"x-headgate-instance", b"forged"), (b"x-headgate-attempts", b"forged")])
    assert b"forged" not in told(served(), theirs).values()


def test_a_refusal_before_any_attempt_names_no_pool() -> None:
    ctx = make_context()
    ctx.pool = Pool("digits-v2", PoolSettings(), IDS)
    ctx.refusal = Refusal(429, "rate_limited", "too many")
    assert told(ctx, Response(429)) == {b"x-headgate-attempts": b"0"}


def test_a_cached_answer_names_the_pool_it_stands_for_and_no_instance() -> None:
    ctx = make_context()
    ctx.pool = Pool("digits-v2", PoolSettings(), IDS)
    assert told(ctx, Response(200)) == {b"x-headgate-pool": b"digits-v2", b"x-headgate-attempts": b"0"}


def test_switched_off_it_acts_at_no_moment() -> None:
    assert Chain([debug(False)]).on_response == ()
