"""Who is known: API keys by their hash, certificates and principals by name.

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
    """One key, or the certificates, of one principal.

    expires: s since the epoch, None = never; revoked keys stay, to be told apart.
    """

    principal: Principal
    expires: float | None = None
    revoked: bool = False


class Directory:
    """The principals of one configuration. Immutable; shared by all endpoints of a snapshot."""

    __slots__ = ("_credentials", "_holders", "_named", "_principals")

    def __init__(
        self,
        credentials: Mapping[bytes, Credential],
        principals: Iterable[Principal],
        holders: Mapping[str, Credential] | None = None,
        named: Mapping[str, Credential] | None = None,
    ) -> None:
        """credentials: SHA-256 digest (32 bytes) -> credential.

        holders: a certificate's name (ports.ClientCertificate.names) -> who lists it. named: by principal.
        """
        self._credentials = dict(credentials)
        self._holders = dict(holders or {})
        self._named = dict(named or {})
        self._principals = {principal.name: principal for principal in principals}

    def credential(self, key: bytes) -> Credential | None:
        """Return the credential of a presented key, or None.

        Expiry and revocation are the caller's to judge.
        """
        return self._credentials.get(sha256(key).digest())

    def holder(self, name: str) -> Credential | None:
        """Return who lists a certificate's name."""
        return self._holders.get(name)

    def by_name(self, name: str) -> Credential | None:
        """Return a principal by name, with its expiry."""
        return self._named.get(name)

    def principal(self, name: str) -> Principal | None:
        """Return a principal by name."""
        return self._principals.get(name)

    def __repr__(self) -> str:
        return f"<Directory {len(self._principals)} principals, {len(self._credentials)} keys>"
