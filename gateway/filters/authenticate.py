"""Who is calling: API keys by their hash, bearer tokens by their issuer's signature, certificates by name.

`authenticate: [api_key, jwt]` takes either, `authenticate: none` takes everybody and names nobody. A key
stands in `X-API-Key` (another field by `header`, a query parameter by `query`) or as `Authorization: Bearer`;
a token only as the latter. Where both are taken, a bearer credential with two dots is a token. Exactly one
credential may come with a request: two, or a field sent twice, could be read differently by whoever stands
behind, and are refused.

`certificate` takes the client certificate that the listener verified (`listen.http.tls.client_ca`). It is
the connection's, so a key or token, which is the request's own, comes before it. Its holder is the principal
that lists one of its names, or, where `certificate:` says so, the one that is named like it.

How a credential is found and proven: credentials.py.

What is known of keys and issuers comes from `Parts` and belongs to one snapshot: an edit of principals or
issuers makes this filter anew, even where its rule stays equal, so that a revoked key and a narrowed audience
count at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.config.kind import Reference, setting
from gateway.config.units import Size
from gateway.filters.credentials import AuthenticateFilter as AuthenticateFilter
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule

Method = Literal["api_key", "jwt", "certificate", "none"]
CertificateName = Literal["listed", "subject", "common_name", "dns", "uri", "email"]

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
    proving = AuthenticateFilter(
        rule.policy,
        parts.directory,
        issuers,
        parts.clock,
        methods=config.methods,
        header=config.header.lower().encode(),
        query=(config.query or "").encode(),
        bearer=config.bearer,
        named_by=_PREFIXES.get(config.certificate),
        longest=int(config.token_bytes),
    )
    return [proving]


KIND = FilterKind(
    "authenticate",
    Authenticate,
    summary="who is calling: API keys, tokens of known issuers, or client certificates",
    by_principal=False,
    build=_build,
)
