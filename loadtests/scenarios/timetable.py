"""What happens when: the one list that crowd.py, director.py and picture.py share.

Instants are seconds after the start; the crowd and the director agree on the start by an instant of the
machine's monotonic clock, which all its processes share. The phases don't overlap, so that each claim is
judged on traffic that only its own event has touched:

    0 ─ calm ─ 20 ─ edited policy ─ 30 ─ killed ─ 46 ─ frozen candidate ─ 60 ─ surge ─ 68 ── 70

The breaker judges a share of the calls of the last ten seconds, so the freeze comes before the surge: the
candidate had at most some 60 good calls in that time, and those who insist on it bring 100 bad ones within
the second that the health check needs to take it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CALM_ENDS: Final = 20.0
EDIT: Final = 21.0  # the free plan's 5/s become 15/s
BREAK: Final = 25.0  # a policy file with a mistake is saved
MEND: Final = 27.0  # and mended
KILL: Final = 30.0  # kill -9 of one of the two instances of version 1
RESTART: Final = 36.0
FREEZE: Final = 46.0  # SIGSTOP of the one instance of version 2
THAW_AT_LATEST: Final = FREEZE + 5.0  # well within the 10 s lease of the instance's registration
SURGE: Final = 60.0
SURGE_ENDS: Final = 68.0
END: Final = 70.0

FREE_BEFORE, FREE_AFTER, FREE_BURST = 5, 15, 5  # requests per second, and requests
ENDPOINT_RATE, ENDPOINT_BURST = 200, 400
CANARY_SHARE: Final = 0.1
CACHE_TTL: Final = 30.0
TIMEOUT: Final = 2.0
PER_TRY: Final = 0.8
COOL_DOWN, COOL_DOWN_JITTER = 2.0, 0.1
REPEATED: Final = 12  # different tensors that come back again and again


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of users. rate: of all of them together, requests per second."""

    users: int
    rate: float
    begins: float = 0.0
    ends: float = END

    @property
    def period(self) -> float:
        """Seconds between two requests of one user."""
        return self.users / self.rate


FREE: Final = Part(users=4, rate=20.0)
FRESH: Final = Part(users=8, rate=30.0)  # twice: in each dialect
REPEAT: Final = Part(users=3, rate=10.0)  # twice
FORCED: Final = Part(users=100, rate=100.0, begins=FREEZE + 0.1, ends=SURGE - 2.0)
CROWD: Final = Part(users=30, rate=260.0, begins=SURGE, ends=SURGE_ENDS)
USERS: Final = FREE.users + 2 * (FRESH.users + REPEAT.users) + FORCED.users + CROWD.users
