"""The library keeps the catalogue like the repository: loads, replaces and unloads while requests go on.

    look at the repository -> load what is new or changed -> serve it -> only then unload what is not wanted

New before old: a version leaves only after the one that takes its place answers, and if none of a model's
new versions can be loaded, what was served before stays (availability-preserving, as TensorFlow Serving
calls it). What leaves finishes its requests first. A version that failed is tried again when one of its
files changes.

What is changed: a file of the version (name, size, time), or a key of its card that the engine or the queue
depends on. Labels, summaries and lineage are exchanged without loading anything.

`load` and `unload` are what the repository API of V2 calls (Triton's "model repository extension"): a load
may carry card keys that replace the file's, such as `{"execution": "thread"}`, until the next load without
them; an unloaded model stays away until it is loaded again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from backends.card import Card
from backends.catalogue import Catalogue
from backends.errors import Invalid, LoadError, NotFound, Unavailable
from backends.providers import EngineSettings
from backends.repository import Found, Key, Survey
from backends.served import Served, prepare, serve
from backends.strict_yaml import ConfigError

# What a reader sees and no engine depends on: exchanged in place.
_SHOWN = ("summary", "author", "date", "license", "lineage", "dependencies", "labels", "versions")

Look = Callable[[Mapping[str, str]], Survey]  # card overrides by model -> what is there now; may block

_log = logging.getLogger("backends.library")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the repository's index, in Triton's words. reason: of a state other than READY."""

    name: str
    version: str
    state: str
    reason: str = ""


class Library:
    """Keeps one catalogue: on the event loop, one change at a time, loading in a thread."""

    def __init__(self, look: Look, settings: EngineSettings, threads: int, catalogue: Catalogue) -> None:
        """threads: calls of one model at the same time, where its card names no number."""
        self.catalogue = catalogue
        self._look = look
        self._settings = settings
        self._threads = threads
        self._lock = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, "loader")
        self._overrides: dict[str, str] = {}
        self._unloaded: set[str] = set()
        self._given_up: dict[Key, Found] = {}  # what failed, as it was then
        self._leaving: set[asyncio.Task[None]] = set()

    # What clients ask for

    async def load(self, name: str, override: str = "") -> None:
        """Load the model anew, `override` (YAML or JSON) over its card. NotFound, Invalid, Unavailable."""
        async with self._lock:
            before, away = self._overrides.get(name), name in self._unloaded
            self._unloaded.discard(name)
            self._overrides.pop(name, None)
            if override:
                self._overrides[name] = override
            try:
                seen = await self._survey()
                await self._settle(seen, {key for key in seen.wanted if key[0] == name})
                self._check_loaded(name, seen)
            except (Invalid, NotFound, Unavailable):
                self._overrides.pop(name, None)
                if before is not None:
                    self._overrides[name] = before
                if away:
                    self._unloaded.add(name)
                raise

    async def unload(self, name: str) -> None:
        """Serve the model no more, until it is loaded again. NotFound."""
        async with self._lock:
            there = [one.key for one in self.catalogue if one.name == name]
            if not there and not any(key[0] == name for key in self.catalogue.failed):
                raise NotFound(f"no model {name!r} here; serving: {', '.join(self.catalogue.names())}")
            self._unloaded.add(name)
            for key in there:
                self._let_go(self.catalogue.take(key))
            for key in [key for key in self.catalogue.failed if key[0] == name]:
                del self.catalogue.failed[key]

    async def index(self) -> list[Entry]:
        """Return every version that is served, loading, refused or retired, and models that were unloaded."""
        catalogue = self.catalogue
        entries = [Entry(one.name, one.version, "READY") for one in catalogue]
        served = {one.key for one in catalogue}
        entries += [Entry(*key, "LOADING") for key in catalogue.loading - served]
        entries += [
            Entry(*key, "UNAVAILABLE", reason)
            for key, reason in catalogue.failed.items()
            if key not in served
        ]
        entries += [Entry(*key, "UNAVAILABLE", "retired") for key in catalogue.retired if key not in served]
        entries += [Entry(name, "", "UNAVAILABLE", "unloaded") for name in self._unloaded]
        return sorted(entries, key=lambda entry: (entry.name, int(entry.version or 0)))

    # What the repository says

    async def sync(self, *, strict: bool = False) -> None:
        """Look once and follow. strict: the first fault is an error (LoadError, ConfigError)."""
        async with self._lock:
            await self._settle(await self._survey(), set(), strict)

    async def poll(self, every: float) -> None:
        """Look every so many seconds, for ever. A repository that can't be read changes nothing."""
        while True:
            await asyncio.sleep(every)
            try:
                await self.sync()
            except (LoadError, ConfigError, OSError) as e:
                _log.error("repository_unreadable reason=%r", str(e))

    async def close(self) -> None:
        """Let go of everything that is served and wait for what is leaving."""
        async with self._lock:
            for served in list(self.catalogue):
                self._let_go(self.catalogue.take(served.key))
            while self._leaving:
                await asyncio.wait(self._leaving)
            self._loader.shutdown()

    async def _survey(self) -> Survey:
        overrides = dict(self._overrides)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._loader, self._look, overrides)
        except ConfigError as e:
            raise LoadError(str(e)) from e

    async def _settle(self, seen: Survey, again: Iterable[Key], strict: bool = False) -> None:
        """Make the catalogue what was seen. again: what is loaded even if nothing changed."""
        wanted = {key: found for key, found in seen.wanted.items() if key[0] not in self._unloaded}
        self._note(seen)
        for key, found in wanted.items():
            served = self.catalogue.get(key)
            if served is not None and key not in again and _is_same(served, found):
                self._refresh(served, found.card)
                self.catalogue.failed.pop(key, None)
            elif key in again or self._given_up.get(key) != found:
                await self._replace(found, strict)
        self._unload(wanted, seen)

    def _note(self, seen: Survey) -> None:
        """Remember what is retired and what can't even be read."""
        catalogue = self.catalogue
        catalogue.retired = {
            (name, version): retired
            for name, state in seen.states.items()
            for version, retired in state.retired.items()
        }
        known = seen.wanted.keys() | seen.faults.keys()
        for key in [key for key in catalogue.failed if key not in known]:
            del catalogue.failed[key]
            self._given_up.pop(key, None)
        for key, fault in seen.faults.items():
            if catalogue.failed.get(key) != str(fault):
                _log.error("model_refused model=%s version=%s reason=%r", *key, str(fault))
            catalogue.failed[key] = str(fault)

    def _refresh(self, served: Served, card: Card) -> None:
        if served.card != card:
            self.catalogue.put(replace(served, card=card))

    async def _replace(self, found: Found, strict: bool) -> None:
        """Load it and serve it; what it takes the place of leaves."""
        catalogue, key = self.catalogue, found.key
        catalogue.loading.add(key)
        loop = asyncio.get_running_loop()
        try:
            prepared = await loop.run_in_executor(self._loader, prepare, found, self._settings, self._threads)
        except LoadError as e:
            if strict:
                raise
            _log.error("model_refused model=%s version=%s reason=%r", *key, str(e))
            catalogue.failed[key] = str(e)
            self._given_up[key] = found
            return
        finally:
            catalogue.loading.discard(key)
        self._given_up.pop(key, None)
        before = catalogue.get(key)
        self._let_go(catalogue.put(serve(prepared, catalogue.load, before.metrics if before else None)))

    def _unload(self, wanted: Mapping[Key, Found], seen: Survey) -> None:
        """Take out what is not wanted, unless nothing of what should take its place answers yet."""
        serving = {one.key for one in self.catalogue}
        for key in serving - wanted.keys():
            name = key[0]
            if key in seen.faults or key in seen.incoming:
                continue  # it is being written: what was loaded from it goes on
            due = {one for one in wanted if one[0] == name} | {one for one in seen.incoming if one[0] == name}
            due |= {one for one in seen.faults if one[0] == name}
            if due and not due & serving and key not in self.catalogue.retired:
                continue
            _log.info("model_unloaded model=%s version=%s", *key)
            self._let_go(self.catalogue.take(key))

    def _check_loaded(self, name: str, seen: Survey) -> None:
        known = {key for key in (*seen.wanted, *seen.faults) if key[0] == name}
        if not known:
            raise NotFound(f"no model {name!r} in the repository")
        reasons = [self.catalogue.failed[key] for key in sorted(known) if key in self.catalogue.failed]
        if any(key in seen.faults for key in known):
            raise Invalid("; ".join(reasons))
        if reasons:
            raise Unavailable("; ".join(reasons))

    def _let_go(self, served: Served | None) -> None:
        """Have it finish its requests and go, without anybody waiting for it."""
        if served is not None:
            served.batcher.closed = True
            task = _spawn(served.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)


def _spawn(leaving: Coroutine[object, object, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(leaving)


def _is_same(served: Served, found: Found) -> bool:
    """Whether what is served was loaded from what is there now, as far as engine and queue can tell."""
    shown = {name: getattr(found.card, name) for name in _SHOWN}
    return served.stamp == found.stamp and replace(served.card, **shown) == found.card
