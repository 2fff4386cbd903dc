"""One HTTP request through the backend: find the model, read, queue, write; every failure in the
dialect's form.

aiohttp's low-level server carries it (docs/adr/0012-backend-http.md): no router, no middleware. A URL that
named a model once is found again by one dictionary look-up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Executor

import orjson
from aiohttp import web
from aiohttp.http_writer import StreamWriter

from backends import kserve_v2, metrics, tensorflow_serving
from backends.dialect import Dialect
from backends.errors import (
    BackendError,
    EngineFailure,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
)
from backends.messages import Inference, Reply
from backends.served import Catalogue, Served
from backends.tensors import Tensors

# Parsing 256 KiB of JSON numbers takes about 2 ms; longer bodies leave the event loop.
OFFLOAD_BYTES = 256 << 10
KNOWN_URLS = 1024  # remembered; TensorFlow Serving's URLs are case-insensitive, so a client could invent more
SERVER = "headgate-backend"
METRICS_PATHS = frozenset({"/metrics", "/monitoring/prometheus/metrics"})

_log = logging.getLogger("backends.app")


class App:
    """Answers requests for one catalogue. `drain` turns readiness off; requests are still answered."""

    __slots__ = ("_catalogue", "_dialects", "_executor", "_known", "_max_body", "_page", "_ready")

    def __init__(
        self, catalogue: Catalogue, executor: Executor, *, max_body: int, server_version: str
    ) -> None:
        """max_body: bytes."""
        self._catalogue = catalogue
        self._executor = executor
        self._max_body = max_body
        self._page = metrics.MetricsPage(
            (one.name, one.version, one.engine.provider, one.metrics) for one in catalogue
        )
        self._dialects: Mapping[str, Dialect] = {
            kserve_v2.PREFIX: kserve_v2.KServeV2(catalogue, server_version),
            tensorflow_serving.PREFIX: tensorflow_serving.TensorFlowServing(catalogue),
        }
        self._known: dict[str, tuple[Dialect, Served]] = {}
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
        response = web.Response(
            status=reply.status,
            body=reply.body,
            headers={"Content-Type": reply.content_type, "Server": SERVER, **reply.headers},
        )
        if not self._ready or reply.status == TooLarge.status:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest, path: str, dialect: Dialect | None) -> Reply:
        if request.method == "POST" and dialect is not None:
            known = self._known.get(path)
            return await self._predict(request, *(known or self._learn(path, dialect)))
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET")
        if path in METRICS_PATHS:
            return Reply(200, self._page.render(), metrics.CONTENT_TYPE)
        if dialect is None:
            raise NotFound("no such URL")
        return dialect.get(path, self._ready)

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

    async def _predict(self, request: web.BaseRequest, dialect: Dialect, served: Served) -> Reply:
        body = await self._read_body(request)
        numbers, started = served.metrics, time.perf_counter()
        numbers.in_flight += 1
        try:
            if len(body) > OFFLOAD_BYTES:
                reply = await self._infer_large(body, request.headers, dialect, served)
            else:
                inference = dialect.read(body, request.headers, served)
                outputs = await served.batcher.submit(inference.inputs, inference.rows)
                reply = dialect.write(served, inference, outputs)
        except BackendError as e:
            numbers.failures[e.status] += 1
            raise
        except Exception:
            numbers.failures[EngineFailure.status] += 1
            raise
        finally:
            numbers.in_flight -= 1
            numbers.requests += 1
            numbers.latency.observe(time.perf_counter() - started)
        return reply

    async def _infer_large(
        self, body: bytes, headers: Mapping[str, str], dialect: Dialect, served: Served
    ) -> Reply:
        """The same with reading and writing in a thread."""
        loop = asyncio.get_running_loop()
        inference: Inference = await loop.run_in_executor(self._executor, dialect.read, body, headers, served)
        outputs: Tensors = await served.batcher.submit(inference.inputs, inference.rows)
        return await loop.run_in_executor(self._executor, dialect.write, served, inference, outputs)

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


def _refusal(error: BackendError, dialect: Dialect | None) -> Reply:
    """Return the error in the dialect's form, or in the one that both share."""
    reply = (
        Reply(error.status, orjson.dumps({"error": str(error)})) if dialect is None else dialect.error(error)
    )
    if isinstance(error, Overloaded):
        reply.headers = {"Retry-After": "1"}
    elif isinstance(error, MethodNotAllowed):
        reply.headers = {"Allow": error.allow}
    return reply
