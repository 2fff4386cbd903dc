"""The server process: load, listen, register, serve, and leave in the right order.

start: models are opened and proven -> the socket listens -> `ready …` on stdout -> the registry is told
stop (SIGTERM, SIGINT): deregister -> not ready -> no new connections -> those in use get their last answer,
marked `Connection: close` -> requests in flight finish -> models and their processes end -> exit 0
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from backends.app import App
from backends.catalogue import Catalogue
from backends.errors import LoadError
from backends.files import is_remote, open_files
from backends.library import Library, Look
from backends.mirror import Mirror, folder_for
from backends.providers import EngineSettings
from backends.registration import Lease, register
from backends.repository import Survey, find_models, survey
from backends.repository_api import RepositoryApi
from backends.settings import Address, Settings

LINGER = 0.25  # s, at most: connections that are in use send their next request within it

_log = logging.getLogger("backends.server")


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. LoadError or ConfigError when it cannot start."""
    limit_memory(settings.memory)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(settings.threads, thread_name_prefix="worker") as executor:
        async with open_library(settings) as library:
            repository = RepositoryApi(library, settings.control)
            app = App(
                library.catalogue,
                executor,
                max_body=settings.max_body,
                server_version=distribution_version(),
                repository=repository,
            )
            runner = web.ServerRunner(_server(app, settings.max_body), shutdown_timeout=settings.drain)
            await runner.setup()
            try:
                listening = await listen(runner, settings.address)
                lease = await announce(settings, listening, library.catalogue)
                async with speaking_grpc(settings, library.catalogue, repository):
                    await stop.wait()
                await leave(app, lease, runner)
            finally:
                await runner.cleanup()
    _log.info("stopped")


@asynccontextmanager
async def open_library(settings: Settings) -> AsyncIterator[Library]:
    """Load what the settings choose, and follow the repository while the block runs.

    A model chosen by name must be servable, and so must at least one of all. LoadError, ConfigError.
    """
    engine = EngineSettings(
        settings.device, settings.gpu_memory, cache=_engine_cache(settings), half=settings.half
    )
    library = Library(await asyncio.to_thread(_look, settings), engine, settings.threads, Catalogue())
    try:
        await library.sync(strict=bool(settings.models))
        if not list(library.catalogue):
            reasons = "; ".join(library.catalogue.failed.values()) or "all versions are retired"
            raise LoadError(f"no model can be served: {reasons}")
        polling = None
        if settings.poll is not None:
            polling = asyncio.get_running_loop().create_task(library.poll(settings.poll))
        yield library
        if polling is not None:
            polling.cancel()
    finally:
        await library.close()


def _look(settings: Settings) -> Look:
    """Return what looks at the repository; what is wrong with it now is an error. LoadError, ConfigError."""
    if not is_remote(settings.repository):
        folder = Path(settings.repository)
        find_models(folder, settings.models, settings.versions)
        return partial(_survey, settings, folder)
    files = open_files(settings.repository, settings.storage)
    mirror = Mirror(files, folder_for(settings.repository, settings.cache))
    mirror.refresh_if_possible()
    find_models(mirror.folder, settings.models, settings.versions)
    return partial(_survey_mirror, settings, mirror)


def _survey(settings: Settings, folder: Path, overrides: Mapping[str, str]) -> Survey:
    return survey(folder, settings.models, settings.versions, overrides)


def _survey_mirror(settings: Settings, mirror: Mirror, overrides: Mapping[str, str]) -> Survey:
    mirror.refresh_if_possible()
    return _survey(settings, mirror.folder, overrides)


def _engine_cache(settings: Settings) -> Path | None:
    """Return where TensorRT's engines are kept; None: beside each model."""
    if settings.device != "tensorrt" or settings.cache is None:
        return None
    folder = settings.cache / "engines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def listen(runner: web.ServerRunner, address: Address) -> Address:
    """Bind, and return where it really listens."""
    site = web.TCPSite(runner, address.host, address.port, backlog=1024)
    try:
        await site.start()
    except OSError as e:
        raise LoadError(f"cannot listen on {address}: {e.strerror or e}") from e
    host, port = runner.addresses[0][:2]
    return Address(str(host), int(port))


@asynccontextmanager
async def speaking_grpc(
    settings: Settings, catalogue: Catalogue, repository: RepositoryApi
) -> AsyncIterator[None]:
    """Speak gRPC, too, where the settings say so: registered while it does."""
    if settings.grpc_address is None:
        yield
        return
    try:  # only where it is spoken: it loads slowly
        from backends.grpc_server import GrpcServer
        from backends.kserve_v2_grpc import KServeV2Grpc
        from backends.tensorflow_serving_grpc import TensorFlowServingGrpc
    except ImportError as e:
        raise LoadError(f"gRPC needs more packages: {e} (pip install 'headgate[serve]')") from e
    ready = asyncio.Event()
    ready.set()
    v2 = KServeV2Grpc(catalogue, ready, distribution_version(), repository)
    tensorflow = TensorFlowServingGrpc(catalogue, ready)
    server = GrpcServer((v2.handler(), *tensorflow.handlers()), ready, settings.max_body)
    listening = await server.start(settings.grpc_address)
    _log.info("speaking gRPC on %s", listening)
    lease = None
    if settings.registry is not None:
        lease = await register(settings.registry, listening, list(catalogue), grpc=True)
    try:
        yield
    finally:
        server.drain()
        if lease is not None:
            await lease.close()
        await server.stop(settings.drain)


async def announce(settings: Settings, listening: Address, catalogue: Catalogue) -> Lease | None:
    """Print the line that scripts wait for, and register where the settings say so."""
    served = list(catalogue)
    lease = None
    if settings.registry is not None:
        lease = await register(settings.registry, listening, served)
        _log.info(
            "registering service=%s registry=%s",
            settings.registry.service,
            _without_user(settings.registry.url),
        )
    models = ",".join(f"{one.name}:{one.version}" for one in served)
    sys.stdout.write(f"ready http://{listening} models={models}\n")
    sys.stdout.flush()
    return lease


async def leave(app: App, lease: Lease | None, runner: web.ServerRunner) -> None:
    """Deregister first, so that nobody is sent here any more; then part from each connection with an answer.

    Closing a kept-alive connection at once would race with the request that is already on its way.
    """
    _log.info("stopping")
    if lease is not None:
        await lease.close()
    app.drain()
    for site in list(runner.sites):
        await site.stop()
    ends = asyncio.get_running_loop().time() + LINGER
    while runner.server is not None and runner.server.connections:
        if asyncio.get_running_loop().time() >= ends:
            break
        await asyncio.sleep(LINGER / 20)


def limit_memory(limit: int | None) -> None:
    """Let the kernel refuse memory beyond `limit` bytes of private data (RLIMIT_DATA).

    A refused allocation fails one request or the start, instead of the machine running out.
    """
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def distribution_version() -> str:
    """Return the installed version, or `unknown` when run from a bare checkout."""
    try:
        return version("headgate")
    except PackageNotFoundError:
        return "unknown"


def run(main: Coroutine[object, object, None]) -> None:
    """Run on uvloop where it exists."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _server(app: App, max_body: int) -> web.Server:
    """Return aiohttp's server with our body limit in place of its 1 MiB, and without its access log."""
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body)

    # handler_cancellation: a client that leaves frees its place in the queue.
    return web.Server(app.handle, request_factory=make_request, handler_cancellation=True, access_log=None)


def _without_user(url: str) -> str:
    """Return the URL without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
