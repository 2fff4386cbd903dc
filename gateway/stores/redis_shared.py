"""Blobs on Redis that several gateways use: who fetches what, and what was purged.

A lease is a key beside the blob's (`SET NX PX`); its holder deletes it when the blob is there, or leaves the
word `open` for a second when what came can't be shared. It ends by itself after `LEASE`: a holder that died
costs the others that long, one that is slower a second fetch.

Purges are a stream, bounded in length. Every process reads what is new in it every quarter of a second, and
when it starts all that is there: blobs outlive the processes that knew of a purge. Until then, and whenever
Redis was away, blobs are not believed. What couldn't be announced is announced when Redis is back, and so are
again those of the last minute, for a Redis that started anew has lost them. After a gap that may be longer
than the stream, everything counts as purged.

    Redis answers     a purge holds everywhere within half a second
    Redis is away     at once where it was asked for; elsewhere as soon as both reach Redis again

Source: the Redis documentation, "SET" (locks with NX and PX), "Redis Streams" (XADD, XRANGE).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.pipeline.ports import Lease, StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.stores.redis import RedisBlobs, RedisClient
from gateway.stores.resp import encode

LEASE: Final = 3.0  # s
OPEN_FOR: Final = 1.0  # s that everybody may fetch what can't be shared
EVERY: Final = 0.25  # s between two looks at the purges
LENGTH: Final = 10_000  # purges that are kept
AGAIN: Final = 60.0  # s for which a purge is announced again to a Redis that came back
EVERYTHING: Final = "all"

Heard = Callable[[str, float], None]
"""Takes what was purged (a tag, see AnswerStore.outdate) and when: s since the epoch."""


class SharedRedisBlobs(RedisBlobs):
    """Implements ports.SharedBlobs. me: a name that no other process has. now, wall: the two clocks."""

    __slots__ = ("_failures", "_last", "_leases", "_me", "_now", "_pending", "_recent", "_task", "_wall")

    def __init__(
        self, client: RedisClient, me: bytes, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        super().__init__(client)
        self._me = me
        self._now = now
        self._wall = wall
        self._leases: dict[bytes, float] = {}  # until when ours hold, s
        self._pending: deque[str] = deque(maxlen=LENGTH)  # purges that Redis has not confirmed
        self._recent: deque[tuple[float, str]] = deque(maxlen=LENGTH)
        self._last = b"-"  # id of the last purge that was read
        self._failures = client.failures  # when we last announced again
        self._task: asyncio.Task[None] | None = None

    # Leases

    def lease(self, key: bytes) -> Promise[Lease]:
        """Ask for the lease of a key; without Redis it is nobody's."""
        told: Promise[Lease] = Promise()
        name = self._prefix + b"lease:" + key
        milliseconds = b"%d" % int(LEASE * 1000)

        def set_(reply: object) -> None:
            if reply == b"OK":
                self._leases[key] = self._now() + LEASE
                told.resolve(Lease.OURS)
            elif reply is not None:
                self._look(reply)
                told.resolve(Lease.NOBODYS)

        def got(reply: object) -> None:
            told.resolve(Lease.NOBODYS if reply == b"open" or isinstance(reply, Exception) else Lease.THEIRS)

        self._client.send(encode(b"SET", name, self._me, b"NX", b"PX", milliseconds), set_)
        self._client.send(encode(b"GET", name), got)
        return told

    def release(self, key: bytes, shared: bool) -> None:
        """Give back a lease that is still ours."""
        if self._now() >= self._leases.pop(key, 0.0):
            return
        name = self._prefix + b"lease:" + key
        if shared:
            self._client.send(encode(b"UNLINK", name), self._look)
        else:
            self._client.send(encode(b"SET", name, b"open", b"PX", b"%d" % int(OPEN_FOR * 1000)), self._look)

    # Purges

    def announce(self, what: str) -> None:
        """Tell all processes of a purge, now or when Redis is back."""
        self._recent.append((self._now(), what))
        self._pending.append(what)
        self._send_pending()

    def _send_pending(self) -> None:
        pending, self._pending = self._pending, deque(maxlen=LENGTH)
        for what in pending:
            self._send(what)

    def _send(self, what: str) -> None:
        def added(reply: object) -> None:
            if isinstance(reply, Exception):
                self._pending.append(what)

        length = b"%d" % LENGTH
        self._client.send(
            encode(
                *(b"XADD", self._prefix + b"purges", b"MAXLEN", b"~", length, b"*"),
                *(b"what", what.encode(), b"by", self._me),
            ),
            added,
        )

    def follow(self, heard: Heard, trust: Callable[[bool], None]) -> None:
        """Begin to read what others announce. trust: told whether all purges are known."""
        self._task = asyncio.get_running_loop().create_task(self._follow(heard, trust), name="purges")

    async def close(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, heard: Heard, trust: Callable[[bool], None]) -> None:
        while True:
            try:
                await self._read(heard)
            except StoreUnavailable:
                trust(False)
            else:
                if self._client.failures != self._failures:
                    self._failures = self._client.failures
                    self._announce_again()
                self._send_pending()
                trust(True)
            await asyncio.sleep(EVERY)

    async def _read(self, heard: Heard) -> None:
        name, count = self._prefix + b"purges", b"%d" % LENGTH
        is_first = self._last == b"-"
        start = b"-" if is_first else b"(" + self._last
        reply = await self._call(b"XRANGE", name, start, b"+", b"COUNT", count)
        if not isinstance(reply, list):
            raise StoreUnavailable("XRANGE was answered with something else than entries")
        for entry in reply:
            match entry:
                case [bytes(id_), [b"what", bytes(what), b"by", bytes(by)]]:
                    self._last = id_
                    when = int(id_.partition(b"-")[0]) / 1000
                    if by != self._me:
                        heard(what.decode(), when if is_first else self._wall())
        if not is_first and len(reply) >= LENGTH:
            heard(EVERYTHING, self._wall())
        if is_first and not reply:
            self._last = b"0-0"

    def _announce_again(self) -> None:
        since = self._now() - AGAIN
        known = set(self._pending)
        self._pending.extend(
            dict.fromkeys([what for at, what in self._recent if at > since and what not in known])
        )

    def __repr__(self) -> str:
        held, purges = len(self._leases), len(self._pending)
        return f"<SharedRedisBlobs on {self._client!r} | {held} leases, {purges} purges to tell>"
