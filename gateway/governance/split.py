"""Weighted choice between named arms: canaries, A/B tests, mirrored shares.

The arms lie side by side on [0, 1), each as wide as its weight; a point chooses the arm it falls into. A
fresh random point per request gives shares by weight. A point hashed from a user's key makes the choice
sticky: `place(key, salt)` is the same on every gateway and in every process. It is also monotone: arms
are laid from the left in the order given, and when the first arm's weight grows at the expense of the
last one's, nobody who was in it leaves (with two arms this holds for both orders; name the growing arm
first). A salt per release keeps the same users from always going first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate

UNIT = 1 << 53
"""Places are multiples of 2**-53: every one is exact as a float."""


def place(key: bytes, salt: bytes = b"") -> float:
    """Return a stable point in [0, 1) for `key`; other salts (at most 64 bytes are used) scatter keys
    anew."""
    digest = blake2b(key, digest_size=8, key=salt[:64]).digest()
    return (int.from_bytes(digest, "big") >> 11) / UNIT


class Split:
    """Named arms and their weights.

    weights: arm -> weight >= 0, in order; any positive sum, an arm of weight 0 is never chosen.
    """

    __slots__ = ("_bounds", "arms", "weights")

    def __init__(self, weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
        if not (0 < total < float("inf")) or min(weights.values()) < 0:
            raise ValueError(f"weights must not be negative and must add up to something: {dict(weights)}")
        self.weights = dict(weights)
        self.arms = tuple(arm for arm, weight in weights.items() if weight > 0)
        cumulated = accumulate(weight for weight in weights.values() if weight > 0)
        self._bounds = [bound / total for bound in cumulated][:-1]  # the last arm takes what is left

    def choose(self, point: float) -> str:
        """Return the arm at `point` in [0, 1)."""
        return self.arms[bisect_right(self._bounds, point)]

    def choose_for(self, key: bytes, salt: bytes = b"") -> str:
        """Return the arm in which `key` stays as long as the weights do."""
        return self.choose(place(key, salt))

    def __repr__(self) -> str:
        return f"<Split {', '.join(f'{arm} {weight:g}' for arm, weight in self.weights.items())}>"
