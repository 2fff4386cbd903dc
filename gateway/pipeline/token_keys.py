"""Public keys of token issuers, and the signatures they verify: all that needs a cryptography library.

It takes some 10 MB, so it is imported where there is an issuer, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast, get_args

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.config.schema import Algorithm

RSA_BITS: Final = 2048  # NIST SP 800-131A: smaller ones are broken or about to be
ALGORITHMS: Final[tuple[str, ...]] = get_args(Algorithm)
_CURVES: Final[Mapping[str, str]] = {"ES256": "secp256r1", "ES384": "secp384r1"}
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "RSA": ("n", "e"),
    "EC": ("crv", "x", "y"),
    "OKP": ("crv", "x"),
}
_JWS: Final = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class Key:
    """One public key. algorithm: the only one it is for, where its issuer says so."""

    kid: str | None
    algorithm: str | None
    public: object

    def is_for(self, algorithm: str) -> bool:
        """Tell whether tokens signed by this algorithm may be checked with it."""
        return self.algorithm in (None, algorithm) and fits(self.public, algorithm)


def fits(key: object, algorithm: str) -> bool:
    """Tell whether this public key is of the type, curve and size that the algorithm needs."""
    if algorithm[:2] in ("RS", "PS"):
        return isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS
    if algorithm in _CURVES:
        return isinstance(key, EllipticCurvePublicKey) and key.curve.name == _CURVES[algorithm]
    return algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey)


def is_signed(token: bytes, key: object, algorithm: str) -> bool:
    """Tell whether the token (compact form) bears the signature of this key's owner. The key fits."""
    try:
        _JWS.decode(token, cast(RSAPublicKey, key), algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
    return True


def read_key(jwk: Mapping[str, object]) -> Key | None:
    """Read one JWK; None where it is for something else, private, symmetric, weak or broken."""
    kid, algorithm, kind, operations = jwk.get("kid"), jwk.get("alg"), jwk.get("kty"), jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    if not isinstance(kid, str | None) or not isinstance(algorithm, str | None) or "d" in jwk:
        return None
    if not isinstance(kind, str) or kind not in _MEMBERS:
        return None
    if not all(isinstance(jwk.get(member), str) for member in _MEMBERS[kind]):
        return None
    try:
        public = _public(kind, dict(jwk))
    except (jwt.PyJWTError, ValueError):
        return None
    if not any(fits(public, name) for name in ALGORITHMS):
        return None
    return Key(kid, "EdDSA" if algorithm == "Ed25519" else algorithm, public)  # RFC 9864 has the new name


def _public(kind: str, jwk: dict[str, object]) -> object:
    if kind == "RSA":
        return RSAAlgorithm.from_jwk(jwk)
    return ECAlgorithm.from_jwk(jwk) if kind == "EC" else OKPAlgorithm.from_jwk(jwk)
