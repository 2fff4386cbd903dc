"""The policy folder at run time: watched, read, checked, built, swapped in; the last good one is kept.

    files change ──► load (a thread) ──► errors? kept as the last report, nothing else happens
                                    └──► build (the same thread) ──► swap: one assignment in the event loop

The folder is looked at every `EVERY` seconds by names, sizes, inodes and times: that sees an editor's rename,
a Kubernetes ConfigMap's link swap and a network disk alike. A reload never costs a request: those under way
keep the snapshot they were pinned to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from gateway.config.load import Loaded, load, policy_files
from gateway.config.schema import Limits, Schema
from gateway.filters.catalog import KINDS
from gateway.runtime.build import Built, Ports, build, discarded
from gateway.runtime.listening import fixed

EVERY = 0.2  # s
FIXED = ("listen", "workers", "registry", "stores", "log", "telemetry")  # what is opened once, at the start
LIVE_LIMITS = frozenset(  # snapshot's
    {
        "answer_bytes",
        "buffered_bytes",
        "request_timeout",
        "stream_idle",
        "trusted_proxies",
        "tunnel_idle",
    }
)

log = logging.getLogger("headgate.policies")

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """How the last reading of the folder went. at: s since the epoch."""

    ok: bool
    at: float
    digest: str
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def view(self) -> dict[str, object]:
        """As the admin API shows it."""
        return {
            "ok": self.ok,
            "at": round(self.at, 3),
            "digest": self.digest,
            "errors": list(self.errors),
            "notes": list(self.notes),
        }


class PoliciesInvalid(Exception):
    """The first reading found errors: there is nothing to run."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded.report())
        self.loaded = loaded


def read(folder: Path, files: Mapping[str, bytes] | None = None) -> Loaded:
    """Read and check a policy folder with all the verbs there are.

    files: its contents, where somebody has read them already.
    """
    return load(folder, KINDS, files=files)


class Policies:
    """The running policies of one process. `install` is called in the event loop with every new build.

    Who reads the folder calls `watch` and `reload`; who is told its contents calls `prepare`, then `commit`
    or `abort`. agree: asks those that are told; what it returns keeps the build from being installed.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        wall: Callable[[], float],
        install: Callable[[Built], None],
        agree: Callable[[Loaded], Awaitable[tuple[str, ...]]] | None = None,
    ) -> None:
        self.folder = folder
        self.files: Mapping[str, bytes] = {}
        self.built: Built | None = None
        self.report = Report(True, 0.0, "")
        self.reloads = 0
        self.failures = 0
        self._ports = ports
        self._wall = wall
        self._install = install
        self._agree = agree
        self._prepared: Built | None = None
        self._started = Schema()  # what the parts that only a restart changes were made from
        self._seen: Signature = ()
        self._references: tuple[Path, ...] = ()
        self._lock = asyncio.Lock()

    def start(self, loaded: Loaded) -> None:
        """Build and install what was read before the loop began. Raises PoliciesInvalid."""
        if loaded.schema is None:
            raise PoliciesInvalid(loaded)
        self._references = loaded.references
        self.files = loaded.files
        self._seen = signature(self.folder, self._references)
        self._started = loaded.schema
        self._took(build(loaded.schema, loaded.digest, self._ports, None), ())

    async def watch(self) -> None:
        """Reload when a file changes, for ever."""
        while True:
            await asyncio.sleep(EVERY)
            now = await asyncio.to_thread(signature, self.folder, self._references)
            if now != self._seen:
                await self.reload()

    async def reload(self) -> Report:
        """Read the folder now. What fails changes nothing and is reported."""
        async with self._lock:
            self._seen = await asyncio.to_thread(signature, self.folder, self._references)
            try:
                loaded, built = await asyncio.to_thread(self._load_and_build)
            except Exception as bug:  # a build that fails must not end the gateway: the last good one goes on
                log.exception("policies could not be built")
                return self._failed("", (f"internal error: {type(bug).__name__}: {bug}",))
            self._references = loaded.references
            if built is None:
                return self._failed(loaded.digest, tuple(str(problem) for problem in loaded.errors))
            assert self.built is not None
            notes = needs_restart(self._started, built.schema)
            if built.schema == self.built.schema:
                self.files = loaded.files
                self.report = Report(True, self._wall(), loaded.digest, notes=notes)
                return self.report
            if self._agree is not None and (refused := await self._agree(loaded)):
                return self._failed(loaded.digest, refused)
            self.reloads += 1
            self.files = loaded.files
            self._took(built, notes)
            log.info("policies reloaded: version %d, digest %s", built.snapshot.version, loaded.digest[:12])
            return self.report

    async def prepare(self, files: Mapping[str, bytes]) -> tuple[str, ...]:
        """Build from these contents, but don't install. Returns why that can't be done."""
        try:
            loaded, self._prepared = await asyncio.to_thread(self._load_and_build, files)
        except Exception as bug:  # as in `reload`: the last good one goes on
            log.exception("policies could not be built")
            return (f"internal error: {type(bug).__name__}: {bug}",)
        return tuple(str(problem) for problem in loaded.errors)

    def commit(self) -> None:
        """Install what was prepared."""
        built, self._prepared = self._prepared, None
        if built is not None:
            self.reloads += 1
            self._took(built, ())

    def abort(self) -> None:
        """Forget what was prepared."""
        self._prepared = None

    def _load_and_build(self, files: Mapping[str, bytes] | None = None) -> tuple[Loaded, Built | None]:
        loaded = read(self.folder, files)
        if loaded.schema is None:
            return loaded, None
        return loaded, build(loaded.schema, loaded.digest, self._ports, self.built)

    def _took(self, built: Built, notes: tuple[str, ...]) -> None:
        previous, self.built = self.built, built
        self.report = Report(True, self._wall(), built.snapshot.digest, notes=notes)
        self._install(built)
        for filter in discarded(previous, built) if previous is not None else ():
            filter.close()
        for note in notes:
            log.warning("%s", note)

    def _failed(self, digest: str, errors: tuple[str, ...]) -> Report:
        self.failures += 1
        self.report = Report(False, self._wall(), digest, errors)
        for error in errors:
            log.error("policies not reloaded: %s", error)
        return self.report


def signature(folder: Path, references: Iterable[Path] = ()) -> Signature:
    """Return what changes when a file does: names, inodes, sizes, times of modification (ns).

    references: files that the policies' `${file:PATH}` name; a secret that is rotated is a change.
    """
    try:
        paths = [*policy_files(folder), *(path for path in references if path.exists())]
        stats = [(str(path), path.stat()) for path in paths]
    except OSError:
        return ()
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def needs_restart(before: Schema, after: Schema) -> tuple[str, ...]:
    """Name what differs from the start and only a restart applies."""
    before = replace(before, stores=replace(before.stores, on_store_failure=after.stores.on_store_failure))
    before = replace(before, listen=fixed(before.listen, after.listen))
    changed = [name for name in FIXED if getattr(before, name) != getattr(after, name)]
    limits = [
        f"limits.{field.name}"
        for field in fields(Limits)
        if field.name not in LIVE_LIMITS
        and getattr(before.limits, field.name) != getattr(after.limits, field.name)
    ]
    return tuple(f"'{name}' was changed: that takes effect at the next start" for name in (*changed, *limits))
