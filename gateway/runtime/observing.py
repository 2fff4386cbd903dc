"""Metrics, access log and traces as the policies want them, opened."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.schema import Schema
from gateway.pipeline.ports import Clock
from gateway.runtime.registries import CannotStart
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Telemetry
from gateway.telemetry.tracing import Tracing


def open_telemetry(schema: Schema, clock: Clock, chance: Callable[[], float], lock: int) -> Telemetry:
    """Start everybody who is told of finished requests. Raises CannotStart.

    lock: see telemetry/access_log.py; -1 where no other process writes the same log.
    """
    access_log = AccessLog(schema.log.access, clock, chance=chance, sample=schema.log.sample, lock=lock)
    tracing = None
    if schema.telemetry.otlp:
        headers = {name: secret.reveal() for name, secret in schema.telemetry.headers.items()}
        try:
            tracing = Tracing.over_otlp(schema.telemetry.otlp, clock, schema.telemetry.service, headers)
        except ImportError as missing:
            raise CannotStart(f"telemetry.otlp: {missing} (pip install 'headgate[otlp]')") from missing
    telemetry = Telemetry(Metrics(), access_log, tracing)
    telemetry.start()
    return telemetry
