"""Time and chance for the pipeline: here alone the request path reads a clock or throws a die."""

from __future__ import annotations

import os
import random
import time
from itertools import count


class SystemClock:
    """Implements ports.Clock."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class SystemIds:
    """Implements ports.Ids: 64 random bits per process and a counter make a request id, without a system
    call each.

    Ids tell requests apart; they are no secrets.
    """

    __slots__ = ("_count", "_prefix", "chance")

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex().encode()
        generator = random.Random(os.urandom(16))
        self._count = count(generator.getrandbits(32))
        self.chance = generator.random

    def request_id(self) -> bytes:
        """A new request id: 32 lower-case hex digits."""
        return b"%b%016x" % (self._prefix, next(self._count) & 0xFFFFFFFFFFFFFFFF)
