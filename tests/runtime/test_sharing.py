"""What one worker finds out about an instance reaches the others, once."""

from __future__ import annotations

from gateway.governance.breaker import State
from gateway.http.forwarded import Forwarding
from gateway.pipeline.pool import Facts, Instance, Pool
from gateway.pipeline.pool_verbs import Breaker, PoolSettings
from gateway.pipeline.routes import Routes
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime.messages import Sighting
from gateway.runtime.sharing import Sharing, unwell
from gateway.runtime.world import SystemIds

NOW = 100.0


class Process:
    """One worker's pool of two instances, and its sharing."""

    def __init__(self) -> None:
        settings = PoolSettings(breaker=Breaker())
        self.pool = Pool("p", settings, SystemIds())
        self.pool.update([Facts("a", "127.0.0.1", 1), Facts("b", "127.0.0.1", 2)], NOW)
        self.snapshot = Snapshot(1, "", {"p": self.pool}, {}, Routes((), ()).find, Forwarding())
        self.sharing = Sharing()
        assert self.look() == []

    @property
    def first(self) -> Instance:
        return self.pool.members.instances[0]

    def look(self, now: float = NOW) -> list[Sighting]:
        return self.sharing.look(self.snapshot, frozenset(), now)

    def heed(self, *sightings: Sighting, now: float = NOW) -> None:
        self.sharing.heed(self.snapshot, sightings, now)

    def fail(self, now: float = NOW) -> None:
        """Let the first one's breaker open."""
        breaker = self.first.breaker
        assert breaker is not None
        while breaker.state is not State.OPEN:
            breaker.record(False, 0.1, now, breaker.admit(now))


def test_an_ejection_is_told_once_and_heeded_by_the_others_without_an_echo() -> None:
    one, other = Process(), Process()
    one.first.ejected_until = NOW + 5
    told = one.look()
    assert told == [Sighting("p", "a", "ejected", NOW + 5)]
    assert one.look() == []
    other.heed(*told)
    assert other.first.state(NOW) == "ejected"
    assert other.look() == []


def test_a_breaker_that_opens_opens_everywhere_for_as_long() -> None:
    one, other = Process(), Process()
    one.fail()
    told = one.look()
    assert [sighting.what for sighting in told] == ["opened"]
    other.heed(*told)
    breaker = other.first.breaker
    assert breaker is not None
    assert breaker.state is State.OPEN
    assert breaker.open_until == told[0].until
    assert other.look() == []


def test_a_breaker_that_proved_itself_closes_everywhere() -> None:
    one, other = Process(), Process()
    one.fail()
    other.heed(*one.look())
    breaker = one.first.breaker
    assert breaker is not None
    later = breaker.open_until + 0.1
    while breaker.state is not State.CLOSED:
        breaker.record(True, 0.01, later, breaker.admit(later))
    told = one.look(later)
    assert [sighting.what for sighting in told] == ["closed"]
    other.heed(*told, now=later)
    assert other.first.state(later) == "up"
    assert other.look(later) == []


def test_a_breaker_that_relapses_takes_those_along_that_were_probing() -> None:
    one, other = Process(), Process()
    one.fail()
    other.heed(*one.look())
    probing = other.first.breaker
    assert probing is not None
    later = probing.open_until + 0.1
    assert probing.admit(later) is not None
    assert other.first.state(later) == "breaker_half_open"
    other.heed(Sighting("p", "a", "opened", later + 7), now=later)
    assert other.first.state(later) == "breaker_open"
    assert probing.open_until == later + 7


def test_what_is_over_or_about_a_stranger_changes_nothing() -> None:
    one = Process()
    one.heed(
        Sighting("p", "a", "opened", NOW - 1),
        Sighting("p", "stranger", "ejected", NOW + 5),
        Sighting("stranger", "a", "ejected", NOW + 5),
    )
    assert [instance.state(NOW) for instance in one.pool.members.instances] == ["up", "up"]


def test_health_is_applied_at_every_look_also_to_instances_that_came_later() -> None:
    one = Process()
    ill = frozenset({("p", "a"), ("p", "c")})
    one.sharing.look(one.snapshot, ill, NOW)
    assert unwell(one.snapshot) == {("p", "a")}
    one.pool.update([Facts("a", "127.0.0.1", 1), Facts("c", "127.0.0.1", 3)], NOW)
    one.sharing.look(one.snapshot, ill, NOW)
    assert unwell(one.snapshot) == ill
    one.look()
    assert unwell(one.snapshot) == frozenset()


def test_without_a_word_on_health_what_was_found_here_stays() -> None:
    one = Process()
    one.first.healthy = False
    one.sharing.look(one.snapshot, None, NOW)
    assert not one.first.healthy
