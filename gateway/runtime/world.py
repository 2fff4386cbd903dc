"""Time and chance for the pipeline: here alone the request path reads a clock or throws a die."""

from __future__ import annotations

import time

from gateway.runtime.ids import SystemIds as SystemIds  # found here, too


class SystemClock:
    """Implements ports.Clock."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
