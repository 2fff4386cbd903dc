"""Contexts and parts for tests of single filters: real ones, as bare as they can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.config.schema import IssuerConfig
from gateway.http.forwarded import Forwarding
from gateway.http.message import Request
from gateway.pipeline.context import Context
from gateway.pipeline.directory import Directory
from gateway.pipeline.filter import Parts
from gateway.pipeline.ports import Clock, KeySource, Peer, Principal
from gateway.pipeline.prediction import Signatures
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.snapshot import Found, Snapshot
from tests.fakes.clock import ManualClock


def make_context(
    *headers: tuple[bytes, bytes],
    method: bytes = b"POST",
    path: bytes = b"/v1/models/digits:predict",
    query: bytes = b"",
    body: bytes = b"",
    address: str = "127.0.0.1",
    principal: Principal | None = None,
    now: float = 1000.0,
) -> Context:
    """Return the context of a request that just came in; its record is kept."""
    snapshot = Snapshot(1, "", {}, {}, lambda request: Found(None, None), Forwarding(()))
    request = Request(method, path, list(headers), query=query, body=body, length=len(body))
    ctx = Context(request, Peer(address, 50000), snapshot, now)
    ctx.principal = principal
    ctx.trail = []
    return ctx


def make_parts(
    *,
    endpoint: str = "digits",
    model: str = "digits",
    clock: Clock | None = None,
    directory: Directory | None = None,
    issuers: Mapping[str, KeySource] | None = None,
    issuer_configs: Mapping[str, IssuerConfig] | None = None,
    signatures: Signatures | None = None,
) -> Parts:
    """Return what a filter may be built from; stores that no test here needs are missing."""
    nothing: Any = None
    return Parts(
        endpoint=endpoint,
        model=model,
        pools={},
        versions={},
        labels={},
        clock=clock or ManualClock(),
        ids=nothing,
        counters=nothing,
        local_counters=nothing,
        blobs=None,
        answers=nothing,
        directory=directory or Directory({}, ()),
        issuers=issuers or {},
        issuer_configs=issuer_configs or {},
        signatures=signatures or nothing,
        pressure=Pressure(),
        gateways=lambda: 1,
    )
