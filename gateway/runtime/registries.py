"""Which registry the policies name, opened."""

from __future__ import annotations

from pathlib import Path

from gateway.config.schema import Schema
from gateway.discovery.etcd import EtcdSettings, TlsFiles
from gateway.discovery.etcd_registry import EtcdRegistry
from gateway.discovery.file import FileRegistry
from gateway.discovery.local import LocalRegistry
from gateway.discovery.registry import Discovery


class CannotStart(Exception):
    """Something that the policies name is not to be had here; the text says what."""


class CannotServe(Exception):
    """A worker could not start. code: the exit code that says why."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


async def open_registry(schema: Schema, folder: Path) -> Discovery | None:
    """Start the registry; None where instances stand in the policies only. Raises CannotStart.

    A registry that is away is no reason not to start.
    """
    wanted = schema.registry
    registry: LocalRegistry | EtcdRegistry | FileRegistry
    if wanted.local is not None:
        registry = LocalRegistry(snapshot=wanted.local.snapshot)
    elif wanted.etcd is not None:
        etcd = wanted.etcd
        tls = TlsFiles(etcd.ca, etcd.cert, etcd.key) if etcd.ca or etcd.cert else None
        password = None if etcd.password is None else etcd.password.reveal()
        settings = EtcdSettings(etcd.servers, etcd.namespace, etcd.user, password, tls, etcd.timeout)
        try:
            registry = EtcdRegistry(settings, snapshot=etcd.snapshot)
        except OSError as error:  # ssl.SSLError is one, too
            files = ", ".join(file for file in (etcd.ca, etcd.cert, etcd.key) if file)
            raise CannotStart(f"registry.etcd: {files}: {error.strerror or error}") from error
    elif wanted.file is not None:
        registry = FileRegistry(folder / wanted.file.path)
    else:
        return None
    await registry.start()
    return registry
