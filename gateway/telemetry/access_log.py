"""The access log: one JSON line per request that says which policy decided and why.

Lines (log_lines.py) wait in a bounded queue and are written in batches by a thread of their own, so that a
full disk, a slow terminal or a closed pipe never blocks the event loop: what can't be written is dropped and
counted, and a dead sink is tried again after a while. A line is made where its request ends: what it says is
still in the processor's caches, the request's memory is free at once, and the thread, which takes the
interpreter from the event loop for as long as it works, only joins and writes. A file that was moved or
removed is opened anew by its name within `LOOK` seconds, so that logrotate needs to send no signal. The
credential, the body, the query and header values never reach a line.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

from gateway.pipeline.context import Context
from gateway.pipeline.ports import Clock
from gateway.telemetry.log_lines import Lines, Unread, line, record

QUEUE = 8192  # lines that may wait: some 300 B each, so a blocked sink costs 3 MiB and not the worker
BATCH = 512  # lines of one write
PAUSE = 0.05  # s between two looks at an empty queue
AGAIN = 2.0  # s until a failed sink is tried again
LOOK = 1.0  # s between two looks whether the file is still the one of that name
PATIENCE = 1.0  # s that `close` waits for what is queued


class AccessLog:
    """Writes finished requests to stdout, stderr or a file."""

    def __init__(
        self,
        target: str,
        clock: Clock,
        *,
        chance: Callable[[], float],
        sample: float = 1.0,
        lock: int = -1,
    ) -> None:
        """target: stdout, stderr, off or a path. sample: share of successful requests that are written.

        lock: a descriptor that several processes lock while they write to one pipe; -1: nobody else writes.
        A file needs none: Linux appends what one call writes in one piece.
        """
        self.target = target
        self.written = 0
        self._clock = clock
        self._chance = chance
        self._sample = sample
        self._lock = lock
        self._queue: deque[bytes] = deque()
        self._lines = Lines()
        self._epoch = 0.0  # s between the monotonic clock's zero and the Unix epoch
        self._turned_away = 0  # counted by the event loop's thread
        self._lost = 0  # counted by the writer's: `+=` of two threads on one number loses counts
        self._in_hand = 0  # lines of the batch that is being written
        self._wake = threading.Event()
        self._closing = False
        self._descriptor = -1
        self._torn = False  # the last write ended inside a line
        self._look_at = 0.0
        self._broken_until = 0.0
        self._writer: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """How many records were not written, for whatever reason."""
        return self._turned_away + self._lost

    def start(self) -> None:
        """Open the target and begin to write."""
        if self.target != "off":
            self._epoch = self._clock.wall() - self._clock.now()
            self._writer = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._writer.start()

    def observe(self, ctx: Context) -> None:
        """Queue one finished request."""
        if self._writer is None:
            return
        if self._sample < 1.0 and ctx.status < 400 and self._chance() >= self._sample:
            return
        if len(self._queue) >= QUEUE:
            self._turned_away += 1
            return
        self._queue.append(self._lines.of(ctx, self._epoch))

    def observe_unread(self, code: str, status: int, client: str, request_id: bytes = b"") -> None:
        """Queue an answer that was given before there was a request."""
        if self._writer is None:
            return
        if len(self._queue) >= QUEUE:
            self._turned_away += 1
            return
        unread = Unread(code, status, client, self._clock.now(), request_id)
        self._queue.append(line(record(unread, self._epoch)))

    def close(self) -> None:
        """Write what is queued, for at most `PATIENCE`, and stop; a blocked writer is left behind."""
        self._closing = True
        self._wake.set()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.join(timeout=PATIENCE)
        if writer.is_alive():
            self._turned_away += len(self._queue) + self._in_hand
            self._queue.clear()

    # In the writer's thread

    def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    break
                self._wake.wait(PAUSE)
                continue
            batch: list[bytes] = []
            while self._queue and len(batch) < BATCH:
                batch.append(self._queue.popleft())
            self._in_hand = len(batch)
            self._write(batch)
            self._in_hand = 0
        if self._descriptor > 2:
            os.close(self._descriptor)

    def _write(self, batch: list[bytes]) -> None:
        now = self._clock.now()
        if now < self._broken_until:
            self._lost += len(batch)
            return
        self._epoch = self._clock.wall() - now  # the wall clock may be set while we run
        lines = b"".join(batch)
        written = 0
        try:
            self._reopen_if_moved(now)
            if self._torn:  # the rest of a line that a full disk cut off must not run into this one
                lines = b"\n" + lines
            if self._lock >= 0:  # POSIX's locks are a process's own, and end with it
                fcntl.lockf(self._lock, fcntl.LOCK_EX)
            for done in self._write_all(lines):
                written = done
        except OSError:
            self._failed(lines[:written], len(batch))
            self._broken_until = now + AGAIN
        else:
            self._torn = False
            self.written += len(batch)
        finally:
            if self._lock >= 0:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _failed(self, written: bytes, batch: int) -> None:
        """Count what of a batch came through, and try the target anew later."""
        if written:
            whole = written.count(b"\n") - self._torn
            self._torn = not written.endswith(b"\n")
        else:
            whole = 0
        self.written += whole
        self._lost += batch - whole
        self._let_go()

    def _write_all(self, lines: bytes) -> Iterator[int]:
        """Write everything; yields how many bytes are written so far."""
        if self._descriptor < 0:
            self._descriptor = self._open()
        written = 0
        while written < len(lines):
            written += os.write(self._descriptor, memoryview(lines)[written:])
            yield written

    def _reopen_if_moved(self, now: float) -> None:
        if self._descriptor <= 2 or now < self._look_at:
            return
        self._look_at = now + LOOK
        try:
            named: os.stat_result | None = os.stat(self.target)
        except FileNotFoundError:
            named = None
        if named is None or not os.path.samestat(named, os.fstat(self._descriptor)):
            self._let_go()
            self._torn = False

    def _let_go(self) -> None:
        if self._descriptor > 2:
            os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> int:
        if self.target == "stdout":
            return sys.__stdout__.fileno() if sys.__stdout__ else 1
        if self.target == "stderr":
            return sys.__stderr__.fileno() if sys.__stderr__ else 2
        return os.open(self.target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
