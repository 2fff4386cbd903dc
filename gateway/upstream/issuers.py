"""The public keys of token issuers (JWKS, RFC 7517), from a file or an https URL. Implements ports.KeySource.

    asked for a key we have         answered at once; keys older than `refresh` are fetched anew behind it
    asked for one we don't have     fetched anew, at most once per cool-down; meanwhile and then: no such key
    nothing fetched yet             the answer waits for the one fetch under way
    the issuer is away              the last good keys go on; who needs another one hears StoreUnavailable

However many requests ask, at most one fetch per issuer is under way, so a flood of tokens with made-up key
ids costs an issuer six requests a minute. An unknown key after a *failed* fetch is StoreUnavailable and not
"no such key": the issuer may have rotated its keys while it was away, and a valid token must not be called a
forgery.

The address is the policy file's, never a token's. Redirects are not followed, answers are bounded in size and
time, and plain http is taken from this machine only. Of a key set only public keys for signatures count; what
can't be read, is too weak or is a private key is skipped, and a set without one usable key counts as a
failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from gateway.config.schema import IssuerConfig
from gateway.config.units import Duration
from gateway.pipeline.ports import KeySource, StoreUnavailable
from gateway.pipeline.promise import Eventual, Promise

if TYPE_CHECKING:
    from gateway.pipeline.token_keys import Key

REFRESH: Final = 600.0  # s
COOL_DOWN: Final = 10.0  # s between fetches for keys that the last set hadn't
RETRY: Final = 1.0  # s between fetches while there is no key at all
TIMEOUT: Final = 5.0  # s
LIMIT: Final = 256 * 1024  # bytes of a key set
MOST_KEYS: Final = 100
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

log = logging.getLogger("headgate.issuers")


# A key set


class UnusableKeySet(Exception):
    """What was fetched is no key set, or holds no key that tokens could be signed with."""


def read_key_set(body: bytes) -> tuple[Key, ...]:
    """Return the usable keys of a JWKS document, in its order; raises UnusableKeySet when there is none."""
    from gateway.pipeline.token_keys import read_key  # loaded with the first issuer

    try:
        document: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UnusableKeySet("it is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise UnusableKeySet("it has no list of keys")
    found = [read_key(jwk) for jwk in listed[:MOST_KEYS] if isinstance(jwk, dict)]
    keys = tuple(key for key in found if key is not None)
    if not keys:
        raise UnusableKeySet("none of its keys can be used")
    return keys


# The key source


class Jwks:
    """One issuer's keys: fetched, kept, refreshed."""

    def __init__(
        self,
        name: str,
        source: str,
        session: Callable[[], aiohttp.ClientSession],
        now: Callable[[], float],
        *,
        refresh: float = REFRESH,
        cool_down: float = COOL_DOWN,
        folder: Path = Path(),
    ) -> None:
        """source: an https URL, or a file (a relative path starts at `folder`).

        session: gives the shared HTTP client, made on first use. now: s, monotonic. refresh: s, age at which
        keys are fetched anew. Raises ValueError for a URL that keys must not come from.
        """
        self._name = name
        self._url = source if _is_url(source) else None
        self._path = folder / source
        self._session = session
        self._now = now
        self._refresh = refresh
        self._cool_down = cool_down
        self._keys: tuple[Key, ...] = ()
        self._fetched = 0.0
        self._tried = -max(cool_down, RETRY)
        self._failed = False
        self._fetching: Promise[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def key(self, kid: str | None, algorithm: str) -> Eventual[object | None]:
        """Return the key that a token names, None when the issuer has none that fits; see ports.KeySource."""
        now = self._now()
        found = self._find(kid, algorithm)
        if found is not None:
            stale = now - self._fetched >= self._refresh
            if stale and self._fetching is None and now - self._tried >= self._cool_down:
                self._fetch(now)
            return found
        if self._has(kid):
            return None  # the key is known and is not for this algorithm: no fetch changes that
        pause = self._cool_down if self._keys else RETRY
        if self._fetching is None and now - self._tried < pause:
            return self._unavailable() if self._failed else None
        return (self._fetching or self._fetch(now)).chain(lambda _: self._find(kid, algorithm))

    async def warm(self) -> None:
        """Fetch the keys before the first token asks for them; a failure is logged and tried again then."""
        self._fetch(self._now())
        assert self._task is not None
        await asyncio.wait((self._task,))

    def stop(self) -> None:
        """Give up what is under way; the keys at hand go on, for requests that still hold them."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop, and wait until nothing is under way."""
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _find(self, kid: str | None, algorithm: str) -> object | None:
        """Look among the keys at hand. Without a kid only a key that is the only fitting one is meant."""
        fitting = [key.public for key in self._keys if kid in (None, key.kid) and key.is_for(algorithm)]
        return fitting[0] if fitting and (kid is not None or len(fitting) == 1) else None

    def _has(self, kid: str | None) -> bool:
        return kid is not None and any(key.kid == kid for key in self._keys)

    def _unavailable(self) -> Promise[object | None]:
        rejected: Promise[object | None] = Promise()
        rejected.reject(StoreUnavailable(f"the keys of issuer '{self._name}' can't be fetched"))
        return rejected

    # Fetching

    def _fetch(self, now: float) -> Promise[None]:
        """Start the one fetch."""
        if self._fetching is not None:
            return self._fetching
        self._tried = now
        promise = self._fetching = Promise[None]()
        task = self._load_keys(promise)
        self._task = asyncio.get_running_loop().create_task(task, name=f"keys of issuer {self._name}")
        return promise

    async def _load_keys(self, promise: Promise[None]) -> None:
        failed = True
        try:
            self._keys = read_key_set(await self._load())
            failed = False
        except (aiohttp.ClientError, OSError, TimeoutError, UnusableKeySet) as error:
            why = str(error) if isinstance(error, UnusableKeySet) else type(error).__name__
            log.warning("keys of issuer %s: %s; %d kept", self._name, why, len(self._keys))
        finally:
            self._fetching = None
            self._failed = failed
            self._tried = self._now()
            if failed:
                promise.reject(StoreUnavailable(f"the keys of issuer '{self._name}' can't be fetched"))
            else:
                self._fetched = self._tried
                promise.resolve(None)

    async def _load(self) -> bytes:
        if self._url is None:
            return await asyncio.to_thread(_read_file, self._path)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
        async with self._session().get(
            self._url, timeout=timeout, headers=headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise UnusableKeySet(f"it was answered with {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > LIMIT:
                    raise UnusableKeySet(f"it is larger than {LIMIT} bytes")
            return bytes(body)

    def __repr__(self) -> str:
        state = "fetching" if self._fetching is not None else ("failed" if self._failed else "at rest")
        return f"<Jwks {self._name} | {len(self._keys)} keys, {state}>"


class Issuers:
    """The key sources of one worker, over all its reloads."""

    def __init__(
        self, session: Callable[[], aiohttp.ClientSession], now: Callable[[], float], folder: Path = Path()
    ) -> None:
        self._session = session
        self._now = now
        self._folder = folder
        self._made: dict[tuple[str, str, Duration], Jwks] = {}

    def follow(self, configs: Iterable[IssuerConfig]) -> dict[str, KeySource]:
        """Return the key source of every issuer by name; unchanged ones keep theirs, and so their keys.

        May be called from the thread that builds; those no longer named go on until `retire`.
        """
        wanted = {(config.name, config.jwks, config.refresh): config for config in configs}
        made = {key: self._made.get(key) or self._make(config) for key, config in wanted.items()}
        self._made = {**self._made, **made}
        return {name: jwks for (name, _, _), jwks in made.items()}

    def retire(self, configs: Iterable[IssuerConfig]) -> None:
        """Stop all others: the policies that named them run no longer."""
        wanted = {(config.name, config.jwks, config.refresh) for config in configs}
        for key in self._made.keys() - wanted:
            self._made.pop(key).stop()

    async def warm(self) -> None:
        """Fetch all keys before the first token asks for them."""
        await asyncio.gather(*(jwks.warm() for jwks in self._made.values()))

    async def close(self) -> None:
        """Give up what is under way."""
        await asyncio.gather(*(jwks.close() for jwks in self._made.values()))

    def _make(self, config: IssuerConfig) -> Jwks:
        return Jwks(
            config.name, config.jwks, self._session, self._now, refresh=config.refresh, folder=self._folder
        )


def _is_url(source: str) -> bool:
    """Tell a URL from a file; raises ValueError for a URL that keys must not come from."""
    if "://" not in source:
        return False
    url = urlsplit(source)
    if url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK):
        return True
    raise ValueError(f"expected keys from an https:// URL or a file, found a URL with {url.scheme}://")


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        body = file.read(LIMIT + 1)
    if len(body) > LIMIT:
        raise UnusableKeySet(f"it is larger than {LIMIT} bytes")
    return body
