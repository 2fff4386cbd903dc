"""Where a request goes: from the words of policies, URLs and headers to a pool and a version.

A word is a label, a version, `newest`, a pool, or the registry's version of one of the endpoint's pools
(`v2`); it is looked up in this order, as config/resolve.py checks it. Who may choose, the first wins:

    the URL (an explicit version or label) > the override header, from principals that may
    > `headgate send`, an operator's override > release > send

The first two are always on (`Explicit`); they bypass a release, so that a client that names a version gets
that version, and an operator can look at a candidate before anybody else does. `x-headgate-send` from
others is ignored; like all of our own fields it never goes upstream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.config.resolve import natural_order
from gateway.dialects.protocol import Target
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, Parts
from gateway.pipeline.pool import Pool

NEWEST: Final = "newest"
OVERRIDE: Final = b"x-headgate-send"


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A pool, and the version it stands for. version: "" = the pool's own, none is named."""

    pool: Pool
    version: str = ""

    def usable(self, now: float) -> bool:
        """Whether some instance of the pool can take a call now."""
        return any(instance.usable(now) for instance in self.pool.members.instances)


class Choices:
    """The words that mean something for one endpoint."""

    __slots__ = ("_known", "_labels", "_versions", "names")

    def __init__(self, parts: Parts) -> None:
        """parts.pools: those that this endpoint may reach; no word leads to another."""
        newest_first = sorted(parts.versions, key=natural_order, reverse=True)
        self._versions = {
            version: Choice(parts.pools[parts.versions[version]], version) for version in newest_first
        }
        self._labels = {
            label: self._versions[version]
            for label, version in parts.labels.items()
            if version in self._versions
        }
        by_registry = {pool.version: self._of_pool(pool) for pool in parts.pools.values() if pool.version}
        by_name = {name: self._of_pool(pool) for name, pool in parts.pools.items()}
        self._known = {**by_registry, **by_name, **self._versions, **self._labels}
        self.names: tuple[str, ...] = (*reversed(newest_first), *self._labels)

    def _of_pool(self, pool: Pool) -> Choice:
        """A pool that serves exactly one version stands for it."""
        served = [choice for choice in self._versions.values() if choice.pool is pool]
        return served[0] if len(served) == 1 else Choice(pool)

    def find(self, word: str) -> Choice | None:
        """Return what a word means, None when it means nothing here."""
        known = self._known.get(word)
        if known is None and word == NEWEST and self._versions:
            return self._newest()
        return known

    def must_find(self, word: str) -> Choice:
        """Return what a checked word means; ValueError when the configuration was not checked."""
        found = self.find(word)
        if found is None:
            raise ValueError(f"'{word}' is no label, version or pool of this endpoint")
        return found

    def named(self, target: Target) -> Choice | None:
        """Return what a URL's version or label means."""
        if target.label is not None:
            return self._labels.get(target.label)
        return self._versions.get(target.version or "")

    def _newest(self) -> Choice:
        """The highest version that has instances; the highest of all while none has."""
        in_order = self._versions.values()
        return next((choice for choice in in_order if choice.pool.members.instances), next(iter(in_order)))

    @property
    def has_versions(self) -> bool:
        """Whether the endpoint declares any."""
        return bool(self._versions)


class Explicit(Filter):
    """What the URL or the override header says. Always on.

    It acts before the body is looked at: a prediction is checked against the signature of the version that
    it asks for.
    """

    name = "explicit"
    place = 58

    def __init__(self, parts: Parts) -> None:
        self._choices = Choices(parts)
        self._endpoint = parts.endpoint

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Choose, or refuse a version that isn't there."""
        target = ctx.target
        if target is not None and (target.version is not None or target.label is not None):
            return self._by_url(ctx, target)
        if ctx.principal is not None and ctx.principal.may_override:
            word = ctx.request.header(OVERRIDE)
            if word is not None:
                return self._by_header(ctx, word.decode("latin-1").strip())
        return None

    def _by_url(self, ctx: Context, target: Target) -> Refusal | None:
        found = self._choices.named(target)
        if found is None:
            found = self._only_version(ctx, target)
        if found is None:
            kind, word = ("label", target.label) if target.label is not None else ("version", target.version)
            return self._unknown(kind, word or "")
        _take(ctx, found, "url")
        return None

    def _only_version(self, ctx: Context, target: Target) -> Choice | None:
        """An endpoint that declares no versions has one: its pool's, or `1`, as filters/describe.py says."""
        if self._choices.has_versions or ctx.pool is None or target.version != (ctx.pool.version or "1"):
            return None
        return Choice(ctx.pool, target.version)

    def _by_header(self, ctx: Context, word: str) -> Refusal | None:
        found = self._choices.find(word)
        if found is None:
            return self._unknown("version, label or pool", word)
        _take(ctx, found, "override")
        return None

    def _unknown(self, kind: str, word: str) -> Refusal:
        known = list(self._choices.names)
        listed = f"it has {', '.join(known)}" if known else "it declares none"
        return Refusal(
            404,
            "unknown_version",
            f"endpoint '{self._endpoint}' has no {kind} '{word[:100]}'; {listed}",
            details={"known": known},
        )


def _take(ctx: Context, choice: Choice, by: str) -> None:
    choose(ctx, choice, by)
    if ctx.trail is not None:
        ctx.note("explicit", f"pool {choice.pool.name} by {by}", numbers={"version": choice.version})


def choose(ctx: Context, choice: Choice, by: str) -> None:
    """Send the request there. by: url, override, release or send."""
    ctx.pool = choice.pool
    ctx.version = choice.version
    ctx.chosen_by = by
