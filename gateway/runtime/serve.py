"""The gateway's process: command line over policies, event loop, signals, exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from gateway.admin.listening import AdminBindError
from gateway.config.schema import EtcdRegistry, GrpcListen, LocalRegistry, Registry, Schema
from gateway.config.secret import Secret
from gateway.config.units import parse_address
from gateway.runtime.logs import start_logging
from gateway.runtime.policies import PoliciesInvalid, read
from gateway.runtime.worker import CannotStart, Worker
from gateway.server.listener import BindError

log = logging.getLogger("headgate")


def serve(
    folder: Path,
    *,
    http: str | None = None,
    admin: str | None = None,
    registry: str | None = None,
    access_log: str | None = None,
    grpc: str | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, 1 for invalid policies, 2 a bad option, 3 a taken port."""
    loaded = read(folder)
    if loaded.schema is None:
        print(loaded.report(), file=sys.stderr)
        return 1
    try:
        schema = overrule(loaded.schema, http, admin, registry, access_log, grpc)
    except ValueError as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 2
    start_logging(schema.log.level)
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(_run(Worker(folder, loaded, schema)))


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def overrule(
    schema: Schema,
    http: str | None,
    admin: str | None,
    registry: str | None,
    access_log: str | None,
    grpc: str | None = None,
) -> Schema:
    """Return the schema with what the command line says. Raises ValueError."""
    listen = schema.listen
    if http:
        listen = replace(listen, http=replace(listen.http, address=parse_address(http)))
    if grpc:
        listen = replace(listen, grpc=replace(listen.grpc or GrpcListen(), address=parse_address(grpc)))
    if admin:
        listen = replace(listen, admin=replace(listen.admin, address=parse_address(admin)))
    schema = replace(schema, listen=listen)
    if registry:
        schema = replace(schema, registry=read_registry(registry))
    if access_log:
        schema = replace(schema, log=replace(schema.log, access=access_log))
    return schema


def read_registry(text: str) -> Registry:
    """Read `local`, `static`, or etcd's address as `headgate register` takes it. Raises ValueError."""
    if text == "local":
        return Registry(local=LocalRegistry())
    if text == "static":
        return Registry()
    url = urlsplit(text)
    if url.scheme not in ("etcd", "etcds") or not url.netloc:
        raise ValueError(f"expected --registry local, static or etcd://host:2379[/namespace], found {text!r}")
    user, _, hosts = url.netloc.rpartition("@")
    name, _, password = user.partition(":")
    scheme = "https" if url.scheme == "etcds" else "http"
    return Registry(
        etcd=EtcdRegistry(
            servers=tuple(f"{scheme}://{host}" for host in hosts.split(",")),
            namespace=url.path.strip("/") or "default",
            user=name or None,
            password=Secret(password) if name else None,
        )
    )


async def _run(worker: Worker) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await worker.start()
    except (BindError, AdminBindError) as error:
        print(f"headgate: {error}", file=sys.stderr)
        await worker.stop()
        return 3
    except PoliciesInvalid as invalid:
        print(invalid, file=sys.stderr)
        await worker.stop()
        return 1
    except CannotStart as error:
        print(f"headgate: {error}", file=sys.stderr)
        await worker.stop()
        return 1
    loop.add_signal_handler(signal.SIGHUP, worker.reload_soon)
    host, port = worker.http_address
    admin_host, admin_port = worker.admin_address
    scheme = "http" if worker.schema.listen.http.tls is None else "https"
    print(
        f"ready {scheme}://{host}:{port} admin http://{admin_host}:{admin_port}", file=sys.stderr, flush=True
    )
    gc.collect()
    gc.freeze()  # what was built at the start stays: the collector need not look at it again
    gc.set_threshold(20_000, 20, 20)
    await stopping.wait()
    log.info("stopping: requests under way may take %g s to end", worker.schema.limits.drain)
    broken = await worker.stop()
    if broken:
        log.warning("%d connections were broken after the grace period", broken)
    return 0
