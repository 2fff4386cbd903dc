"""OpenTelemetry spans for sampled requests, built from the finished record, never on the request's path.

The exchange makes `traceparent` by hand and passes it on (pipeline/identify.py); a request that was sampled
is queued here, and a thread builds its SDK span afterwards: kind SERVER, with the id that the instance saw as
its parent. Names and attributes follow OpenTelemetry's semantic conventions for HTTP, 1.23 and later. Without
an endpoint nothing of the SDK is imported. A receiver that is away costs its spans, which are counted, and
nothing else: the queue is bounded and only the thread waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.pipeline.context import Context
from gateway.pipeline.ports import Clock

if TYPE_CHECKING:  # the SDK costs 20 MiB and 150 ms: only who traces pays
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

QUEUE = 4096  # finished requests that may wait
BATCH = 512  # requests of one export
PAUSE = 0.2  # s between two looks at an empty queue
TIMEOUT = 5.0  # s, of one export with its retries
PATIENCE = 2.0  # s that `close` waits for what is queued

log = logging.getLogger("headgate.tracing")


class Tracing:
    """Builds and exports spans of sampled requests."""

    def __init__(self, exporter: SpanExporter, clock: Clock, service: str = "headgate") -> None:
        from opentelemetry.sdk.resources import Resource

        self.exported = 0
        self._turned_away = 0  # counted by the event loop's thread
        self._lost = 0  # counted by the exporting thread: `+=` of two threads on one number loses counts
        self._in_hand = 0  # requests of the batch that is being exported
        self._clock = clock
        self._exporter = exporter
        self._resource = Resource.create({"service.name": service})
        self._queue: deque[Context] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)

    @property
    def dropped(self) -> int:
        """How many sampled requests left no span at the receiver."""
        return self._turned_away + self._lost

    @classmethod
    def over_otlp(
        cls, endpoint: str, clock: Clock, service: str = "headgate", headers: Mapping[str, str] | None = None
    ) -> Tracing:
        """Export by OTLP over HTTP to `endpoint` (…/v1/traces); ImportError without the extra `otlp`."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers or {}), timeout=TIMEOUT)
        return cls(exporter, clock, service)

    def start(self) -> None:
        """Begin to export."""
        self._thread.start()

    def observe(self, ctx: Context) -> None:
        """Queue one finished request, if it was sampled."""
        if not ctx.sampled:
            return
        if len(self._queue) >= QUEUE:
            self._turned_away += 1
        else:
            self._queue.append(ctx)

    def close(self) -> None:
        """Export what is queued, for at most `PATIENCE`, and stop."""
        self._closing.set()
        self._thread.join(timeout=PATIENCE)
        if self._thread.is_alive():
            self._turned_away += len(self._queue) + self._in_hand
            self._queue.clear()
        self._exporter.shutdown()

    def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing.is_set():
                    return
                self._closing.wait(PAUSE)
                continue
            batch: list[Context] = []
            while self._queue and len(batch) < BATCH:
                batch.append(self._queue.popleft())
            self._in_hand = len(batch)
            if self._export(batch):
                self.exported += len(batch)
            else:
                self._lost += len(batch)
            self._in_hand = 0

    def _export(self, batch: list[Context]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        epoch = self._clock.wall() - self._clock.now()
        try:
            spans = [span for ctx in batch for span in self.spans(ctx, epoch)]
            return self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # of an exporter that isn't ours: it costs its spans, never the thread
            log.exception("spans could not be exported")
            return False

    def spans(self, ctx: Context, epoch: float) -> list[ReadableSpan]:
        """Build the spans of one request. epoch: s between the monotonic clock's zero and the Unix epoch."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        trace_id = int(ctx.trace_id, 16)
        flags = TraceFlags(TraceFlags.SAMPLED)
        server = SpanContext(trace_id, int(ctx.span_id, 16), is_remote=False, trace_flags=flags)
        parent = (
            SpanContext(trace_id, int(ctx.parent_span, 16), is_remote=True, trace_flags=flags)
            if ctx.parent_span
            else None
        )
        endpoint = "unknown" if ctx.endpoint is None else ctx.endpoint.name
        method = ctx.request.method.decode("latin-1")
        attributes: dict[str, str | int | float] = {
            "http.request.method": method,
            "url.path": ctx.request.path.decode("latin-1"),
            "http.response.status_code": ctx.status,
            "client.address": ctx.client,
            "headgate.endpoint": endpoint,
            "headgate.attempts": ctx.attempts,
            "headgate.request_id": ctx.request_id.decode("latin-1"),
        }
        if ctx.refusal is not None:
            attributes["headgate.reason"] = ctx.refusal.code
            attributes["headgate.policy"] = ctx.refusal.policy
        if ctx.error is not None:
            attributes["error.type"] = ctx.error.code
        if ctx.cache_status:
            attributes["headgate.cache"] = ctx.cache_status.decode("latin-1")
        if ctx.degraded:
            attributes["headgate.degraded"] = ctx.degraded
        if ctx.attempts and ctx.pool is not None and ctx.instance is not None:
            attributes["headgate.pool"] = ctx.pool.name
            attributes["headgate.upstream_ms"] = round(ctx.upstream_seconds * 1000, 3)
            attributes["server.address"] = ctx.instance.host
            attributes["server.port"] = ctx.instance.port
        return [
            ReadableSpan(
                name=f"{method} {endpoint}",
                context=server,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                kind=SpanKind.SERVER,
                status=Status(StatusCode.ERROR if ctx.status >= 500 else StatusCode.UNSET),
                start_time=int((epoch + ctx.started) * 1e9),
                end_time=int((epoch + ctx.finished) * 1e9),
            )
        ]
