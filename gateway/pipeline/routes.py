"""Which endpoint takes a request: models by name, everything else by path, host, method and header.

A model endpoint takes every URL that some dialect knows for its model. Others are kept in a tree of path
segments: at each segment a literal goes before a `{parameter}`, that before a closing `/**`; at one place
the endpoint with more conditions (methods, hosts, headers) goes first. gRPC's services and methods are
paths of two segments in the same tree, all of them POST. What was found for a method and path is kept, so
that a warm request costs one dict look-up, however many endpoints there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gateway.config.schema import Match
from gateway.dialects.catalogue import recognise, reread
from gateway.dialects.protocol import Operation, Target
from gateway.http.message import Request
from gateway.pipeline.snapshot import Endpoint, Found

KEPT = 8192  # method-and-path pairs; paths that clients make up must not fill the memory
LONGEST_KEPT = 256  # bytes of a path that is kept: 2 MiB in all, however long URLs may be


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint and the conditions beside its path, as bytes."""

    endpoint: Endpoint
    methods: frozenset[bytes]
    hosts: tuple[bytes, ...]
    headers: tuple[tuple[bytes, bytes], ...]
    call: str = ""  # a pattern of gRPC's service and method, "" for any path

    @classmethod
    def of(cls, endpoint: Endpoint, match: Match, call: str = "") -> Route:
        """Make a route from the checked config; call: one of `match.grpc`."""
        return cls(
            endpoint,
            frozenset((b"POST",) if call else (method.encode() for method in match.methods)),
            tuple(host.lower().encode() for host in match.hosts),
            tuple(sorted((name.lower().encode(), value.encode()) for name, value in match.headers.items())),
            call,
        )

    @property
    def conditions(self) -> int:
        """How much it asks beside the path: more goes first."""
        spelt_out = len(self.call.replace("*", ""))
        return spelt_out * 64 + len(self.headers) * 4 + (2 if self.hosts else 0) + (1 if self.methods else 0)

    @property
    def by_path_alone(self) -> bool:
        """Whether method and path decide."""
        return not self.hosts and not self.headers

    def takes(self, request: Request) -> bool:
        """Tell whether the request meets the conditions, its method aside."""
        if "*" in self.call and not _call_fits(self.call, request.path):
            return False
        if self.hosts and not any(_host_fits(pattern, request.host) for pattern in self.hosts):
            return False
        return all(request.header(name) == value for name, value in self.headers)


def _host_fits(pattern: bytes, host: bytes) -> bool:
    host = host.lower()
    if not host.endswith(b"]") and b":" in host:
        host = host.rpartition(b":")[0]
    if pattern.startswith(b"*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


def _path_of(call: str) -> str:
    """Return the template of a call's path: a segment with a star in it is a parameter."""
    service, _, method = call.partition("/")
    return "".join("/{any}" if "*" in part else f"/{part}" for part in (service, method or "*"))


def _call_fits(call: str, path: bytes) -> bool:
    service, _, method = call.partition("/")
    return fnmatchcase(path.decode("latin-1"), f"/{service}/{method or '*'}")


class _Node:
    """One segment of the tree."""

    __slots__ = ("literals", "parameter", "rest", "routes")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.rest: list[Route] = []
        self.routes: list[Route] = []


class Routes:
    """All endpoints of a snapshot. `find` is what Snapshot.find_endpoint is made of."""

    __slots__ = ("_kept", "_models", "_root")

    def __init__(self, models: Iterable[Endpoint], matched: Iterable[tuple[Endpoint, Match]]) -> None:
        self._models = {endpoint.model: endpoint for endpoint in models}
        self._root = _Node()
        self._kept: dict[tuple[bytes, bytes], Found] = {}
        for endpoint, match in matched:
            for call in match.grpc:
                self._add(_path_of(call), Route.of(endpoint, match, call))
            if not match.grpc:
                self._add(match.path, Route.of(endpoint, match))

    def _add(self, path: str, route: Route) -> None:
        node = self._root
        segments = path.encode().split(b"/")[1:]
        for position, segment in enumerate(segments):
            if segment == b"**" and position == len(segments) - 1:
                node.rest.append(route)
                node.rest.sort(key=lambda other: -other.conditions)
                return
            if segment.startswith(b"{") and segment.endswith(b"}"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        node.routes.append(route)
        node.routes.sort(key=lambda other: -other.conditions)

    def find(self, request: Request) -> Found:
        """Return the endpoint that takes the request, and what its URL says in some dialect."""
        if request.method == b"OPTIONS":
            asked = method_asked_for(request)
            if asked is not None:
                found = self._find(request, asked)
                return Found(found.endpoint, None, found.allowed)
        return self._find(request, request.method)

    def _find(self, request: Request, method: bytes) -> Found:
        key = (method, request.path)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        target = recognise(method, request.path)
        call = None
        if target is not None and target.dialect.is_grpc:
            call, target = target, None
        if target is not None:
            endpoint = self._models.get(target.model)
            if endpoint is None and target.operation is Operation.INFER and not target.model:
                endpoint, target = self._only_model(target)
            if endpoint is not None and endpoint.pool is not None:
                target = reread(target, method, request.path, endpoint.pool.speaks)
            if endpoint is not None or (not target.model and self._models):
                return self._keep(key, Found(endpoint, target))
        candidates = list(_walk(self._root, request.path.split(b"/")[1:]))
        fitting = [route for route in candidates if route.takes(request)]
        if call is not None and self._models and not fitting:  # who matches calls by name has them first
            return self._keep(key, Found(None, call, models=self._models if call.inside else None))
        for route in fitting:
            if not route.methods or method in route.methods:
                found = Found(route.endpoint, None)
                return self._keep(key, found) if all(r.by_path_alone for r in candidates) else found
        allowed = sorted({method.decode() for route in fitting for method in route.methods})
        return Found(None, target, tuple(allowed))

    def _only_model(self, target: Target) -> tuple[Endpoint | None, Target]:
        """A prediction whose URL names no model is for the only one there is."""
        if len(self._models) != 1:
            return None, target
        (endpoint,) = self._models.values()
        return endpoint, replace(target, model=endpoint.model)

    def _keep(self, key: tuple[bytes, bytes], found: Found) -> Found:
        if len(key[1]) <= LONGEST_KEPT:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = found
        return found

    def __repr__(self) -> str:
        return f"<Routes {len(self._models)} models, {len(self._kept)} paths kept>"


def method_asked_for(request: Request) -> bytes | None:
    """Return the method that a browser's preflight asks leave for: its endpoint is meant (Fetch §3.2.2).

    None where the request is no preflight.
    """
    if request.header(b"origin") is None:
        return None
    return request.header(b"access-control-request-method")


def _walk(node: _Node, segments: list[bytes]) -> Iterable[Route]:
    """Yield every route whose path fits, most specific path first."""
    if not segments:
        yield from node.routes
    else:
        head, tail = segments[0], segments[1:]
        literal = node.literals.get(head)
        if literal is not None:
            yield from _walk(literal, tail)
        if node.parameter is not None and head:
            yield from _walk(node.parameter, tail)
        yield from node.rest
