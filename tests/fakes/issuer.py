"""A token issuer for tests: real keys, real signatures, and a KeySource that says what it is told to."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.pipeline.ports import StoreUnavailable
from gateway.pipeline.promise import Eventual, Promise

PrivateKey = Any
ISSUER = "https://id.example"
AUDIENCE = "gateway"


@cache
def private_key(name: str) -> PrivateKey:
    """Return a key pair by name: made once, for making RSA keys takes time."""
    kind = name.split("-")[0]
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "weak":
            return rsa.generate_private_key(65537, 1024)
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed":
            return ed25519.Ed25519PrivateKey.generate()
    raise KeyError(name)


def sign(
    claims: Mapping[str, object], key: str, algorithm: str, kid: str | None = None, **header: object
) -> bytes:
    """Return a token as a well-behaved issuer makes it; header: further members."""
    members: dict[str, Any] = {**({} if kid is None else {"kid": kid}), **header}
    return jwt.encode(dict(claims), private_key(key), algorithm, headers=members).encode()


def part(value: object) -> bytes:
    """Return one part of a token, base64url without padding; bytes and texts as they are."""
    data = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else None
    return urlsafe_b64encode(json.dumps(value).encode() if data is None else data).rstrip(b"=")


def sign_raw(header: object, claims: object, key: str, algorithm: str) -> bytes:
    """Return a token whose header and claims no library would write, with a true signature over them."""
    signed = part(header) + b"." + part(claims)
    method = jwt.PyJWS().get_algorithm_by_name(algorithm)
    return signed + b"." + part(method.sign(signed, method.prepare_key(private_key(key))))


class FakeKeys:
    """Implements ports.KeySource over a dict. away: nothing can be fetched. slow: keys come by `arrive`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """keys: kid -> name of a key pair."""
        self.keys = {kid: private_key(name).public_key() for kid, name in keys.items()}
        self.asked: list[tuple[str | None, str]] = []
        self.away = False
        self.slow = False
        self._waiting: list[tuple[str | None, Promise[object | None]]] = []

    def key(self, kid: str | None, algorithm: str) -> Eventual[object | None]:
        self.asked.append((kid, algorithm))
        if not self.away and not self.slow:
            return self.keys.get(kid or "")
        promise: Promise[object | None] = Promise()
        if self.away:
            promise.reject(StoreUnavailable("away"))
        else:
            self._waiting.append((kid, promise))
        return promise

    def arrive(self) -> None:
        """The fetch came back."""
        waiting, self._waiting = self._waiting, []
        for kid, promise in waiting:
            promise.resolve(self.keys.get(kid or ""))
