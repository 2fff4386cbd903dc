"""Everybody who is told of finished requests: metrics, access log, traces.

Implements pipeline.gateway.Observer.
"""

from __future__ import annotations

import logging

from gateway.pipeline.context import Context
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import Tracing

log = logging.getLogger("headgate")


class Telemetry:
    """The observers of one worker."""

    __slots__ = ("access_log", "metrics", "tracing")

    def __init__(self, metrics: Metrics, access_log: AccessLog, tracing: Tracing | None = None) -> None:
        self.metrics = metrics
        self.access_log = access_log
        self.tracing = tracing

    def on_done(self, ctx: Context) -> None:
        """Count, log and trace one finished request; one that was only explained is nobody's traffic."""
        if ctx.dry:
            return
        self.metrics.observe(ctx)
        self.access_log.observe(ctx)
        if ctx.sampled and self.tracing is not None:
            self.tracing.observe(ctx)

    def on_mirrored(self, endpoint: str, pool: str, result: str, seconds: float) -> None:
        """Count one mirrored copy."""
        self.metrics.observe_mirrored(endpoint, pool, result, seconds)

    def on_errand(self, endpoint: str, pool: str, result: str) -> None:
        """Count one prediction asked on our own account."""
        self.metrics.observe_errand(endpoint, pool, result)

    def on_bug(self, ctx: Context, bug: Exception) -> None:
        """Log a bug with its stack, for us; the client got a code and a request id."""
        self.metrics.bugs += 1
        log.error("bug request_id=%s", ctx.request_id.decode("latin-1"), exc_info=bug)

    def on_refused(self, code: str, status: int, client: str, request_id: bytes) -> None:
        """Count and log an answer that was given before there was a request."""
        self.metrics.observe_unread(code, status)
        self.access_log.observe_unread(code, status, client, request_id)

    def start(self) -> None:
        """Start the writers."""
        self.access_log.start()
        if self.tracing is not None:
            self.tracing.start()

    def close(self) -> None:
        """Write what waits, and stop."""
        self.access_log.close()
        if self.tracing is not None:
            self.tracing.close()
