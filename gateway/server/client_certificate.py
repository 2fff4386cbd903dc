"""What a verified client certificate says of its holder, as names that policies can list.

CN=billing,O=Acme,C=DE      the subject, as RFC 4514 writes it: most specific part first
CN=billing                  its common name alone, where it has exactly one
DNS:billing.internal        subject alternative names, as OpenSSL writes them: DNS, URI, email, IP
URI:spiffe://acme/billing
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, cast

from gateway.pipeline.ports import ClientCertificate

_SHORT: Final[Mapping[str, str]] = {  # RFC 4514 §3
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_ALTERNATIVES: Final[Mapping[str, str]] = {"DNS": "DNS", "URI": "URI", "email": "email", "IP Address": "IP"}

Pairs: TypeAlias = tuple[tuple[str, str], ...]


def read_client_certificate(connection: ssl.SSLObject) -> ClientCertificate | None:
    """Return whose certificate was verified, None when the client showed none."""
    certificate = connection.getpeercert()  # empty unless it was verified
    if not certificate:
        return None
    subject = cast(tuple[Pairs, ...], certificate.get("subject", ()))
    alternatives = cast(Pairs, certificate.get("subjectAltName", ()))
    return describe(subject, alternatives)


def describe(subject: Iterable[Pairs], alternatives: Iterable[tuple[str, str]]) -> ClientCertificate:
    """Write subject and alternative names, given as `SSLObject.getpeercert` has them, as texts."""
    parts = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in rdn) for rdn in subject
    ]
    text = ",".join(reversed(parts))
    names = {text: None} if text else {}
    common = [part for part in parts if part.startswith("CN=")]
    if len(common) == 1:
        names[common[0]] = None
    for kind, value in alternatives:
        if kind in _ALTERNATIVES:
            names[f"{_ALTERNATIVES[kind]}:{value}"] = None
    return ClientCertificate(text, tuple(names))


def _escaped(value: str) -> str:
    """Escape what would be read as structure. RFC 4514 §2.4."""
    text = "".join("\\" + one if one in '"+,;<>\\' else "\\00" if one == "\0" else one for one in value)
    if text.startswith(("#", " ")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and text != "\\ " else text
