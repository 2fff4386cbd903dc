"""A faultless play, made up: what clients and the admin API would have seen of a gateway without fault."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from loadtests.scenarios import timetable as at
from loadtests.scenarios.director import Play
from loadtests.scenarios.stage import Sight
from loadtests.users.record import Answer

MISS, HIT = "headgate; fwd=miss; stored", "headgate; hit"
OPENED, CLOSED = at.FREEZE + 2.2, at.FREEZE + 4.3
OUT, UP = at.KILL + 0.5, at.RESTART + 1.5


class Bucket:
    """A token bucket, full at first."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.tokens, self.last = rate, burst, burst, 0.0

    def takes(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
        self.last = now
        self.tokens -= 1 if (granted := self.tokens >= 1) else 0
        return granted


def faultless() -> Play:
    """Return it, new each time."""
    play = Play(killed="a", restarted="a2", frozen="v2")
    play.events = {
        "edit": at.EDIT,
        "mistake": at.BREAK,
        "mend": at.MEND,
        "kill": at.KILL,
        "restart": at.RESTART,
        "freeze": at.FREEZE,
        "thaw": OPENED + 0.1,
    }
    play.spoilt = {"ok": False, "errors": ["policies/house-rules.yaml:12:5: expected throttle"]}
    play.mended = {"ok": True, "errors": []}
    play.lateness = [(float(second), 0.002) for second in range(70)]
    play.answers = sorted(
        [*_free(), *_fresh(), *_repeated(), *_forced(), *_surge()], key=lambda one: one.sent
    )
    play.counted = dict(Counter(one.status for one in play.answers))
    play.counted[200] += 2
    play.sights = [_sight(step * 0.05) for step in range(int(at.END / 0.05))]
    return play


def _steady(rate: float, begin: float = 0.0, end: float = at.END) -> Iterator[float]:
    return (begin + step / rate for step in range(int((end - begin) * rate)))


def _free() -> Iterator[Answer]:
    bucket = Bucket(at.FREE_BEFORE, at.FREE_BURST)
    for now in _steady(at.FREE.rate):
        edited = now > at.EDIT + 0.3
        bucket.rate = at.FREE_AFTER if edited else at.FREE_BEFORE
        quotas = f'"free-tier";q={bucket.rate};w=1'
        if bucket.takes(now):
            yield Answer(now, 0.002, "free plan", 200, version="1", cache=HIT, quotas=quotas)
        else:
            yield Answer(now, 0.001, "free plan", 429, policy="free-tier", quotas=quotas)


def _fresh() -> Iterator[Answer]:
    rng = random.Random(1)
    for now in _steady(2 * at.FRESH.rate):
        version = "2" if rng.random() < at.CANARY_SHARE else "1"
        instance = "a2" if now > UP + 0.1 else "b"
        yield Answer(now, 0.003, "fresh, KServe V2", 200, version=version, cache=MISS, instance=instance)


def _repeated() -> Iterator[Answer]:
    for number, now in enumerate(_steady(2 * at.REPEAT.rate)):
        cache = MISS if number < at.REPEATED else HIT
        yield Answer(now, 0.001, "repeated, KServe V2", 200, version="1", cache=cache)


def _forced() -> Iterator[Answer]:
    for now in _steady(at.FORCED.rate, at.FORCED.begins, at.FORCED.ends):
        if now < at.FREEZE + 0.9:
            yield Answer(now, 2.01, "forced to the candidate", 503, problem="503 timeout")
        elif now < CLOSED:
            yield Answer(now, 0.003, "forced to the candidate", 200, degraded="pool:digits-lite")
        else:
            yield Answer(now, 0.003, "forced to the candidate", 200, version="2", cache=MISS)


def _surge() -> Iterator[Answer]:
    bucket = Bucket(at.ENDPOINT_RATE, at.ENDPOINT_BURST)
    bucket.last = at.SURGE
    others = 2 * (at.FRESH.rate + at.REPEAT.rate) + at.FREE_AFTER
    bucket.rate = at.ENDPOINT_RATE - others
    for now in _steady(at.CROWD.rate, at.SURGE, at.SURGE_ENDS):
        if bucket.takes(now):
            yield Answer(now, 0.002, "surge", 200, version="1", cache=HIT)
        else:
            yield Answer(now, 0.001, "surge", 429, policy="endpoints.digits")


def _sight(now: float) -> Sight:
    breaker = "open" if OPENED <= now < CLOSED else "closed"
    listed: list[dict[str, object]] = [
        {"id": "b", "pool": "digits-v1", "state": "up", "breaker": "closed"},
        {"id": "v2", "pool": "digits-v2", "state": "up", "breaker": breaker},
    ]
    if now < at.KILL + 8:
        state = "up" if now < OUT else "unhealthy"
        listed.append({"id": "a", "pool": "digits-v1", "state": state, "breaker": "closed"})
    if now > UP:
        listed.append({"id": "a2", "pool": "digits-v1", "state": "up", "breaker": "closed"})
    return Sight(now, now + 0.005, listed)
