"""Pickers: which of a pool's instances gets the next call.

Four laws over one fixed tuple of candidates (a change of members makes a new picker):

- LeastCost: the least expected time to completion, by a full scan:

      cost = latency * (in_flight + elsewhere + 1) * scale
      scale = slow start * far * doubt / weight            what changes slowly, looked at every 250 ms

  `elsewhere` stands for what the instance itself reports beyond our own calls, 0 where it doesn't.
  Up to some hundred instances a scan is affordable, and better than the best of two random ones
  (loadtests/sims/balancing.py). The latency carries an error penalty (ewma.py). Unknown instances count as
  the median. Affinity is a term of the same cost, never a pin: see `pick_warm`.
- TwoChoices: of two drawn by weight, the one with the lesser cost (Mitzenmacher). Costs the same however many
  instances there are, and herds less where many gateways know little.
- RoundRobin: turns, interleaved smoothly by weight (NGINX's algorithm: a a b a, not a a a b).
- ConsistentHash: the same key to the same instance while the members stay, on a ring of points; an instance
  that has more than `bound` times its share of the load passes the key on to the next one (Mirrokni et al.,
  2017).

A doubted instance (ejection.py) gets about a tenth of its share from each of them. Zones are a matter of
cost too: calls leave `home` when it would take `far` times as long there, so they spill over as soon as the
zone is short, and come back as it isn't.

A picker never returns a candidate already tried for this request, nor one that is not usable now. Panic:
when the share of usable candidates falls below `panic`, usability is disregarded, because the few that
are left would be crushed and health may be what is misjudged (Envoy's panic threshold). 0 turns that
off: nobody usable, nobody picked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from math import ceil, inf
from typing import Final, Generic, Protocol, TypeVar

from gateway.governance.ejection import DOUBT_FACTOR
from gateway.governance.ewma import Ewma

REFRESH: Final = 0.25
"""Seconds between two looks at what changes slowly: the median latency, weights, slow start."""
OPTIMISM: Final = 0.8
"""An instance not heard of drifts to this much of the median: a little better than the others, so it is
tried."""
DRIFT: Final = 5.0
"""Times the typical pause between two answers of an instance, in which one not heard of drifts: where calls
are rare, trying a slow instance again costs a larger share of them."""
DRIFT_LEAST: Final = 2.5
DRIFT_MOST: Final = 10.0
"""Seconds; more would keep one that has recovered waiting."""
FAR_SLOWER: Final = 4.0
"""Times the median latency, from which on it counts among instances that some requests are warm at."""
POINTS: Final = 100
"""Points on the ring of an instance of average weight: shares then differ by some 10 %."""


class Candidate(Protocol):
    """What a picker reads of an instance. Weights are relative; 0 takes no calls."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        ...

    @property
    def elsewhere(self) -> float:
        """How many calls of ours the load is worth that it reports beyond what is usual; 0.0: unknown."""
        ...

    @property
    def doubted_until(self) -> float:
        """Until then it is suspected of failing (ejection.py)."""
        ...

    @property
    def zone(self) -> str:
        """Where it runs."""
        ...

    @property
    def weight(self) -> int:
        """Share of calls relative to the others."""
        ...

    @property
    def latency(self) -> Ewma:
        """What calls there take."""
        ...

    @property
    def since(self) -> float:
        """When it joined, for slow start."""
        ...

    @property
    def key(self) -> int:
        """64 stable bits that stand for its address."""
        ...

    def usable(self, now: float) -> bool:
        """Tell whether a call may go there now."""
        ...


C = TypeVar("C", bound=Candidate)


class Picker(Protocol[C]):
    """Chooses one candidate."""

    def pick(self, key: int, now: float, tried: Sequence[C]) -> C | None:
        """Choose for one attempt; None: there is nobody to call.

        key: 64 bits of what the request is hashed by (only ConsistentHash reads it). tried: had their
        chance.
        """
        ...

    def look_again(self) -> None:
        """What changes slowly has changed at once (a doubt): don't wait for the next look."""
        ...

    def share(self, member: C, now: float) -> float:
        """Return what a member gets of the calls that it got if it were like the others: 0.0 .. 1.0.

        Weights, zones and slow start are the policy's and don't count.
        """
        ...


class _Scan(Generic[C]):
    """What the three share: candidates, and who may be picked."""

    __slots__ = ("_members", "_panic")

    def __init__(self, members: Sequence[C], panic: float) -> None:
        self._members = tuple(members)
        self._panic = panic

    def look_again(self) -> None:
        """Nothing is kept here that could be out of date."""

    def share(self, member: C, now: float) -> float:
        """Return what it gets of the calls that it got if it were like the others."""
        return 1.0 / DOUBT_FACTOR if now < member.doubted_until else 1.0

    def _eligible(self, now: float, tried: Sequence[C]) -> list[C]:
        """Return who may be picked, in order: the usable, or in panic everybody, less the tried."""
        usable = [member for member in self._members if member.usable(now)]
        if len(usable) < self._panic * len(self._members):
            usable = [member for member in self._members if member.weight > 0]
        return [member for member in usable if member not in tried] if tried else usable

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._members)}>"


class LeastCost(_Scan[C]):
    """The least expected time to completion.

    slow_start: seconds in which a new instance reaches its full share. home: the zone that is preferred, ""
    for none; far: how many times dearer the others seem.

    The cheapest is found first and asked whether it is usable afterwards, so that in ordinary times one
    question is asked and not one per instance; one that becomes usable joins within 250 ms, or as soon
    as it is needed. In panic, too, cost decides: failing instances carry their penalty and get calls
    only when what is left of the pool is worse.
    """

    __slots__ = (
        "_far",
        "_home",
        "_in_panic",
        "_likely",
        "_median",
        "_refresh_at",
        "_reporting",
        "_rng",
        "_scale",
        "_slow_start",
    )

    def __init__(
        self,
        members: Sequence[C],
        *,
        panic: float = 0.5,
        slow_start: float = 0.0,
        home: str = "",
        far: float = 1.0,
        rng: Callable[[], float] | None = None,
    ) -> None:
        """rng: uniform in [0, 1), breaks ties; without it the first of equals wins."""
        super().__init__(members, panic)
        self._slow_start = slow_start
        self._home = home
        self._far = far
        self._rng = rng
        self._refresh_at = -inf
        self._median = 1.0
        self._reporting = False
        self._in_panic = False
        self._scale: list[tuple[C, Ewma, float]] = []
        self._likely = self._scale  # those that were usable at the last refresh

    def pick(self, key: int, now: float, tried: Sequence[C]) -> C | None:
        """Choose the cheapest usable one."""
        if now >= self._refresh_at:
            self._refresh(now)
        rows = [row for row in self._likely if row[0] not in tried] if tried else self._likely
        best: C | None
        if len(rows) == 1:  # nobody to compare it with
            best = rows[0][0]
        else:
            best = self._reported(rows) if self._reporting else self._cheapest(rows)
        if best is not None and (self._in_panic or best.usable(now)):
            return best
        rows = self._eligible_rows(now, tried)
        return self._reported(rows) if self._reporting else self._cheapest(rows)

    def pick_warm(self, warm: dict[int, float], worth: float, now: float, tried: Sequence[C]) -> C | None:
        """Choose the cheapest where some have what the request needs (a prefix, a session, an adapter).

        warm: how much of it (0..1) by `key` of the instance. worth: how many calls more under way that makes
        up for. A cold instance's cost counts as if `worth` calls more were under way, so affinity gives way
        under load by itself. Latencies count only where they are out of all proportion (failures are): what
        they tell of caching instances is mostly who had the misses, and shunning those makes more of them.
        """
        if now >= self._refresh_at:
            self._refresh(now)
        rows = [row for row in self._likely if row[0] not in tried] if tried else self._likely
        best = self._warmest(rows, warm, worth)
        if best is not None and (self._in_panic or best.usable(now)):
            return best
        return self._warmest(self._eligible_rows(now, tried), warm, worth)

    # The scan, thrice: a call per instance would cost more than the rest of it

    def _cheapest(self, rows: list[tuple[C, Ewma, float]]) -> C | None:
        best: C | None = None
        equals: list[C] = []
        least = inf
        median = self._median
        for member, latency, scale in rows:
            cost = (latency.value or median) * (member.in_flight + 1) * scale
            if cost < least:
                best, least = member, cost
                if equals:
                    equals = []
            elif cost == least:
                equals.append(member)
        return self._drawn(best, equals) if equals else best

    def _reported(self, rows: list[tuple[C, Ewma, float]]) -> C | None:
        """The same where some report their load: reading it costs a fourth more at a hundred instances."""
        best: C | None = None
        equals: list[C] = []
        least = inf
        median = self._median
        for member, latency, scale in rows:
            cost = (latency.value or median) * (member.in_flight + member.elsewhere + 1) * scale
            if cost < least:
                best, least = member, cost
                if equals:
                    equals = []
            elif cost == least:
                equals.append(member)
        return self._drawn(best, equals) if equals else best

    def _warmest(self, rows: list[tuple[C, Ewma, float]], warm: dict[int, float], worth: float) -> C | None:
        best: C | None = None
        equals: list[C] = []
        least = inf
        median = self._median
        far_slower = FAR_SLOWER * median
        reporting = self._reporting
        for member, latency, scale in rows:
            seconds = latency.value
            if seconds < far_slower:  # also where nothing is known
                seconds = median
            share = warm.get(member.key)
            load = member.in_flight + 1 + (worth if share is None else worth * (1.0 - share))
            if reporting:
                load += member.elsewhere
            cost = seconds * load * scale
            if cost < least:
                best, least = member, cost
                if equals:
                    equals = []
            elif cost == least:
                equals.append(member)
        return self._drawn(best, equals) if equals else best

    def _drawn(self, first: C | None, others: list[C]) -> C | None:
        """Draw one of equals: with few exceptions they have the same number of calls."""
        if self._rng is None:
            return first
        drawn = int(self._rng() * (len(others) + 1))
        return others[drawn - 1] if drawn else first

    def _eligible_rows(self, now: float, tried: Sequence[C]) -> list[tuple[C, Ewma, float]]:
        eligible = set(map(id, self._eligible(now, tried)))
        return [row for row in self._scale if id(row[0]) in eligible]

    def cost(self, member: C, now: float) -> float:
        """Expected seconds to completion as `pick` sees it, for those who want to know why."""
        if now >= self._refresh_at:
            self._refresh(now)
        scale = next((scale for known, _, scale in self._scale if known is member), inf)
        return (member.latency.value or self._median) * (member.in_flight + member.elsewhere + 1) * scale

    def look_again(self) -> None:
        """Look at what changes slowly before the next pick."""
        self._refresh_at = -inf

    def share(self, member: C, now: float) -> float:
        """Return what it gets of the calls that it got if it were like the others."""
        if now >= self._refresh_at:
            self._refresh(now)
        return super().share(member, now) * min(1.0, self._median / (member.latency.value or self._median))

    # What changes slowly

    def _refresh(self, now: float) -> None:
        self._refresh_at = now + REFRESH
        self._median = _relax(self._members, self._median, now)
        self._reporting = any(member.elsewhere for member in self._members)
        self._scale = [(m, m.latency, self._factor(m, now) / m.weight) for m in self._members if m.weight > 0]
        self._likely = [row for row in self._scale if row[0].usable(now)]
        self._in_panic = len(self._likely) < self._panic * len(self._members)
        if self._in_panic:
            self._likely = self._scale

    def _factor(self, member: C, now: float) -> float:
        """1.0 for an instance in its stride; more for one that has just joined, is doubted, or far away."""
        factor = 1.0
        if self._slow_start > 0.0:
            factor = 1.0 / max(0.1, min(1.0, (now - member.since) / self._slow_start))
        if now < member.doubted_until:
            factor *= DOUBT_FACTOR
        if self._home and member.zone != self._home:
            factor *= self._far
        return factor


def subset(members: Sequence[C], most: int, salt: int) -> list[C]:
    """Choose `most` of the members: by each salt others, and few others when members change.

    By rendezvous hashing, in the order of `members`.

    Source: Thaler and Ravishankar (1998); Google SRE book, ch. 20, on subsetting.
    """

    def score(member: C) -> bytes:
        return blake2b(b"%d/%d" % (salt, member.key), digest_size=8).digest()

    chosen = set(map(id, sorted(members, key=score)[:most]))
    return [member for member in members if id(member) in chosen]


def _relax(members: Sequence[Candidate], median: float, now: float) -> float:
    """Let who isn't heard of drift towards the others; return their median latency, `median` if unknown."""
    heard = [member.latency for member in members if member.latency.value]
    if heard:
        middle = (len(heard) - 1) // 2  # the lower one: of two, the better
        median = sorted([latency.value for latency in heard])[middle]
        pause = sorted([now - latency.heard_at for latency in heard])[middle]
        drift = min(DRIFT_MOST, max(DRIFT_LEAST, DRIFT * pause))
        for latency in heard:
            latency.relax(OPTIMISM * median, now, drift)
    return median


class TwoChoices(_Scan[C]):
    """Of two drawn by chance and weight, the one with the lesser latency * calls under way.

    rng: uniform in [0, 1). What was tried, or can't be used, is drawn again a few times; then everybody who
    may be picked is looked at.
    """

    __slots__ = ("_ends", "_median", "_refresh_at", "_rng")

    def __init__(self, members: Sequence[C], *, rng: Callable[[], float], panic: float = 0.5) -> None:
        super().__init__([member for member in members if member.weight > 0], panic)
        self._rng = rng
        self._median = 1.0
        self._refresh_at = -inf
        self._ends = list(accumulate(member.weight for member in self._members))

    def pick(self, key: int, now: float, tried: Sequence[C]) -> C | None:
        """Choose the better of two."""
        if now >= self._refresh_at:
            self._refresh(now)
        one = self._draw(now, tried, None)
        if one is None:
            return None
        other = self._draw(now, tried, one)
        if other is None:
            return one
        return one if _cost(one, now) <= _cost(other, now) else other

    def share(self, member: C, now: float) -> float:
        """Return what it gets of the calls that it got if it were like the others."""
        if now >= self._refresh_at:
            self._refresh(now)
        return super().share(member, now) * min(1.0, self._median / (member.latency.value or self._median))

    def _refresh(self, now: float) -> None:
        self._refresh_at = now + REFRESH
        self._median = _relax(self._members, self._median, now)

    def _draw(self, now: float, tried: Sequence[C], beside: C | None) -> C | None:
        if not self._ends:
            return None
        for _ in range(4):
            drawn = self._members[bisect_right(self._ends, self._rng() * self._ends[-1])]
            if drawn is not beside and drawn not in tried and drawn.usable(now):
                return drawn
        left = [member for member in self._eligible(now, tried) if member is not beside]
        if not left:
            return None
        ends = list(accumulate(member.weight for member in left))
        return left[bisect_right(ends, self._rng() * ends[-1])]


def _cost(member: Candidate, now: float) -> float:
    """Latency times calls. One that nothing is known of counts as fast: it is tried."""
    cost = member.latency.value * (member.in_flight + member.elsewhere + 1)
    return cost * DOUBT_FACTOR if now < member.doubted_until else cost


class RoundRobin(_Scan[C]):
    """Turns, interleaved by weight: each pick credits everybody their weight; the richest goes, and
    pays.

    Equal weights need no accounts: there the next in a circle goes.
    """

    __slots__ = ("_credit", "_equal", "_turn")

    def __init__(self, members: Sequence[C], *, panic: float = 0.5) -> None:
        super().__init__(members, panic)
        self._credit = {id(member): 0.0 for member in self._members}
        self._equal = len({member.weight for member in self._members}) == 1
        self._turn = 0

    def pick(self, key: int, now: float, tried: Sequence[C]) -> C | None:
        """Choose the next in turn."""
        if self._equal and not tried:
            self._turn = turn = (self._turn + 1) % len(self._members)
            due = self._members[turn]
            if due.usable(now) and now >= due.doubted_until:
                return due
        eligible = self._eligible(now, tried)
        credit = self._credit
        best: C | None = None
        most = total = 0.0
        for member in eligible:
            weight = float(member.weight)
            if now < member.doubted_until:
                weight /= DOUBT_FACTOR
            total += weight
            mine = credit[id(member)] = credit[id(member)] + weight
            if best is None or mine > most:
                best, most = member, mine
        if best is not None:
            credit[id(best)] -= total
        return best


class ConsistentHash(_Scan[C]):
    """The same key to the same instance, unless that one is busier than `bound` times its share (>= 1;
    inf: never)."""

    __slots__ = ("_bound", "_owners", "_points", "_total_weight")

    def __init__(self, members: Sequence[C], *, panic: float = 0.5, bound: float = 1.25) -> None:
        super().__init__([member for member in members if member.weight > 0], panic)
        self._bound = bound
        self._total_weight = sum(member.weight for member in self._members)
        ring = sorted(
            (point, index) for index, member in enumerate(self._members) for point in self._points_of(member)
        )
        self._points = [point for point, _ in ring]
        self._owners = [self._members[index] for _, index in ring]

    def _points_of(self, member: C) -> list[int]:
        """Points depend on the member's own key and relative weight alone, so others' coming moves few
        keys."""
        average = self._total_weight / len(self._members)
        count = max(1, round(POINTS * member.weight / average))
        seed = (member.key & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "big")
        return [
            int.from_bytes(blake2b(seed, digest_size=8, salt=n.to_bytes(8, "big")).digest(), "big")
            for n in range(count)
        ]

    def pick(self, key: int, now: float, tried: Sequence[C]) -> C | None:
        """Choose the owner of `key`, or the next on the ring that has room."""
        owners = self._owners
        if not owners:
            return None
        start = bisect_right(self._points, key & 0xFFFF_FFFF_FFFF_FFFF) % len(owners)
        load = sum(member.in_flight for member in self._members) + 1
        owner = owners[start]
        trusts = now >= owner.doubted_until or key % int(DOUBT_FACTOR) == 0
        if trusts and owner not in tried and self._has_room(owner, load) and owner.usable(now):
            return owner
        eligible = self._eligible(now, tried)
        trusted = [member for member in eligible if now >= member.doubted_until]
        return self._next(start, load, trusted or eligible)

    def _next(self, start: int, load: int, eligible: list[C]) -> C | None:
        """Walk on; when all that are left are busy beyond the bound, the first of them takes it."""
        if not eligible:
            return None
        first: C | None = None
        passed: set[int] = set()
        waiting = {id(member) for member in eligible}
        for owner in self._owners[start:] + self._owners[:start]:
            if id(owner) in passed or id(owner) not in waiting:
                continue
            if self._has_room(owner, load):
                return owner
            first = first or owner
            passed.add(id(owner))
            if len(passed) == len(waiting):
                break
        return first

    def _has_room(self, member: C, load: int) -> bool:
        if self._bound == inf:
            return True
        return member.in_flight < ceil(self._bound * load * member.weight / self._total_weight)
