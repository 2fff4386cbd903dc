"""What models expect and return, learnt from the instances that serve them.

Implements prediction.Signatures.

A signature is fetched when first asked for, from an instance of the pool, and kept: also when every
instance is gone, because a degraded answer must still be translated. It is fetched anew in the background
once it is older than `REFRESH`, so that a changed model is noticed. At most one fetch per model is under
way; a failed one is not repeated within `PAUSE`. The answer to one who asks meanwhile is a Promise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp

from gateway.dialects.catalogue import BY_NAME
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Metadata, Signature
from gateway.dialects.protocol import Call, Dialect
from gateway.http.grpc import Status, status_of
from gateway.pipeline.pool import Instance, Pool
from gateway.pipeline.promise import Eventual, Promise
from gateway.upstream.asking import address_of, read_bounded
from gateway.upstream.tls import ClientTls

if TYPE_CHECKING:  # made only where an instance speaks gRPC
    from gateway.upstream.grpc_health import GrpcHealth

REFRESH = 60.0  # s
PAUSE = 1.0  # s
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
LIMIT = 1024 * 1024  # bytes of a metadata answer

log = logging.getLogger("headgate.signatures")

Key = tuple[str, str, str, str]  # pool, dialect, model, version


class Known:
    """What is known of one model in one pool. tried: s, monotonic, when it was last asked for upstream."""

    __slots__ = ("fetched", "fetching", "metadata", "tried")

    def __init__(self) -> None:
        self.metadata: Metadata | None = None
        self.fetched = 0.0
        self.tried = -PAUSE
        self.fetching: Promise[Signature | None] | None = None


class ModelSignatures:
    """Fetches and keeps signatures. One per worker."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession], now: Callable[[], float]) -> None:
        """session: gives the shared HTTP client, made on first use."""
        self._session = session
        self._client_tls = ClientTls()
        self._now = now
        self._known: dict[Key, Known] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._grpc: GrpcHealth | None = None

    def signature(self, pool: Pool, model: str, version: str) -> Eventual[Signature | None]:
        """Return the signature of `model` as this pool serves it, None when no instance ever told."""
        pool, model = _asked(pool, model)
        if pool.signature is not None:
            return pool.signature
        if pool.speaks not in BY_NAME:
            return None
        known = self._entry(pool, model, version)
        now = self._now()
        if known.metadata is not None:
            old = now - known.fetched > REFRESH
            if old and known.fetching is None and now - known.tried > PAUSE:
                self._fetch(known, pool, model, version)
            return _told(known.metadata)
        if known.fetching is None and now - known.tried <= PAUSE:
            return None
        return known.fetching or self._fetch(known, pool, model, version)

    def known(self, pool: Pool, model: str, version: str) -> Metadata | None:
        """Return what is known without asking."""
        pool, model = _asked(pool, model)
        return self._entry(pool, model, version).metadata

    def _entry(self, pool: Pool, model: str, version: str) -> Known:
        key = (pool.name, pool.speaks, model, version)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Known()
        return known

    def _fetch(self, known: Known, pool: Pool, model: str, version: str) -> Promise[Signature | None]:
        promise: Promise[Signature | None] = Promise()
        known.fetching = promise
        known.tried = self._now()
        task = asyncio.get_running_loop().create_task(self._ask(known, pool, model, version, promise))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return promise

    async def _ask(
        self, known: Known, pool: Pool, model: str, version: str, promise: Promise[Signature | None]
    ) -> None:
        try:
            for instance in self._order(pool):
                metadata = await self._ask_one(instance, pool, model, version)
                if metadata is not None:
                    known.metadata = metadata
                    known.fetched = self._now()
                    break
        finally:
            known.tried = self._now()
            known.fetching = None
            promise.resolve(_told(known.metadata))

    def _order(self, pool: Pool) -> list[Instance]:
        now = self._now()
        return sorted(pool.members.instances, key=lambda instance: not instance.usable(now))[:3]

    async def _ask_one(self, instance: Instance, pool: Pool, model: str, version: str) -> Metadata | None:
        dialect = BY_NAME[pool.speaks]
        call = dialect.metadata_request(model, version or None)
        if dialect.is_grpc:
            return await self._call(instance, dialect, call)
        try:
            base, encrypted = address_of(instance, self._client_tls)
            async with self._session().request(
                call.method.decode(),
                base + call.path.decode("latin-1"),
                data=call.body or None,
                timeout=TIMEOUT,
                allow_redirects=False,
                **encrypted,
            ) as response:
                body = await read_bounded(response, LIMIT)
                if response.status != 200:
                    return None
                return dialect.read_metadata(body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.info("no metadata of %s from %s: %s", model, instance.id, type(error).__name__)
        except InvalidPrediction as wrong:
            log.warning("metadata of %s from %s can't be read: %s", model, instance.id, wrong.message)
        return None

    async def _call(self, instance: Instance, dialect: Dialect, call: Call) -> Metadata | None:
        if self._grpc is None:
            from gateway.upstream.grpc_health import GrpcHealth  # only where an instance speaks it

            self._grpc = GrpcHealth(self._client_tls)
        response = await self._grpc.call(instance, call.path, call.body, TIMEOUT.total or 2.0)
        if response is None or status_of(response, response.trailers) is not Status.OK:
            log.info("no metadata from %s", instance.id)
            return None
        try:
            return dialect.read_metadata(response.body or b"")
        except InvalidPrediction as wrong:
            log.warning("metadata from %s can't be read: %s", instance.id, wrong.message)
        return None

    async def close(self) -> None:
        """Give up what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._grpc is not None:
            self._grpc.close()


def _told(metadata: Metadata | None) -> Signature | None:
    """The signature, None where a server names the model but none of its tensors (TorchServe, MLServer)."""
    if metadata is None or not (metadata.signature.inputs or metadata.signature.outputs):
        return None
    return metadata.signature


def _asked(pool: Pool, model: str) -> tuple[Pool, str]:
    """Return whose instances are asked, and by which name: of a graph those of its front member."""
    front = pool.front
    return (pool, model) if front is pool else (front, front.model or model)
