"""A small etcd v3 client over etcd's own JSON gateway: leases, keys, a pinned paged list, a watch stream.

Why not the `etcd3` package: its generated code does not load beside a current protobuf, it blocks, knows one
server and never re-subscribes (docs/adr). This one needs only aiohttp and reports; the loop that lists and
watches without a gap is `etcd_registry.py`.

What the gateway's protocol asks of a client, found by running it against etcd 3.4:
- Bytes travel as base64, 64-bit integers as strings, zero values are left out.
- Simple auth tokens die with the server that issued them: `Unauthenticated … invalid auth token` means sign
  in again, not give up.
- A node cut off from quorum goes on holding a watch open in silence, unless the stream asked for a leader
  with `Grpc-Metadata-hasleader`.
- With `--client-cert-auth` the gateway calls its own listener with the *server's* certificate, which
  therefore needs the extended key usages serverAuth and clientAuth. A client certificate's name is no
  identity here.
- HTTP 404 means that the gateway is off, which it is by default when etcd runs from a YAML file.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import orjson

_MAX_LINE: Final = 64 * 1024 * 1024
_UNAUTHENTICATED: Final = 16
# etcd sends a progress notice at least every 11 minutes, so a stream silent for longer was cut without a
# word.
_SILENCE: Final = 900.0  # s
_TRY_ANOTHER: Final = frozenset({4, 8, 14})  # gRPC: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE

_Message = dict[str, Any]  # a decoded JSON object; never leaves this file


class EtcdError(Exception):
    """etcd answered with an error. code: gRPC status code, -1 when it gave none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_auth(self) -> bool:
        """The token is unknown to this server, or older than its users: signing in again helps."""
        said = str(self)
        stale = "invalid auth token" in said or "revision of auth store is old" in said
        return stale or self.code == _UNAUTHENTICATED

    @property
    def is_server(self) -> bool:
        """This server cannot serve now; another one may."""
        return self.code in _TRY_ANOTHER or "no leader" in str(self)


class EtcdUnreachable(EtcdError):
    """No usable answer: connection refused, timed out, cut, or not etcd at all."""

    def __init__(self, message: str) -> None:
        super().__init__(14, message)


class GatewayOff(EtcdError):
    """The server is there but its JSON gateway is not (HTTP 404)."""

    def __init__(self, server: str) -> None:
        super().__init__(
            12, f"{server} answers 404: its gRPC gateway is off; set enable-grpc-gateway: true in etcd's YAML"
        )


class Compacted(Exception):
    """The revision asked for is no longer kept; list again. revision: the oldest that is."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"compacted at {revision}")
        self.revision = revision


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. ca: None = the system's roots. cert, key: for servers that ask clients for a certificate."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Build the client context. Raises OSError or ssl.SSLError naming the trouble with the files."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is and how to talk to it. servers: base URLs, `http://host:2379`. timeout: s, per try."""

    servers: tuple[str, ...] = ("http://127.0.0.1:2379",)
    namespace: str = "default"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsFiles | None = None
    timeout: float = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as listed. lease: 0 = none."""

    key: str
    value: bytes
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Every key under a prefix at one revision."""

    revision: int
    cluster_id: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key. value: b"" for a delete (explicit, or its lease ran out: etcd does not tell)."""

    kind: Literal["put", "delete"]
    key: str
    value: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class WatchMessage:
    """One message of a watch stream.

    created: the first one. Its revision is the store's *current* one while history from the start revision is
    still to come: it must never advance the watcher's own revision.
    """

    revision: int
    cluster_id: str
    created: bool
    events: tuple[Event, ...]


class EtcdClient:
    """One session to one etcd cluster: sticks to a server, moves to the next when that fails.

    Every call tries each server at most once, and signs in again when its token was lost. So a call may be
    executed twice when an answer was lost: all calls here are idempotent but `grant`, whose orphan expires.
    Used from one event loop; opened and closed by its owner (`async with`).
    """

    def __init__(self, settings: EtcdSettings, *, shuffle: Callable[[list[str]], None] | None = None) -> None:
        self._settings = settings
        self._servers = [server.rstrip("/") for server in settings.servers]
        if not self._servers:
            raise ValueError("etcd: at least one server is needed")
        if shuffle is not None:
            shuffle(self._servers)
        self._index = 0
        self._token: str | None = None
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | bool = True if settings.tls is None else settings.tls.context()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. The client opens anew when used again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(
                0
            )  # transports close in the loop's next round; the loop may end with this call

    @property
    def server(self) -> str:
        """Base URL of the server in use."""
        return self._servers[self._index]

    def rotate(self) -> None:
        """Go on with the next server."""
        self._index = (self._index + 1) % len(self._servers)

    def forget_token(self) -> None:
        """Sign in again before the next call."""
        self._token = None

    # Keys

    async def list_keys(self, prefix: str, *, page: int = 1000) -> Listing:
        """Every key under `prefix`, linearizable, at one revision: later pages are pinned to the first's."""
        key, end = prefix.encode(), prefix_end(prefix.encode())
        entries: list[Entry] = []
        revision = 0
        while True:
            body: _Message = {"key": _b64(key), "range_end": _b64(end), "limit": str(page)}
            if revision:
                body["revision"] = str(revision)
            answer = await self._call("/v3/kv/range", body)
            revision = revision or _revision(answer)
            kvs = answer.get("kvs", ())
            with _reading(self.server):
                entries.extend(_entry(kv) for kv in kvs)
                if not answer.get("more"):
                    return Listing(revision, _cluster(answer), tuple(entries))
                key = b64decode(kvs[-1]["key"]) + b"\0"

    async def probe(self, prefix: str, revision: int) -> bool:
        """Ask the server in use, and no other, for proof of life: a linearizable read, so it needs a quorum.

        Returns whether a key under `prefix` was written after `revision` (a watcher at `revision` lags then).
        """
        await self._sign_in()
        key = prefix.encode()
        answer = await self._once("/v3/kv/range", {"key": _b64(key), "keys_only": True})
        if _revision(answer) <= revision:
            return False
        body = {"key": _b64(key), "range_end": _b64(prefix_end(key)), "keys_only": True, "limit": "1"}
        answer = await self._once("/v3/kv/range", {**body, "min_mod_revision": str(revision + 1)})
        return bool(answer.get("kvs"))

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key, bound to `lease` unless 0. Returns the store's revision."""
        body = {"key": _b64(key.encode()), "value": _b64(value), "lease": str(lease)}
        return _revision(await self._call("/v3/kv/put", body))

    async def put_if_absent(self, key: str, value: bytes, *, lease: int = 0) -> bool:
        """Write one key in a transaction, only if it does not exist. Returns whether it was written."""
        encoded = _b64(key.encode())
        put = {"request_put": {"key": encoded, "value": _b64(value), "lease": str(lease)}}
        absent = {"key": encoded, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        answer = await self._call("/v3/kv/txn", {"compare": [absent], "success": [put]})
        return bool(answer.get("succeeded"))

    async def delete(self, key: str) -> int:
        """Delete one key. Returns how many there were: 0 or 1."""
        answer = await self._call("/v3/kv/deleterange", {"key": _b64(key.encode())})
        return int(answer.get("deleted", 0))

    # Leases

    async def grant(self, ttl: float) -> int:
        """Open a lease of `ttl` s (etcd counts whole seconds, and raises short ones to its minimum)."""
        answer = await self._call("/v3/lease/grant", {"TTL": str(max(1, round(ttl)))})
        with _reading(self.server):
            return int(answer["ID"])

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease once. Returns the seconds it now lasts; 0 = it is gone: grant and put again."""
        answer = await self._call("/v3/lease/keepalive", {"ID": str(lease)})
        with _reading(self.server):
            return int(answer["result"].get("TTL", 0))

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys. A lease that is already gone is fine."""
        try:
            await self._call("/v3/lease/revoke", {"ID": str(lease)})
        except EtcdError as error:
            if error.code != 5:  # NOT_FOUND
                raise

    # Watching

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[WatchMessage, None]:
        """Stream the changes under `prefix` from `start_revision` on, by the server in use; ends by raising.

        Raises Compacted when that history is gone, EtcdError when the stream broke or was cancelled.
        """
        await self._sign_in()
        key = prefix.encode()
        create = {"key": _b64(key), "range_end": _b64(prefix_end(key)), "start_revision": str(start_revision)}
        body = orjson.dumps({"create_request": {**create, "progress_notify": True}})
        headers = {**self._headers(), "Grpc-Metadata-hasleader": "true"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.timeout, sock_read=_SILENCE)
        server = self.server
        try:
            async with self._open().post(
                f"{server}/v3/watch", data=body, headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise _failure(server, response.status, await response.read())
                async for line in _lines(response.content):
                    with _reading(server):
                        message = _watch_message(_decode(line))
                    yield message
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(server, error) from error
        raise EtcdUnreachable(f"{server}: the watch stream ended")

    # One call

    async def _call(self, path: str, body: _Message) -> _Message:
        failure: EtcdError | None = None
        for _ in range(len(self._servers) + 1):  # one more, for a token that was lost
            try:
                await self._sign_in()
                return await self._once(path, body)
            except EtcdError as error:
                failure = error
                if error.is_auth and self._token is not None:
                    self.forget_token()
                elif error.is_server:
                    self.rotate()
                else:
                    raise
        assert failure is not None
        raise failure

    async def _sign_in(self) -> None:
        settings = self._settings
        if settings.user is None or self._token is not None:
            return
        answer = await self._once(
            "/v3/auth/authenticate", {"name": settings.user, "password": settings.password or ""}
        )
        self._token = str(answer["token"])

    async def _once(self, path: str, body: _Message) -> _Message:
        server = self.server
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout)
        try:
            async with self._open().post(
                server + path, data=orjson.dumps(body), headers=self._headers(), timeout=timeout
            ) as response:
                data = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(server, error) from error
        if response.status != 200:
            raise _failure(server, response.status, data)
        answer = _decode(data)
        if "error" in answer:  # the streaming calls (keepalive) answer 200 and put the error inside
            raise _stream_error(answer["error"])
        if "header" not in answer and "result" not in answer:
            raise EtcdUnreachable(f"{server} answers, but not as etcd does")
        return answer

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token is not None else {}

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls, limit=8, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20)
        return self._session

    def __repr__(self) -> str:
        return f"<EtcdClient {self.server} | {len(self._servers)} servers>"


def parse_etcd_url(url: str, *, timeout: float = 2.0) -> EtcdSettings:
    """Read `etcd://[user:password@]host:port[,host:port][/namespace][?ca=FILE&cert=FILE&key=FILE]`.

    `etcds` (or any of the files) means TLS. The port defaults to 2379. Raises ValueError, without the
    password.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    if parts.scheme not in ("etcd", "etcds") or not all(hosts.split(",")):
        raise ValueError("expected etcd://[user:password@]host:port[,host:port][/namespace]")
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    if unknown := query.keys() - {"ca", "cert", "key"}:
        raise ValueError(f"unknown options in the etcd URL: {', '.join(sorted(unknown))}")
    files = {name: values[-1] for name, values in query.items()}
    tls = TlsFiles(**files) if parts.scheme == "etcds" or files else None
    scheme = "http" if tls is None else "https"
    return EtcdSettings(
        servers=tuple(f"{scheme}://{_with_port(host)}" for host in hosts.split(",")),
        namespace=unquote(parts.path.strip("/")) or "default",
        user=unquote(user) if login else None,
        password=unquote(password) if login else None,
        tls=tls,
        timeout=timeout,
    )


def _with_port(host: str) -> str:
    return host if ":" in host.rpartition("]")[2] else f"{host}:2379"


def prefix_end(prefix: bytes) -> bytes:
    """The first key after every key that starts with `prefix`; b"\\0" (etcd: no end) if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


# Reading answers


@contextlib.contextmanager
def _reading(server: str) -> Iterator[None]:
    """An answer of another shape than etcd's (a proxy's, another service's) is no answer."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise EtcdUnreachable(f"{server} answers, but not as etcd does: {error!r}") from error


def _b64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _decode(data: bytes) -> _Message:
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EtcdUnreachable("the answer is not JSON: is this etcd?") from error
    if not isinstance(message, dict):
        raise EtcdUnreachable("the answer is not a JSON object: is this etcd?")
    return message


def _revision(answer: _Message) -> int:
    with _reading("the server"):
        return int(answer["header"]["revision"])


def _cluster(answer: _Message) -> str:
    return str(answer["header"]["cluster_id"])


def _key_text(encoded: str) -> str:
    return b64decode(encoded).decode("utf-8", "replace")


def _entry(kv: _Message) -> Entry:
    value = b64decode(kv.get("value", ""))
    return Entry(_key_text(kv["key"]), value, int(kv["mod_revision"]), int(kv.get("lease", 0)))


def _event(event: _Message) -> Event:
    kv = event["kv"]
    kind: Literal["put", "delete"] = "delete" if event.get("type") == "DELETE" else "put"
    return Event(kind, _key_text(kv["key"]), b64decode(kv.get("value", "")), int(kv["mod_revision"]))


def _watch_message(message: _Message) -> WatchMessage:
    if "error" in message:
        raise _stream_error(message["error"])
    result = message.get("result")
    if result is None:
        raise EtcdUnreachable("a watch message without a result: is this etcd?")
    if "compact_revision" in result:
        raise Compacted(int(result["compact_revision"]))
    if result.get("canceled"):
        reason = str(result.get("cancel_reason", "watch cancelled"))
        raise EtcdError(_UNAUTHENTICATED if "auth token" in reason else 14, reason)
    events = tuple(_event(event) for event in result.get("events", ()))
    return WatchMessage(_revision(result), _cluster(result), bool(result.get("created")), events)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split the stream at newlines. A message may be megabytes: pieces are joined once, at its end."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in stream.iter_any():
        first, *rest = chunk.split(b"\n")
        pieces.append(first)
        size += len(first)
        if size > _MAX_LINE:
            raise EtcdUnreachable(f"a watch message is larger than {_MAX_LINE} bytes")
        for piece in rest:
            if line := b"".join(pieces):
                yield line
            pieces, size = [piece], len(piece)


def _stream_error(error: _Message) -> EtcdError:
    return EtcdError(
        int(error.get("grpc_code") or error.get("code") or -1), str(error.get("message", "unknown error"))
    )


def _failure(server: str, status: int, data: bytes) -> EtcdError:
    if status == 404 and not data.startswith(b"{"):
        return GatewayOff(server)
    try:
        answer = _decode(data)
    except EtcdUnreachable:
        return EtcdUnreachable(f"{server} answered HTTP {status}")
    return EtcdError(int(answer.get("code", -1)), str(answer.get("message") or answer.get("error")))


def _unreachable(server: str, error: Exception) -> EtcdUnreachable:
    return EtcdUnreachable(f"{server}: {str(error) or type(error).__name__}")
