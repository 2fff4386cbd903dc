"""Who is known: API keys by their hash, principals by name.

Keys are stored as SHA-256 digests, never in clear. A key is 128 bits or more of chance (`headgate keys
new`), so a fast hash is right: there is nothing to guess by dictionary. Looking a digest up in a dict leaks
no more than the digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from gateway.pipeline.ports import Principal


@dataclass(frozen=True, slots=True)
class Credential:
    """One key of one principal.

    expires: s since the epoch, None = never; revoked keys stay, to be told apart.
    """

    principal: Principal
    expires: float | None = None
    revoked: bool = False


class Directory:
    """The principals of one configuration. Immutable; shared by all endpoints of a snapshot."""

    __slots__ = ("_credentials", "_principals")

    def __init__(self, credentials: Mapping[bytes, Credential], principals: Iterable[Principal]) -> None:
        """credentials: SHA-256 digest (32 bytes) -> credential."""
        self._credentials = dict(credentials)
        self._principals = {principal.name: principal for principal in principals}

    def credential(self, key: bytes) -> Credential | None:
        """Return the credential of a presented key, or None.

        Expiry and revocation are the caller's to judge.
        """
        return self._credentials.get(sha256(key).digest())

    def principal(self, name: str) -> Principal | None:
        """Return a principal by name."""
        return self._principals.get(name)

    def __repr__(self) -> str:
        return f"<Directory {len(self._principals)} principals, {len(self._credentials)} keys>"
