"""A prediction that was read, through the model's queue, counted: the same for every port and dialect."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from backends.errors import BackendError, EngineFailure
from backends.metrics import Load
from backends.served import Served

T = TypeVar("T")


async def counted(served: Served, load: Load, answer: Callable[[], Awaitable[T]]) -> T:
    """Await `answer()` and count it for the model version and for the server."""
    numbers, started = served.metrics, time.perf_counter()
    numbers.in_flight += 1
    load.in_flight += 1
    try:
        return await answer()
    except BackendError as e:
        numbers.failures[e.status] += 1
        raise
    except Exception:
        numbers.failures[EngineFailure.status] += 1
        raise
    finally:
        load.in_flight -= 1
        numbers.in_flight -= 1
        numbers.requests += 1
        numbers.latency.observe(time.perf_counter() - started)
