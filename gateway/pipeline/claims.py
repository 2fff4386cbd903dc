"""What one request claims of answers that many may want at once: who fetches, who waits, what lands.

A claim takes part in the flight of its key (answers.py) and, where gateways share a store, takes its turn
among them: `take` says whether another brings the answer, or it is ours to fetch. Whoever fetches says once
what came of it:

    land       the answer, for all who wait
    dissolve   there is one, but it can't be shared: everybody fetches for himself
    leave      nothing, or nobody wants it any more: the one who waited longest goes on

The leader of a flight asks the shared store for a lease on the key, and while another gateway has it looks
every few hundredths of a second whether the answer has come. Who gets the lease looks once more before it
fetches: the one before may have landed meanwhile, and what is in memory may be older than what the store
has. A lease ends by itself when its holder dies; without the store each gateway fetches for itself.

`Claims` are those of one request for many keys, the rows of a batch: each is claimed by itself, so a batch
fetches what nobody fetches and waits for the rest. Nothing that is ours to fetch waits for what others fetch,
so two batches never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeAlias

from gateway.governance.flights import Role
from gateway.pipeline.answers import AnswerStore, Kept, Landed, Waiter
from gateway.pipeline.ports import Clock, Lease, Timers
from gateway.pipeline.promise import Eventual, Promise

FIRST_LOOK: Final = 0.01  # s after which a waiting gateway looks for the answer; doubles
LAST_LOOK: Final = 0.08

Look: TypeAlias = Callable[[], Eventual[Kept | None]]
"""Looks for what another gateway brought: something that can be given, or None."""


class Claim(Waiter):
    """One request's part in the flight of one key. over: the flight needs nothing more from it."""

    __slots__ = ("_answers", "_clock", "_look", "_timers", "_told", "key", "over")

    def __init__(
        self,
        key: bytes,
        answers: AnswerStore,
        clock: Clock,
        timers: Timers | None,
        look: Look | None = None,
    ) -> None:
        """look: by the key alone, where that isn't said. timers: None: other gateways are not waited for."""
        super().__init__()
        self.key = key
        self.over = False
        self._answers = answers
        self._clock = clock
        self._timers = timers
        self._look = look
        self._told: Callable[[], None] | None = None

    def take(self, told: Callable[[], None] | None = None) -> Eventual[Kept | None]:
        """Return the answer that another brings; None: fetch it.

        told: called once, as soon as it is known whether others fetch.
        """
        self._told = told
        role = self._answers.join(self.key, self)
        if role is Role.LEADER:
            return self._turn()
        self._tell()
        if role is Role.JOINER:
            return self.landed.chain(self._landed)
        self.over = True
        return None

    def land(self, kept: Kept) -> None:
        """Share the answer."""
        if not self.over:
            self.over = True
            self._answers.land(self.key, self, kept)

    def dissolve(self) -> None:
        """Send everybody on: the answer can't be shared."""
        if not self.over:
            self.over = True
            self._answers.dissolve(self.key, self)

    def leave(self) -> None:
        """Go without having brought anything."""
        if not self.over:
            self.over = True
            self._answers.leave(self.key, self)

    def _landed(self, landed: Landed) -> Eventual[Kept | None]:
        if landed is Role.LEADER:
            return self._turn()
        self.over = True
        return landed if isinstance(landed, Kept) else None

    # Among gateways

    def _turn(self) -> Eventual[Kept | None]:
        """Wait until it is this gateway's turn to fetch, or for what another gateway brought."""
        if self._timers is None or not self._answers.takes_turns(self.key):
            self._tell()
            return None
        turn: Promise[Kept | None] = Promise()
        self._ask(turn, FIRST_LOOK)
        return turn

    def _ask(self, turn: Promise[Kept | None], pause: float) -> None:
        lease = self._answers.lease(self.key)
        if isinstance(lease, Promise):
            lease.then(partial(self._leased, turn, pause), turn.reject)
        else:
            self._leased(turn, pause, lease)

    def _leased(self, turn: Promise[Kept | None], pause: float, lease: Lease) -> None:
        if lease is Lease.THEIRS:
            assert self._timers is not None
            self._timers.punctual(self._clock.now() + pause, partial(self._again, turn, pause))
            self._tell()
        elif lease is Lease.OURS:
            found = self._newest()
            if isinstance(found, Promise):
                found.then(partial(self._end, turn), turn.reject)
            else:
                self._end(turn, found)
        else:
            self._end(turn, None)

    def _again(self, turn: Promise[Kept | None], pause: float) -> None:
        if self.over or not self._answers.takes_turns(self.key):
            self._end(turn, None)
            return
        found = self._newest()
        if isinstance(found, Promise):
            found.then(partial(self._looked, turn, pause), turn.reject)
        else:
            self._looked(turn, pause, found)

    def _looked(self, turn: Promise[Kept | None], pause: float, found: Kept | None) -> None:
        if found is None and not self.over:
            self._ask(turn, min(LAST_LOOK, 2 * pause))
        else:
            self._end(turn, found)

    def _newest(self) -> Eventual[Kept | None]:
        if self._look is not None:
            return self._look()
        return self._answers.newest(self.key, self._clock.now(), self._clock.wall())

    def _end(self, turn: Promise[Kept | None], kept: Kept | None) -> None:
        if kept is not None:
            self.land(kept)
        turn.resolve(kept)
        self._tell()

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told()

    def __repr__(self) -> str:
        return f"<Claim {self.key.hex()}{' | over' if self.over else ''}>"


class Claims:
    """One request's claims, by key. ours: to be fetched now; theirs: what others bring.

    took: is given what another brought, and says whether it will do; where it won't, that is ours, too.
    changed: called when something was decided or came, once for all that happened together.
    """

    __slots__ = ("_answers", "_asking", "_changed", "_claims", "_clock", "_news", "_timers", "_took",
                 "ours", "theirs")  # fmt: skip

    def __init__(
        self,
        answers: AnswerStore,
        clock: Clock,
        timers: Timers | None,
        took: Callable[[bytes, Kept], bool],
        changed: Callable[[], None],
    ) -> None:
        self.ours: set[bytes] = set()
        self.theirs: set[bytes] = set()
        self._answers = answers
        self._clock = clock
        self._timers = timers
        self._took = took
        self._changed = changed
        self._claims: dict[bytes, Claim] = {}
        self._asking = 0  # claims of which nobody knows yet who fetches
        self._news = False  # `changed` is about to be called

    @property
    def decided(self) -> bool:
        """Whether of each it is known who fetches."""
        return not self._asking

    def take(self, keys: Iterable[bytes]) -> None:
        """Claim them all. `changed` may be called at once."""
        self._asking += 1
        for key in keys:
            claim = Claim(key, self._answers, self._clock, self._timers)
            self._claims[key] = claim
            self.theirs.add(key)
            self._asking += 1
            taken = claim.take(self._told)
            if isinstance(taken, Promise):
                taken.then(partial(self._arrived, key), partial(self._failed, key))
            else:
                self._arrived(key, taken)
        self._told()

    def land(self, key: bytes, kept: Kept) -> None:
        """Share what was fetched."""
        claim = self._claims.pop(key, None)
        if claim is not None:
            claim.land(kept)

    def dissolve(self, keys: Iterable[bytes]) -> None:
        """What was fetched can't be shared; nothing for keys that have landed."""
        claims = [self._claims.pop(key) for key in keys if key in self._claims]
        self._answers.together(lambda: _each(claims, True))

    def leave_theirs(self) -> None:
        """Fetch for ourselves what others fetch, too."""
        for key in self.theirs:
            claim = self._claims.pop(key, None)
            if claim is not None:
                claim.leave()
        self.ours |= self.theirs
        self.theirs.clear()

    def leave(self) -> None:
        """Nobody wants anything any more: who waited longest goes on."""
        claims = list(self._claims.values())
        self._claims.clear()
        self.ours.clear()
        self.theirs.clear()
        self._answers.together(lambda: _each(claims, False))

    def _told(self) -> None:
        self._asking -= 1
        self._tell()

    def _arrived(self, key: bytes, kept: Kept | None) -> None:
        if key not in self.theirs:
            return
        self.theirs.discard(key)
        if kept is None or not self._took(key, kept):
            self.ours.add(key)
        self._tell()

    def _failed(self, key: bytes, error: Exception) -> None:
        self._arrived(key, None)

    def _tell(self) -> None:
        if not self._asking and not self._news:
            self._news = True
            self._answers.afterwards(self._tell_now)

    def _tell_now(self) -> None:
        self._news = False
        self._changed()

    def __repr__(self) -> str:
        return f"<Claims | {len(self.ours)} ours, {len(self.theirs)} theirs>"


def _each(claims: Iterable[Claim], dissolve: bool) -> None:
    for claim in claims:
        if dissolve:
            claim.dissolve()
        else:
            claim.leave()
