"""What the files mean together: names that lead nowhere, rules that contradict each other, with positions.

decode.py has seen every value by itself; here the Schema is looked at as a whole. A name whose own entry
could not be read is `declared` all the same, so that one mistake is one problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations, product
from typing import Any

from gateway.config.decode import Positions
from gateway.config.kind import Checking, Kind, Needing, Origin, Placed, Reference
from gateway.config.problem import Mark, Problem, join, listing, nearest
from gateway.config.resolve import (
    Candidate,
    Ranked,
    candidates_of_endpoint,
    candidates_of_people,
    collide,
    is_glob,
    names_endpoint,
    pool_verb_sources,
    reach,
    references,
    references_at,
    references_of_people,
    referred_pool,
    target_pool,
    who_of,
)
from gateway.config.schema import EndpointConfig, HttpListen, Match, PolicyConfig, Schema, Verbs


@dataclass(slots=True)
class Declared:
    """Every name written in a section, read or not, and the paths at which something couldn't be read."""

    names: dict[str, dict[str, None]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def add(self, section: str, name: str) -> None:
        """Remember a name."""
        self.names.setdefault(section, {})[name] = None

    def of(self, section: str) -> list[str]:
        """Return a section's names in the order written."""
        return list(self.names.get(section, ()))

    def is_broken(self, path: str) -> bool:
        """Whether something under the path couldn't be read."""
        return any(at == path or at.startswith((f"{path}.", f"{path}[")) for at in self.broken)


def check(
    schema: Schema, kinds: Sequence[Kind[Any]], positions: Positions, declared: Declared
) -> Iterator[Problem]:
    """Yield everything that is wrong with a schema as a whole, in no particular order."""
    yield from _Checker(schema, kinds, positions, declared).problems()


def weights_problem(weights: Mapping[str, float]) -> str | None:
    """Say that shares don't add up to 100%, or None; for the `check` of verbs with weights."""
    total = sum(weights.values())
    if abs(total - 1) <= 1e-9:
        return None
    shown = " + ".join(f"{share * 100:g}%" for share in weights.values())
    return f"expected weights that add up to 100%, found {shown} = {total * 100:g}%"


class _Checker:
    __slots__ = ("declared", "kinds", "of_people", "positions", "schema")

    def __init__(
        self, schema: Schema, kinds: Sequence[Kind[Any]], positions: Positions, declared: Declared
    ) -> None:
        self.schema = schema
        self.kinds = {kind.name: kind for kind in kinds}
        self.positions = positions
        self.declared = declared
        self.of_people = references_of_people(schema)

    def problems(self) -> Iterator[Problem]:
        """All rules, one after the other."""
        yield from self.listeners()
        yield from self.pools()
        yield from self.graphs()
        yield from self.endpoints()
        yield from self.shadowed()
        yield from self.principals()
        yield from self.policies()
        yield from self.overrides()
        yield from self.verbs()
        yield from self.ties()
        yield from self.disagreeing_pool_verbs()
        yield from self.fallback_loops()

    # Pointing at things

    def at(self, path: str, message: str, word: str | None = None) -> Problem:
        """Return a problem at `word` under `path`, or at the path itself."""
        found = self.positions.of_word(path, word) if word is not None else None
        if found is not None:
            return Problem(found[1], found[0], message)
        return Problem(self.positions.at(path) or Mark("?"), path, message)

    def unknown(self, what: str, name: str, path: str, words: Iterable[str]) -> Problem:
        """Return the problem of a name that isn't one of the words."""
        known = list(words)
        there = f"one of {listing(known)}" if known else "one that exists, but there are none"
        return self.at(path, f"expected {what}: {there}; found {name!r}{nearest(name, known)}", name)

    # The fixed sections

    def listeners(self) -> Iterator[Problem]:
        """An address of its own for each, certificates that fit, and somebody to believe."""
        listen = self.schema.listen
        addresses = {"http": listen.http.address, "admin": listen.admin.address}
        if listen.grpc is not None:
            addresses["grpc"] = listen.grpc.address
        for (first, one), (second, other) in combinations(addresses.items(), 2):
            if one == other and one.port:
                yield self.at("listen", f"expected two addresses, found {one} for {first} and {second}")
        for name, port in (("http", listen.http), ("grpc", listen.grpc)):
            if port is not None:
                yield from self.port(f"listen.{name}", port)

    def port(self, path: str, port: HttpListen) -> Iterator[Problem]:
        """What one port's settings need of each other."""
        for message in () if port.tls is None else port.tls.check():
            yield self.at(join(path, "tls"), message)
        if port.proxy_protocol != "off" and not self.schema.limits.trusted_proxies:
            message = (
                f"expected limits.trusted_proxies for `proxy_protocol: {port.proxy_protocol}`, found none"
            )
            yield self.at(join(path, "proxy_protocol"), message)

    def pools(self) -> Iterator[Problem]:
        """Who finds needs a registry."""
        registry = self.schema.registry
        if registry.local or registry.etcd or registry.file:
            return
        for pool in self.schema.pools.values():
            if pool.find is not None:
                path = join(join("pools", pool.name), "find")
                yield self.at(path, "expected a registry to find it in, found `registry: static`")

    def graphs(self) -> Iterator[Problem]:
        """Members exist, understand predictions, and lead to none that asked them."""
        pools = self.declared.of("pools")
        edges: dict[str, dict[str, object]] = {}
        for pool in self.schema.pools.values():
            if pool.graph is None:
                continue
            path = join(join("pools", pool.name), "graph")
            edges[pool.name] = dict.fromkeys(pool.graph.members)
            for name in pool.graph.members:
                member = self.schema.pools.get(name)
                if name not in pools:
                    yield self.unknown("a pool", name, path, pools)
                elif member is not None and member.graph is None and member.speaks == "grpc":
                    message = (
                        f"expected pools that speak a serving protocol, found {name!r}, which speaks grpc"
                    )
                    yield self.at(path, message, name)
        reported: set[frozenset[str]] = set()
        for start in edges:
            loop = find_loop(start, edges)
            if loop and frozenset(loop) not in reported:
                reported.add(frozenset(loop))
                message = f"expected a graph that ends somewhere, found a loop: {' → '.join([*loop, start])}"
                yield self.at(join(join("pools", loop[-1]), "graph"), message, start)

    def endpoints(self) -> Iterator[Problem]:
        """Versions, labels, and somewhere to go."""
        pools = self.declared.of("pools")
        for endpoint in self.schema.endpoints.values():
            path = join("endpoints", endpoint.name)
            for version, pool in endpoint.versions.items():
                if pool not in pools:
                    yield self.unknown("a pool", pool, join(join(path, "versions"), version), pools)
            for label, version in endpoint.labels.items():
                if version not in endpoint.versions and not self.declared.is_broken(join(path, "versions")):
                    at = join(join(path, "labels"), label)
                    yield self.unknown("a version", version, at, endpoint.versions)
            if not endpoint.versions and not self.leads_somewhere(endpoint):
                yield self.at(
                    path, "expected `versions: {1: POOL}` or a verb that names a pool, found nowhere to go"
                )
            for verb in endpoint.verbs if endpoint.model is None else ():
                if self.kinds[verb].for_models:
                    message = f"expected {verb} on an endpoint with `model:`, for it reads predictions"
                    yield self.at(join(path, verb), message)
            yield from self.calls(endpoint)

    def calls(self, endpoint: EndpointConfig) -> Iterator[Problem]:
        """Calls go to pools that speak gRPC, and a model's URLs to pools that don't: nothing translates."""
        is_grpc = endpoint.match is not None and bool(endpoint.match.grpc)
        if not is_grpc and endpoint.model is None:
            return
        for name in reach(self.schema, endpoint.name):
            pool = self.schema.pools.get(name)
            if pool is not None and (pool.speaks == "grpc") is not is_grpc:
                expected = "pools that speak grpc" if is_grpc else "pools that speak a protocol over HTTP"
                message = f"expected {expected}, found {name!r}, which speaks {pool.speaks}"
                yield self.at(join("endpoints", endpoint.name), message, name)

    def leads_somewhere(self, endpoint: EndpointConfig) -> bool:
        """Whether any verb names a pool, or may have tried to: that is another problem then."""
        if self.declared.is_broken(join("endpoints", endpoint.name)) or self.declared.is_broken("policies"):
            return True
        named = (reference for reference, _ in references_at(self.schema, endpoint.name, self.of_people))
        return any(name.kind in ("pool", "target") and not (name.fallback or name.aside) for name in named)

    def shadowed(self) -> Iterator[Problem]:
        """An endpoint that another one leaves nothing to."""
        for first, second in self.look_alikes():
            path = join("endpoints", second.name)
            where = first.origin
            if first.model is not None and first.model == second.model:
                message = (
                    f"expected another model than {first.name}'s ({where}), found {second.model!r} again"
                )
                yield self.at(join(path, "model"), message)
            elif (
                first.match is not None
                and second.match is not None
                and same_requests(first.match, second.match)
            ):
                message = (
                    f"expected requests that {first.name} ({where}) doesn't take already, found the same"
                )
                yield self.at(join(path, "match"), message)

    def look_alikes(self) -> Iterator[tuple[EndpointConfig, EndpointConfig]]:
        """Pairs of one model, or of one path: no others can be the same, and comparing all is quadratic."""
        alike: dict[tuple[str, ...], list[EndpointConfig]] = {}
        for endpoint in self.schema.endpoints.values():
            if endpoint.model is not None:
                alike.setdefault(("model", endpoint.model), []).append(endpoint)
            elif endpoint.match is not None:
                alike.setdefault(("match", *_shape(endpoint.match.path)), []).append(endpoint)
        for group in alike.values():
            yield from combinations(group, 2)

    # Who calls

    def principals(self) -> Iterator[Problem]:
        """Plans that exist, permissions that permit something, keys of one owner."""
        plans, endpoints = self.declared.of("plans"), self.declared.of("endpoints")
        models = self.models()
        owners: dict[str, str] = {}
        for principal in self.schema.principals.values():
            path = join("principals", principal.name)
            if principal.plan and principal.plan not in plans:
                yield self.unknown("a plan", principal.plan, join(path, "plan"), plans)
            for name in principal.may.endpoints:
                if not is_glob(name) and name not in endpoints:
                    yield self.unknown("an endpoint", name, join(path, "may"), endpoints)
            for name in principal.may.models:
                if not is_glob(name) and name not in models:
                    yield self.unknown("a model", name, join(path, "may"), models)
            for key in principal.keys:
                owner = owners.setdefault(key.hash, principal.name)
                if owner != principal.name:
                    message = f"expected a key of its own, found one of {owner}'s"
                    yield self.at(join(path, "keys"), message, key.hash)
            for name in principal.certificates:
                owner = owners.setdefault(name, principal.name)
                if owner != principal.name:
                    message = f"expected a certificate of its own, found one of {owner}'s"
                    yield self.at(join(path, "certificates"), message, name)
        tokens: dict[str, str] = {}
        for issuer in self.schema.issuers.values():
            earlier = tokens.setdefault(issuer.issuer, issuer.name)
            if earlier != issuer.name:
                message = f"expected an issuer of its own, found that of {earlier}"
                yield self.at(join(join("issuers", issuer.name), "issuer"), message)
            if issuer.plan and issuer.plan not in plans:
                yield self.unknown("a plan", issuer.plan, join(join("issuers", issuer.name), "plan"), plans)

    def models(self) -> list[str]:
        """Every model that an endpoint serves; those of endpoints that couldn't be read count by name."""
        served = [one.model for one in self.schema.endpoints.values() if one.model is not None]
        unread = [name for name in self.declared.of("endpoints") if name not in self.schema.endpoints]
        return [*served, *unread]

    def tenants(self) -> list[str]:
        """Every tenant that a principal or issuer names."""
        named = [one.tenant for one in self.schema.principals.values()]
        named += [one.tenant for one in self.schema.issuers.values()]
        return list(dict.fromkeys(name for name in named if name))

    # What cuts across

    def policies(self) -> Iterator[Problem]:
        """Policies apply to somebody and something."""
        for policy in self.schema.policies.values():
            path = join(join("policies", policy.name), "applies_to")
            endpoints = self.declared.of("endpoints")
            for pattern in policy.applies_to.endpoints:
                if pattern == "*" or pattern in endpoints:
                    continue
                if not is_glob(pattern):
                    yield self.unknown("an endpoint", pattern, path, endpoints)
                elif not any(fnmatchcase(name, pattern) for name in endpoints):
                    yield self.unknown("a pattern of endpoints", pattern, path, endpoints)
            yield from self.people(policy, path)
            yield from self.bound_to_people(policy)

    def people(self, policy: PolicyConfig, path: str) -> Iterator[Problem]:
        """Plans are declared; principals and tenants may also come with an issuer's tokens."""
        for name in policy.applies_to.plans:
            if name not in self.declared.of("plans"):
                yield self.unknown("a plan", name, path, self.declared.of("plans"))
        if self.declared.of("issuers"):
            return
        for name in policy.applies_to.principals:
            if name not in self.declared.of("principals"):
                yield self.unknown("a principal", name, path, self.declared.of("principals"))
        unread = set(self.declared.of("principals")) - self.schema.principals.keys()
        for name in policy.applies_to.tenants:
            if name not in self.tenants() and not unread:
                yield self.unknown("a tenant", name, path, self.tenants())

    def bound_to_people(self, policy: PolicyConfig) -> Iterator[Problem]:
        """Verbs that act before anybody is known, or on a pool, hold for everybody."""
        if who_of(policy) is None:
            return
        for verb, placed in policy.verbs.items():
            kind = self.kinds.get(verb)
            if kind is not None and (kind.scope == "pool" or not kind.by_principal):
                message = f"expected {verb} in a policy for everybody, found one for some of them"
                yield self.at(placed[0].origin.path, message)

    def overrides(self) -> Iterator[Problem]:
        """Overrides name endpoints."""
        endpoints = self.declared.of("endpoints")
        for name in self.declared.of("overrides"):
            if name not in endpoints:
                yield self.unknown("an endpoint", name, join("overrides", name), endpoints)

    # What verbs say of themselves

    def verbs(self) -> Iterator[Problem]:
        """Each verb's own rules, and the names it speaks of at every endpoint where it holds."""
        for verb, placed, endpoints in self.placed_verbs():
            guard = self.kinds[verb].allowed_by if verb in self.kinds else ""
            if guard and getattr(self.schema.limits, guard) != "allowed":
                message = f"expected `limits: {{{guard}: allowed}}` before any {verb}"
                yield self.at(placed.origin.path, message)
            if isinstance(placed.value, Checking):
                for message in placed.value.check():
                    yield self.at(placed.origin.path, message)
            for reference in references(placed.value):
                yield from self.reference(reference, placed.origin, endpoints)
            if isinstance(placed.value, Needing):
                yield from self.needed(placed.value, placed.origin, endpoints)

    def needed(self, value: Needing, origin: Origin, endpoints: list[EndpointConfig]) -> Iterator[Problem]:
        """A verb that leans on another one has it wherever it holds."""
        for verb in value.needs():
            for endpoint in endpoints:
                known = {one.candidate.verb for one in candidates_of_endpoint(self.schema, endpoint.name)}
                if verb not in known:
                    yield self.at(origin.path, f"expected `{verb}` on {endpoint.name}, which this needs")
                    break

    def placed_verbs(self) -> Iterator[tuple[str, Placed[object], list[EndpointConfig]]]:
        """Yield every verb as written, with the endpoints where it holds."""
        schema, every = self.schema, list(self.schema.endpoints.values())
        pages: list[tuple[Verbs, list[EndpointConfig]]] = []
        pages.extend((pool.verbs, []) for pool in schema.pools.values())
        pages.extend((plan.verbs, every) for plan in schema.plans.values())
        pages.extend((principal.verbs, every) for principal in schema.principals.values())
        pages.extend((endpoint.verbs, [endpoint]) for endpoint in every)
        pages.extend((policy.verbs, self.endpoints_of(policy)) for policy in schema.policies.values())
        pages.extend(
            (override.verbs, [one for one in every if one.name == name])
            for name, override in schema.overrides.items()
        )
        for verbs, endpoints in pages:
            for verb, all_placed in verbs.items():
                for placed in all_placed:
                    yield verb, placed, endpoints

    def endpoints_of(self, policy: PolicyConfig) -> list[EndpointConfig]:
        """Return the endpoints a policy is for."""
        every = self.schema.endpoints.values()
        return [one for one in every if names_endpoint(policy, one.name) is not None]

    def reference(
        self, reference: Reference, origin: Origin, endpoints: list[EndpointConfig]
    ) -> Iterator[Problem]:
        """A name must mean something at every endpoint where the verb holds."""
        sections = {"pool": "pools", "endpoint": "endpoints", "plan": "plans", "issuer": "issuers"}
        if reference.kind in sections:
            words = self.declared.of(sections[reference.kind])
            if reference.name not in words:
                yield self.unknown(f"a {reference.kind}", reference.name, origin.path, words)
            return
        if reference.kind == "model":
            if reference.name not in self.models():
                yield self.unknown("a model", reference.name, origin.path, self.models())
            return
        for endpoint in endpoints:
            words = self.words_for(reference, endpoint)
            if reference.name not in words and not self.means_a_pool(reference, endpoint):
                what = {"target": "a pool, version, label or newest"}.get(
                    reference.kind, f"a {reference.kind}"
                )
                yield self.unknown(f"{what} of {endpoint.name}", reference.name, origin.path, words)
                return

    def words_for(self, reference: Reference, endpoint: EndpointConfig) -> list[str]:
        """Return what a name of this kind can be at an endpoint."""
        match reference.kind:
            case "version":
                return list(endpoint.versions)
            case "label":
                return list(endpoint.labels)
        return [*endpoint.labels, *endpoint.versions, *self.declared.of("pools"), "newest"]

    def means_a_pool(self, reference: Reference, endpoint: EndpointConfig) -> bool:
        """Whether a target is found by a pool's `version:`."""
        is_target = reference.kind == "target"
        return is_target and target_pool(self.schema, endpoint, reference.name) is not None

    # Contradictions

    def ties(self) -> Iterator[Problem]:
        """Two of the same rank for one verb at one endpoint: neither wins."""
        seen: set[tuple[str, str]] = set()
        people = self.by_rank(candidates_of_people(self.schema))
        for endpoint in self.schema.endpoints:
            for rank, equals in self.by_rank(candidates_of_endpoint(self.schema, endpoint)).items():
                # Two pages of people never tie: nobody is two principals or on two plans.
                for first, second in (*combinations(equals, 2), *product(people.get(rank, ()), equals)):
                    pair = (first.origin.path, second.origin.path)
                    if pair not in seen and collide(first, second):
                        seen.add(pair)
                        yield self.tie(endpoint, first, second)

    def by_rank(self, candidates: Iterable[Ranked]) -> dict[tuple[object, ...], list[Candidate]]:
        """Group candidates of verbs that don't accumulate by verb and rank."""
        groups: dict[tuple[object, ...], list[Candidate]] = {}
        for ranked in candidates:
            kind = self.kinds.get(ranked.candidate.verb)
            if kind is not None and not kind.accumulates:
                groups.setdefault((kind.name, ranked.order), []).append(ranked.candidate)
        return groups

    def tie(self, endpoint: str, first: Candidate, second: Candidate) -> Problem:
        """Name both."""
        message = (
            f"expected one {first.verb} of this rank for {endpoint}, found two: {second.policy} here and "
            f"{first.policy} ({first.origin}); name the endpoint in one of them, or take one away"
        )
        return self.at(second.origin.path, message)

    def disagreeing_pool_verbs(self) -> Iterator[Problem]:
        """A pool has one breaker, one balance …, whoever wrote it."""
        seen: set[tuple[str, str]] = set()
        for pool, sources in pool_verb_sources(self.schema, self.kinds.values()).items():
            for verb, (first, *others) in sources.items():
                for other in others:
                    pair = (first.origin.path, other.origin.path)
                    if other.value != first.value and pair not in seen:
                        seen.add(pair)
                        message = (
                            f"expected one {verb} for the pool {pool}, found two that disagree: "
                            f"{other.policy} here and {first.policy} ({first.origin})"
                        )
                        yield self.at(other.origin.path, message)

    def fallback_loops(self) -> Iterator[Problem]:
        """A pool whose lesser answer comes, in the end, from itself."""
        edges = self.fallback_edges()
        reported: set[frozenset[str]] = set()
        for start in edges:
            loop = find_loop(start, edges)
            if loop and frozenset(loop) not in reported:
                reported.add(frozenset(loop))
                origin, name = edges[loop[-1]][start]
                message = f"expected fallbacks that end somewhere, found a loop: {' → '.join([*loop, start])}"
                yield self.at(origin.path, message, name)

    def fallback_edges(self) -> dict[str, dict[str, tuple[Origin, str]]]:
        """Return pool -> the pools that answer in its stead -> where that is written.

        A fallback to one of several pools an endpoint sends to is an edge from the others only.
        """
        edges: dict[str, dict[str, tuple[Origin, str]]] = {}
        for endpoint in self.schema.endpoints.values():
            primaries = reach(self.schema, endpoint.name, False, self.of_people)
            for reference, origin in references_at(self.schema, endpoint.name, self.of_people):
                pool = referred_pool(self.schema, endpoint, reference) if reference.fallback else None
                for primary in primaries if pool else ():
                    if primary != pool or len(primaries) == 1:
                        edges.setdefault(primary, {}).setdefault(pool or "", (origin, reference.name))
        return edges


def same_requests(first: Match, second: Match) -> bool:
    """Whether two matches are equally specific and one request could fit both: neither would win."""
    methods = not first.methods or not second.methods or bool(set(first.methods) & set(second.methods))
    same_count = bool(first.methods) == bool(second.methods)
    return (
        _shape(first.path) == _shape(second.path)
        and methods
        and same_count
        and set(first.hosts) == set(second.hosts)
        and bool(set(first.grpc) & set(second.grpc)) == bool(first.grpc or second.grpc)
        and dict(first.headers) == dict(second.headers)
    )


def _shape(path: str) -> tuple[str, ...]:
    """Return a path template without the names of its segments."""
    return tuple("{}" if part.startswith("{") and part.endswith("}") else part for part in path.split("/"))


def find_loop(start: str, edges: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return a path of nodes that leads from start back to it, without its last step; empty when none."""
    stack: list[list[str]] = [[start]]
    seen: set[str] = set()
    while stack:
        path = stack.pop()
        for following in edges.get(path[-1], ()):
            if following == start:
                return path
            if following not in seen:
                seen.add(following)
                stack.append([*path, following])
    return []
