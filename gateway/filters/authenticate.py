"""Who is calling: API keys by their hash, bearer tokens by their issuer's signature, certificates by name.

`authenticate: [api_key, jwt]` takes either, `authenticate: none` takes everybody and names nobody. A key
stands in `X-API-Key` (another field by `header`, a query parameter by `query`) or as `Authorization: Bearer`;
a token only as the latter. Where both are taken, a bearer credential with two dots is a token. Exactly one
credential may come with a request: two, or a field sent twice, could be read differently by whoever stands
behind, and are refused.

`certificate` takes the client certificate that the listener verified (`listen.http.tls.client_ca`). It is
the connection's, so a key or token, which is the request's own, comes before it. Its holder is the principal
that lists one of its names, or, where `certificate:` says so, the one that is named like it.

401 means that the credential proves nothing; `code` says why, `WWW-Authenticate` what would do (RFC 6750 §3).
A token whose issuer can't be reached is not wrong but unproven: 503, unless a key fetched earlier still
verifies it. No message, record or repr holds a credential or a part of one; verified tokens are kept under
their SHA-256.

What is known of keys and issuers comes from `Parts` and belongs to one snapshot: an edit of principals or
issuers makes this filter anew, even where its rule stays equal, so that a revoked key and a narrowed audience
count at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from gateway.config.kind import Reference, setting
from gateway.config.schema import IssuerConfig
from gateway.config.units import Size
from gateway.http.message import Headers, Request, Response
from gateway.pipeline import tokens
from gateway.pipeline.context import Context
from gateway.pipeline.directory import Directory
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.ports import ClientCertificate, Clock, KeySource, Principal, StoreUnavailable
from gateway.pipeline.promise import Eventual, Promise

Method = Literal["api_key", "jwt", "certificate", "none"]
CertificateName = Literal["listed", "subject", "common_name", "dns", "uri", "email"]

TOKENS_KEPT: Final = 4096
ISSUER_RETRY: Final = 1.0  # s, what a client hears while an issuer is away
_PREFIXES: Final[Mapping[str, str]] = {  # of ClientCertificate.names
    "subject": "",
    "common_name": "CN=",
    "dns": "DNS:",
    "uri": "URI:",
    "email": "email:",
}
_TOKEN_CHARACTERS: Final = frozenset(
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
)  # RFC 9110 §5.6.2
_QUOTABLE: Final = str.maketrans({'"': "'", "\\": "/"})  # RFC 6750 §3: not in error_description


@dataclass(frozen=True, slots=True)
class Authenticate:
    """How callers prove who they are."""

    methods: tuple[Method, ...] = setting(
        ("api_key", "jwt"),
        "what is taken as proof; none: nobody is asked",
        example="[api_key, jwt]",
        short=True,
    )
    header: str = setting("x-api-key", "field that holds an API key", example="x-api-key")
    query: str | None = setting(
        None, "query parameter that may hold an API key instead; logs tend to keep URLs", example="api_key"
    )
    bearer: bool = setting(True, "take API keys as `Authorization: Bearer` too")
    certificate: CertificateName = setting(
        "listed",
        "part of a verified certificate that is its principal's name, where no principal lists it under "
        "`certificates`; listed: none is",
        example="common_name",
    )
    issuers: tuple[str, ...] = setting(
        (), "issuers whose tokens are taken; none written: all", example="[corp]"
    )
    token_bytes: Size = setting(Size(8 * 1024), "longest key or token", example="8KiB", at_least=16)

    def __post_init__(self) -> None:
        if not self.methods or ("none" in self.methods and len(self.methods) > 1):
            raise ValueError("expected some of api_key, jwt and certificate, or none alone")
        if not self.header or not set(self.header.lower().encode()) <= _TOKEN_CHARACTERS:
            raise ValueError(f"expected the name of a header field like x-api-key, found {self.header!r}")
        if self.header.lower() in ("authorization", "cookie"):
            raise ValueError("expected a header field of its own; `bearer: true` reads Authorization")
        if self.query == "":
            raise ValueError("expected the name of a query parameter, found an empty one")

    def names(self) -> Iterable[Reference]:
        """The issuers."""
        return [Reference("issuer", name, reached=False) for name in self.issuers]


class Anybody(Filter):
    """`authenticate: none`: acts at no moment, and still counts as the rule that was chosen."""

    name = "authenticate"


class AuthenticateFilter(Filter):
    """Sets `ctx.principal` and `ctx.credential_field`, or refuses."""

    name = "authenticate"

    def __init__(
        self,
        config: Authenticate,
        policy: str,
        directory: Directory,
        issuers: Mapping[str, tuple[IssuerConfig, KeySource]],
        clock: Clock,
    ) -> None:
        """issuers: by the exact `iss` of their tokens."""
        self._keys = "api_key" in config.methods
        self._tokens = "jwt" in config.methods
        self._header = config.header.lower().encode() if self._keys else b""
        self._query = config.query.encode() if self._keys and config.query else b""
        self._bearer = self._tokens or config.bearer
        self._key_as_bearer = self._keys and config.bearer
        self._certificates = "certificate" in config.methods
        self._named_by = _PREFIXES.get(config.certificate)
        self._longest = int(config.token_bytes)
        self._policy = policy
        self._directory = directory
        self._issuers = dict(issuers)
        self._clock = clock
        self._verified: dict[
            bytes, tuple[Principal, float]
        ] = {}  # SHA-256 -> whose, until (s since the epoch)

    # Finding the credential

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Find the one credential, and prove it."""
        key = bearer = None
        for name, value in ctx.request.headers:
            if name == self._header:
                if key is not None:
                    return self._two(f"the field {name.decode()} comes twice")
                key = value
            elif name == b"authorization" and self._bearer:
                if bearer is not None:
                    return self._two("the field authorization comes twice")
                bearer = value
        if bearer is not None:
            scheme, _, bearer = bearer.partition(b" ")
            if scheme.lower() != b"bearer":
                bearer = None  # another scheme (RFC 9110 §11.4) is no proof here, and none of our business
        if self._query and ctx.request.query:
            found = _take_parameter(ctx.request, self._query)
            if len(found) + (key is not None) > 1:
                return self._two("more than one API key came with the request")
            key = found[0] if found else key
        if key is not None:
            if bearer is not None:
                return self._two(f"both {self._header.decode()} and Authorization hold a credential")
            return self._api_key(ctx, key, self._header)
        if bearer is not None:
            return self._bearer_credential(ctx, bearer.strip(b" "))
        if self._certificates and ctx.peer.certificate is not None:
            return self._certificate(ctx, ctx.peer.certificate)
        return self._refuse("missing_credentials", f"this endpoint asks for {self._wanted()}")

    def _bearer_credential(self, ctx: Context, value: bytes) -> Eventual[Response | Refusal | None]:
        if not value:
            return self._refuse("invalid_token", "Authorization holds no bearer credential", "invalid_token")
        if self._tokens and (value.count(b".") == 2 or not self._key_as_bearer):
            return self._token(ctx, value)
        return self._api_key(ctx, value, b"authorization")

    # API keys

    def _api_key(self, ctx: Context, key: bytes, field: bytes) -> Refusal | None:
        if len(key) > self._longest:
            return self._refuse("oversized_credential", f"an API key has at most {self._longest} bytes")
        error = "invalid_token" if field == b"authorization" else ""
        known = self._directory.credential(key)
        if known is None:
            return self._refuse("invalid_key", "the API key is not known here", error)
        if known.revoked:
            return self._refuse("revoked_key", "the API key was revoked", error)
        if known.expires is not None and self._clock.wall() >= known.expires:
            return self._refuse("expired_key", "the API key has expired", error)
        self._admit(ctx, known.principal, field)
        return None

    # Certificates

    def _certificate(self, ctx: Context, certificate: ClientCertificate) -> Refusal | None:
        """Find whose verified certificate it is; one that two principals could claim is nobody's."""
        directory = self._directory
        holders = {
            known.principal.name: known
            for known in map(directory.holder, certificate.names)
            if known is not None
        }
        if not holders and self._named_by is not None:
            for name in self._names_in(certificate, self._named_by):
                if (known := directory.by_name(name)) is not None:
                    holders[name] = known
        if len(holders) != 1:
            code, found = ("ambiguous", "several principals'") if holders else ("unknown", "no principal's")
            return self._refuse(f"{code}_certificate", f"the client certificate is {found}")
        known = next(iter(holders.values()))
        if known.expires is not None and self._clock.wall() >= known.expires:
            return self._refuse("expired_principal", "the certificate's principal has expired")
        self._admit(ctx, known.principal, b"")
        return None

    @staticmethod
    def _names_in(certificate: ClientCertificate, prefix: str) -> list[str]:
        if not prefix:
            return [certificate.subject]
        whole = certificate.subject  # `CN=a,O=b` begins like a common name, too
        names = (name for name in certificate.names if name != whole or "," not in name)
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    # Tokens

    def _token(self, ctx: Context, token: bytes) -> Eventual[Response | Refusal | None]:
        if len(token) > self._longest:
            return self._refuse(
                "oversized_credential", f"a token has at most {self._longest} bytes", "invalid_token"
            )
        digest = sha256(token).digest()
        kept = self._verified.get(digest)
        if kept is not None:
            if self._clock.wall() < kept[1]:
                self._admit(ctx, kept[0], b"authorization")
                return None
            del self._verified[digest]
        try:
            unverified = tokens.read(token)
            config, source = self._issuer(unverified)
        except tokens.InvalidToken as wrong:
            return self._refuse(wrong.code, wrong.message, "invalid_token")
        key = source.key(unverified.kid, unverified.algorithm)
        if not isinstance(key, Promise):
            return self._prove(ctx, digest, unverified, key, config)
        return self._prove_later(ctx, digest, unverified, key, config)

    def _issuer(self, unverified: tokens.Unverified) -> tuple[IssuerConfig, KeySource]:
        """Return who is said to have signed it, with an algorithm it may use: before any key is asked for."""
        known = self._issuers.get(unverified.issuer)
        if known is None:
            raise tokens.InvalidToken("the token is not of an issuer that is known here", "unknown_issuer")
        if unverified.algorithm not in known[0].algorithms:
            raise tokens.InvalidToken("the token's algorithm is not one that its issuer may use")
        return known

    def _prove_later(
        self,
        ctx: Context,
        digest: bytes,
        unverified: tokens.Unverified,
        key: Promise[object | None],
        config: IssuerConfig,
    ) -> Promise[Response | Refusal | None]:
        proven = Promise[Response | Refusal | None]()

        def failed(error: Exception) -> None:
            if isinstance(error, StoreUnavailable):
                proven.resolve(self._unproven(config))
            else:
                proven.reject(error)

        def found(known: object | None) -> Eventual[Response | Refusal | None]:
            return self._prove(ctx, digest, unverified, known, config)

        key.chain(found).then(proven.resolve, failed)
        return proven

    def _prove(
        self,
        ctx: Context,
        digest: bytes,
        unverified: tokens.Unverified,
        key: object | None,
        config: IssuerConfig,
    ) -> Refusal | None:
        if key is None:
            return self._refuse(
                "unknown_token_key", "the issuer has no key that the token names", "invalid_token"
            )
        wall = self._clock.wall()
        try:
            expires = tokens.verify(unverified, key, config, wall)
            principal = tokens.whose(unverified.claims, config)
        except tokens.InvalidToken as wrong:
            return self._refuse(wrong.code, wrong.message, "invalid_token")
        # Not longer than the issuer's keys are kept: a key it withdrew must not live on here.
        self._keep(digest, principal, min(expires, wall + config.refresh))
        self._admit(ctx, principal, b"authorization")
        return None

    def _keep(self, digest: bytes, principal: Principal, until: float) -> None:
        """Remember a verified token; the oldest goes when there are too many."""
        if len(self._verified) >= TOKENS_KEPT:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = (principal, until)

    def _unproven(self, config: IssuerConfig) -> Refusal:
        return Refusal(
            503,
            "issuer_unavailable",
            f"the keys of issuer '{config.name}' can't be fetched now, so the token can't be checked",
            policy=self._policy,
            retry_after=ISSUER_RETRY,
        )

    # Verdicts

    def _admit(self, ctx: Context, principal: Principal, field: bytes) -> None:
        ctx.principal = principal
        ctx.credential_field = field
        if ctx.trail is not None:
            numbers = {"principal": principal.name, "plan": principal.plan, "tenant": principal.tenant}
            ctx.note(self.name, "known", self._policy, numbers=numbers)

    def _refuse(self, code: str, message: str, error: str = "") -> Refusal:
        return Refusal(401, code, message, policy=self._policy, headers=self._challenges(error, message))

    def _two(self, message: str) -> Refusal:
        return Refusal(400, "several_credentials", f"{message}; send exactly one", policy=self._policy)

    def _challenges(self, error: str, message: str) -> Headers:
        """WWW-Authenticate, a field per scheme; an error only where a bearer came (RFC 6750 §3.1)."""
        challenges: Headers = []
        if self._bearer:
            told = message.translate(_QUOTABLE)
            said = f', error="{error}", error_description="{told}"' if error else ""
            challenges.append(
                (b"www-authenticate", f'Bearer realm="headgate"{said}'.encode("ascii", "replace"))
            )
        if self._keys:
            challenges.append((b"www-authenticate", b'ApiKey realm="headgate", header="%b"' % self._header))
        if self._certificates:
            challenges.append((b"www-authenticate", b'Certificate realm="headgate"'))
        return challenges

    def _wanted(self) -> str:
        ways = [f"an API key in {self._header.decode()}"] if self._keys else []
        if self._tokens:
            ways.append("a token as Authorization: Bearer")
        if self._certificates:
            ways.append("a client certificate")
        return " or ".join(ways)

    def __repr__(self) -> str:
        return f"<AuthenticateFilter {self._wanted()} | {len(self._verified)} tokens kept>"


def _take_parameter(request: Request, name: bytes) -> list[bytes]:
    """Take a query parameter out of the request: the key goes neither upstream nor into a cache key."""
    found: list[bytes] = []
    kept: list[bytes] = []
    for pair in request.query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if unquote_to_bytes(key) == name:
            found.append(unquote_to_bytes(value))
        else:
            kept.append(pair)
    if found:
        request.query = b"&".join(kept)
        request.target = request.path + b"?" + request.query if request.query else request.path
    return found


def _build(rules: Sequence[Rule[Authenticate]], parts: Parts) -> Iterable[Filter]:
    rule = rules[0]
    config = rule.value
    if config.methods == ("none",):
        return [Anybody()]
    wanted = config.issuers or tuple(parts.issuer_configs)
    issuers = {
        parts.issuer_configs[name].issuer: (parts.issuer_configs[name], parts.issuers[name])
        for name in wanted
        if name in parts.issuer_configs and name in parts.issuers
    }
    return [AuthenticateFilter(config, rule.policy, parts.directory, issuers, parts.clock)]


KIND = FilterKind(
    "authenticate",
    Authenticate,
    summary="who is calling: API keys, tokens of known issuers, or client certificates",
    by_principal=False,
    build=_build,
)
