"""What a cache is asked for: made-up traces, each a sequence of keys (and their sizes, in bytes).

Tuned are those on which the cache's constants were chosen; held out are other shapes, other catalogues, other
periods and sizes, and seeds that nothing was ever chosen on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Make = Callable[[np.random.Generator, int], Keys]
"""Makes so many requests."""

CATALOGUE = 30_000
ELSEWHERE = 10_000_000  # keys that the catalogue hasn't


@dataclass(frozen=True, slots=True)
class Trace:
    """One traffic. entries: the room of the cache, in answers of mean size. sizes: of the answers."""

    make: Make
    entries: int
    sizes: Literal["equal", "mixed", "two"] = "equal"

    def requests(self, seed: int, count: int) -> tuple[Keys, NDArray[np.int64]]:
        """Return keys and sizes, in bytes."""
        rng = np.random.default_rng([seed, self.entries])
        keys = self.make(rng, count)
        distinct, places = np.unique(keys, return_inverse=True)
        if self.sizes == "mixed":  # a few large ones, as images and embeddings are
            sizes = np.clip(rng.lognormal(6.2, 1.2, len(distinct)), 100, 60_000)
        elif self.sizes == "two":  # of one row, or of a batch of sixteen
            sizes = np.where(rng.random(len(distinct)) < 0.1, 8000.0, 500.0)
        else:
            sizes = np.full(len(distinct), 400.0)
        return _scattered(keys), sizes.astype(np.int64)[places]


def _scattered(keys: Keys) -> Keys:
    """Turn numbers into digests: bits that look like chance, the same for the same key."""
    mixed = keys.astype(np.uint64) + np.uint64(1)
    for factor, shift in ((0x9E3779B97F4A7C15, 31), (0xD6E8FEB86659FD93, 29), (0xBF58476D1CE4E5B9, 32)):
        mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(shift)
    return (mixed >> np.uint64(1)).astype(np.int64)


def popular(exponent: float, catalogue: int = CATALOGUE) -> Make:
    """Zipf: the n-th most popular is asked for 1 / n ** exponent as often as the first."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        share = np.cumsum(1 / np.arange(1, catalogue + 1) ** exponent)
        return np.searchsorted(share / share[-1], rng.random(count)).astype(np.int64)

    return make


def with_strangers(share: float, exponent: float = 1.0) -> Make:
    """So many requests are for what nobody asks for again."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        keys = popular(exponent)(rng, count)
        strange = rng.random(count) < share
        keys[strange] = ELSEWHERE + np.arange(strange.sum())
        return keys

    return make


def with_scans(length: int, every: int, exponent: float = 1.0) -> Make:
    """Now and then a batch job asks for things that nobody asks for again."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        keys = popular(exponent)(rng, count)
        for number, start in enumerate(range(every // 2, count - length, every)):
            keys[start : start + length] = ELSEWHERE + number * length + np.arange(length)
        return keys

    return make


def drifting(every: int, step: int, exponent: float = 1.0) -> Make:
    """What is popular moves on through the catalogue."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        moved = np.arange(count) // every * step
        return (popular(exponent)(rng, count) + moved) % CATALOGUE

    return make


def looping(length: int, share: float, exponent: float = 0.9) -> Make:
    """An evaluation set is played again and again beside the others."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        keys = popular(exponent)(rng, count)
        looped = rng.random(count) < share
        keys[looped] = ELSEWHERE + np.arange(looped.sum()) % length
        return keys

    return make


def bursting(bursts: int, length: int) -> Make:
    """Now and then a few new things are on everybody's lips, and soon forgotten."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        keys = popular(0.9)(rng, count)
        for number in range(bursts):
            start = int(rng.integers(0, count - length))
            places = start + np.flatnonzero(rng.random(length) < 0.4)
            keys[places] = ELSEWHERE + 100 * number + popular(0.7, 20)(rng, len(places))
        return keys

    return make


def new_versions(every: int, exponent: float = 1.0, canary: float = 0.0) -> Make:
    """A new version of the model, and every key is another. canary: s share of the time both are asked."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        keys = popular(exponent)(rng, count)
        version, within = np.divmod(np.arange(count), every)
        early = (within > every * (1 - canary)) & (rng.random(count) < 0.2)
        return keys + (version + early) * ELSEWHERE

    return make


def sessions(open_at_once: int, things: int, exponent: float = 1.0) -> Make:
    """Sessions come and go; each asks for a few things of its own, some times each, soon after another."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        first = ELSEWHERE
        left = rng.integers(5, 40, open_at_once)
        own = first + things * np.arange(open_at_once)
        following = first + things * open_at_once
        keys = np.empty(count, np.int64)
        who, what = rng.integers(0, open_at_once, count), rng.integers(0, things, count)
        for at in range(count):
            session = who[at]
            keys[at] = own[session] + what[at]
            left[session] -= 1
            if not left[session]:
                left[session] = rng.integers(5, 40)
                own[session] = following
                following += things
        others = rng.random(count) < 0.3
        keys[others] = popular(exponent)(rng, int(others.sum()))
        return keys

    return make


def one_after_another(*parts: Make) -> Make:
    """The traffic changes its nature."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        each = count // len(parts) + 1
        played = [part(rng, each) + 10 * number * ELSEWHERE for number, part in enumerate(parts)]
        return np.concatenate(played)[:count]

    return make


def mixed(one: Make, other: Make, share: float) -> Make:
    """Two traffics at once; `share` of the requests are the other's."""

    def make(rng: np.random.Generator, count: int) -> Keys:
        keys = one(rng, count)
        theirs = rng.random(count) < share
        keys[theirs] = other(rng, int(theirs.sum())) + 100 * ELSEWHERE
        return keys

    return make


TUNED: dict[str, Trace] = {
    "zipf 0.8": Trace(popular(0.8), 2000),
    "zipf 1.0": Trace(popular(1.0), 500),
    "zipf 1.2": Trace(popular(1.2), 2000),
    "half strangers": Trace(with_strangers(0.5), 2000),
    "scans": Trace(with_scans(5000, 25_000), 2000),
    "drift": Trace(drifting(10_000, 1300), 2000),
    "drift, fast": Trace(drifting(2000, 300), 2000),
    "loop and zipf": Trace(looping(3000, 0.5), 2000),
    "bursts": Trace(bursting(60, 2000), 2000),
    "versions": Trace(new_versions(25_000), 2000),
    "sessions": Trace(sessions(300, 8), 2000),
    "changing": Trace(one_after_another(popular(1.1), looping(3500, 0.9), sessions(300, 8)), 2000),
}
HELD_OUT: dict[str, Trace] = {
    "zipf 0.7, few": Trace(popular(0.7, 8000), 1200),
    "zipf 0.9, many": Trace(popular(0.9, 200_000), 3000),
    "strangers 80 %": Trace(with_strangers(0.8, 1.1), 800),
    "nightly batches": Trace(with_scans(12_000, 40_000, 0.9), 3000),
    "drift, slow": Trace(drifting(30_000, 9000, 0.9), 1500),
    "drift, sizes": Trace(drifting(700, 60), 1500, "mixed"),
    "loop, twice the room": Trace(looping(5000, 0.7, 1.1), 2500),
    "zipf, sizes": Trace(popular(1.0), 1500, "mixed"),
    "zipf, batches": Trace(popular(0.9), 1500, "two"),
    "versions, canaries": Trace(new_versions(15_000, 0.9, canary=0.4), 2500, "two"),
    "sessions, many": Trace(sessions(900, 5, 0.8), 2500),
    "bursts, short": Trace(bursting(150, 700), 1000, "mixed"),
    "sessions and loop": Trace(mixed(sessions(200, 6), looping(2500, 0.8), 0.5), 1800),
    "changing": Trace(
        one_after_another(
            sessions(400, 6), with_scans(4000, 12_000), popular(0.8, 10_000), drifting(900, 120)
        ),
        1500,
    ),
}
