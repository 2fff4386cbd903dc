"""All built-in verbs, and the one order in which their filters act. YAML never changes it.

    compress              sees every answer last, so it comes first
    headers, debug        see every answer too
    cors                  a preflight carries no credentials
    authenticate, permit  who is it, and may they call this at all
    allow                 from where
    timeout, safe_to_retry
    slo                   counts what comes of those that got here
    importance
    upgrade               may it go on in another protocol
    throttle              what the head can tell: requests, bytes of body
    explicit              the version that the URL or the override header asks for
    validate              the body, when a verb needs it: names, types, shapes
    throttle              rows
    release, send         which version, which pool
    degrade               by hand; its other moments come when something failed
    describe              metadata, status and readiness are answered here
    cache                 keyed by the version that was chosen
    degrade               beforehand: where the ladder stands
    drift                 looks at what instances answer
    mirror                what goes to an instance may be copied to another pool
    batch                 what goes to an instance may go together with others'
    fault                 delays and errors on purpose, in place of an instance's

A new verb is a file with a `KIND` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.config.kind import Kind
from gateway.config.schema import EndpointConfig
from gateway.config.units import Ratio
from gateway.filters import (
    allow,
    authenticate,
    bandwidth,
    batch,
    cache,
    compress,
    concurrent,
    cors,
    debug,
    degrade,
    drift,
    fault,
    headers,
    importance,
    mirror,
    quota,
    release,
    safe_to_retry,
    send,
    slo,
    throttle,
    timeout,
    upgrade,
    validate,
)
from gateway.filters.describe import Describe
from gateway.filters.permit import Permit
from gateway.pipeline.choice import Explicit
from gateway.pipeline.filter import Filter, FilterKind, Parts
from gateway.pipeline.pool_verbs import POOL_KINDS

PLACES: Mapping[str, int] = {
    "compress": 8,
    "headers": 10,
    "debug": 15,
    "cors": 20,
    "authenticate": 25,
    "permit": 30,
    "allow": 35,
    "timeout": 40,
    "safe_to_retry": 42,
    "slo": 44,
    "importance": 45,
    "upgrade": 46,
    "quota": 47,  # its rows: 69
    "concurrent": 49,
    "throttle": 50,  # its rows: 70
    "bandwidth": 52,
    "explicit": 58,
    "validate": 60,
    "release": 80,
    "send": 81,
    "degrade": 85,
    "describe": 88,
    "cache": 90,
    "drift": 91,
    "mirror": 92,
    "fault": 93,
    "batch": 95,
}

FILTER_KINDS: tuple[FilterKind[Any], ...] = (
    compress.KIND,
    headers.KIND,
    debug.KIND,
    cors.KIND,
    authenticate.KIND,
    allow.KIND,
    timeout.KIND,
    safe_to_retry.KIND,
    slo.KIND,
    importance.KIND,
    upgrade.KIND,
    quota.KIND,
    concurrent.KIND,
    throttle.KIND,
    bandwidth.KIND,
    validate.KIND,
    release.KIND,
    send.KIND,
    degrade.KIND,
    cache.KIND,
    drift.KIND,
    mirror.KIND,
    fault.KIND,
    batch.KIND,
)

KINDS: tuple[Kind[Any], ...] = (*FILTER_KINDS, *POOL_KINDS)

ALWAYS: tuple[Callable[[Parts], Filter], ...] = (Permit, Explicit)
ALWAYS_FOR_MODELS: tuple[Callable[[Parts], Filter], ...] = (Describe,)


def _send_newest(endpoint: EndpointConfig) -> object | None:
    return send.Send({"newest": Ratio(1.0)}) if endpoint.versions else None


DEFAULTS: Mapping[str, Callable[[EndpointConfig], object | None]] = {
    "authenticate": lambda endpoint: (
        authenticate.Authenticate()
    ),  # nobody gets in because a line was forgotten
    "importance": lambda endpoint: importance.Importance(),
    "send": _send_newest,
}
"""What holds where no rule for everybody does; None: nothing."""


def place_of(filter: Filter) -> int:
    """Return a filter's position in the fixed order."""
    return filter.place or PLACES[filter.name]
