"""Tells the ledger of quotas every second or so what lies idle or was spent beyond, and all at the end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from gateway.governance.allowance import IDLE
from gateway.pipeline.promise import Promise
from gateway.pipeline.quotas import Quotas

if TYPE_CHECKING:
    from gateway.stores.quota_file import FileLedger

PERIOD: Final = 0.5  # s
FORGET: Final = 3600.0  # s between two times that what counts no more is dropped from a file
LAST_WORD: Final = 1.0  # s that the last report may take


class QuotaReports:
    """One timer of the event loop."""

    def __init__(
        self, quotas: Quotas, loop: asyncio.AbstractEventLoop, file: FileLedger | None = None
    ) -> None:
        self._quotas = quotas
        self._loop = loop
        self._file = file
        self._forget_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Report from now on."""
        self._timer = self._loop.call_later(PERIOD, self._tick)

    async def close(self) -> None:
        """Give back everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        told = self._quotas.report(idle=0.0)
        if isinstance(told, Promise):
            done: asyncio.Future[None] = self._loop.create_future()
            told.then(lambda _: done.set_result(None), lambda _: done.set_result(None))
            await asyncio.wait([done], timeout=LAST_WORD)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(PERIOD, self._tick)
        self._quotas.report(IDLE)
        if self._file is not None and self._loop.time() >= self._forget_at:
            self._forget_at = self._loop.time() + FORGET
            self._file.forget(time.time())
