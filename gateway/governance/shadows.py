"""Which share of a cache its window should have: asked of small copies that forget nothing but the answers.

For each share that comes into question a shadow plays a sample of the requests, in a sample's share of the
room: keys only, no values. Sampled are keys by their hash, not requests, so that a shadow sees all that
X All shadows see the same sample, so what chance does to it, it does to all, and
small differences between them count. The sample is as large as a shadow of `FEW` entries needs, a
thirty-second at least.

Looks are taken four times while a shadow is asked for as much as it holds; what was counted before counts
less at each look. Another share is taken when its lead over the chosen one is more than chance would give:
when the two differ on n requests, that is about the square root of n. Two and a half times that is asked for,
and a little of all requests, because looks are many and what one changes to has to be refilled.

Sources: Waldspurger et al., USENIX ATC'17 (miniature simulations); the same, FAST'15 (SHARDS: sampling by
hash); Einziger et al., Middleware'18 (which window a cache needs).
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from gateway.governance.eviction import Queues

SHARES = (0.01, 0.1, 0.4, 1.0)  # not Final: other compiled modules read it
FEW: Final = 256  # entries of a shadow, at least, where the cache has so many
LEAST_SHARE: Final = 5  # a sample is one key in 2 to this power, at least
MARGIN: Final = 0.005  # of all requests
CHANCE: Final = 2.5  # standard deviations
KEEP: Final = 0.95  # of what was counted, at the next look


def sample_of(entries: int) -> int:
    """Return of how many keys one is sampled, as a power of two, for a cache with so many entries."""
    power = 0
    while power < LEAST_SHARE and entries >> (power + 1) >= FEW:
        power += 1
    return power


class Shadows:
    """What each share of the window would do. capacity: bytes of the real cache. power: see `sample_of`."""

    __slots__ = ("_apart", "_asked", "_counted", "_lead", "_queues", "chosen", "power")

    def __init__(self, capacity: int, power: int, chosen: int) -> None:
        """chosen: index of the share that the cache has now."""
        self.power = power
        self.chosen = chosen
        self._queues: list[Queues[None]] = [Queues(max(1, capacity >> power), share) for share in SHARES]
        self._lead = [0.0] * len(SHARES)  # hits more than the chosen one has
        self._apart = [0.0] * len(SHARES)  # requests that only one of the two hit
        self._asked = 0  # since the last look
        self._counted = 0.0  # in all, as far as it counts

    def play(self, key: bytes, hashed: int, size: int) -> bool:
        """Play a request for a sampled key. size: bytes as the cache counts them. True: a look was taken."""
        has = self._queues[self.chosen].played(key, hashed, size, None)
        for index, queues in enumerate(self._queues):
            if index != self.chosen and queues.played(key, hashed, size, None) is not has:
                self._apart[index] += 1.0
                self._lead[index] += -1.0 if has else 1.0
        self._asked += 1
        if 4 * self._asked < max(FEW, len(self._queues[self.chosen])):
            return False
        self._judge()
        return True

    def _judge(self) -> None:
        self._counted += self._asked
        self._asked = 0
        best, most = self.chosen, 0.0
        for index, lead in enumerate(self._lead):
            beyond = lead - MARGIN * self._counted - CHANCE * sqrt(self._apart[index])
            if beyond > most:
                best, most = index, beyond
        keep = KEEP if best == self.chosen else 0.0  # leads are over the chosen one: another counts anew
        self.chosen = best
        self._counted *= keep
        self._lead = [keep * lead for lead in self._lead]
        self._apart = [keep * apart for apart in self._apart]

    def __repr__(self) -> str:
        leads = ", ".join([f"{share:g}: {lead:+.0f}" for share, lead in zip(SHARES, self._lead, strict=True)])
        return f"<Shadows of 1 in {1 << self.power} | {leads} | {SHARES[self.chosen]:g} chosen>"
