"""Bearer tokens: from bytes that anybody may have written to claims that a known issuer signed.

No I/O, no clock.

    read      strict compact form (three base64url parts, canonical, no padding), strict JSON (no member
              twice), and a header that asks for nothing we don't do
    verify    algorithm by configuration and by the key's own type, then signature, then audience and times
    whose     claims -> Principal

The rules are RFC 8725's. The token chooses neither algorithm nor key: `alg` must be one that the issuer's
configuration names and that the key's type can have (§3.1, §3.2), `kid` is only looked up among the
issuer's own keys, and a header that brings a key or says where to get one (`jwk`, `jku`, `x5u`, `x5c`) is
refused, like `crit`, which nobody here understands (RFC 7515 §4.1.11). Only tokens of type JWT or access
token (`at+jwt`, RFC 9068) are read: others were signed for another purpose (§3.11). The issuer is chosen by
the unverified `iss` among those that are configured and is believed only after its key verified the
signature.

PyJWT verifies signatures (token_keys.py). Claims are judged here: the time is an argument, and what is
missing is refused.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import isfinite
from typing import Final, cast

from gateway.config.schema import IssuerConfig
from gateway.pipeline.ports import Principal

LONGEST_NAME: Final = 256  # characters of a kid, and of whatever a claim names
_TYPES: Final = frozenset({"JWT", "AT+JWT", "APPLICATION/JWT", "APPLICATION/AT+JWT"})
_BRINGS_A_KEY: Final = ("jwk", "jku", "x5u", "x5c")
_MISSING: Final = object()


class InvalidToken(Exception):
    """A token that proves nothing.

    code: invalid_token, unknown_issuer, wrong_audience, expired_token or token_not_yet_valid. The message is
    fit for a client and holds no part of the token.
    """

    def __init__(self, message: str, code: str = "invalid_token") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True, repr=False)
class Unverified:
    """What a token says of itself: to look up issuer and key by, and nothing else."""

    token: bytes
    algorithm: str
    kid: str | None
    issuer: str
    claims: Mapping[str, object]

    def __repr__(self) -> str:
        return f"<Unverified {self.algorithm} token of {len(self.token)} B>"


# Reading


def read(token: bytes) -> Unverified:
    """Take a token apart without believing it; raises InvalidToken. The caller bounds its length."""
    parts = token.split(b".")
    if len(parts) != 3:
        raise InvalidToken("the token is not of the form header.claims.signature")
    header = _object(_decoded(parts[0]), "header")
    claims = _object(_decoded(parts[1]), "claims")
    _decoded(parts[2])
    algorithm, kid, issuer = header.get("alg"), header.get("kid"), claims.get("iss")
    _check_header(header)
    if not isinstance(algorithm, str):
        raise InvalidToken("the token names no algorithm")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= LONGEST_NAME):
        raise InvalidToken("the token's kid is not a short text")
    if not isinstance(issuer, str) or not issuer:
        raise InvalidToken("the token names no issuer")
    return Unverified(token, algorithm, kid, issuer, claims)


def _decoded(part: bytes) -> bytes:
    """Decode base64url as RFC 7515 §2 has it: no padding, no foreign byte, one spelling only."""
    try:
        data = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise InvalidToken("a part of the token is not base64url") from None
    if not data or urlsafe_b64encode(data).rstrip(b"=") != part:
        raise InvalidToken("a part of the token is not base64url")
    return data


def _object(data: bytes, what: str) -> dict[str, object]:
    try:
        value: object = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # ValueError: also undecodable bytes and endless integers
        raise InvalidToken(f"the token's {what} can't be read") from None
    if not isinstance(value, dict):
        raise InvalidToken(f"the token's {what} can't be read")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is named twice")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _check_header(header: Mapping[str, object]) -> None:
    if "crit" in header or "b64" in header:
        raise InvalidToken("the token demands an extension that is not understood here")
    for name in _BRINGS_A_KEY:
        if name in header:
            raise InvalidToken(
                f"the token brings its own key ({name}); only the issuer's published keys count"
            )
    if "zip" in header or "enc" in header or "cty" in header:
        raise InvalidToken("encrypted, compressed or nested tokens are not read")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.upper() not in _TYPES:
        raise InvalidToken("the token is not an access token (typ)")


# Verifying


def verify(unverified: Unverified, key: object, config: IssuerConfig, wall: float) -> float:
    """Check signature, audience and times of a token of this issuer; wall: s since the epoch.

    Returns the instant (s since the epoch, leeway included) at which it expires. Raises InvalidToken.
    """
    from gateway.pipeline.token_keys import fits, is_signed  # loaded with the first issuer

    algorithm = unverified.algorithm
    if algorithm not in config.algorithms or not fits(key, algorithm):
        raise InvalidToken("the token's algorithm is not one that its issuer may use")
    if not is_signed(unverified.token, key, algorithm):
        raise InvalidToken("the token's signature is wrong")
    if unverified.issuer != config.issuer:
        raise InvalidToken("the token is not of an issuer that is known here", "unknown_issuer")
    if config.audiences and not _audiences(unverified.claims) & set(config.audiences):
        raise InvalidToken("the token is for another audience", "wrong_audience")
    return _check_times(unverified.claims, config.leeway, wall)


def _audiences(claims: Mapping[str, object]) -> set[str]:
    """Return who the token is for (RFC 7519 §4.1.3: a text or a list of them)."""
    value = claims.get("aud")
    found: list[object] = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in found):
        raise InvalidToken("the token is for no audience", "wrong_audience")
    return set(cast("list[str]", found))


def _check_times(claims: Mapping[str, object], leeway: float, wall: float) -> float:
    expires = _instant(claims, "exp")
    if expires is None:
        raise InvalidToken("the token never expires (no exp)")
    if wall >= expires + leeway:
        raise InvalidToken("the token has expired", "expired_token")
    for name in ("nbf", "iat"):
        starts = _instant(claims, name)
        if starts is not None and wall + leeway < starts:
            raise InvalidToken("the token is not valid yet", "token_not_yet_valid")
    return expires + leeway


def _instant(claims: Mapping[str, object], name: str) -> float | None:
    value = claims.get(name, _MISSING)
    if value is _MISSING:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken(f"the token's {name} is not a number")
    try:
        instant = float(value)
    except OverflowError:
        raise InvalidToken(f"the token's {name} is not an instant") from None
    if not isfinite(instant):
        raise InvalidToken(f"the token's {name} is not an instant")
    return instant


# Whose it is


def whose(claims: Mapping[str, object], config: IssuerConfig) -> Principal:
    """Return the principal that verified claims speak of; raises InvalidToken where they name none.

    What a claim says beats the issuer's default for plan and tenant, and adds to what its tokens may call. A
    name means the same principal whoever says it, so issuers that don't know of each other need a `prefix`.
    """
    at = config.claims
    name = _text(claims, at.principal)
    if name is None:
        raise InvalidToken(f"the token has no claim '{at.principal}' that says whose it is")
    return Principal(
        name=config.prefix + name,
        plan=_text(claims, at.plan) or config.plan,
        tenant=_text(claims, at.tenant) or config.tenant,
        models=frozenset((*config.may.models, *_names(claims, at.models))),
        endpoints=frozenset((*config.may.endpoints, *_names(claims, at.endpoints))),
        may_override=config.may.override,
        claims=claims,
    )


def _claim(claims: Mapping[str, object], path: str) -> object:
    """Return a claim, a nested one by dots; a claim whose own name has dots (an URL) goes first."""
    if path in claims:
        return claims[path]

    def inside(value: object, name: str) -> object:
        return value.get(name) if isinstance(value, dict) else None

    return reduce(inside, path.split("."), cast(object, claims))


def _text(claims: Mapping[str, object], path: str | None) -> str | None:
    value = None if path is None else _claim(claims, path)
    if value is None:
        return None
    return _name(value, path)


def _names(claims: Mapping[str, object], path: str | None) -> Iterable[str]:
    """Return a claim's list of names; one text is split at spaces, as scopes are (RFC 8693 §4.2)."""
    value = None if path is None else _claim(claims, path)
    if value is None:
        return ()
    found: list[object] = list(value.split()) if isinstance(value, str) else cast("list[object]", value)
    if not isinstance(found, list):
        raise InvalidToken(f"the token's claim '{path}' is not a list of names")
    return [_name(one, path) for one in found]


def _name(value: object, path: str | None) -> str:
    """Return a name that can go into a header field: no control characters, so no fields of its own."""
    if isinstance(value, str) and value and len(value) <= LONGEST_NAME and value.isprintable():
        return value
    raise InvalidToken(f"the token's claim '{path}' is not a plain name")
