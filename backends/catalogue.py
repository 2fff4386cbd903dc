"""What this process serves now: found by model, version and label; changed while requests are answered.

A version is put in when it can answer and taken out before it is let go of, on the event loop, so that no
request ever finds half a change. What is retired is known by its successor, and what could not be loaded by
the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from backends.errors import Gone, NotFound
from backends.metrics import Load
from backends.repository import Key
from backends.served import Served
from backends.state import Retired


class Catalogue:
    """Served model versions. load: how busy they all are together."""

    __slots__ = ("_models", "_watchers", "failed", "load", "loading", "retired")

    def __init__(self, served: Iterable[Served] = (), failed: Mapping[Key, str] | None = None) -> None:
        """failed: (model, version) -> reason."""
        self._models: dict[str, dict[str, Served]] = {}
        self._watchers: list[Callable[[], None]] = []
        self.failed: dict[Key, str] = dict(failed or {})
        self.retired: dict[Key, Retired] = {}
        self.loading: set[Key] = set()
        self.load = Load()
        for one in served:
            self.put(one)

    def __iter__(self) -> Iterator[Served]:
        return iter([one for name in sorted(self._models) for one in self._models[name].values()])

    # Asking

    def get(self, key: Key) -> Served | None:
        """Return the version, if it is served."""
        return self._models.get(key[0], {}).get(key[1])

    def names(self) -> Sequence[str]:
        """Return the models of which a version is served."""
        return sorted(self._models)

    def versions(self, name: str) -> Sequence[Served]:
        """Return the versions of a model, oldest first. NotFound: none is served; Gone: all retired."""
        versions = self._models.get(name)
        if versions is None:
            gone = [version for model, version in self.retired if model == name]
            if gone:
                raise self._gone(name, max(gone, key=int))
            raise NotFound(f"no model {name!r} here; serving: {', '.join(self.names())}")
        return list(versions.values())

    def find(self, name: str, version: str | None = None, label: str | None = None) -> Served:
        """Return the version, what the label points at, or the newest. NotFound, Gone."""
        versions = self.versions(name) if version is None else list(self._models.get(name, {}).values())
        if label is not None:
            version = versions[-1].card.labels.get(label)
            if version is None:
                raise NotFound(f"model {name!r} has no label {label!r}")
        if version is None:
            return versions[-1]
        for one in versions:
            if one.version == version:
                return one
        if (name, version) in self.retired:
            raise self._gone(name, version)
        known = ", ".join(one.version for one in self.versions(name))
        raise NotFound(f"model {name!r} has no version {version!r} here; serving: {known}")

    def _gone(self, name: str, version: str) -> Gone:
        retired = self.retired[name, version]
        model, _, successor = retired.successor.rpartition("=")
        if not model and successor and not successor.isdecimal():
            model, successor = successor, ""
        said = f"model {name!r} version {version} is retired"
        if retired.reason:
            said += f" ({retired.reason})"
        if retired.successor:
            said += f"; its successor is {model or name}{f' version {successor}' if successor else ''}"
            return Gone(said, (model or name, successor))
        return Gone(said)

    # Changing

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after every change."""
        self._watchers.append(changed)

    def put(self, served: Served) -> Served | None:
        """Serve it from now on; returns what it took the place of."""
        versions = self._models.setdefault(served.name, {})
        before = versions.get(served.version)
        versions[served.version] = served
        self._models[served.name] = dict(sorted(versions.items(), key=lambda one: int(one[0])))
        self.failed.pop(served.key, None)
        self._changed()
        return before

    def take(self, key: Key) -> Served | None:
        """Serve it no more; returns it."""
        versions = self._models.get(key[0], {})
        taken = versions.pop(key[1], None)
        if not versions:
            self._models.pop(key[0], None)
        self._changed()
        return taken

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()
