"""Counters and blobs on a real Redis, shared by all workers and hosts.

Counters: all levels of one request are decided by one script call on the server, by the server's clock:
exact, all or nothing, and the same law as governance/token_bucket.py (a key holds the instant at which
its bucket is full again, and expires then). All keys carry one hash tag, because a script may only touch
keys of one slot of a Redis Cluster: the counters of one deployment live on one shard. MOVED is followed.

Blobs: plain GET / SET PX / UNLINK; a failure is a miss.

A Redis that is gone costs a request nothing, one that hangs costs `timeout` once: while there is no
proven connection every command fails at once with StoreUnavailable, and one task tries to connect again,
with growing pauses. A connection counts only after its handshake (AUTH, SELECT, PING) was answered, so
it is the half-open probe of this circuit. What the caller does without its store (`on_store_failure:
local | open | closed`) is its policy's business. A command whose reply was lost may have been carried
out: a request may be charged twice, never too little.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.pipeline.ports import Claim, Grant, StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.stores.resp import Connection, Reply, ReplyError, encode

# Where it is


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis server. tls: verify against the system's authorities, or those in the file `ca`."""

    host: str = "127.0.0.1"
    port: int = 6379
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    others: tuple[tuple[str, int], ...] = ()  # more hosts and ports to ask
    master: str = ""  # of sentinels: whose address they are asked for

    @classmethod
    def parse(cls, url: str, password: str = "") -> Address:
        """Read `redis[s]://[[user]:password@]host[:port][/db][?ca=FILE]`; `password` wins over the
        URL's.

        `redis+sentinel://host:port,host:port/MASTER[/db]` asks sentinels where the master is;
        `redis+cluster://host:port,host:port` tries its hosts in turn and goes where MOVED points.

        ValueError says what is wrong without repeating the URL, which may hold a secret.
        """
        seeds: tuple[tuple[str, int], ...] = ()
        master = ""
        scheme, _, rest = url.partition("://")
        if scheme in ("redis+sentinel", "redis+cluster"):
            user, at, rest = rest.rpartition("@")
            hosts, _, path = rest.partition("/")
            first, *more = hosts.split(",")
            seeds = tuple(_host_and_port(host) for host in more)
            if scheme == "redis+sentinel":
                master, _, path = path.partition("/")
                if not master:
                    raise ValueError("expected a URL like redis+sentinel://host:26379,host:26379/MASTER")
            url = f"redis://{user}{at}{first}/{path}"
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("expected a URL like redis://host:6379/0 or rediss://host:6379/0")
        try:
            port = parts.port or 6379
            db = int(parts.path.strip("/") or 0)
        except ValueError:
            raise ValueError("the port and the database of a redis:// URL are numbers") from None
        options = parse_qs(parts.query)
        if unknown := sorted(options.keys() - {"ca"}):
            raise ValueError(f"a redis:// URL knows the option ca, not {', '.join(unknown)}")
        return cls(
            host=parts.hostname or "127.0.0.1",
            port=port,
            db=db,
            username=unquote(parts.username or ""),
            password=password or unquote(parts.password or ""),
            tls=parts.scheme == "rediss",
            ca=options.get("ca", [""])[0],
            others=seeds,
            master=master,
        )

    def __str__(self) -> str:
        return f"redis{'s' if self.tls else ''}://{self.host}:{self.port}/{self.db}"


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"redis://{text}")
    return parts.hostname or "127.0.0.1", parts.port or 6379


# Being connected


class RedisClient:
    """Keeps one proven connection, or none. Used by one event loop.

    timeout: seconds for a reply, and for each step of connecting. rng: uniform in [0, 1), scatters
    reconnections. on_change: told whether there is a connection now, and why not.
    """

    FIRST_PAUSE = 0.05
    LONGEST_PAUSE = 2.0

    def __init__(
        self,
        address: Address,
        *,
        timeout: float = 0.1,
        rng: Callable[[], float] = lambda: 0.5,
        on_change: Callable[[bool, str], None] = lambda is_up, why: None,
    ) -> None:
        self.address = address
        self.trouble = "not connected yet"  # why there is no connection, "" when there is
        self.failures = 0  # connections lost, attempts failed; so far
        self._timeout = timeout
        self._rng = rng
        self._on_change = on_change
        self._told: bool | None = None
        self._connection: Connection | None = None
        self._moved_to: Address | None = None
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Tell whether commands would be sent now."""
        return self._connection is not None

    async def open(self) -> bool:
        """Start to keep a connection. Returns whether the first attempt succeeded; the others go on in
        any case."""
        is_up = await self._connect()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"redis {self.address}")
        return is_up

    async def close(self) -> None:
        """Give up the connection and the attempts; pending commands fail."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if self._connection is not None:
            self._connection.give_up("closed")

    def send(self, command: bytes, reply: Reply) -> None:
        """Send one encoded command; `reply` is called exactly once, at once when there is no
        connection."""
        if self._connection is None:
            reply(StoreUnavailable(self.trouble))
        else:
            self._connection.send(command, reply)

    def redirect(self, error: ReplyError) -> None:
        """Look at an error that is about the server and not the command: go where it points, or connect
        anew."""
        kind, _, rest = str(error).partition(" ")
        if kind == "MOVED":
            host, _, port = rest.partition(" ")[2].rpartition(":")
            if port.isdigit():
                self._moved_to = replace(self.address, host=host or self.address.host, port=int(port))
        if kind in ("MOVED", "READONLY", "LOADING", "NOAUTH", "CLUSTERDOWN") and self._connection is not None:
            self._connection.give_up(f"the server answered {kind}")

    # The keeper

    async def _keep(self) -> None:
        pause = self.FIRST_PAUSE
        while True:
            if self._connection is not None:
                pause = self.FIRST_PAUSE
                await self._lost.wait()
            if self._moved_to is None:
                await asyncio.sleep(pause * (0.5 + self._rng()))
                pause = min(self.LONGEST_PAUSE, 2 * pause)
            await self._connect()

    async def _connect(self) -> bool:
        address, self._moved_to = self._moved_to or self._turn(), None
        loop = asyncio.get_running_loop()
        connection = Connection(loop, self._timeout, self._on_lost)
        self._lost.clear()
        try:
            async with asyncio.timeout(max(1.0, 5 * self._timeout) if address.tls else 5 * self._timeout):
                if address.master:
                    address = await self._master_of(address)
                await loop.create_connection(
                    lambda: connection,
                    address.host,
                    address.port,
                    ssl=ssl.create_default_context(cafile=address.ca or None) if address.tls else None,
                )
                await self._shake_hands(connection, address)
        except (OSError, TimeoutError, StoreUnavailable, ReplyError, UnicodeError) as error:
            why = str(error) or "no answer in time"
            connection.give_up(why)
            self._note_trouble(f"{address}: {why}")
            return False
        except asyncio.CancelledError:
            connection.give_up("closed")
            raise
        self._connection = connection
        self._tell(True, "")
        return True

    def _turn(self) -> Address:
        """Return the next of the hosts that may be asked."""
        if not self.address.others:
            return self.address
        hosts = ((self.address.host, self.address.port), *self.address.others)
        host, port = hosts[self.failures % len(hosts)]
        return replace(self.address, host=host, port=port)

    async def _master_of(self, sentinel: Address) -> Address:
        """Ask a sentinel where the master is (Redis Sentinel, "Obtaining the address of the master")."""
        loop = asyncio.get_running_loop()
        asking = Connection(loop, self._timeout, lambda why: None)
        await loop.create_connection(lambda: asking, sentinel.host, sentinel.port)
        try:
            reply = await asking.call(b"SENTINEL", b"get-master-addr-by-name", sentinel.master.encode())
        finally:
            asking.give_up("asked")
        match reply:
            case [bytes(host), bytes(port)]:
                return replace(sentinel, host=host.decode(), port=int(port), master="")
        raise StoreUnavailable(f"the sentinel knows no master {sentinel.master!r}")

    @staticmethod
    async def _shake_hands(connection: Connection, address: Address) -> None:
        if address.password:
            user = [address.username.encode()] if address.username else []
            await connection.call(b"AUTH", *user, address.password.encode())
        if address.db:
            await connection.call(b"SELECT", b"%d" % address.db)
        await connection.call(b"PING")

    def _on_lost(self, why: str) -> None:
        if self._connection is not None:
            self._connection = None
            self._note_trouble(f"{self.address}: {why}")
        self._lost.set()

    def _note_trouble(self, trouble: str) -> None:
        self.failures += 1
        self._tell(False, trouble)

    def _tell(self, is_up: bool, trouble: str) -> None:
        self.trouble = trouble
        if is_up is not self._told:
            self._told = is_up
            self._on_change(is_up, trouble)

    def __repr__(self) -> str:
        return f"<RedisClient {self.address} {'up' if self.is_up else f'down: {self.trouble}'}>"


# Counters

TAKE = b"""
local function exact(x) return string.format('%.17g', x) end
local function milliseconds(x) return string.format('%.0f', math.ceil(x * 1000)) end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local stored = redis.call('MGET', unpack(KEYS))
local full_at = {}
local wait, fewest, binding, left, reset = 0, math.huge, 1, 0, 0
for i, key in ipairs(KEYS) do
  local cost, rate, burst = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local before = full_at[key] or tonumber(stored[i] or 0)
  if before < now then before = now end
  full_at[key] = before + cost / rate
  local room = burst - (before - now) * rate - cost
  if room < -0.000001 * rate then
    local excess = -room / rate
    if cost > burst then excess = math.huge end
    if excess > wait then wait, binding, left, reset = excess, i, room + cost, before - now end
  elseif wait == 0 and room < fewest * cost then
    fewest, binding, left, reset = room / cost, i, room, before - now + cost / rate
  end
end
if wait == 0 then
  for key, at in pairs(full_at) do
    if at > now then
      redis.call('SET', key, exact(at), 'PX', milliseconds(at - now))
    end
  end
end
if wait == math.huge then wait = -1 else wait = math.ceil(wait * 1000000) end
return {wait, binding - 1, math.max(0, math.floor(left + 0.000001)), math.ceil(reset * 1000000)}
"""
"""KEYS: buckets; ARGV: cost, rate, burst of each. The same law as Buckets.take_all, line by line.

Returns the wait (0: granted, -1: never), the binding level, what remains there, and its reset; times in
microseconds.
"""

SETTLE = b"""
local function exact(x) return string.format('%.17g', x) end
local function milliseconds(x) return string.format('%.0f', math.ceil(x * 1000)) end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for i, key in ipairs(KEYS) do
  local before = tonumber(redis.call('GET', key) or 0)
  if before < now then before = now end
  local at = before + tonumber(ARGV[3 * i - 2]) / tonumber(ARGV[3 * i - 1])
  if at > now then
    redis.call('SET', key, exact(at), 'PX', milliseconds(at - now))
  else
    redis.call('DEL', key)
  end
end
return 0
"""
"""KEYS and ARGV as for TAKE; a negative cost gives back."""


class _Script:
    """A script and its two ways to be called, by digest or by text."""

    __slots__ = ("_by_digest", "_by_text")

    def __init__(self, text: bytes) -> None:
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        self._by_digest = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % digest
        self._by_text = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(text), text)

    def command(self, claims: Sequence[Claim], prefix: bytes, *, by_text: bool) -> bytes:
        count = b"%d" % len(claims)
        keys = [prefix + claim.key for claim in claims]
        return b"".join(
            [
                b"*%d\r\n" % (3 + 4 * len(claims)),
                self._by_text if by_text else self._by_digest,
                b"$%d\r\n%b\r\n" % (len(count), count),
                *[b"$%d\r\n%b\r\n" % (len(key), key) for key in keys],
                *[_terms(claim.cost, claim.rate, claim.burst) for claim in claims],
            ]
        )


@lru_cache(maxsize=4096)
def _terms(cost: float, rate: float, burst: float) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(n), n) for n in (b"%.17g" % x for x in (cost, rate, burst))])


_TAKE = _Script(TAKE)
_SETTLE = _Script(SETTLE)


class RedisCounters:
    """Token buckets shared by everybody who uses the same Redis and prefix. Implements
    ports.CounterStore."""

    __slots__ = ("_client", "_prefix")

    def __init__(self, client: RedisClient, prefix: bytes = b"{headgate}:") -> None:
        """prefix: holds a hash tag, so that one script may touch all keys of a request in a cluster."""
        self._client = client
        self._prefix = prefix

    def take(self, claims: Sequence[Claim], now: float) -> Promise[Grant]:
        """Spend all or none, by the server's clock; rejected with StoreUnavailable within the
        timeout."""
        promise: Promise[Grant] = Promise()
        if not claims:
            promise.resolve(Grant(True, -1, 0, 0.0, 0.0))
            return promise

        def decided(reply: object) -> None:
            match reply:
                case [int(wait), int(binding), int(remaining), int(reset)]:
                    retry_after = inf if wait < 0 else wait / 1e6
                    promise.resolve(Grant(wait == 0, binding, remaining, retry_after, reset / 1e6))
                case StoreUnavailable():
                    promise.reject(reply)
                case _:
                    promise.reject(StoreUnavailable(f"unexpected reply: {reply}"))

        self._run(_TAKE, claims, decided)
        return promise

    def settle(self, claims: Sequence[Claim], now: float) -> None:
        """Charge or give back; lost when there is no connection."""
        if claims:
            self._run(_SETTLE, claims, lambda reply: None)

    def _run(self, script: _Script, claims: Sequence[Claim], reply: Reply) -> None:
        def checked(answer: object) -> None:
            if not isinstance(answer, ReplyError):
                reply(answer)
            elif str(answer).startswith("NOSCRIPT"):  # restarted, or flushed: tell it the script again
                self._client.send(script.command(claims, self._prefix, by_text=True), reply)
            else:
                self._client.redirect(answer)
                reply(StoreUnavailable(f"the server refused: {answer}"))

        self._client.send(script.command(claims, self._prefix, by_text=False), checked)

    def __repr__(self) -> str:
        return f"<RedisCounters on {self._client!r}>"


# Blobs


class RedisBlobs:
    """Bytes by key, each for its time. Implements ports.BlobStore: a failure is a miss.

    Shared ones, with leases and purges: redis_shared.py.
    """

    __slots__ = ("_client", "_prefix")

    def __init__(self, client: RedisClient, prefix: bytes = b"headgate:blob:") -> None:
        self._client = client
        self._prefix = prefix

    def get(self, key: bytes) -> Promise[bytes | None]:
        """Fetch the value; None when it is not there or cannot be had in time."""
        promise: Promise[bytes | None] = Promise()

        def fetched(reply: object) -> None:
            self._look(reply)
            promise.resolve(reply if isinstance(reply, bytes) else None)

        self._client.send(encode(b"GET", self._prefix + key), fetched)
        return promise

    def set(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep the value for ttl seconds (to the millisecond)."""
        milliseconds = int(ttl * 1000)
        if milliseconds > 0:
            self._client.send(
                encode(b"SET", self._prefix + key, value, b"PX", b"%d" % milliseconds), self._look
            )
        else:
            self.delete((key,))

    def delete(self, keys: Sequence[bytes]) -> None:
        """Forget; one command per key, for keys of a cluster live in many slots."""
        for key in keys:
            self._client.send(encode(b"UNLINK", self._prefix + key), self._look)

    async def purge(self, prefix: bytes = b"") -> int:
        """Forget all keys that begin with `prefix`; returns how many. Raises StoreUnavailable."""
        pattern = b"".join(
            b"\\" + bytes([c]) if c in b"*?[]\\^" else bytes([c]) for c in self._prefix + prefix
        )
        cursor, gone = b"0", 0
        while True:
            reply = await self._call(b"SCAN", cursor, b"MATCH", pattern + b"*", b"COUNT", b"1000")
            match reply:
                case [bytes(cursor), [*keys]]:
                    unlinked = [self._call(b"UNLINK", key) for key in keys if isinstance(key, bytes)]
                    gone += sum([count == 1 for count in await asyncio.gather(*unlinked)])
                case _:
                    raise StoreUnavailable("SCAN was answered with something else than keys")
            if cursor == b"0":
                return gone

    def _call(self, *args: bytes) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def settle(reply: object) -> None:
            if isinstance(reply, ReplyError):
                reply = StoreUnavailable(f"the server refused: {reply}")
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self._client.send(encode(*args), settle)
        return future

    def _look(self, reply: object) -> None:
        if isinstance(reply, ReplyError):
            self._client.redirect(reply)

    def __repr__(self) -> str:
        return f"<RedisBlobs on {self._client!r}>"
