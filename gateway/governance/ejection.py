"""Passive ejection: an instance that fails while the others do not is left alone for a while.

Two detectors read the outcomes of real traffic, and both leave the judged instance out of what they
compare it with, so an incident that hits everybody is nobody's fault:

- consecutive: `consecutive` failures in a row, while the others mostly succeed. Finds a dead instance; one
  where nobody listens at once, for there one failure says it, and a picker that shuns the failing may not
  ask again for seconds.
- CUSUM: a one-sided sequential test of the instance's failures against q0, 1.5 times the share that the
  others have. For each of several worse shares q1 a statistic gathers log-likelihood and never falls below
  zero:

      S = max(0, S + ln(q1 / q0))               after a failure
      S = max(0, S + ln((1 - q1) / (1 - q0)))   after a success

  Two bounds: above ln(3000) the instance is doubted, above ln(5e7) it is out; both are for 5 calls/s, and
  higher for more, since every call is a chance to be wrong, and while the others fail as well. Doubt is
  cheap to be wrong about: pickers count a doubted instance as DOUBT_FACTOR times as dear, so what it spoils
  falls at once and the few calls that it still gets go on telling. It ends when the evidence has halved, or
  after DOUBT_FOR seconds without a failure that renews it. Simulated (loadtests/sims/ejection.py): a host
  that fails 5 % of its 5 calls/s among nineteen that fail 0.2 % is doubted after 13 s in the median, 33 s
  in nine of ten cases, where failures in a row never find it; nobody is falsely out in 3,000 healthy
  host-hours with incidents that hit everybody.

Never more than `max_share` of the pool is out at once (one of a pool of two or more always may be), and
never the last one. An ejection lasts `base`, twice as long with each relapse up to `longest`. A failure
before the first success after the return is a relapse; health for as long as the last ejection lasted
pays the debt off.

Source: Page (1954); Envoy's outlier detection and its users' complaints (#18752, #34796, #40697).
"""

from __future__ import annotations

from collections.abc import Set
from math import ceil, exp, inf, log
from typing import Final

RATIOS: Final[tuple[float, ...]] = (3.0, 10.0, 30.0, 100.0)
"""How many times worse than the others: one statistic each."""
THRESHOLD: Final = log(5e7)
DOUBT: Final = log(3000.0)
"""Evidence that makes an instance doubted; half of it lifts the doubt."""
USUAL: Final = 5.0
"""Calls/s up to which the bounds hold; n times as many have n times as many chances to be wrong, so both
bounds grow by ln(n)."""
DOUBT_FOR = 20.0
"""Seconds that doubt lasts after the failure that raised or renewed it."""
DOUBT_FACTOR = 10.0
"""How many times as dear a doubted instance seems to pickers."""
TOLERANCE: Final = 1.5
FORGET: Final = 50.0
"""Seconds, time constant of the shares."""
RECENT: Final = 0.2
"""Weight of the last outcome in an instance's recent share of failures."""
HEARD: Final = 10.0
"""Seconds for which a recent share is worth something."""
REFRESH: Final = 0.25
"""Seconds for which the comparison with the others is kept while nothing fails, and for which successes of an
instance that nothing speaks against are only counted."""
FORGIVEN: Final = 1e-3
"""A recent share of failures below this is none."""
ORDINARY: Final = 0.05
"""Where more than this share of the others' calls fails, failures in a row mean less and more are
needed."""
WORST: Final = 0.95
"""Shares are not believed to be worse than this: the logarithms need something to be left."""


class _Track:
    """What is known of one instance."""

    __slots__ = (
        "calls",
        "compared_at",
        "doubted_until",
        "failures",
        "heard_at",
        "in_a_row",
        "on_probation",
        "out_for",
        "out_until",
        "recent",
        "relapses",
        "since",
        "statistics",
        "steps_down",
        "successes",
        "suspect",
    )

    def __init__(self) -> None:
        self.calls = 0.0  # decayed, as `failures` is, up to `since`
        self.since = -inf
        self.successes = 0  # of the moment after `since`: not in `calls` yet
        self.suspect = False  # something speaks against it; while nothing does, successes are only counted
        self.failures = 0.0
        self.heard_at = -inf
        self.recent = 0.0  # share of failures among the last few calls
        self.in_a_row = 0
        self.statistics = [0.0] * len(RATIOS)
        self.steps_down = [0.0] * len(RATIOS)  # what a success adds to each
        self.compared_at = -inf
        self.doubted_until = -inf
        self.out_until = -inf
        self.out_for = 0.0
        self.relapses = 0
        self.on_probation = False  # back, and not one success yet


class Ejector:
    """Watches the instances of one pool, by key.

    consecutive: failures in a row. base, longest: seconds out, at first and at most. max_share: of the
    pool, out at once. doubt: the evidence that makes an instance doubted.
    """

    __slots__ = ("_tracks", "base", "consecutive", "doubt", "doubts", "ejections", "longest", "max_share")

    def __init__(
        self,
        *,
        consecutive: int = 5,
        base: float = 5.0,
        longest: float = 60.0,
        max_share: float = 0.5,
        doubt: float = DOUBT,
    ) -> None:
        self.consecutive = consecutive
        self.base = base
        self.longest = max(base, longest)
        self.max_share = max_share
        self.doubt = doubt
        self.ejections = 0  # so far
        self.doubts = 0  # raised so far
        self._tracks: dict[str, _Track] = {}

    def record(self, key: str, ok: bool, now: float, size: int, unreachable: bool = False) -> float | None:
        """Learn one outcome of instance `key` of a pool of `size`. unreachable: nobody listens there.

        Returns the instant until which it is to be left alone when this outcome ejects it, else None.
        """
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = _Track()
        if ok and not track.suspect and now < track.since + REFRESH:
            track.successes += 1
            track.heard_at = now
            return None
        if now < track.out_until:
            return None  # a call that was under way when it was ejected
        _learn(track, ok, now, 1)
        if ok:
            self._succeeded(track, now, 1)
            return None
        q0 = self._failed(track, now)
        if _is_outlier(track, q0, 1 if unreachable else self.consecutive):
            return self._eject(track, now) if self._has_room(now, size) else None
        if max(track.statistics) > _bound(track, self.doubt, q0):
            self._doubt(track, now, size)
        return None

    def passed(self, key: str, calls: int, now: float) -> None:
        """Learn of `calls` successes in a row, as if all came now: for those who count elsewhere."""
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = _Track()
        if calls > 0 and now >= track.out_until:
            _learn(track, True, now, calls)
            self._succeeded(track, now, calls)

    def learn(self, key: str, successes: int, failures: int, now: float, size: int) -> float | None:
        """Learn of calls whose order is not known: successes lie evenly between the failures.

        Returns as `record` does.
        """
        until: float | None = None
        for number in range(failures):
            before = number * successes // (failures + 1)
            self.passed(key, (number + 1) * successes // (failures + 1) - before, now)
            until = self.record(key, False, now, size) or until
        self.passed(key, successes - failures * successes // (failures + 1), now)
        return until

    def doubted_until(self, key: str) -> float:
        """Return the instant until which instance `key` is doubted; -inf: it never was."""
        track = self._tracks.get(key)
        return -inf if track is None else track.doubted_until

    def retain(self, keys: Set[str]) -> None:
        """Forget everybody else: the pool's members changed."""
        for key in self._tracks.keys() - keys:
            del self._tracks[key]

    def ejected(self, now: float) -> list[str]:
        """Who is out now."""
        return [key for key, track in self._tracks.items() if now < track.out_until]

    # The detectors

    def _succeeded(self, track: _Track, now: float, calls: int) -> None:
        track.on_probation = False
        if track.relapses and now >= track.out_until + track.out_for:
            track.relapses = 0
        if not track.suspect:
            return  # nothing speaks against it, so a success can't weaken anything
        if now >= track.compared_at + REFRESH:
            q0 = self._compare(track, now)
            track.steps_down = [log((1 - min(WORST, ratio * q0)) / (1 - q0)) for ratio in RATIOS]
            track.compared_at = now
        _step(track, track.steps_down if calls == 1 else [calls * step for step in track.steps_down])
        if now < track.doubted_until and max(track.statistics) < self.doubt / 2:
            track.doubted_until = now
        if track.recent < FORGIVEN and not track.relapses and max(track.statistics) <= 0.0:
            track.suspect = False
            track.recent = 0.0

    def _failed(self, track: _Track, now: float) -> float:
        q0 = self._compare(track, now)
        track.compared_at = -inf
        track.suspect = True
        _step(track, [log(min(WORST, ratio * q0) / q0) for ratio in RATIOS])
        return q0

    def _compare(self, track: _Track, now: float) -> float:
        """Return q0: the others' share of failures, long-term or recent, whichever is worse, and
        tolerance."""
        calls = failures = recent = worst = 0.0
        heard = 0
        for other in self._tracks.values():
            if other is track or now < other.out_until:
                continue
            weight = exp((other.since - now) / FORGET) if other.since < now else 1.0
            calls += other.calls * weight + other.successes
            failures += other.failures * weight
            if now - other.heard_at < HEARD:
                heard += 1
                recent += other.recent
                if other.recent > worst:
                    worst = other.recent
        share = (failures + 0.5) / (calls + 100.0)  # a prior of 0.5 %, worth a hundred calls
        if heard > 2:  # one that failed just now says nothing of everybody
            recent, heard = recent - worst, heard - 1
        return min(WORST, TOLERANCE * max(share, recent / heard if heard else 0.0))

    # Going out

    def _has_room(self, now: float, size: int) -> bool:
        out = len(self.ejected(now))
        return out < max(1, int(self.max_share * size)) and out + 1 < size

    def _doubt(self, track: _Track, now: float, size: int) -> None:
        """Doubt it from now on, unless as many as may be out are out or doubted already."""
        if now >= track.doubted_until:
            others = [one for one in self._tracks.values() if now < max(one.doubted_until, one.out_until)]
            if len(others) >= max(1, int(self.max_share * size)) or len(others) + 1 >= size:
                return
            self.doubts += 1
        track.doubted_until = now + DOUBT_FOR

    def _eject(self, track: _Track, now: float) -> float:
        track.out_for = min(self.longest, self.base * 2.0 ** min(track.relapses, 30))
        track.out_until = now + track.out_for
        track.relapses += 1
        track.on_probation = True
        track.in_a_row = 0
        track.recent = 0.0
        track.statistics = [0.0] * len(RATIOS)
        track.doubted_until = -inf
        self.ejections += 1
        return track.out_until

    def __repr__(self) -> str:
        return f"<Ejector {len(self._tracks)} watched, {self.ejections} ejections>"


def _learn(track: _Track, ok: bool, now: float, calls: int) -> None:
    weight = exp(min(0.0, track.since - now) / FORGET)
    track.calls = track.calls * weight + track.successes + calls
    track.failures *= weight
    track.successes = 0
    track.since = track.heard_at = now
    track.recent *= 1.0 - RECENT if calls == 1 else (1.0 - RECENT) ** calls
    if ok:
        track.in_a_row = 0
    else:
        track.in_a_row += 1
        track.failures += 1.0
        track.recent += RECENT


def _is_outlier(track: _Track, q0: float, enough: int) -> bool:
    if q0 >= WORST:
        return False  # the others fail as well: nobody is an outlier
    if track.on_probation:
        enough = 1
    return track.in_a_row >= ceil(enough * _harder(q0)) or max(track.statistics) > _bound(
        track, THRESHOLD, q0
    )


def _harder(q0: float) -> float:
    """Return how many times as many failures in a row are as improbable as they are ordinarily."""
    return log(ORDINARY) / log(q0) if q0 > ORDINARY else 1.0


def _bound(track: _Track, evidence: float, q0: float) -> float:
    """Return the evidence that is enough for an instance with so many calls while the others fail so much."""
    return (evidence + log(max(1.0, track.calls / (USUAL * FORGET)))) * _harder(q0)


def _step(track: _Track, steps: list[float]) -> None:
    track.statistics = [
        total if total > 0.0 else 0.0  # noqa: FURB136  # max() costs twice as much, four times per call
        for total in map(float.__add__, track.statistics, steps)
    ]
