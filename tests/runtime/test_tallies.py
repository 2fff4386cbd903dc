"""Several workers find a bad instance as fast as one that had all of the traffic."""

from __future__ import annotations

from gateway.config.units import Duration
from gateway.governance.breaker import State
from gateway.governance.ladder import Ladder
from gateway.governance.slo import Objective
from gateway.http.forwarded import Forwarding
from gateway.pipeline.errors import Outcome
from gateway.pipeline.pool import Facts, Pool
from gateway.pipeline.pool_verbs import Breaker, Eject, PoolSettings, Slow
from gateway.pipeline.routes import Routes
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime.messages import Tally
from gateway.runtime.sharing import Sharing
from gateway.runtime.tallies import Tallies, heed
from gateway.runtime.world import SystemIds

NOW = 100.0


class Worker:
    """One process's pool of five instances."""

    def __init__(self, breaker: Breaker | None = None, eject: Eject | None = None) -> None:
        settings = PoolSettings(breaker=breaker, eject=eject or Eject())
        self.pool = Pool("p", settings, SystemIds())
        self.pool.update([Facts(name, "127.0.0.1", n) for n, name in enumerate("abcde", 1)], NOW)
        self.snapshot = Snapshot(1, "", {"p": self.pool}, {}, Routes((), ()).find, Forwarding())
        self.tallies = Tallies()
        self.objectives = {"api": Objective(0.99, 60.0)}
        assert self.look(NOW) == []

    def look(self, now: float) -> list[Tally]:
        return self.tallies.look(self.snapshot, self.objectives, now)

    def call(self, name: str, outcome: Outcome, now: float, latency: float = 0.01) -> None:
        (instance,) = [one for one in self.pool.members.instances if one.id == name]
        instance.in_flight += 1
        self.pool.in_flight += 1
        whole = self.pool.breaker
        permit = None if whole is None else whole.admit(now)
        self.pool.released(instance, instance.admit(now), outcome, latency, now, permit)

    def state(self, name: str, now: float) -> str:
        return next(one.state(now) for one in self.pool.members.instances if one.id == name)


def exchange(workers: list[Worker], now: float) -> None:
    """What the supervisor does between two looks."""
    told = [worker.look(now) for worker in workers]
    for number, worker in enumerate(workers):
        for other, tallies in enumerate(told):
            if other != number:
                heed(worker.snapshot, worker.objectives, tallies, now)


def calls_until_found(workers: int, rate: float, fails: float, limit: int = 6000) -> int:
    """Calls of `a` until any worker doubts or ejects it; each request meets the workers in turn.

    rate: calls of `a` per second. fails: every how-many-eth of them fails; the others' all succeed.
    """
    crew = [Worker() for _ in range(workers)]
    due = 0.0
    for number in range(limit):
        now = NOW + number / rate
        worker = crew[number % workers]
        due += fails
        failed, due = due >= 1.0, due % 1.0
        for name in "bcde":
            worker.call(name, Outcome.SUCCESS, now)
        worker.call("a", Outcome.FAILURE if failed else Outcome.SUCCESS, now)
        exchange(crew, now)
        if worker.state("a", now) != "up":
            return number + 1
    return limit


def test_eight_workers_need_hardly_more_calls_than_one_to_doubt_what_fails_one_call_in_ten() -> None:
    alone = calls_until_found(1, 20.0, 0.1)
    assert alone < 100
    assert calls_until_found(8, 20.0, 0.1) <= 1.25 * alone


def test_failures_in_a_row_add_up_over_workers() -> None:
    assert calls_until_found(8, 20.0, 1.0) <= calls_until_found(1, 20.0, 1.0) + 1


def test_a_breaker_opens_by_the_calls_of_all_workers_together() -> None:
    crew = [Worker(Breaker(of="both", min_calls=12)) for _ in range(4)]
    for number in range(12):
        assert crew[0].pool.breaker is not None
        assert crew[0].pool.breaker.admits(NOW)
        crew[number % 4].call("abcde"[number % 5], Outcome.FAILURE, NOW)
        exchange(crew, NOW)
    whole = [worker.pool.breaker for worker in crew]
    assert [one.state for one in whole if one is not None] == [State.OPEN] * 4


def test_slow_calls_add_up_too() -> None:
    crew = [Worker(Breaker(min_calls=8, slow=Slow(over=Duration(0.5)))) for _ in range(4)]
    for number in range(8):
        crew[number % 4].call("a", Outcome.SUCCESS, NOW, latency=1.0)
        exchange(crew, NOW)
    assert {worker.state("a", NOW) for worker in crew} == {"breaker_open"}


def test_scattered_failures_of_a_busy_look_make_no_row_and_no_peak() -> None:
    """A thousand calls between two looks, five of them failed: as anywhere else in the pool."""
    crew = [Worker(), Worker()]
    for step in range(40):
        now = NOW + step * 0.05
        for name in "abcde":
            for number in range(200):
                crew[0].call(name, Outcome.FAILURE if number % 100 == 99 else Outcome.SUCCESS, now)
        exchange(crew, now)
        assert {crew[1].state(name, now) for name in "abcde"} == {"up"}


def test_successes_alone_are_told_once_a_second_and_failures_at_once() -> None:
    worker = Worker()
    worker.call("a", Outcome.SUCCESS, NOW)
    assert worker.look(NOW + 0.5) == []
    worker.call("b", Outcome.FAILURE, NOW)
    assert worker.look(NOW + 0.55) == [Tally("p", "b", 0, 1, 0)]
    assert worker.look(NOW + 1.1) == [Tally("p", "a", 1, 0, 0)]
    assert worker.look(NOW + 2.2) == []


def test_what_was_counted_elsewhere_is_not_told_again() -> None:
    one, other = Worker(), Worker()
    one.call("a", Outcome.FAILURE, NOW)
    heed(other.snapshot, other.objectives, one.look(NOW + 0.1), NOW + 0.1)
    assert other.look(NOW + 2) == []


def test_the_breaker_of_a_whole_pool_opens_and_closes_everywhere() -> None:
    one, other = (Worker(Breaker(of="pool", min_calls=3)) for _ in range(2))
    first, second = Sharing(), Sharing()
    for _ in range(3):
        one.call("a", Outcome.FAILURE, NOW)
    told = first.look(one.snapshot, None, NOW)
    assert [(sighting.instance, sighting.what) for sighting in told] == [("", "opened")]
    second.heed(other.snapshot, told, NOW)
    assert other.pool.breaker is not None
    assert not other.pool.breaker.admits(NOW)
    assert second.look(other.snapshot, None, NOW) == []
    later = NOW + 30
    one.call("b", Outcome.SUCCESS, later)
    told = first.look(one.snapshot, None, later)
    assert [sighting.what for sighting in told] == ["closed"]
    second.heed(other.snapshot, told, later)
    assert other.pool.breaker.state is State.CLOSED


def test_an_objective_that_burns_in_one_worker_burns_in_all_and_their_ladders_follow():
    crew = [Worker() for _ in range(3)]
    ladders = [Ladder(2, calm=30.0, patience=5.0) for _ in crew]
    now = NOW
    for _ in range(100):  # all of the bad ones meet the first worker
        now += 0.1
        crew[0].objectives["api"].record(False, now)
        for worker in crew[1:]:
            worker.objectives["api"].record(True, now)
        exchange(crew, now)
        for worker, ladder in zip(crew, ladders, strict=True):
            ladder.look(worker.objectives["api"].severity(now), now)
    assert {ladder.level for ladder in ladders} == {2}
    rates = [worker.objectives["api"].rates(now)[0] for worker in crew]
    assert max(rates) - min(rates) < 0.05 * max(rates)


def test_what_was_learnt_of_an_objective_is_not_told_again():
    crew = [Worker() for _ in range(2)]
    crew[0].objectives["api"].record(False, NOW + 1)
    exchange(crew, NOW + 1.1)
    exchange(crew, NOW + 1.2)
    exchange(crew, NOW + 2.5)
    assert [worker.objectives["api"].bad for worker in crew] == [1, 0]
    assert crew[0].objectives["api"].rates(NOW + 2.5) == crew[1].objectives["api"].rates(NOW + 2.5)
