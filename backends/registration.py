"""Registration: while the backend serves, a registry knows it by a lease.

The client is the gateway's own (`gateway.discovery.registration`), so that both sides agree on keys and
leases. It is imported only when a registry is set: a backend that serves by itself needs no gateway.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from backends.errors import LoadError
from backends.served import Served
from backends.settings import Address, RegistrySettings

TOKEN_VARIABLE = "HEADGATE_ADMIN_TOKEN"


class Lease(Protocol):
    """What the server holds while it is registered."""

    async def close(self) -> None:
        """Deregister."""
        ...


async def register(
    settings: RegistrySettings, listening: Address, served: Sequence[Served], *, grpc: bool = False
) -> Lease:
    """Announce this backend and keep its lease in the background. A registry that is down is tried
    again.

    grpc: this is the port for gRPC, known as a service of its own, `SERVICE-grpc`.
    Raises LoadError for a URL, address or name that the registry could never take.
    """
    from gateway.discovery.registration import Registration

    models = [(one.name, one.version) for one in served]
    version = settings.version or (f"v{models[0][1]}" if len(models) == 1 else "")
    try:
        return await Registration.open(
            settings.url,
            f"{settings.service}-grpc" if grpc else settings.service,
            str(listening if grpc else settings.advertise or listening),
            version=version or None,
            models=models,
            labels=settings.labels,
            weight=settings.weight,
            protocol="grpc" if grpc else "http",
            ttl=settings.ttl,
            token=settings.token or os.environ.get(TOKEN_VARIABLE) or None,
        )
    except ValueError as e:
        raise LoadError(f"cannot register: {e}") from e
