"""The credential that comes with a request: found, proven, and refused where it proves nothing.

What may be taken as proof is written in authenticate.py.

401 means that the credential proves nothing; `code` says why, `WWW-Authenticate` what would do (RFC 6750 §3).
A token whose issuer can't be reached is not wrong but unproven: 503, unless a key fetched earlier still
verifies it. No message, record or repr holds a credential or a part of one; verified tokens are kept under
their SHA-256.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.config.schema import IssuerConfig
from gateway.http.message import Headers, Request, Response
from gateway.pipeline import tokens
from gateway.pipeline.context import Context
from gateway.pipeline.directory import Directory
from gateway.pipeline.errors import Refusal
from gateway.pipeline.moments import Filter
from gateway.pipeline.ports import ClientCertificate, Clock, KeySource, Principal, StoreUnavailable
from gateway.pipeline.promise import Eventual, Promise

TOKENS_KEPT: Final = 4096
ISSUER_RETRY: Final = 1.0  # s, what a client hears while an issuer is away
_QUOTABLE: Final = str.maketrans({'"': "'", "\\": "/"})  # RFC 6750 §3: not in error_description


class AuthenticateFilter(Filter):
    """Sets `ctx.principal` and `ctx.credential_field`, or refuses."""

    name = "authenticate"

    def __init__(
        self,
        policy: str,
        directory: Directory,
        issuers: Mapping[str, tuple[IssuerConfig, KeySource]],
        clock: Clock,
        *,
        methods: Collection[str],
        header: bytes,
        query: bytes,
        bearer: bool,
        named_by: str | None,
        longest: int,
    ) -> None:
        """issuers: by the exact `iss` of their tokens. header, query, bearer: where a key may stand.

        named_by: prefix of the name in a certificate that is its principal's; None: there is none.
        longest: bytes of a key or token.
        """
        self._keys = "api_key" in methods
        self._tokens = "jwt" in methods
        self._header = header if self._keys else b""
        self._query = query if self._keys else b""
        self._bearer = self._tokens or bearer
        self._key_as_bearer = self._keys and bearer
        self._certificates = "certificate" in methods
        self._named_by = named_by
        self._longest = longest
        self._tokens_kept = TOKENS_KEPT
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
        if len(self._verified) >= self._tokens_kept:
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
