"""The access log: one JSON line per request that says which policy decided and why.

Records wait in a bounded queue and are written in batches by a thread of their own, so that a full disk, a
slow terminal or a closed pipe never blocks the event loop: what can't be written is dropped and counted,
and a dead sink is tried again after a while. A file that was moved or removed is opened anew by its name
within `LOOK` seconds, so that logrotate needs to send no signal. The credential, the body, the query and
header values never reach a record.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson

from gateway.pipeline.context import Context, Tried
from gateway.pipeline.ports import Clock

QUEUE = 8192  # records that may wait: about 4 KiB each, so a blocked sink costs 32 MiB and not the worker
BATCH = 512  # records of one write
PAUSE = 0.05  # s between two looks at an empty queue
AGAIN = 2.0  # s until a failed sink is tried again
LOOK = 1.0  # s between two looks whether the file is still the one of that name
PATIENCE = 1.0  # s that `close` waits for what is queued


@dataclass(frozen=True, slots=True)
class Unread:
    """An answer that was given before there was a request: a malformed head, too many connections …

    finished: s, monotonic.
    """

    code: str
    status: int
    client: str
    finished: float
    request_id: bytes = b""


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
        self._queue: deque[Context | Unread] = deque()
        self._turned_away = 0  # counted by the event loop's thread
        self._lost = 0  # counted by the writer's: `+=` of two threads on one number loses counts
        self._in_hand = 0  # records of the batch that is being written
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
        self._queue.append(ctx)

    def observe_unread(self, code: str, status: int, client: str, request_id: bytes = b"") -> None:
        """Queue an answer that was given before there was a request."""
        if self._writer is None:
            return
        if len(self._queue) >= QUEUE:
            self._turned_away += 1
            return
        self._queue.append(Unread(code, status, client, self._clock.now(), request_id))

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
            batch: list[Context | Unread] = []
            while self._queue and len(batch) < BATCH:
                batch.append(self._queue.popleft())
            self._in_hand = len(batch)
            self._write(batch)
            self._in_hand = 0
        if self._descriptor > 2:
            os.close(self._descriptor)

    def _write(self, batch: list[Context | Unread]) -> None:
        now = self._clock.now()
        if now < self._broken_until:
            self._lost += len(batch)
            return
        epoch = self._clock.wall() - now
        lines = b"".join([line(record(ctx, epoch)) for ctx in batch])
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


def line(fields: dict[str, object]) -> bytes:
    """Return one line of JSON, line feed included."""
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, which a token's claims may hold: escaped, as JSON allows
        return json.dumps(fields).encode() + b"\n"


def record(ctx: Context | Unread, epoch: float) -> dict[str, object]:
    """Return what the log says of one request. Empty fields are left out; durations are milliseconds.

    epoch: seconds between the monotonic clock's zero and the Unix epoch.
    """
    if isinstance(ctx, Unread):
        time = round(epoch + ctx.finished, 3)
        known = {"request_id": ctx.request_id.decode("latin-1")} if ctx.request_id else {}
        return {"time": time, **known, "client": ctx.client, "status": ctx.status, "reason": ctx.code}
    request = ctx.request
    line: dict[str, object] = {
        "time": round(epoch + ctx.finished, 3),
        "request_id": ctx.request_id.decode("latin-1"),
        "client": ctx.client,
        "method": request.method.decode("latin-1"),
        "path": request.path.decode("latin-1"),
        "status": ctx.status,
        "ms": round((ctx.finished - ctx.started) * 1000, 3),
        "bytes_in": ctx.body_received or request.length or 0,
        "bytes_out": ctx.body_sent,
    }
    if ctx.grpc_status >= 0:
        line["grpc_status"] = ctx.grpc_status
    if ctx.endpoint is not None:
        line["endpoint"] = ctx.endpoint.name
    if ctx.principal is not None:
        line["principal"] = ctx.principal.name
        if ctx.principal.plan:
            line["plan"] = ctx.principal.plan
        if ctx.principal.tenant:
            line["tenant"] = ctx.principal.tenant
    if ctx.waited:
        line["waited_ms"] = round(ctx.waited * 1000, 3)
    if ctx.attempts:
        line["pool"] = "" if ctx.pool is None else ctx.pool.name
        line["instance"] = "" if ctx.instance is None else ctx.instance.id
        line["upstream_ms"] = round(ctx.upstream_seconds * 1000, 3)
        if ctx.attempts > 1:
            line["attempts"] = ctx.attempts
        if ctx.tries is not None:
            line["tries"] = [_try(tried) for tried in ctx.tries]
    if ctx.version:
        line["version"] = ctx.version
    if ctx.arm:
        line["arm"] = ctx.arm
    if ctx.cache_status:
        line["cache"] = ctx.cache_status.decode("latin-1")
    if ctx.degraded:
        line["degraded"] = ctx.degraded
        line["degraded_by"] = ctx.degraded_by
    if ctx.fault:
        line["fault"] = ctx.fault
    if ctx.refusal is not None:
        line["reason"] = ctx.refusal.code
        line["policy"] = ctx.refusal.policy
        line["decided_by"] = ctx.answered_by
        line["why"] = ctx.refusal.message
        if "limit" in ctx.refusal.details:
            line["limit"] = ctx.refusal.details["limit"]
    elif ctx.error is not None:
        line["reason"] = ctx.error.code
        line["why"] = str(ctx.error)
    elif ctx.answered_by:
        line["decided_by"] = ctx.answered_by
    if ctx.rehearsed:
        line["would_refuse"] = [f"{policy}: {code}" for policy, code in ctx.rehearsed]
    if ctx.sampled:
        line["trace_id"] = ctx.trace_id.decode("latin-1")
    return line


def _try(tried: Tried) -> dict[str, object]:
    return {
        "instance": tried.instance,
        "kind": tried.kind,
        "ended": tried.ended,
        "ms": round(tried.seconds * 1000, 3),
    }
