"""The fixed part of the policy language: what may stand at the top of the files, as frozen structs.

Everything has a default, so that an empty folder runs. The verbs (throttle, cache, breaker …) are not here:
each lives in its filter's file and reaches `verbs` of a pool, endpoint, policy, plan, principal or override
through its `Kind`. Every field says its meaning once, for the decoder's errors, the JSON Schema and the
reference alike.

Origins and positions never take part in equality: state survives reloads by reuse on equality.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from gateway.config.certificates import authority_problems, pair_problems
from gateway.config.graphs import Graph
from gateway.config.kind import REQUIRED, Origin, Placed, internal, setting
from gateway.config.pem_file import PemFile
from gateway.config.recurring import Weekly
from gateway.config.secret import Secret
from gateway.config.units import Address, Duration, Instant, Network, Ratio, Size

Verbs: TypeAlias = Mapping[str, tuple[Placed[object], ...]]
Importance = Literal["critical", "normal", "sheddable"]
Speaks = Literal[
    "kserve-v2",
    "kserve-v2-grpc",
    "tensorflow-serving",
    "tensorflow-serving-grpc",
    "torchserve-grpc",
    "kserve-v1",
    "torchserve",
    "multi-model-server",
    "paddle-pipeline",
    "paddle-pipeline-grpc",
    "paddle-serving",
    "http",
    "grpc",
]
Failure = Literal["local", "open", "closed"]

_GRPC_PATTERN = re.compile(r"[A-Za-z0-9_.*]+(?:/[A-Za-z0-9_*]+)?")
_TENSOR = (
    r"\s*[^\s:,\[\]]+\s*:\s*(?:BOOL|U?INT(?:8|16|32|64)|FP(?:16|32|64)|BYTES)"
    r"\s*\[(?:\.\.\.|(?:\s*(?:-1|\d{1,9})\s*(?:,\s*(?:-1|\d{1,9})\s*)*)?)\]\s*"
)
_SIGNATURE = re.compile(f"{_TENSOR}(?:,{_TENSOR})*->{_TENSOR}(?:,{_TENSOR})*")
_CERTIFICATE_NAME = re.compile(r"(?:[A-Za-z0-9.]+=|DNS:|URI:|email:|IP:).+")
_KIB = 1024
_MIB = 1024 * 1024


def _check_signature(text: str) -> None:
    """ValueError unless the text is one that dialects/metadata.py reads."""
    if _SIGNATURE.fullmatch(text) is None:
        raise ValueError(f"expected e.g. input: FP32[-1,64] -> label: INT64[-1], found {text!r}")
    for side in text.split("->"):
        names = re.findall(r"([^\s:,\[\]]+)\s*:", side)
        if len(set(names)) < len(names):
            raise ValueError(f"expected tensors of different names, found {text!r}")


# Where it listens and what it leans on


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin API, registry and metrics: a port of their own."""

    address: Address = setting(
        Address("127.0.0.1", 9080), "where the admin API listens", example="127.0.0.1:9080", short=True
    )
    token: Secret | None = setting(
        None,
        "bearer token for all but /healthz, /readyz and /metrics; without it only loopback may ask",
        example="${env:HEADGATE_ADMIN_TOKEN}",
    )


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key."""

    cert: PemFile = setting(
        REQUIRED, "PEM file: the certificate, then its chain", example="/etc/headgate/tls.pem"
    )
    key: PemFile = setting(
        REQUIRED, "PEM file: its private key, without a passphrase", example="/etc/headgate/tls.key"
    )


@dataclass(frozen=True, slots=True)
class ListenTls(Certificate):
    """TLS with clients. Renewed files are taken over without a restart."""

    sni: Mapping[str, Certificate] = setting(
        {},
        "further certificates, by the name that clients ask for; *.example.org allowed",
        example="{api.example.org: {cert: api.pem, key: api.key}}",
    )
    client_ca: PemFile | None = setting(
        None, "PEM file: authorities whose client certificates are believed", example="clients-ca.pem"
    )
    client_cert: Literal["required", "optional"] = setting(
        "required", "with `client_ca`: must a client show a certificate", example="optional"
    )
    min_version: Literal["1.2", "1.3"] = setting("1.2", "oldest version of TLS", example="1.3")
    handshake_timeout: Duration = setting(
        Duration(10.0), "from the connection to the end of its handshake", example="10s", at_least=0.1
    )
    handshakes: int = setting(256, "handshakes at once; more wait their turn", "handshakes", at_least=1)

    def check(self) -> Iterable[str]:
        """Files that fit together, names that clients can ask for."""
        yield from pair_problems(self.cert, self.key)
        for name, pair in self.sni.items():
            plain = name.removeprefix("*.")
            if "*" in plain or not plain or ":" in plain or "/" in plain:
                yield f"expected a host name like api.example.org or *.example.org in sni, found {name!r}"
            yield from pair_problems(pair.cert, pair.key)
        if self.client_ca is not None:
            yield from authority_problems(self.client_ca)


@dataclass(frozen=True, slots=True)
class HttpListen:
    """A port that clients connect to."""

    address: Address = setting(
        Address("127.0.0.1", 8080), "host and port", example="127.0.0.1:8080", short=True
    )
    tls: ListenTls | None = setting(
        None, "encrypt; none: plain HTTP", example="{cert: /etc/headgate/tls.pem, key: /etc/headgate/tls.key}"
    )
    proxy_protocol: Literal["off", "trusted", "required"] = setting(
        "off",
        "PROXY protocol v1 or v2, believed from `limits.trusted_proxies` only; trusted: these must send it, "
        "others must not; required: nobody else may connect",
        example="required",
    )
    http2: bool = setting(True, "HTTP/2 too: by ALPN where there is TLS, else by prior knowledge")


@dataclass(frozen=True, slots=True)
class GrpcListen(HttpListen):
    """A port for gRPC clients: HTTP/2, the same policies."""

    address: Address = setting(
        Address("127.0.0.1", 8081), "host and port", example="127.0.0.1:8081", short=True
    )


@dataclass(frozen=True, slots=True)
class Listen:
    """The listening sockets."""

    http: HttpListen = setting(HttpListen(), "where clients come in", example="127.0.0.1:8080")
    grpc: GrpcListen | None = setting(
        None, "a second port, for gRPC clients; none: not bound", example="127.0.0.1:8081"
    )
    admin: Admin = setting(Admin(), "the admin API's own port", example="127.0.0.1:9080")


@dataclass(frozen=True, slots=True)
class LocalRegistry:
    """The built-in registry: leases over the admin API, on one machine."""

    snapshot: str | None = setting(
        None, "file that keeps the registrations over a restart", example="/var/lib/headgate/registry.json"
    )
    ttl: Duration = setting(
        Duration(10.0), "lease of a registration that names none", example="10s", at_least=1.0
    )


@dataclass(frozen=True, slots=True)
class EtcdRegistry:
    """An etcd v3 cluster, spoken to over its JSON gateway."""

    servers: tuple[str, ...] = setting(
        ("http://127.0.0.1:2379",), "the members' client URLs", example="[http://10.0.0.5:2379]", short=True
    )
    namespace: str = setting("default", "services of this namespace only", example="default")
    user: str | None = setting(None, "user name, where authentication is on", example="gateway")
    password: Secret | None = setting(None, "the user's password", example="${file:/run/secrets/etcd}")
    ca: str | None = setting(None, "PEM file of the authorities to trust", example="/etc/headgate/ca.pem")
    cert: str | None = setting(None, "PEM file of the client certificate", example="/etc/headgate/etcd.pem")
    key: str | None = setting(None, "PEM file of its private key", example="/etc/headgate/etcd.key")
    snapshot: str | None = setting(
        None,
        "file with the last known instances, for a start while etcd is away",
        example="/var/lib/headgate/etcd.json",
    )
    timeout: Duration = setting(Duration(5.0), "longest wait for one answer", example="5s", at_least=0.01)

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError("etcd needs at least one server")
        for server in self.servers:
            if urlsplit(server).scheme not in ("http", "https"):
                raise ValueError(f"expected etcd servers as http:// or https:// URLs, found {server!r}")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")


@dataclass(frozen=True, slots=True)
class FileRegistry:
    """A file of instances that another program keeps; watched."""

    path: str = setting(REQUIRED, "the YAML or JSON file", example="instances.yaml", short=True)


@dataclass(frozen=True, slots=True)
class Registry:
    """Where `find:` looks for instances: exactly one of these, or `static` for none."""

    local: LocalRegistry | None = setting(None, "the built-in registry", example="{}")
    etcd: EtcdRegistry | None = setting(None, "an etcd cluster", example="{servers: [http://10.0.0.5:2379]}")
    file: FileRegistry | None = setting(None, "a watched file", example="{path: instances.yaml}")

    def __post_init__(self) -> None:
        if sum(entry is not None for entry in (self.local, self.etcd, self.file)) > 1:
            raise ValueError("expected one registry, found several")

    @classmethod
    def from_text(cls, text: str) -> Registry:
        """Read `local`, `etcd` (its defaults) or `static`."""
        match text:
            case "local":
                return cls(local=LocalRegistry())
            case "etcd":
                return cls(etcd=EtcdRegistry())
            case "static" | "none":
                return cls()
        raise ValueError(f"expected local, static, {{etcd: …}} or {{file: …}}, found {text!r}")


@dataclass(frozen=True, slots=True)
class Store:
    """Where counters or cached answers are kept: this process's memory, or Redis."""

    url: str = setting(
        "memory", "memory, or a redis:// or rediss:// URL", example="redis://10.0.0.6:6379/0", hidden=True
    )
    password: Secret | None = setting(None, "Redis's password", example="${env:REDIS_PASSWORD}")
    timeout: Duration = setting(
        Duration(0.09), "after this the store counts as failed", example="90ms", at_least=0.001
    )
    size: Size = setting(Size(64 * _MIB), "bound of what memory keeps", example="64MiB")

    @classmethod
    def from_text(cls, text: str) -> Store:
        """Read `memory` or a URL."""
        return cls(url=text)

    def __post_init__(self) -> None:
        if self.url != "memory" and urlsplit(self.url).scheme not in (
            "redis",
            "rediss",
            "redis+sentinel",
            "redis+cluster",
        ):
            raise ValueError("expected memory, or a URL like redis://10.0.0.6:6379/0")

    @property
    def in_memory(self) -> bool:
        """Whether nothing leaves this process."""
        return self.url == "memory"


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores that policies lean on."""

    counters: Store = setting(Store(), "where throttles count", example="redis://10.0.0.6:6379/0")
    cache: Store = setting(Store(), "where answers are cached", example="memory")
    releases: str = setting(
        ".headgate/releases.json",
        "file that keeps the state of releases, or memory; a log of their events stands beside it",
        example="/var/lib/headgate/releases.json",
    )
    shared_releases: Store = setting(
        Store(),
        "where gateways agree on releases; memory: each decides by itself",
        example="redis://10.0.0.6",
    )
    quotas: str = setting(
        ".headgate/quotas.db",
        "file that keeps what was spent of quotas, or memory (each worker its own); not used with Redis",
        example="/var/lib/headgate/quotas.db",
    )
    on_store_failure: Failure = setting(
        "local", "while the counters are away: count here, let pass, or refuse", example="local"
    )


@dataclass(frozen=True, slots=True)
class Log:
    """What is written about the work."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least severe event that is written", example="info"
    )
    access: str = setting(
        "stdout", "one JSON line per request: stdout, stderr, off, or a file", example="/var/log/headgate.log"
    )
    sample: Ratio = setting(
        Ratio(1.0),
        "share of the answered requests that are written; refusals and errors always are",
        example="10%",
        at_least=0.0,
        at_most=1.0,
    )


@dataclass(frozen=True, slots=True)
class Telemetry:
    """OpenTelemetry traces."""

    otlp: str | None = setting(
        None, "OTLP/HTTP receiver; none: no traces leave", example="http://127.0.0.1:4318/v1/traces"
    )
    sample: Ratio = setting(
        Ratio(0.01),
        "share of requests traced when the client didn't decide",
        example="1%",
        at_least=0,
        at_most=1,
    )
    service: str = setting("headgate", "service.name of the spans", example="headgate")
    headers: Mapping[str, Secret] = setting(
        {}, "header fields for the receiver", example="{authorization: '${env:OTLP_TOKEN}'}"
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """The bound of every resource that a client could exhaust."""

    header_bytes: Size = setting(Size(32 * _KIB), "request head, request line included", at_least=512)
    header_count: int = setting(100, "header fields of one request", "fields", at_least=1)
    url_bytes: Size = setting(Size(8 * _KIB), "request target", at_least=64)
    body_bytes: Size = setting(Size(16 * _MIB), "request body that passes through", example="16MiB")
    buffered_bytes: Size = setting(
        Size(4 * _MIB), "body held whole because a verb needs it (rows, validation, cache)", example="4MiB"
    )
    answer_bytes: Size = setting(
        Size(16 * _MIB), "answer held whole because it is translated", example="16MiB"
    )
    stream_buffer: Size = setting(
        Size(64 * _KIB),
        "bytes in flight per direction before the sender is paused",
        example="64KiB",
        at_least=1024,
    )
    connections: int = setting(10_000, "client connections of one worker", "connections", at_least=1)
    connections_per_client: int = setting(
        1_000, "connections of one client address to one worker", "connections", at_least=1
    )
    header_timeout: Duration = setting(Duration(10.0), "whole request head, in all", example="10s")
    body_timeout: Duration = setting(Duration(60.0), "whole request body, in all", example="60s")
    idle_timeout: Duration = setting(Duration(75.0), "kept-alive connection without a request", example="75s")
    write_timeout: Duration = setting(
        Duration(60.0), "a client that takes no byte of its answer", example="60s"
    )
    request_timeout: Duration = setting(
        Duration(60.0), "whole exchange, where no timeout verb says otherwise", example="60s"
    )
    stream_idle: Duration = setting(
        Duration(300.0),
        "silence of an instance whose answer has no announced end (event streams, chunks): once its head is "
        "there, this takes the place of the timeout",
        example="5m",
        at_least=0.001,
    )
    tunnel_idle: Duration = setting(
        Duration(300.0), "silence of both sides of a tunnel (WebSocket)", example="5m", at_least=0.001
    )
    drain: Duration = setting(
        Duration(30.0), "how long requests under way may take to end after SIGTERM", example="30s"
    )
    underscores: Literal["reject", "pass"] = setting(
        "reject", "header names with an underscore, which some servers confuse with a hyphen"
    )
    faults: Literal["refused", "allowed"] = setting(
        "refused", "whether the verb `fault` may be written: errors and delays on purpose", example="allowed"
    )
    trusted_proxies: tuple[Network, ...] = setting(
        (), "networks whose X-Forwarded-* and Forwarded are believed", example="[10.0.0.0/8]"
    )


# What clients call and who serves it


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """One address written by hand."""

    address: Address = setting(REQUIRED, "host and port", example="127.0.0.1:9103", short=True)
    weight: float = setting(1.0, "share of traffic relative to the others", at_least=0.0)
    zone: str = setting("", "where it stands", example="eu-1a")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """A named set of interchangeable instances.

    Either `find` (looked up in the registry), or `instances` (written here), or a `graph` of other pools.
    """

    name: str = internal("")
    find: str | None = setting(None, "service to find in the registry", example="digits")
    instances: tuple[InstanceConfig, ...] = setting((), "addresses, host:port", example="[127.0.0.1:9103]")
    graph: Graph | None = setting(
        None, "it has no instances, but asks other pools", example="{sequence: [scale, classify]}"
    )
    version: str | None = setting(None, "only the registry's instances of this version", example="v1")
    speaks: Speaks = setting("http", "the protocol its instances understand", example="kserve-v2")
    http2: bool = setting(False, "HTTP/2 to its instances, by prior knowledge or ALPN; grpc always has it")
    model: str | None = setting(
        None, "the model's name upstream, where it isn't the endpoint's", example="digits"
    )
    signature: str | None = setting(
        None,
        "the model's tensors, where its server tells none (torchserve, multi-model-server, paddle)",
        example="input: FP32[-1,64] -> label: INT64[-1]",
    )
    verbs: Verbs = internal({})
    origin: Origin = internal(Origin(), compare=False)

    def __post_init__(self) -> None:
        if self.signature is not None:
            _check_signature(self.signature)
        said = [name for name in ("find", "instances", "graph") if getattr(self, name)]
        if len(said) != 1:
            raise ValueError(
                "expected one of `find: SERVICE`, `instances: [HOST:PORT, …]` or `graph: …`, found "
                + (" and ".join(said) or "none")
            )


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests an endpoint takes: all that is written must hold."""

    path: str = setting(
        "/**",
        "path template: {name} is one segment, a trailing /** the rest",
        example="/orders/{id}",
        short=True,
    )
    methods: tuple[str, ...] = setting((), "HTTP methods; none written: all", example="[GET, POST]")
    hosts: tuple[str, ...] = setting((), "host names, *.example.org allowed", example="[api.example.org]")
    headers: Mapping[str, str] = setting(
        {}, "header fields and the value each must have", example="{x-env: eu}"
    )
    grpc: tuple[str, ...] = setting(
        (),
        "gRPC calls, as service or service/method, * for any characters; instead of path and methods",
        example="[inference.GRPCInferenceService, 'tensorflow.serving.*/Predict']",
    )

    def __post_init__(self) -> None:
        if self.grpc and (self.path != "/**" or self.methods):
            raise ValueError("expected either grpc, or path and methods, found both")
        for pattern in self.grpc:
            if not _GRPC_PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"expected service or service/method, like inference.*/ModelInfer, found {pattern!r}"
                )
        if not self.path.startswith("/"):
            raise ValueError(
                f"expected a path that starts with '/', like /orders/{{id}}, found {self.path!r}"
            )
        for method in self.methods:
            if not method.isascii() or not method.isupper():
                raise ValueError(f"expected methods in capitals like GET, found {method!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """What clients call: the URLs of one model in every dialect, or any other API by `match`."""

    name: str = internal("")
    model: str | None = setting(None, "takes every URL of every dialect for this model", example="digits")
    match: Match | None = setting(None, "takes these requests instead", example="{path: '/orders/{id}'}")
    versions: Mapping[str, str] = setting(
        {}, "version as clients name it, and the pool that serves it", example="{1: digits-v1, 2: digits-v2}"
    )
    labels: Mapping[str, str] = setting(
        {}, "label and the version it means", example="{stable: 1, canary: 2}"
    )
    verbs: Verbs = internal({})
    origin: Origin = internal(Origin(), compare=False)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.match is None):
            found = "neither" if self.model is None else "both"
            raise ValueError(
                f"expected either `model: NAME` or `match: {{path: …}}` in an endpoint, found {found}"
            )


# Who calls


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """A class of terms that principals are on."""

    name: str = internal("")
    importance: Importance | None = setting(
        None, "who of this plan goes first, and first goes without", example="normal"
    )
    verbs: Verbs = internal({})
    origin: Origin = internal(Origin(), compare=False)


@dataclass(frozen=True, slots=True)
class HashedKey:
    """An API key as it is stored: its SHA-256, never itself.

    digest: 64 lower-case hexadecimal digits, hash of the key's UTF-8 bytes.
    """

    hash: str = setting(
        REQUIRED,
        "sha256: and 64 hexadecimal digits; `headgate keys new` prints key and hash",
        example="sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        short=True,
        hidden=True,
    )
    prefix: str = setting("", "first characters of the key, to know it by", example="hg_3fa9")
    expires: Instant | None = setting(None, "from then on it is refused", example="2027-01-01")
    revoked: bool = setting(False, "refused from now on")

    def __post_init__(self) -> None:
        scheme, _, digest = self.hash.partition(":")
        if scheme != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(
                "expected a hashed key, `sha256:` and 64 lower-case hexadecimal digits (`headgate keys new` "
                "prints one); keys never stand in clear text"
            )

    @property
    def digest(self) -> bytes:
        """The 32 bytes of the hash."""
        return bytes.fromhex(self.hash[7:])


@dataclass(frozen=True, slots=True)
class May:
    """What a principal may do; nothing is allowed that isn't written."""

    models: tuple[str, ...] = setting((), "models it may call, '*' for all", example="[digits]", short=True)
    endpoints: tuple[str, ...] = setting((), "endpoints it may call, '*' for all", example="[orders]")
    override: bool = setting(False, "choose pool or version by header")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalConfig:
    """Somebody with API keys or certificates."""

    name: str = internal("")
    plan: str = setting("", "the class of terms it is on", example="free")
    tenant: str = setting("", "the organisation that pays", example="acme")
    keys: tuple[HashedKey, ...] = setting((), "its keys, hashed; several while one replaces another")
    certificates: tuple[str, ...] = setting(
        (),
        "names in its client certificates: a whole subject (CN=billing,O=Acme), or CN=…, DNS:…, URI:…, "
        "email:…, IP:…",
        example="[CN=billing]",
    )
    may: May = setting(May(), "what it may call", example="{models: [digits]}")
    expires: Instant | None = setting(None, "from then on it is refused", example="2027-01-01")
    importance: Importance | None = setting(None, "overrules its plan's", example="critical")
    verbs: Verbs = internal({})
    origin: Origin = internal(Origin(), compare=False)

    def __post_init__(self) -> None:
        for name in self.certificates:
            if not _CERTIFICATE_NAME.fullmatch(name):
                raise ValueError(
                    "expected a name in a certificate like CN=billing, DNS:billing.internal, "
                    f"URI:spiffe://acme/billing, email:… or IP:…, found {name!r}"
                )


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claim of a token holds what; nested claims by dots (`realm.plan`)."""

    principal: str = setting("sub", "who it is", example="sub")
    plan: str | None = setting(None, "its plan", example="plan")
    tenant: str | None = setting(None, "its tenant", example="org")
    models: str | None = setting(None, "models it may call, a list", example="models")
    endpoints: str | None = setting(None, "endpoints it may call, a list", example="endpoints")


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """Who signs the tokens we believe (RFC 7519, RFC 8725)."""

    name: str = internal("")
    issuer: str = setting(REQUIRED, "the exact `iss` of its tokens", example="https://id.example")
    audiences: tuple[str, ...] = setting(REQUIRED, "one of these must be in `aud`", example="[gateway]")
    jwks: str = setting(
        REQUIRED, "its public keys: an https URL or a file", example="https://id.example/jwks.json"
    )
    algorithms: tuple[Algorithm, ...] = setting(
        ("RS256", "ES256", "EdDSA"), "the only ones accepted", example="[RS256, ES256]"
    )
    claims: Claims = setting(Claims(), "where its tokens say what", example="{principal: sub, plan: plan}")
    prefix: str = setting(
        "",
        "put before its principals' names, so that no two issuers, and no API key, name the same one",
        example="corp:",
    )
    plan: str = setting("", "plan of tokens that name none", example="free")
    tenant: str = setting("", "tenant of tokens that name none", example="acme")
    may: May = setting(May(), "what holders of its tokens may call, besides what claims say")
    leeway: Duration = setting(
        Duration(30.0), "clock difference allowed", example="30s", at_least=0, at_most=300
    )
    refresh: Duration = setting(Duration(600.0), "age at which its keys are fetched anew", example="10m")
    origin: Origin = internal(Origin(), compare=False)

    def __post_init__(self) -> None:
        if not self.audiences or not self.algorithms:
            raise ValueError("expected at least one audience and one algorithm, found an empty list")
        url = urlsplit(self.jwks)
        local = url.scheme == "http" and url.hostname in ("127.0.0.1", "::1", "localhost")
        if "://" in self.jwks and url.scheme != "https" and not local:
            raise ValueError(f"expected https:// or a file for jwks, found {url.scheme}://")


# What cuts across


@dataclass(frozen=True, slots=True)
class AppliesTo:
    """Which requests a policy is for: one of each list that is written."""

    endpoints: tuple[str, ...] = setting(
        ("*",), "endpoint names, * and ? allowed", example="[digits, 'orders-*']", short=True
    )
    plans: tuple[str, ...] = setting((), "plans", example="[free]")
    principals: tuple[str, ...] = setting((), "principals", example="[alice]")
    tenants: tuple[str, ...] = setting((), "tenants", example="[acme]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """A rule that cuts across endpoints."""

    name: str = internal("")
    applies_to: AppliesTo = setting(REQUIRED, "which requests it is for", example="{endpoints: '*'}")
    enforce: bool = setting(True, "false: decide, record and count without acting")
    from_: Instant | None = setting(None, "not before", example="2026-11-22 18:00Z")
    until: Instant | None = setting(None, "not after", example="2026-11-23 06:00Z")
    during: tuple[Weekly, ...] = setting(
        (),
        "hours of the week, in any of which it holds; none: always",
        example="Mon-Fri 08:00-18:00 Europe/Berlin",
    )
    verbs: Verbs = internal({})
    origin: Origin = internal(Origin(), compare=False)

    def __post_init__(self) -> None:
        if self.from_ is not None and self.until is not None and self.until <= self.from_:
            raise ValueError("expected until after from")


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideConfig:
    """What an operator set for one endpoint, until a given instant; it beats everything else."""

    endpoint: str = internal("")
    until: Instant = setting(REQUIRED, "when it ends by itself", example="2026-11-22 18:00Z")
    verbs: Verbs = internal({})
    origin: Origin = internal(Origin(), compare=False)


@dataclass(frozen=True, slots=True)
class Schema:
    """A whole policy folder, read and checked."""

    listen: Listen = setting(Listen(), "where it listens")
    workers: int | Literal["auto"] = setting(
        1,
        "processes that serve, under a supervisor if several; auto: one per processor core",
        example=2,
        at_least=1,
        at_most=256,
    )
    registry: Registry = setting(
        Registry(local=LocalRegistry()), "where instances are found", example="local"
    )
    stores: Stores = setting(Stores(), "where counters and cached answers are kept")
    log: Log = setting(Log(), "what is written about the work")
    telemetry: Telemetry = setting(Telemetry(), "traces")
    limits: Limits = setting(Limits(), "bounds of every resource")
    pools: Mapping[str, PoolConfig] = setting({}, "sets of interchangeable instances, by name")
    endpoints: Mapping[str, EndpointConfig] = setting({}, "what clients call, by name")
    plans: Mapping[str, PlanConfig] = setting({}, "classes of terms, by name", example="{free: {}, pro: {}}")
    principals: Mapping[str, PrincipalConfig] = setting({}, "who may call, by name")
    issuers: Mapping[str, IssuerConfig] = setting({}, "whose tokens are believed, by name")
    policies: Mapping[str, PolicyConfig] = setting({}, "rules that cut across endpoints, by name")
    overrides: Mapping[str, OverrideConfig] = internal({})
