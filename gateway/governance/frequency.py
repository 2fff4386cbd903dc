"""How often keys were asked for lately, in a fixed number of bytes: a sketch, for keys that are not kept.

Two rows of one-byte counters; a key has one counter in each, and its estimate is the smaller of the two, so
a collision can only make it look more wanted than it is. Counting ends at 15, where differences stop
mattering. All counters are halved from time to time, a sixteenth of them at each call of `age`, so that no
call takes long: those of the keys whose hashes end alike, whose epoch (how often they were halved) is then
one more. The rows double when there are more keys to tell apart: a key's counter is its hash modulo the row's
length, so the doubled row is the row twice, and no estimate changes.

Sources: Cormode and Muthukrishnan, J. Algorithms 2005 (count-min sketch); Einziger et al., ACM ToS 2017
(TinyLFU: ageing by halving, small counters).
"""

from __future__ import annotations

from typing import Final

MOST: Final = 15
SPREAD: Final = 32
"""Counters in a row for each entry of the cache: with fewer, small caches mistake strangers for regulars."""

STRIPES: Final = 16

_LEAST: Final = 4096  # counters in a row
_LARGEST: Final = 1 << 24
_HALF: Final = bytes([count >> 1 for count in range(256)])
_OTHER: Final = 0x9E3779B  # an odd factor: the second row's hash of the same key


class Sketch:
    """Estimates by 32-bit hash."""

    __slots__ = ("_first", "_mask", "_second", "_stripe", "epochs")

    def __init__(self) -> None:
        self.epochs = [0] * STRIPES  # by the last bits of a hash: how often these counts were halved
        self._first = bytearray(_LEAST)
        self._second = bytearray(_LEAST)
        self._mask = _LEAST - 1
        self._stripe = 0

    def estimate(self, hashed: int) -> int:
        """Return about how often a key was asked for, 0 to 15."""
        one = self._first[hashed & self._mask]
        other = self._second[self._elsewhere(hashed)]
        return min(one, other)

    def remember(self, hashed: int, asked: int) -> None:
        """Let the estimate be `asked` at least (0 to 15)."""
        at = hashed & self._mask
        if self._first[at] < asked:
            self._first[at] = asked
        at = self._elsewhere(hashed)
        if self._second[at] < asked:
            self._second[at] = asked

    def fit(self, entries: int) -> None:
        """Grow until so many entries can be told apart."""
        while entries * SPREAD > self._mask and self._mask < _LARGEST:
            self._first = self._first + self._first
            self._second = self._second + self._second
            self._mask = 2 * self._mask + 1

    def age(self) -> None:
        """Halve a sixteenth of all counts."""
        stripe = self._stripe
        self._first[stripe::STRIPES] = self._first[stripe::STRIPES].translate(_HALF)
        self._second[stripe::STRIPES] = self._second[stripe::STRIPES].translate(_HALF)
        self.epochs[stripe] += 1
        self._stripe = (stripe + 1) % STRIPES

    def _elsewhere(self, hashed: int) -> int:
        """Return the place in the second row: another one, of the same stripe."""
        return ((hashed * _OTHER >> 20) & self._mask & -STRIPES) | (hashed % STRIPES)

    def __repr__(self) -> str:
        return f"<Sketch 2 x {self._mask + 1} | epoch {self.epochs[-1]}>"
