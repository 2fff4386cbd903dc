"""One HTTP request through the backend: find the model, read, queue, write; every failure in the
dialect's form.

aiohttp's low-level server carries it (docs/adr/0012-backend-http.md): no router, no middleware. A URL that
named a model once is found again by one dictionary look-up, until the catalogue changes.

Every answer says how busy the server is, in the field that the gateway's `balance: {reported: true}` reads:

    x-headgate-load: running=3, waiting=4

`x-request-timeout-ms` (or V2's `timeout` parameter, where it is shorter) is the time that a request has from
its receipt on; what can't be answered within it is 504 without a call of the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from math import inf

import orjson
from aiohttp import web
from aiohttp.http_writer import StreamWriter

from backends import kserve_v2, metrics, repository_api, tensorflow_serving
from backends.catalogue import Catalogue
from backends.dialect import Dialect
from backends.errors import (
    BackendError,
    EngineFailure,
    Gone,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from backends.messages import Inference, Reply
from backends.predicting import counted
from backends.repository_api import RepositoryApi
from backends.served import Served
from backends.tensors import Tensors

# Parsing 256 KiB of JSON numbers takes about 2 ms; longer bodies leave the event loop.
OFFLOAD_BYTES = 256 << 10
KNOWN_URLS = 1024  # remembered; TensorFlow Serving's URLs are case-insensitive, so a client could invent more
SERVER = "headgate-backend"
METRICS_PATHS = frozenset({"/metrics", "/monitoring/prometheus/metrics"})
LOAD = "x-headgate-load"
TIMEOUT = "x-request-timeout-ms"

_log = logging.getLogger("backends.app")


class App:
    """Answers requests for one catalogue. `drain` turns readiness off; requests are still answered."""

    __slots__ = (
        "_catalogue",
        "_dialects",
        "_executor",
        "_known",
        "_load",
        "_loop",
        "_max_body",
        "_page",
        "_ready",
        "_repository",
    )

    def __init__(
        self,
        catalogue: Catalogue,
        executor: Executor,
        *,
        max_body: int,
        server_version: str,
        repository: RepositoryApi | None = None,
    ) -> None:
        """max_body: bytes. repository: loads and unloads; None: nobody does."""
        self._catalogue = catalogue
        self._executor = executor
        self._max_body = max_body
        self._load = catalogue.load
        self._loop = asyncio.get_running_loop()
        self._page = metrics.MetricsPage(
            lambda: [(one.name, one.version, one.provider, one.metrics) for one in catalogue],
            lambda: sorted(catalogue.failed),
        )
        self._dialects: Mapping[str, Dialect] = {
            kserve_v2.PREFIX: kserve_v2.KServeV2(catalogue, server_version),
            tensorflow_serving.PREFIX: tensorflow_serving.TensorFlowServing(catalogue),
        }
        self._repository = repository
        self._known: dict[str, tuple[Dialect, Served]] = {}
        catalogue.watch(self._known.clear)
        self._ready = True

    def drain(self) -> None:
        """Answer `not ready` from now on, and close each connection with its next answer."""
        self._ready = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; the only place that turns errors into responses."""
        path = request.rel_url.raw_path
        dialect = self._dialect(path)
        try:
            reply = await self._answer(request, path, dialect)
        except BackendError as e:
            reply = _refusal(e, dialect)
        except Exception:  # a bug: the trace is for the log, never for the client
            _log.exception("request_failed method=%s path=%r", request.method, path)
            reply = _refusal(EngineFailure("internal error"), dialect)
        headers = {"Content-Type": reply.content_type, "Server": SERVER, LOAD: str(self._load)}
        if reply.headers:
            headers.update(reply.headers)
        response = web.Response(status=reply.status, body=reply.body, headers=headers)
        if not self._ready or reply.status == TooLarge.status:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest, path: str, dialect: Dialect | None) -> Reply:
        if request.method == "POST" and dialect is not None:
            known = self._known.get(path)
            if known is None and path.startswith(repository_api.PREFIX + "/"):
                return await self._change(request, path)
            return await self._predict(request, path, *(known or self._learn(path, dialect)))
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET")
        if path in METRICS_PATHS:
            return Reply(200, self._page.render(), metrics.CONTENT_TYPE)
        if dialect is None:
            if path == "/":  # KServe V1's liveness
                return Reply(200, b'{"status":"alive"}')
            raise NotFound("no such URL")
        return dialect.get(path, self._ready)

    async def _change(self, request: web.BaseRequest, path: str) -> Reply:
        if self._repository is None:
            raise NotFound("no such URL")
        return await self._repository.answer(path, await self._read_body(request))

    def _dialect(self, path: str) -> Dialect | None:
        start = path[: len(tensorflow_serving.PREFIX)].lower()
        if start == tensorflow_serving.PREFIX:
            return self._dialects[tensorflow_serving.PREFIX]
        return self._dialects[kserve_v2.PREFIX] if path == "/v2" or path.startswith("/v2/") else None

    def _learn(self, path: str, dialect: Dialect) -> tuple[Dialect, Served]:
        found = dialect, dialect.find(path)
        if len(self._known) < KNOWN_URLS:
            self._known[path] = found
        return found

    # A prediction

    async def _predict(self, request: web.BaseRequest, path: str, dialect: Dialect, served: Served) -> Reply:
        headers = request.headers
        wait = headers.get(TIMEOUT)
        ends = inf if wait is None else self._loop.time() + _read_timeout(wait)
        body = await self._read_body(request)
        if served.batcher.closed:  # it left while its body arrived
            served = dialect.find(path)
        if len(body) <= OFFLOAD_BYTES:
            return await counted(
                served, self._load, lambda: self._infer(body, headers, ends, dialect, served)
            )
        return await counted(
            served, self._load, lambda: self._infer_large(body, headers, ends, dialect, served)
        )

    async def _infer(
        self, body: bytes, headers: Mapping[str, str], ends: float, dialect: Dialect, served: Served
    ) -> Reply:
        inference = dialect.read(body, headers, served)
        return dialect.write(served, inference, await self._submit(inference, served, ends))

    async def _infer_large(
        self, body: bytes, headers: Mapping[str, str], ends: float, dialect: Dialect, served: Served
    ) -> Reply:
        """The same with reading and writing in a thread."""
        run = self._loop.run_in_executor
        inference: Inference = await run(self._executor, dialect.read, body, headers, served)
        outputs = await self._submit(inference, served, ends)
        return await run(self._executor, dialect.write, served, inference, outputs)

    def _submit(self, inference: Inference, served: Served, ends: float) -> asyncio.Future[Tensors]:
        if served.batcher.closed:  # it left while a thread read the body; who took its place knows the model
            served = self._catalogue.find(served.name, served.version)
        if inference.timeout != inf:
            ends = min(ends, self._loop.time() + inference.timeout)
        return served.batcher.submit(inference.inputs, inference.rows, ends, inference.level)

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        """Return the whole body. TooLarge before reading it where its length was announced."""
        too_large = f"the body is longer than {self._max_body} bytes"
        if (request.content_length or 0) > self._max_body:
            raise TooLarge(too_large)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await _continue(request)
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge as e:
            raise TooLarge(too_large) from e
        except web.RequestPayloadError as e:
            raise Invalid("the body ended early or is badly framed") from e


async def _continue(request: web.BaseRequest) -> None:
    """RFC 9110 §10.1.1: the client waits for this before it sends the body."""
    if isinstance(request.writer, StreamWriter):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def _read_timeout(said: str) -> float:
    if not said.isdecimal() or len(said) > 9 or int(said) == 0:
        raise Invalid(f"{TIMEOUT} must be a whole number of milliseconds above zero")
    return int(said) / 1000


def _refusal(error: BackendError, dialect: Dialect | None) -> Reply:
    """Return the error in the dialect's form, or in the one that both share."""
    reply = (
        Reply(error.status, orjson.dumps({"error": str(error)})) if dialect is None else dialect.error(error)
    )
    if isinstance(error, Overloaded | Unavailable):
        reply.headers = {"Retry-After": "1"}
    elif isinstance(error, MethodNotAllowed):
        reply.headers = {"Allow": error.allow}
    elif isinstance(error, Gone) and dialect is not None and any(error.successor):
        reply.headers = {"Link": f'<{dialect.locate(*error.successor)}>; rel="successor-version"'}  # RFC 5829
    return reply
