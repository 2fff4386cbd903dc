"""Request ids and chance, without a system call each."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final

_TAILS: Final = tuple(b"%02x" % number for number in range(256))
_ALL: Final = 0xFFFFFFFFFFFFFFFF


class SystemIds:
    """Implements ports.Ids: 64 random bits per process and a counter of 64 bits make a request id.

    Ids tell requests apart; they are no secrets. All but the last two digits change once in 256 ids.
    """

    __slots__ = ("_count", "_prefix", "_stem", "chance")

    chance: Callable[[], float]

    def __init__(self) -> None:
        generator = random.Random(os.urandom(16))
        self.chance = generator.random
        self._prefix = os.urandom(8).hex().encode()
        self._count = generator.getrandbits(32)
        self._stem = b""

    def request_id(self) -> bytes:
        """A new request id: 32 lower-case hex digits."""
        number = self._count & 0xFF
        if not (number and self._stem):
            self._stem = b"%b%014x" % (self._prefix, (self._count & _ALL) >> 8)
        self._count += 1
        return self._stem + _TAILS[number]
