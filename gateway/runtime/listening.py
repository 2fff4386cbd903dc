"""The ports that clients connect to: made from the policies, and renewed with them.

What a reload changes without a restart is TLS: certificates, authorities, names, versions. New handshakes
use the new ones, connections that stand are left alone. A certificate that can't be used is found when the
policies are checked, so the last good one stays and the report says why, as with any mistake. Addresses, and
whether a port has TLS at all, are fixed at the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, Metric

from gateway.config.schema import HttpListen, Limits, Listen
from gateway.http.parse import HeadLimits
from gateway.pipeline.ports import Begin, Clock, Timers
from gateway.pipeline.snapshot import Endpoint
from gateway.server.host import OnRefused
from gateway.server.listener import Listener
from gateway.server.settings import ServerSettings
from gateway.server.tls import ServerTls, TlsUnusable

Port = TypeVar("Port", bound=HttpListen)

log = logging.getLogger("headgate.tls")


def client_ports(listen: Listen) -> dict[str, HttpListen]:
    """Return the ports that clients connect to, by their names in the policies."""
    return {"http": listen.http} if listen.grpc is None else {"http": listen.http, "grpc": listen.grpc}


def make_listeners(
    listen: Listen,
    limits: Limits,
    begin: Begin,
    timers: Timers,
    clock: Clock,
    on_refused: OnRefused,
    is_trusted: Callable[[str], bool],
) -> dict[str, Listener]:
    """Make the listeners, not bound yet. Raises TlsUnusable."""
    return {
        name: Listener(
            begin,
            timers,
            clock,
            replace(server_settings(limits), http2=port.http2),
            on_refused,
            tls=None if port.tls is None else ServerTls(port.tls, port.http2),
            proxy_protocol=port.proxy_protocol,
            is_trusted=is_trusted,
        )
        for name, port in client_ports(listen).items()
    }


def renew(listeners: Mapping[str, Listener], listen: Listen) -> None:
    """Take over what a reload changed in TLS. Files that changed since they were checked change nothing."""
    for name, port in client_ports(listen).items():
        listener = listeners.get(name)
        if listener is None or listener.tls is None or port.tls in (None, listener.tls.settings):
            continue
        try:
            listener.set_tls(ServerTls(port.tls, port.http2))
        except TlsUnusable as error:
            log.error("listen.%s.tls not renewed: %s", name, error)
        else:
            log.info("listen.%s.tls renewed: %s", name, port.tls.cert)


def offer_tunnels(listeners: Mapping[str, Listener], endpoints: Iterable[Endpoint]) -> None:
    """Offer extended CONNECT to new HTTP/2 connections where some endpoint allows upgrades (RFC 8441 §3)."""
    upgrades = any(one.name == "upgrade" for endpoint in endpoints for one in endpoint.chain.filters)
    for listener in listeners.values():
        listener.upgrades = upgrades


def fixed(listen: Listen, other: Listen) -> Listen:
    """Return `listen` with the other's TLS where both have some: what is left to differ needs a restart."""

    def with_tls_of(mine: Port, theirs: HttpListen) -> Port:
        return mine if mine.tls is None or theirs.tls is None else replace(mine, tls=theirs.tls)

    listen = replace(listen, http=with_tls_of(listen.http, other.http))
    if listen.grpc is not None and other.grpc is not None:
        listen = replace(listen, grpc=with_tls_of(listen.grpc, other.grpc))
    return listen


def handshakes(listeners: Mapping[str, Listener]) -> Metric:
    """How handshakes and PROXY headers ended, per port."""
    family = CounterMetricFamily(
        "headgate_tls_handshakes",
        "TLS handshakes and PROXY headers of clients, by how they ended.",
        labels=("listener", "result"),
    )
    for name, listener in listeners.items():
        for result, number in sorted(listener.results.items()):
            family.add_metric((name, result), float(number))
    return family


def server_settings(limits: Limits) -> ServerSettings:
    """Turn the policies' limits into the listener's."""
    head = HeadLimits(
        limits.header_bytes, limits.url_bytes, limits.header_count, underscores=limits.underscores == "pass"
    )
    return ServerSettings(
        head=head,
        head_timeout=limits.header_timeout,
        idle_timeout=limits.idle_timeout,
        body_timeout=limits.body_timeout,
        send_timeout=limits.write_timeout,
        body_limit=limits.body_bytes,
        write_high=limits.stream_buffer,
        connections=limits.connections,
        connections_per_address=limits.connections_per_client,
    )
