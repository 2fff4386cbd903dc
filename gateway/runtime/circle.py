"""Gateways that release together: one of them decides, the others tell it what they saw and do as it says.

    every SYNC s    hand in what was gathered and asked for by hand ──► table (stores/redis_releases.py)
                    the leader takes it in, looks, writes the state ◄── all others take the state over

Who leads is a lease; when its holder is gone the next one goes on from the state that was written last. What
was handed in and is not in that state yet is still on the table, and each entry has a number of its sender's:
taken in once, whatever is sent twice or read twice. Evidence counted double would be no evidence.

Without the table each gateway goes on at the weight it knows. It may take a candidate back by the
evidence it has (what it last saw of everybody's, and its own), for that is safe alone, and tells the others
when the table is back; it neither climbs, promotes nor flips, for that is safe only with everybody's.

Between two gateways a decision takes up to SYNC s: a blue-green flip is one moment for the workers of a
host, not for several hosts.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple, Protocol

import msgspec

from gateway.config.schema import Store
from gateway.pipeline.ports import StoreUnavailable
from gateway.pipeline.releases import Gathered
from gateway.stores.redis import Address, RedisClient
from gateway.stores.redis_releases import RedisTable

SYNC: Final = 0.2  # s
KEPT: Final = 600  # entries that wait for the table: two minutes of evidence
PATIENCE: Final = 25  # meetings
SENDERS: Final = 64  # whose last number is remembered

log = logging.getLogger("headgate.releases")


class Meeting(Protocol):
    """What a meeting gave: see stores/redis_releases.Met."""

    @property
    def leads(self) -> bool: ...  # noqa: D102

    @property
    def state(self) -> bytes: ...  # noqa: D102

    @property
    def entries(self) -> list[bytes]: ...  # noqa: D102


class Table(Protocol):
    """Where gateways meet: see stores/redis_releases.RedisTable."""

    async def meet(self, entries: Sequence[bytes]) -> Meeting:
        """Hand in, and see what there is. Raises StoreUnavailable."""
        ...

    async def decide(self, state: bytes, taken: int) -> bool:
        """Write what was decided. Raises StoreUnavailable."""
        ...


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """What a person, or a gateway that was alone, did to a release. between: what it was a release of."""

    release: str
    act: str
    by: str
    between: tuple[str, str]


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    sender: str
    number: int
    gathered: tuple[Gathered, ...] = ()
    asked: tuple[Asked, ...] = ()


class _State(msgspec.Struct, frozen=True):
    heard: dict[str, int]
    releases: dict[str, dict[str, object]]


class News(NamedTuple):
    """What came of a meeting. releases: states to take over; None: as they were."""

    releases: Mapping[str, Mapping[str, object]] | None
    gathered: list[Gathered]
    asked: list[Asked]


class Circle:
    """One gateway's seat. me: a name that no other process has, of now."""

    def __init__(self, table: Table, me: str) -> None:
        self._table = table
        self._me = me
        self._number = 0
        self._waiting: deque[_Entry] = deque(maxlen=KEPT)  # not known to have been handed in
        self._heard: dict[str, int] = {}
        self._seen = b""  # the state that was read or written last
        self._taken = 0
        self._asked = 0  # number of our last entry with an act
        self._patience = 0  # meetings for which states that don't know it are passed over
        self.leads = False
        self.is_alone = True  # the table can't be reached

    def gathered(self, gathered: Iterable[Gathered]) -> None:
        """Hand this in at the next meeting."""
        self._hand_in(tuple(gathered), ())

    def asked(self, asked: Asked) -> None:
        """Hand in what was done here; until the state knows of it, nothing is taken over."""
        self._hand_in((), (asked,))
        self._asked, self._patience = self._number, PATIENCE

    def _hand_in(self, gathered: tuple[Gathered, ...], asked: tuple[Asked, ...]) -> None:
        self._number += 1
        self._waiting.append(_Entry(self._me, self._number, gathered, asked))

    async def meet(self) -> News:
        """Meet the others; without the table this gateway is alone."""
        waiting = list(self._waiting)
        try:
            met = await self._table.meet([msgspec.json.encode(one) for one in waiting])
        except StoreUnavailable:
            self.leads, self.is_alone = False, True
            return News(None, [], [])
        while waiting and self._waiting and self._waiting[0].number <= waiting[-1].number:
            self._waiting.popleft()
        if self.is_alone:
            self._come_back(met.state)
        self._patience -= 1
        releases = self._take_over(met.state)
        self.leads = met.leads
        gathered, asked = self._take_in(met.entries if met.leads else [])
        return News(releases, gathered, asked)

    def _come_back(self, state: bytes) -> None:
        """What was gathered alone is on the table now, too: it is counted there, or here, never in both."""
        self.is_alone = False
        self._seen = b""
        if not state:
            self._heard = {self._me: self._number}

    def _take_over(self, state: bytes) -> Mapping[str, Mapping[str, object]] | None:
        if not state or state == self._seen:
            return None
        try:
            read = msgspec.json.decode(state, type=_State)
        except msgspec.DecodeError:
            return None  # of another release of ours: whoever leads writes it anew
        if self._patience > 0 and not self.leads and read.heard.get(self._me, 0) < self._asked:
            return None  # it is older than what was done here
        self._seen = state
        self._heard = dict(read.heard)
        return read.releases

    def _take_in(self, entries: Iterable[bytes]) -> tuple[list[Gathered], list[Asked]]:
        gathered: list[Gathered] = []
        asked: list[Asked] = []
        self._taken = 0
        for data in entries:
            self._taken += 1
            try:
                entry = msgspec.json.decode(data, type=_Entry)
            except msgspec.DecodeError:
                continue
            if entry.number > self._heard.get(entry.sender, 0):
                self._heard.pop(entry.sender, None)
                self._heard[entry.sender] = entry.number
                gathered += entry.gathered
                asked += entry.asked if entry.sender != self._me else ()
        while len(self._heard) > SENDERS:
            del self._heard[next(iter(self._heard))]
        return gathered, asked

    async def decide(self, releases: Mapping[str, Mapping[str, object]]) -> None:
        """Write what is decided now, if this gateway leads and anything is new."""
        if not self.leads:
            return
        state = msgspec.json.encode(_State(self._heard, {name: dict(one) for name, one in releases.items()}))
        if state == self._seen and not self._taken:
            return
        try:
            self.leads = await self._table.decide(state, self._taken)
        except StoreUnavailable:
            self.leads, self.is_alone = False, True
        else:
            self._seen = state if self.leads else b""

    @property
    def role(self) -> str:
        """Who decides: `here`, `elsewhere`, or `alone`: this gateway can't ask."""
        return "here" if self.leads else "alone" if self.is_alone else "elsewhere"

    def __repr__(self) -> str:
        return f"<Circle {self._me} {self.role} | {len(self._waiting)} to hand in>"


async def take_seat(store: Store, stack: AsyncExitStack, rng: Callable[[], float]) -> Circle | None:
    """Join the gateways that release together over this store; None: it is memory, everybody is alone.

    rng: uniform in [0, 1), scatters reconnections.
    """
    if store.in_memory:
        return None
    password = "" if store.password is None else store.password.reveal()
    client = RedisClient(
        Address.parse(store.url, password),
        timeout=store.timeout,
        rng=rng,
        on_change=lambda is_up, why: log.warning("store releases is %s %s", "up" if is_up else "down", why),
    )
    await client.open()
    stack.push_async_callback(client.close)
    me = os.urandom(6).hex()
    return Circle(RedisTable(client, me.encode()), me)
