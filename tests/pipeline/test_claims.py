"""Claims on answers: each is fetched by one, whoever leaves and whichever gateway has its turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.pipeline.answers import AnswerStore, Kept
from gateway.pipeline.claims import LAST_LOOK, Claim, Claims
from gateway.pipeline.ports import Lease
from gateway.pipeline.promise import Eventual, Promise
from gateway.stores.memory import MemoryBlobs
from tests.fakes.clock import ManualClock, ManualTimers
from tests.pipeline.test_answers import kept


class Shared:
    """A store of several gateways that answers at once: who has which lease."""

    def __init__(self, clock: ManualClock) -> None:
        self.blobs = MemoryBlobs(1_000_000, clock)
        self.held: dict[bytes, str] = {}
        self.late: list[Callable[[], None]] | None = None  # what it has not told yet

    def of(self, gateway: str) -> AnswerStore:
        seat = Seat(self, gateway)
        answers = AnswerStore(10_000, seat, seat)
        answers.trust(True)
        return answers


class Seat:
    """One gateway's way to it."""

    def __init__(self, shared: Shared, gateway: str) -> None:
        self._shared = shared
        self._gateway = gateway
        self.get, self.set, self.delete = shared.blobs.get, shared.blobs.set, shared.blobs.delete

    def lease(self, key: bytes) -> Eventual[Lease]:
        lease = self._lease(key)
        if self._shared.late is None:
            return lease
        told: Promise[Lease] = Promise()
        self._shared.late.append(lambda: told.resolve(lease))
        return told

    def _lease(self, key: bytes) -> Lease:
        holder = self._shared.held.setdefault(key, self._gateway)
        if holder == "open":
            return Lease.NOBODYS
        return Lease.OURS if holder == self._gateway else Lease.THEIRS

    def release(self, key: bytes, shared: bool) -> None:
        assert self._shared.held.pop(key) == self._gateway
        if not shared:
            self._shared.held[key] = "open"

    def announce(self, what: str) -> None: ...


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now=1000.0)


@pytest.fixture
def timers(clock: ManualClock) -> ManualTimers:
    return ManualTimers(clock)


def wait(clock: ManualClock, timers: ManualTimers, seconds: float) -> None:
    for _ in range(round(seconds / LAST_LOOK)):
        clock.advance(LAST_LOOK)
        timers.fire()


def heard(claim: Claim, told: Callable[[], None] | None = None) -> list[Kept | None]:
    """What the claim was told, once it is."""
    said: list[Kept | None] = []
    taken = claim.take(told)
    if isinstance(taken, Promise):
        taken.then(said.append, pytest.fail)
    else:
        said.append(taken)
    return said


def test_the_first_fetches_and_the_others_get_what_it_brings(
    clock: ManualClock, timers: ManualTimers
) -> None:
    answers, one = AnswerStore(10_000), kept()
    claims = [Claim(b"k", answers, clock, timers) for _ in range(3)]
    first, *others = [heard(claim) for claim in claims]
    assert (first, others) == ([None], [[], []])
    claims[0].land(one)
    assert others == [[one], [one]]
    assert all(claim.over for claim in claims)


def test_the_first_that_stays_goes_on_when_several_leave_at_once(
    clock: ManualClock, timers: ManualTimers
) -> None:
    shared = Shared(clock)
    answers = shared.of("one")
    first, second, third = [Claim(b"k", answers, clock, timers) for _ in range(3)]
    _, _, last = [heard(claim) for claim in (first, second, third)]

    def both_leave() -> None:
        first.leave()
        second.leave()

    answers.together(both_leave)
    assert last == [None]
    third.leave()
    assert not answers.is_flying(b"k")
    assert shared.held == {}


@pytest.mark.parametrize("ends", [lambda claim: claim.land(kept()), Claim.dissolve], ids=["land", "dissolve"])
def test_who_waits_and_has_an_answer_of_its_own_is_not_asked_to_go_on(
    clock: ManualClock, timers: ManualTimers, ends: Callable[[Claim], None]
) -> None:
    answers = AnswerStore(10_000)
    leader, waiting, last = [Claim(b"k", answers, clock, timers) for _ in range(3)]
    for claim in (leader, waiting):
        heard(claim)
    ends(waiting)
    told = heard(last)
    leader.leave()
    assert told == [None], "the last one goes on"


def test_what_another_gateway_fetches_is_waited_for(clock: ManualClock, timers: ManualTimers) -> None:
    shared = Shared(clock)
    answers = shared.of("one"), shared.of("other")
    ours, theirs, joiner = [Claim(b"k", answers[at], clock, timers) for at in (0, 1, 1)]
    known: list[str] = []
    assert heard(ours) == [None]
    told, joined = heard(theirs, lambda: known.append("theirs")), heard(joiner)
    assert (known, told) == (["theirs"], [])
    answers[0].keep(b"k", kept(), clock.wall(), clock.wall())
    ours.land(kept())
    wait(clock, timers, LAST_LOOK)
    assert [one.body for one in (*told, *joined) if one] == [b"{}", b"{}"]


def test_it_goes_on_itself_when_the_other_gateway_brings_nothing(
    clock: ManualClock, timers: ManualTimers
) -> None:
    shared = Shared(clock)
    ours, theirs = [Claim(b"k", shared.of(name), clock, timers) for name in ("one", "other")]
    heard(ours)
    told = heard(theirs)
    wait(clock, timers, 1.0)
    assert told == []
    ours.leave()
    wait(clock, timers, LAST_LOOK)
    assert told == [None]


@pytest.mark.parametrize(
    "ends", [Claim.dissolve, lambda claim: claim.land(kept(ttl=0.0))], ids=["dissolve", "ttl 0"]
)
def test_nobody_waits_for_what_another_gateway_cant_share(
    clock: ManualClock, timers: ManualTimers, ends: Callable[[Claim], None]
) -> None:
    shared = Shared(clock)
    ours, theirs = [Claim(b"k", shared.of(name), clock, timers) for name in ("one", "other")]
    heard(ours)
    told = heard(theirs)
    ends(ours)
    wait(clock, timers, LAST_LOOK)
    assert told == [None]
    assert shared.held == {b"k": "open"}


def test_a_lease_that_comes_when_nobody_wants_it_any_more_is_given_back(
    clock: ManualClock, timers: ManualTimers
) -> None:
    shared = Shared(clock)
    shared.late = []
    claim = Claim(b"k", shared.of("one"), clock, timers)
    told = heard(claim)
    claim.leave()
    assert shared.held == {b"k": "one"}
    shared.late[0]()
    assert (shared.held, told) == ({}, [None])


def test_who_gets_the_lease_looks_once_more(clock: ManualClock, timers: ManualTimers) -> None:
    shared = Shared(clock)
    one, other = shared.of("one"), shared.of("other")
    one.keep(b"k", kept(b"landed meanwhile"), clock.wall(), clock.wall())
    claim = Claim(b"k", other, clock, timers)
    (found,) = heard(claim)
    assert found is not None
    assert found.body == b"landed meanwhile"
    assert shared.held == {}


def test_two_batches_with_the_same_rows_in_another_order_never_wait_for_each_other(
    clock: ManualClock, timers: ManualTimers
) -> None:
    shared = Shared(clock)
    sides: list[Claims] = []
    for name, keys in (("one", [b"a", b"b"]), ("other", [b"c", b"b", b"a"])):
        claims = Claims(shared.of(name), clock, timers, lambda key, kept: True, lambda: None)
        claims.take(keys)
        assert claims.decided
        sides.append(claims)
    assert [(claims.ours, claims.theirs) for claims in sides] == [
        ({b"a", b"b"}, set()),
        ({b"c"}, {b"a", b"b"}),
    ]
    sides[0].leave()
    wait(clock, timers, LAST_LOOK)
    assert (sides[1].ours, sides[1].theirs) == ({b"a", b"b", b"c"}, set())
