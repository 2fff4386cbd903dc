"""Which verbs hold for an endpoint, for whom, and which of two wins.

rank, the more specific first: override > principal > tenant > plan > endpoint page > policy that names the
endpoint > policy with a glob. A policy that is bound to plans, tenants or principals has the rank of the most
specific of these that it names. Verbs that accumulate (throttle) are all kept; of the others the first
candidate that fits the request wins, so a builder walks them in the order given here and stops.

A candidate with `enforce` False never stops that walk: it is recorded beside the one that acts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, cast

from gateway.config.kind import Kind, Origin, Placed, Reference, Referring
from gateway.config.recurring import Weekly
from gateway.config.schema import EndpointConfig, PolicyConfig, Schema, Verbs
from gateway.config.units import Instant


class Rank(IntEnum):
    """How specific the place is where a verb was written; the higher wins."""

    GLOB = 0
    NAMED = 1
    ENDPOINT = 2
    PLAN = 3
    TENANT = 4
    PRINCIPAL = 5
    OVERRIDE = 6


@dataclass(frozen=True, slots=True)
class Who:
    """For whom a candidate holds: one of each set that isn't empty."""

    principals: frozenset[str] = frozenset()
    plans: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()

    def includes(self, principal: str, plan: str, tenant: str) -> bool:
        """Whether a request of this principal is meant."""
        return (
            (not self.principals or principal in self.principals)
            and (not self.plans or plan in self.plans)
            and (not self.tenants or tenant in self.tenants)
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One verb that may hold for an endpoint's requests.

    value: the kind's struct. who: None for everybody, known or not. from_, until: seconds since the epoch,
    None for always. during: hours of the week. policy: the name that refusals and records show.
    Equality ignores the origin.
    """

    verb: str
    value: object
    rank: Rank
    policy: str
    who: Who | None = None
    enforce: bool = True
    from_: Instant | None = None
    until: Instant | None = None
    during: tuple[Weekly, ...] = ()
    origin: Origin = field(default_factory=Origin, compare=False)

    def holds(self, wall: float) -> bool:
        """Whether its time is now; wall: seconds since the epoch."""
        return (
            (self.from_ is None or wall >= self.from_)
            and (self.until is None or wall < self.until)
            and (not self.during or any(hours.holds(wall) for hours in self.during))
        )


# Which policies are meant


def is_glob(pattern: str) -> bool:
    """Whether an endpoint pattern names no endpoint by itself."""
    return any(sign in pattern for sign in "*?[")


def names_endpoint(policy: PolicyConfig, endpoint: str) -> Rank | None:
    """Return NAMED or GLOB for a policy that is for the endpoint, else None."""
    if endpoint in policy.applies_to.endpoints:
        return Rank.NAMED
    matching = any(fnmatchcase(endpoint, pattern) for pattern in policy.applies_to.endpoints)
    return Rank.GLOB if matching else None


def who_of(policy: PolicyConfig) -> Who | None:
    """Return whom a policy is bound to, None for everybody."""
    to = policy.applies_to
    who = Who(frozenset(to.principals), frozenset(to.plans), frozenset(to.tenants))
    return None if who == Who() else who


def rank_of(who: Who | None, on_endpoint: Rank) -> Rank:
    """Return a policy's rank from whom it is bound to, else from how it names the endpoint."""
    if who is None:
        return on_endpoint
    if who.principals:
        return Rank.PRINCIPAL
    return Rank.TENANT if who.tenants else Rank.PLAN


# The candidates of an endpoint


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with what decides between two of the same rank: how it names the endpoint."""

    candidate: Candidate
    named: Rank

    @property
    def order(self) -> tuple[int, int]:
        """The higher is the more specific."""
        return (self.candidate.rank, self.named)


def candidates(schema: Schema, kinds: Iterable[Kind[Any]], endpoint: str) -> dict[str, tuple[Candidate, ...]]:
    """Return an endpoint's request verbs, each with its candidates, the most specific first.

    Candidates of the same rank keep the order of the files. Verbs without any candidate are left out.
    """
    wanted = {kind.name for kind in kinds if kind.scope == "request"}
    found: dict[str, list[Ranked]] = {}
    for ranked in ranked_candidates(schema, endpoint):
        if ranked.candidate.verb in wanted:
            found.setdefault(ranked.candidate.verb, []).append(ranked)
    return {
        verb: tuple(one.candidate for one in sorted(all_of, key=lambda one: one.order, reverse=True))
        for verb, all_of in found.items()
    }


def ranked_candidates(schema: Schema, endpoint: str) -> Iterator[Ranked]:
    """Yield every verb of whatever scope that may hold for the endpoint, in no particular order of rank."""
    yield from candidates_of_endpoint(schema, endpoint)
    yield from candidates_of_people(schema)


def candidates_of_people(schema: Schema) -> Iterator[Ranked]:
    """Yield what stands on principals and plans: it holds for every endpoint, and there may be thousands."""
    for principal in schema.principals.values():
        for verb, placed in _each(principal.verbs):
            yield _ranked(verb, placed, Rank.PRINCIPAL, who=Who(principals=frozenset((principal.name,))))
    for plan in schema.plans.values():
        for verb, placed in _each(plan.verbs):
            yield _ranked(verb, placed, Rank.PLAN, who=Who(plans=frozenset((plan.name,))))


def candidates_of_endpoint(schema: Schema, endpoint: str) -> Iterator[Ranked]:
    """Yield what stands on the endpoint's override and page, and on policies that are for it."""
    if endpoint in schema.overrides:
        override = schema.overrides[endpoint]
        for verb, placed in _each(override.verbs):
            yield _ranked(verb, placed, Rank.OVERRIDE, until=override.until)
    if endpoint in schema.endpoints:
        for verb, placed in _each(schema.endpoints[endpoint].verbs):
            yield _ranked(verb, placed, Rank.ENDPOINT)
    for policy in schema.policies.values():
        named = names_endpoint(policy, endpoint)
        if named is not None:
            yield from _of_policy(policy, named)


def references_of_people(schema: Schema) -> tuple[tuple[Reference, Origin], ...]:
    """Return the names that verbs on principals and plans speak of, and where."""
    pages = [page.verbs for page in schema.principals.values() if page.verbs]
    pages += [page.verbs for page in schema.plans.values() if page.verbs]
    return tuple(
        (reference, placed.origin)
        for verbs in pages
        for _, placed in _each(verbs)
        for reference in references(placed.value)
    )


def references_at(
    schema: Schema, endpoint: str, of_people: Iterable[tuple[Reference, Origin]] | None = None
) -> Iterator[tuple[Reference, Origin]]:
    """Yield the names that the verbs which may hold for an endpoint speak of, and where.

    of_people: `references_of_people(schema)`, for who asks for many endpoints.
    """
    for ranked in candidates_of_endpoint(schema, endpoint):
        for reference in references(ranked.candidate.value):
            yield reference, ranked.candidate.origin
    yield from references_of_people(schema) if of_people is None else of_people


def _of_policy(policy: PolicyConfig, named: Rank) -> Iterator[Ranked]:
    who = who_of(policy)
    for verb, placed in _each(policy.verbs):
        yield Ranked(
            Candidate(
                verb,
                placed.value,
                rank_of(who, named),
                placed.origin.policy,
                who,
                policy.enforce,
                policy.from_,
                policy.until,
                policy.during,
                placed.origin,
            ),
            named,
        )


def _ranked(
    verb: str, placed: Placed[object], rank: Rank, who: Who | None = None, until: Instant | None = None
) -> Ranked:
    origin = placed.origin
    candidate = Candidate(verb, placed.value, rank, origin.policy, who, until=until, origin=origin)
    return Ranked(candidate, Rank.NAMED)


def _each(verbs: Verbs) -> Iterator[tuple[str, Placed[object]]]:
    for verb, all_placed in verbs.items():
        for placed in all_placed:
            yield verb, placed


def collide(first: Candidate, second: Candidate) -> bool:
    """Whether one request at one time could meet both, so that of equal rank neither would win."""
    return (
        first.enforce == second.enforce
        and _times_overlap(first, second)
        and _people_overlap(first.who or Who(), second.who or Who())
    )


def _times_overlap(first: Candidate, second: Candidate) -> bool:
    starts = max(first.from_ or -math.inf, second.from_ or -math.inf)
    ends = min(first.until or math.inf, second.until or math.inf)
    if starts >= ends:
        return False
    if not first.during or not second.during:
        return True
    return any(one.overlaps(other) for one in first.during for other in second.during)


def _people_overlap(first: Who, second: Who) -> bool:
    pairs = (
        (first.principals, second.principals),
        (first.plans, second.plans),
        (first.tenants, second.tenants),
    )
    return all(not one or not other or one & other for one, other in pairs)


# Where an endpoint's requests can go


def newest_version(endpoint: EndpointConfig) -> str | None:
    """Return the version with the highest number; `1.10` is newer than `1.9`."""
    return max(endpoint.versions, key=natural_order, default=None)


def natural_order(version: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which `1.10` comes after `1.9`."""
    parts = re.findall(r"\d+|\D+", version)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def target_pool(schema: Schema, endpoint: EndpointConfig, target: str) -> str | None:
    """Return the pool that a target means for an endpoint, None when it means nothing there.

    A target is a label, a version, `newest`, a pool's name, or the registry's `version:` of one of the
    endpoint's pools (`v2`); looked up in this order.
    """
    version = endpoint.labels.get(target, target)
    if version in endpoint.versions:
        return endpoint.versions[version]
    if target == "newest" and endpoint.versions:
        return endpoint.versions[newest_version(endpoint) or ""]
    if target in schema.pools:
        return target
    for pool in endpoint.versions.values():
        if pool in schema.pools and schema.pools[pool].version == target:
            return pool
    return None


@cache
def _refers(struct: Any) -> bool:
    """Whether a struct has `names()`: asked once per type, as isinstance of a Protocol takes 10 µs."""
    return callable(getattr(struct, "names", None))


def references(value: object) -> Iterable[Reference]:
    """Return the names a verb's struct speaks of."""
    struct: Any = type(value)
    return cast(Referring, value).names() if _refers(struct) else ()


def referred_pool(schema: Schema, endpoint: EndpointConfig, reference: Reference) -> str | None:
    """Return the pool a reference leads to, None when it leads to none or is no such reference."""
    match reference.kind:
        case "pool":
            return reference.name if reference.name in schema.pools else None
        case "version":
            return endpoint.versions.get(reference.name)
        case "label":
            return endpoint.versions.get(endpoint.labels.get(reference.name, ""))
        case "target":
            return target_pool(schema, endpoint, reference.name)
    return None


def reach(
    schema: Schema,
    endpoint: str,
    fallback: bool | None = None,
    of_people: Iterable[tuple[Reference, Origin]] | None = None,
) -> tuple[str, ...]:
    """Return the pools that an endpoint's requests can come to, sorted.

    fallback: True only those of a lesser answer, False only the others, None all. of_people: as in
    `references_at`.
    """
    config = schema.endpoints[endpoint]
    found = set() if fallback else {pool for pool in config.versions.values() if pool in schema.pools}
    for reference, _ in references_at(schema, endpoint, of_people):
        if reference.aside and fallback is not None:
            continue  # nobody's answer comes from there
        if reference.reached and fallback in (None, reference.fallback):
            pool = referred_pool(schema, config, reference)
            if pool is not None and pool in schema.pools:
                found.add(pool)
    return tuple(sorted(with_members(schema, found)))


def with_members(schema: Schema, pools: Iterable[str]) -> set[str]:
    """Return these pools and all that their graphs ask, and those graphs' …"""
    found: set[str] = set()
    following = list(pools)
    while following:
        name = following.pop()
        if name in found or name not in schema.pools:
            continue
        found.add(name)
        graph = schema.pools[name].graph
        following += () if graph is None else graph.members
    return found


# Pool verbs


def pool_verb_sources(
    schema: Schema, kinds: Iterable[Kind[Any]]
) -> dict[str, dict[str, tuple[Candidate, ...]]]:
    """Return what is said of every pool: pool -> verb -> its own page's value, then one per endpoint.

    Per endpoint that reaches the pool the most specific wins (its page, a policy naming it, a policy with a
    glob). A pool's own page beats policies but not an endpoint's page: those stand side by side, and must
    not disagree.
    """
    wanted = {kind.name for kind in kinds if kind.scope == "pool"}
    found: dict[str, dict[str, list[Candidate]]] = {}
    for pool in schema.pools.values():
        own = [_ranked(verb, placed, Rank.ENDPOINT).candidate for verb, placed in _each(pool.verbs)]
        found[pool.name] = {one.verb: [one] for one in own if one.verb in wanted}
    of_people = references_of_people(schema)
    for endpoint in schema.endpoints:
        strongest = _strongest(schema, endpoint, wanted)
        for name in reach(schema, endpoint, None, of_people) if strongest else ():
            for verb, candidate in strongest.items():
                if verb not in schema.pools[name].verbs or candidate.rank >= Rank.ENDPOINT:
                    found[name].setdefault(verb, []).append(candidate)
    return {name: {verb: tuple(all_of) for verb, all_of in verbs.items()} for name, verbs in found.items()}


def _strongest(schema: Schema, endpoint: str, wanted: set[str]) -> dict[str, Candidate]:
    strongest: dict[str, Candidate] = {}
    for ranked in candidates_of_endpoint(schema, endpoint):
        one = ranked.candidate
        if one.verb in wanted and one.enforce:
            known = strongest.get(one.verb)
            strongest[one.verb] = one if known is None or one.rank > known.rank else known
    return strongest


def all_pool_verbs(schema: Schema, kinds: Iterable[Kind[Any]]) -> dict[str, dict[str, Placed[object]]]:
    """Return every pool's effective pool verbs; check.py has made sure that the sources agree."""
    return {
        pool: {verb: Placed(all_of[0].value, all_of[0].origin) for verb, all_of in sources.items()}
        for pool, sources in pool_verb_sources(schema, kinds).items()
    }


def pool_verbs(schema: Schema, kinds: Iterable[Kind[Any]], pool: str) -> dict[str, Placed[object]]:
    """Return one pool's effective pool verbs; `all_pool_verbs` finds those of all in the same time."""
    return all_pool_verbs(schema, kinds)[pool]
