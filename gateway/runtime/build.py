"""From the checked policies to a snapshot. A reload keeps whatever is equal: pools, filters, the directory.

`build` makes everything before anything is swapped in; if it raises, the running snapshot was not touched.
A pool is kept when its settings and its source are equal, a filter when its rules and what it was built
from are; so buckets, breakers, connections and caches survive every edit that doesn't concern them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from gateway.config import resolve
from gateway.config.kind import Placed
from gateway.config.schema import EndpointConfig, IssuerConfig, PoolConfig, PrincipalConfig, Schema
from gateway.filters.authenticate import Anybody
from gateway.filters.catalog import ALWAYS, ALWAYS_FOR_MODELS, DEFAULTS, FILTER_KINDS, KINDS, place_of
from gateway.governance.meters import Meters
from gateway.http.forwarded import Forwarding
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.chain import Chain, Chosen, Rehearsed
from gateway.pipeline.directory import Credential, Directory
from gateway.pipeline.errand import Errands
from gateway.pipeline.filter import EVERYBODY, Filter, FilterKind, Parts, Rule
from gateway.pipeline.graphs import GraphPool
from gateway.pipeline.mirroring import Mirrors
from gateway.pipeline.pool import Pool
from gateway.pipeline.pool_verbs import PoolSettings
from gateway.pipeline.ports import BlobStore, Clock, CounterStore, Ids, KeySource, Principal, Threads, Timers
from gateway.pipeline.prediction import Signatures
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.releases import Releases
from gateway.pipeline.routes import Routes
from gateway.pipeline.snapshot import Endpoint, Snapshot


@dataclass(frozen=True)
class Ports:
    """What filters and pools are built with besides their rules; the same over all reloads but for stores."""

    clock: Clock
    ids: Ids
    counters: CounterStore
    local_counters: CounterStore
    blobs: BlobStore | None
    answers: AnswerStore
    issuers: Callable[[Iterable[IssuerConfig]], Mapping[str, KeySource]]
    signatures: Signatures
    pressure: Pressure
    gateways: Callable[[], int]
    traces: bool = False  # whether spans leave: decided at the start
    mirrors: Mirrors | None = None
    errands: Errands | None = None
    timers: Timers | None = None
    threads: Threads | None = None
    releases: Releases | None = None
    quotas: CounterStore | None = None
    local_quotas: CounterStore | None = None
    meters: Meters | None = None


@dataclass
class Built:
    """One build: the snapshot, and what the next one may keep."""

    snapshot: Snapshot
    schema: Schema
    pool_configs: dict[str, PoolConfig] = field(default_factory=dict)
    directory: Directory = field(default_factory=lambda: Directory({}, ()))
    filters: dict[tuple[str, str], tuple[Parts, tuple[Rule[object], ...], tuple[Filter, ...]]] = field(
        default_factory=dict
    )


def build(schema: Schema, digest: str, ports: Ports, previous: Built | None) -> Built:
    """Build everything the schema says."""
    verbs = resolve.all_pool_verbs(schema, KINDS)
    pools = {
        name: _pool(config, verbs.get(name, {}), ports, previous) for name, config in schema.pools.items()
    }
    for name, config in schema.pools.items():
        if config.graph is not None:
            cast(GraphPool, pools[name]).join(config.graph, pools)
    directory = _directory(schema, previous)
    issuers = ports.issuers(schema.issuers.values())
    snapshot = Snapshot(
        version=1 if previous is None else previous.snapshot.version + 1,
        digest=digest,
        pools=pools,
        endpoints={},
        find_endpoint=Routes((), ()).find,
        forwarding=Forwarding([str(network) for network in schema.limits.trusted_proxies]),
        default_timeout=schema.limits.request_timeout,
        stream_idle=schema.limits.stream_idle,
        tunnel_idle=schema.limits.tunnel_idle,
        trace_share=schema.telemetry.sample if ports.traces else 0.0,
        answer_limit=schema.limits.answer_bytes,
    )
    built = Built(snapshot, schema, dict(schema.pools), directory)
    endpoints = {
        name: _endpoint(schema, config, pools, directory, issuers, ports, previous, built)
        for name, config in schema.endpoints.items()
    }
    routes = Routes(
        [endpoint for endpoint in endpoints.values() if endpoint.model],
        [(endpoints[name], config.match) for name, config in schema.endpoints.items() if config.match],
    )
    built.snapshot = replace(snapshot, endpoints=endpoints, find_endpoint=routes.find)
    return built


def discarded(previous: Built, current: Built) -> list[Filter]:
    """Return the filters of the previous build that the current one no longer has: to be closed."""
    kept = {id(filter) for _, _, filters in current.filters.values() for filter in filters}
    return [
        filter for _, _, filters in previous.filters.values() for filter in filters if id(filter) not in kept
    ]


# Pools


def _pool(config: PoolConfig, verbs: Mapping[str, Placed[Any]], ports: Ports, previous: Built | None) -> Pool:
    settings = replace(PoolSettings(), **{verb: placed.value for verb, placed in verbs.items()})
    if previous is not None:
        known = previous.snapshot.pools.get(config.name)
        same = known is not None and known.settings == settings
        if known is not None and same and _same_source(previous.pool_configs[config.name], config):
            return known
    if config.graph is not None:  # it keeps nothing but what it is told anew: who is asked
        return GraphPool(config.name, settings, ports.ids, model=config.model or "")
    return Pool(
        config.name,
        settings,
        ports.ids,
        speaks=config.speaks,
        http2=config.http2,
        model=config.model or "",
        version=config.version or "",
        signature=config.signature or "",
    )


def _same_source(before: PoolConfig, after: PoolConfig) -> bool:
    """Whether two configs find the same instances and talk to them alike (written instances may differ)."""
    return after.graph is None and (
        (before.find, before.version, before.speaks, before.model, before.http2, before.signature)
        == (after.find, after.version, after.speaks, after.model, after.http2, after.signature)
    )


# Who is known


def _directory(schema: Schema, previous: Built | None) -> Directory:
    if previous is not None and (previous.schema.principals, previous.schema.plans) == (
        schema.principals,
        schema.plans,
    ):
        return previous.directory
    importance = {name: plan.importance or "" for name, plan in schema.plans.items()}
    credentials: dict[bytes, Credential] = {}
    holders: dict[str, Credential] = {}
    named: dict[str, Credential] = {}
    principals = []
    for config in schema.principals.values():
        principal = _principal(config, importance)
        principals.append(principal)
        for key in config.keys:
            ends = [instant for instant in (key.expires, config.expires) if instant is not None]
            credentials[key.digest] = Credential(principal, min(ends, default=None), key.revoked)
        named[config.name] = Credential(principal, config.expires)
        holders.update(dict.fromkeys(config.certificates, named[config.name]))
    return Directory(credentials, principals, holders, named)


def _principal(config: PrincipalConfig, importance: Mapping[str, str]) -> Principal:
    return Principal(
        config.name,
        config.plan,
        config.tenant,
        models=frozenset(config.may.models),
        endpoints=frozenset(config.may.endpoints),
        may_override=config.may.override,
        importance=config.importance or importance.get(config.plan, ""),
    )


# Endpoints


def _endpoint(
    schema: Schema,
    config: EndpointConfig,
    pools: Mapping[str, Pool],
    directory: Directory,
    issuers: Mapping[str, KeySource],
    ports: Ports,
    previous: Built | None,
    built: Built,
) -> Endpoint:
    parts = Parts(
        endpoint=config.name,
        model=config.model or "",
        pools={name: pools[name] for name in _reached(schema, config)},
        versions=dict(config.versions),
        labels=dict(config.labels),
        clock=ports.clock,
        ids=ports.ids,
        counters=ports.counters,
        local_counters=ports.local_counters,
        blobs=ports.blobs,
        answers=ports.answers,
        directory=directory,
        issuers=issuers,
        issuer_configs=schema.issuers,
        signatures=ports.signatures,
        pressure=ports.pressure,
        gateways=ports.gateways,
        on_store_failure=schema.stores.on_store_failure,
        mirrors=ports.mirrors,
        errands=ports.errands,
        timers=ports.timers,
        threads=ports.threads,
        releases=ports.releases,
        quotas=ports.quotas,
        local_quotas=ports.local_quotas,
        meters=ports.meters,
    )
    filters: list[Filter] = []
    candidates = resolve.candidates(schema, KINDS, config.name)
    for kind in FILTER_KINDS:
        rules = tuple(_rule(candidate) for candidate in candidates.get(kind.name, ()))
        default = DEFAULTS[kind.name](config) if kind.name in DEFAULTS else None
        if default is not None and not any(rule.is_plain for rule in rules):
            rules = (*rules, Rule(default, policy=f"endpoints.{config.name}"))
        if rules:
            filters.extend(_filters(kind, rules, parts, previous, built))
    if config.model:
        filters += [make(parts) for make in (*ALWAYS, *ALWAYS_FOR_MODELS)]
    elif not all(isinstance(filter, Anybody) for filter in filters if filter.name == "authenticate"):
        filters += [make(parts) for make in ALWAYS]  # where nobody is known nobody has permissions
    if len(parts.pools) == 1 and not config.versions:
        filters = [filter for filter in filters if filter.name != "send"]  # there is nothing to choose
    filters.sort(key=place_of)
    first = next(iter(parts.pools.values()), None)
    return Endpoint(
        config.name,
        Chain(filters),
        first,
        model=config.model or "",
        versions={version: pools[pool] for version, pool in config.versions.items()},
        labels=config.labels,
        pools=parts.pools.values(),
        body_limit=schema.limits.buffered_bytes,
        origin=str(config.origin),
    )


def _reached(schema: Schema, config: EndpointConfig) -> Sequence[str]:
    """All pools that requests may come to: those of the versions in their order, those that answer by
    themselves, then those of lesser answers and copies. The first one is the endpoint's own.
    """
    own = resolve.reach(schema, config.name, fallback=False)
    ordered = [*config.versions.values(), *own, *resolve.reach(schema, config.name)]
    return list(dict.fromkeys(ordered))


def _rule(candidate: resolve.Candidate) -> Rule[object]:
    return Rule(
        candidate.value,
        candidate.policy,
        str(candidate.origin),
        candidate.who or EVERYBODY,
        candidate.enforce,
        candidate.from_,
        candidate.until,
        candidate.during,
        candidate.rank is resolve.Rank.OVERRIDE,
    )


def _filters(
    kind: FilterKind[Any],
    rules: tuple[Rule[object], ...],
    parts: Parts,
    previous: Built | None,
    built: Built,
) -> tuple[Filter, ...]:
    key = (parts.endpoint, kind.name)
    if previous is not None:
        known = previous.filters.get(key)
        if known is not None and known[1] == rules and known[0] == parts:
            built.filters[key] = known
            return known[2]
    filters = tuple(_make(kind, rules, parts))
    built.filters[key] = (parts, rules, filters)
    return filters


def _make(kind: FilterKind[Any], rules: tuple[Rule[object], ...], parts: Parts) -> list[Filter]:
    """Make a kind's filters: of all rules where they accumulate, else one chosen per request."""
    if kind.accumulates:
        return list(kind.build(rules, parts))
    acting: dict[int, list[tuple[Rule[object], Filter]]] = {}  # by place: a kind may have several
    rehearsed: list[Filter] = []
    for rule in rules:
        for filter in kind.build((rule,), parts):
            if rule.enforce:
                acting.setdefault(place_of(filter), []).append((rule, filter))
            else:
                rehearsed.append(Rehearsed(filter, rule, parts.clock))
    return [*rehearsed, *(_chosen(candidates, parts.clock) for candidates in acting.values())]


def _chosen(candidates: Sequence[tuple[Rule[object], Filter]], clock: Clock) -> Filter:
    if len(candidates) == 1 and candidates[0][0].is_plain:
        return candidates[0][1]
    return Chosen(candidates, clock)
