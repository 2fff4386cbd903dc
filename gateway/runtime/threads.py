"""Work that would hold up the event loop for too long, done in a thread. Implements ports.Threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from gateway.pipeline.promise import Promise

T = TypeVar("T")


class WorkThreads:
    """A few threads, started when there is something to do. Work that is queued waits for a free one."""

    __slots__ = ("_loop", "_pool")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int = 2) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(count, "work")

    def run(self, work: Callable[[], T]) -> Promise[T]:
        """Do it in a thread; the promise is settled on the event loop, also with what it raised."""
        promise: Promise[T] = Promise()
        done = self._loop.run_in_executor(self._pool, work)
        done.add_done_callback(partial(_settle, promise))
        return promise

    def close(self) -> None:
        """Start nothing more; what runs is let run."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __repr__(self) -> str:
        return f"<WorkThreads {len(self._pool._threads)} running>"


def _settle(promise: Promise[T], done: asyncio.Future[T]) -> None:
    if done.cancelled():
        return  # the gateway ends
    error = done.exception()
    if error is None:
        promise.resolve(done.result())
    elif isinstance(error, Exception):
        promise.reject(error)
    else:
        raise error
