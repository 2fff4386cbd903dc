"""A ledger of quotas in a file of this host: survives restarts, and all workers share it.

SQLite, because it is the transaction that matters: a draw is read, decided and written as one, whichever of
several processes asks, and a process that is killed leaves the file as it was before or after. With
write-ahead logging and `synchronous=NORMAL` nothing is lost when processes die; a machine that loses power
may forget its last moments.

Calls are made in one thread of their own: what is asked in one turn of the event loop is one transaction.
A file that can't be used is told of once, and every ask fails with StoreUnavailable, which is the policies'
business (`on_store_failure`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.governance.allowance import Ask, Drawn, Told, decide
from gateway.pipeline.ports import StoreUnavailable
from gateway.pipeline.promise import Promise

log = logging.getLogger("headgate.quotas")

PATIENCE = 2.0  # s to wait for another process that writes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS drawn (
    key BLOB NOT NULL, slot INTEGER NOT NULL, tokens REAL NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (key, slot)
) WITHOUT ROWID
"""


class QuotaFile:
    """The file itself. Its methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def draw(self, asks: Sequence[Ask]) -> list[Told]:
        """Answer each ask, all in one transaction. Raises sqlite3.Error or OSError."""
        database = self._open()
        database.execute("BEGIN IMMEDIATE")
        try:
            told = [_one(database, ask) for ask in asks]
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
        return told

    def drawn(self, most: int) -> list[Drawn]:
        """Return what was drawn, of so many keys at most. Raises sqlite3.Error or OSError."""
        slots: dict[bytes, dict[int, float]] = {}
        rows = self._open().execute(
            "SELECT key, slot, tokens FROM drawn WHERE key IN (SELECT DISTINCT key FROM drawn LIMIT ?)",
            (most,),
        )
        for key, slot, tokens in rows:
            slots.setdefault(key, {})[slot] = tokens
        return [Drawn(key, drawn) for key, drawn in slots.items()]

    def forget(self, wall: float) -> None:
        """Drop what counts no more, where anybody counts. wall: s since the epoch."""
        if self._database is not None:
            self._database.execute("DELETE FROM drawn WHERE until < ?", (wall,))

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
            try:
                self._path.chmod(0o600)
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=NORMAL")
                database.execute(_SCHEMA)
            except (sqlite3.Error, OSError):
                database.close()
                raise
            self._database = database
        return self._database


def _one(database: sqlite3.Connection, ask: Ask) -> Told:
    counts: dict[int, float] = dict(
        database.execute("SELECT slot, tokens FROM drawn WHERE key = ?", (ask.key,)).fetchall()
    )
    before = dict(counts)
    told = decide(counts, ask)
    for slot in before.keys() - counts.keys():
        database.execute("DELETE FROM drawn WHERE key = ? AND slot = ?", (ask.key, slot))
    if counts.get(ask.slot) != before.get(ask.slot):
        row = (ask.key, ask.slot, counts[ask.slot], ask.until)
        database.execute("INSERT OR REPLACE INTO drawn VALUES (?, ?, ?, ?)", row)
    return told


class FileLedger:
    """Implements pipeline/quotas.Ledger over a QuotaFile."""

    is_shared = True

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._file = QuotaFile(path)
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "quotas")
        self._asks: list[tuple[Sequence[Ask], Promise[Sequence[Told]]]] = []
        self._is_broken = False
        self._is_closed = False

    def draw(self, asks: Sequence[Ask]) -> Promise[Sequence[Told]]:
        """Answer in a while; rejected with StoreUnavailable where the file can't be used."""
        promise: Promise[Sequence[Told]] = Promise()
        if self._is_closed:
            promise.reject(StoreUnavailable("the file of quotas is closed"))
            return promise
        self._asks.append((asks, promise))
        if len(self._asks) == 1:
            self._loop.call_soon(self._flush)
        return promise

    def drawn(self, most: int) -> Promise[Sequence[Drawn]]:
        """Answer in a while; rejected with StoreUnavailable where the file can't be used."""
        promise: Promise[Sequence[Drawn]] = Promise()
        if self._is_closed:
            promise.reject(StoreUnavailable("the file of quotas is closed"))
            return promise

        def read(done: asyncio.Future[list[Drawn]]) -> None:
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                promise.resolve(done.result())
            else:
                promise.reject(StoreUnavailable(f"the file of quotas can't be used: {error}"))

        self._loop.run_in_executor(self._thread, self._file.drawn, most).add_done_callback(read)
        return promise

    def forget(self, wall: float) -> None:
        """Drop what counts no more, some time soon."""
        if not self._is_closed:
            self._thread.submit(self._forget, wall)

    async def close(self) -> None:
        """Write what was asked, and let go of the file."""
        if self._asks:
            self._flush()
        self._is_closed = True
        await self._loop.run_in_executor(self._thread, self._file.close)
        self._thread.shutdown(wait=False)

    def _forget(self, wall: float) -> None:
        try:
            self._file.forget(wall)
        except (sqlite3.Error, OSError) as error:
            self._note(error)

    def _flush(self) -> None:
        batch, self._asks = self._asks, []
        if batch:
            done = self._loop.run_in_executor(self._thread, self._work, [asks for asks, _ in batch])
            done.add_done_callback(lambda done: self._answer(batch, done))

    def _work(self, batch: Sequence[Sequence[Ask]]) -> list[Told] | StoreUnavailable:
        try:
            told = self._file.draw([ask for asks in batch for ask in asks])
        except (sqlite3.Error, OSError) as error:
            self._file.close()
            self._note(error)
            return StoreUnavailable(f"the file of quotas can't be used: {error}")
        self._is_broken = False
        return told

    def _note(self, error: Exception) -> None:
        if not self._is_broken:
            log.error("quotas can't be kept in %s: %s", self._path, error)
        self._is_broken = True

    @staticmethod
    def _answer(
        batch: Sequence[tuple[Sequence[Ask], Promise[Sequence[Told]]]],
        done: asyncio.Future[list[Told] | StoreUnavailable],
    ) -> None:
        if done.cancelled():
            return
        told = done.result()
        start = 0
        for asks, promise in batch:
            if isinstance(told, StoreUnavailable):
                promise.reject(told)
            else:
                promise.resolve(told[start : start + len(asks)])
                start += len(asks)

    def __repr__(self) -> str:
        return f"<FileLedger {self._path}>"
