"""Which share of a cache its window should have: asked of small copies that forget nothing but the answers.

For each share that comes into question a shadow plays a sample of the requests, in a sample's share of the
room: keys only, no values. Sampled are keys by their hash, not requests, so that a shadow sees all that
X All shadows see the same sample, so what chance does to it, it does to all, and
small differences between them count. The sample is as large as a shadow of `FEW` entries needs, a
thirty-second at least.

Hits are counted in rounds of as many sampled requests as a shadow has entries; older rounds count less, each
by two fifths. Another share is taken when it hits more by `MARGIN`: what one changes to has to be refilled.

Sources: Waldspurger et al., USENIX ATC'17 (miniature simulations); the same, FAST'15 (SHARDS: sampling by
hash); Einziger et al., Middleware'18 (which window a cache needs).
"""

from __future__ import annotations

from typing import Final

from gateway.governance.eviction import Queues

SHARES = (0.01, 0.1, 0.4, 1.0)  # not Final: other compiled modules read it
FEW: Final = 256  # entries of a shadow, at least, where the cache has so many
LEAST_SHARE: Final = 5  # a sample is one key in 2 to this power, at least
MARGIN: Final = 0.01  # of all requests: hits more
KEEP: Final = 0.6  # of what a round counted when the next one is over


def sample_of(entries: int) -> int:
    """Return of how many keys one is sampled, as a power of two, for a cache with so many entries."""
    power = 0
    while power < LEAST_SHARE and entries >> (power + 1) >= FEW:
        power += 1
    return power


class Shadows:
    """What each share of the window would do. capacity: bytes of the real cache. power: see `sample_of`."""

    __slots__ = ("_asked", "_hits", "_queues", "_rounds", "_scores", "chosen", "power")

    def __init__(self, capacity: int, power: int, chosen: int) -> None:
        """chosen: index of the share that the cache has now."""
        self.power = power
        self.chosen = chosen
        self._queues: list[Queues[None]] = [Queues(max(1, capacity >> power), share) for share in SHARES]
        self._hits = [0] * len(SHARES)
        self._scores = [0.0] * len(SHARES)
        self._asked = 0
        self._rounds = 0

    def play(self, key: bytes, hashed: int, size: int) -> bool:
        """Play a request for a sampled key. size: bytes as the cache counts them. True: a round is over."""
        for index, queues in enumerate(self._queues):
            if queues.played(key, hashed, size, None):
                self._hits[index] += 1
        self._asked += 1
        if self._asked < FEW or self._asked < len(self._queues[self.chosen]):
            return False
        self._judge()
        return True

    def _judge(self) -> None:
        for index, hits in enumerate(self._hits):
            self._scores[index] = KEEP * self._scores[index] + (1 - KEEP) * hits / self._asked
            self._hits[index] = 0
        self._asked = 0
        self._rounds += 1
        known = 1 - KEEP**self._rounds  # of a whole score
        best = max(range(len(SHARES)), key=self._scores.__getitem__)
        if self._rounds > 1 and self._scores[best] > self._scores[self.chosen] + MARGIN * known:
            self.chosen = best

    def __repr__(self) -> str:
        said = ", ".join(
            [f"{share:g}: {score:.3f}" for share, score in zip(SHARES, self._scores, strict=True)]
        )
        return f"<Shadows of 1 in {1 << self.power} | {said} | {SHARES[self.chosen]:g} chosen>"
