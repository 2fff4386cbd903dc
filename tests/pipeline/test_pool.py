"""A pool applies its balance, breaker and ejector: warmth, zones, subsets, reports, doubt."""

from collections import Counter
from random import Random

import pytest

from gateway.governance.breaker import State
from gateway.http.message import Response
from gateway.pipeline.errors import BreakerOpen, Outcome
from gateway.pipeline.pool import Facts, Instance, Pool
from gateway.pipeline.pool_verbs import Affinity, Balance, Breaker, Eject, PoolSettings, Zone
from tests.playbooks.stage import CountingIds, Stage

NAMES = "abcdefgh"


class Chance(CountingIds):
    """Chance that is one."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = Random(1).random  # type: ignore[method-assign]


def made(balance: Balance, names: str = NAMES, zones: str = "", breaker: Breaker | None = None) -> Pool:
    pool = Pool("main", PoolSettings(balance=balance, breaker=breaker), Chance())
    zones = zones or " " * len(names)
    pool.update(
        [
            Facts(name, "127.0.0.1", 9000 + i, zone=zone.strip())
            for i, (name, zone) in enumerate(zip(names, zones, strict=True))
        ],
        0.0,
    )
    return pool


def asked(headers=(), body=b"") -> Stage:
    stage = Stage()
    stage.start(headers=list(headers), body=body)
    stage.ctx.now = 0.0
    return stage


def acquired(pool: Pool, stage: Stage) -> Instance:
    instance = pool.acquire(stage.ctx, ())
    assert isinstance(instance, Instance)
    return instance


def release(pool: Pool, instance: Instance, ok: bool = True, now: float = 0.0) -> None:
    pool.released(instance, None, Outcome.SUCCESS if ok else Outcome.FAILURE, 0.01, now)


def test_a_session_stays_where_it_was_until_that_is_busier_by_what_it_is_worth():
    pool = made(Balance(affinity=Affinity(to="header:x-session", worth=3)))
    stage = asked([(b"x-session", b"s1")])
    first = acquired(pool, stage)
    seen = Counter(acquired(pool, stage).id for _ in range(2))
    assert seen == {first.id: 2}, "up to three calls more than the others"
    later = Counter(acquired(pool, stage).id for _ in range(10))
    assert set(later) - {first.id}, "then it gives way"


def test_a_request_without_the_key_goes_where_it_is_cheapest():
    pool = made(Balance(affinity=Affinity(to="header:x-session")))
    assert len({acquired(pool, asked()).id for _ in NAMES}) == len(NAMES)


def test_prompts_that_begin_alike_go_to_one_instance():
    pool = made(Balance(affinity=Affinity(to="prompt")))
    prefix = b'{"model": "m", "messages": [' + b"x" * 2000
    first = acquired(pool, asked(body=prefix + b"one"))
    other = acquired(pool, asked(body=b'{"messages": [' + b"y" * 2000))
    assert acquired(pool, asked(body=prefix + b"two")) is first
    assert other is not first


def test_calls_leave_the_zone_only_when_it_is_short():
    pool = made(Balance(zone=Zone("east", far=3)), "abcd", zones=("east", "east", "west", "west"))
    stage = asked()
    for instance in pool.members.instances:
        instance.latency.record(0.01, 0.0)
    homes = [acquired(pool, stage).zone for _ in range(4)]
    assert homes == ["east"] * 4
    later = [acquired(pool, stage).zone for _ in range(4)]
    assert "west" in later
    for instance in pool.members.instances[:2]:
        instance.healthy = False
    assert acquired(pool, stage).zone == "west"


def test_a_subset_is_used_and_the_rest_only_when_nobody_of_it_can_take_a_call():
    pool = made(Balance(subset=3))
    stage = asked()
    used = {acquired(pool, stage) for _ in range(30)}
    assert len(used) == 3
    for instance in used:
        instance.healthy = False
    assert acquired(pool, stage) not in used


def test_a_report_of_unusual_load_makes_an_instance_dearer():
    pool = made(Balance(reported=True), "ab")
    a, b = pool.members.instances
    for instance in (a, b):
        instance.latency.record(0.01, 0.0)
    pool.learn_load(a, Response(200, [(b"x-headgate-load", b"running=80, waiting=20")], b""))
    assert a.elsewhere == pytest.approx(0.3 * 0.95 * 100 / 80), "in turns of eighty calls at once"
    assert acquired(pool, asked()) is b
    for _ in range(200):
        pool.learn_load(a, Response(200, [(b"x-headgate-load", b"running=80, waiting=20")], b""))
    assert a.elsewhere == pytest.approx(0.0, abs=0.01), "what is usual shows in its latency"


@pytest.mark.parametrize("by", ["least_cost", "two_choices", "round_robin", "hash"])
def test_a_doubted_instance_gets_about_a_tenth_of_its_share(by):
    pool = made(Balance(by=by, hash="path"), "abcd")
    for instance in pool.members.instances:
        instance.latency.record(0.01, 0.0)
    sick = pool.members.instances[0]
    sick.doubted_until = 1e9
    share: Counter[str] = Counter()
    under_way: list[Instance] = []
    for number in range(800):
        stage = Stage()
        stage.start(path=b"/%d" % number)
        stage.ctx.now = 1.0
        instance = acquired(pool, stage)
        share[instance.id] += 1
        under_way.append(instance)
        if len(under_way) > 40:
            release(pool, under_way.pop(0), now=1.0)
        sick.doubted_until = 1e9
    assert 0.002 < share["a"] / 800 < 0.08
    assert sick.state(1.0) == "doubted"


def test_an_instance_is_shown_as_down_weighted_from_its_failure_until_it_has_more_than_a_quarter_again():
    pool = made(Balance(), "abcd")
    a, *others = pool.members.instances
    for instance in pool.members.instances:
        instance.latency.record(0.01, 0.0)
    assert pool.state(a, 0.0) == "up"
    a.in_flight += 1
    pool.in_flight += 1
    release(pool, a, ok=False, now=0.1)
    assert (a.state(0.1), pool.state(a, 0.1)) == ("up", "down_weighted")
    assert [pool.state(one, 0.1) for one in others] == ["up"] * 3
    a.ejected_until = 1.0
    assert pool.state(a, 0.2) == "ejected"
    a.latency.value = 0.039
    assert pool.state(a, 1.1) == "up"
    a.latency.value = 0.041
    assert pool.state(a, 1.1) == "down_weighted"


def test_failures_raise_doubt_and_successes_lift_it():
    pool = made(Balance(), "abcd")
    a, *others = pool.members.instances
    for _ in range(100):
        for instance in (a, *others):
            acquired_before = instance.in_flight
            instance.in_flight += 1
            pool.in_flight += 1
            release(pool, instance)
            assert instance.in_flight == acquired_before
    for _ in range(3):
        a.in_flight += 1
        pool.in_flight += 1
        release(pool, a, ok=False, now=1.0)
    assert a.state(1.0) == "doubted"
    for _ in range(2000):
        a.in_flight += 1
        pool.in_flight += 1
        release(pool, a, now=1.5)
    assert a.state(1.5) == "up"


def test_an_instance_that_hangs_now_and_then_is_doubted_where_the_policy_asks_for_it():
    pool = Pool("main", PoolSettings(eject=Eject(slow=3)), Chance())
    pool.update([Facts(name, "127.0.0.1", 9000) for name in "abc"], 0.0)
    a, b, c = pool.members.instances
    for i in range(1500):
        for instance in (a, b, c):
            hangs = instance is a and i > 500 and i % 10 == 0
            instance.in_flight += 1
            pool.in_flight += 1
            pool.released(instance, None, Outcome.SUCCESS, 1.0 if hangs else 0.01, i / 50)
    assert [one.state(30.0) for one in (a, b, c)] == ["doubted", "up", "up"]


# A pool's own breaker


def test_the_pools_breaker_opens_for_all_of_it_and_probes():
    pool_wide = PoolSettings(breaker=Breaker(of="pool", min_calls=4, cool_down=5.0))
    stage = Stage(settings=pool_wide)
    assert stage.pool.breaker is not None
    assert stage.pool.members.instances[0].breaker is None
    for _ in range(4):
        stage.start(method=b"POST")
        stage.respond(500)
    assert stage.pool.breaker.state is State.OPEN
    stage.start()
    assert stage.log[-2:] == ["reply 503", "done 503"]
    refused = stage.pool.acquire(stage.ctx, ())
    assert isinstance(refused, BreakerOpen)
    assert 0 < (refused.retry_after or 0) <= 6
    stage.clock.advance(6)
    stage.start()
    stage.respond(200)
    assert stage.pool.breaker.state is State.CLOSED


@pytest.mark.parametrize(("of", "count"), [("instance", 1), ("pool", 0), ("both", 1)])
def test_breakers_are_where_the_policy_says(of, count):
    pool = made(Balance(), "a", breaker=Breaker(of=of))
    assert sum(one.breaker is not None for one in pool.members.instances) == count
    assert (pool.breaker is not None) is (of != "instance")


def test_consecutive_failures_open_a_breaker_whatever_the_shares():
    pool = made(Balance(), "ab", breaker=Breaker(consecutive=3, min_calls=1000))
    breaker = pool.members.instances[0].breaker
    assert breaker is not None
    for _ in range(3):
        breaker.record(False, 0.1, 0.0, breaker.admit(0.0))
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(("status", "state"), [(200, State.CLOSED), (500, State.OPEN)])
def test_a_half_open_probe_that_becomes_a_stream_is_judged_by_its_head(status, state):
    settings = PoolSettings(breaker=Breaker(min_calls=2, cool_down=5.0))
    stage = Stage(settings=settings, instances=["a"])
    breaker = stage.pool.members.instances[0].breaker
    assert breaker is not None
    for _ in range(2):
        breaker.record(False, 0.1, 0.0, breaker.admit(0.0))
    assert breaker.state is State.OPEN
    stage.clock.advance(6)
    stage.start(method=b"POST")
    assert breaker.state is State.HALF_OPEN
    stage.sink.on_response(Response(status, [(b"content-type", b"text/event-stream")], None))
    assert breaker.state is state
    stage.sink.on_chunk(b"data: 1\n\n", False)
    stage.clock.advance(100)
    stage.sink.on_chunk(b"", True)
    assert breaker.state is state
