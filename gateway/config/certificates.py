"""Whether certificates, keys and authorities can be used: asked of the TLS library before anything runs.

What `headgate check` says of a certificate is what the listener would meet: the same library reads the same
files. Expiry is no problem here: a gateway whose certificate ran out must still start.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gateway.config.pem_file import PemFile


def pair_problems(cert: PemFile, key: PemFile) -> Iterator[str]:
    """Yield why a certificate and its private key can't be used together."""
    if (why := reason_against_pair(cert.path, key.path)) is not None:
        yield f"expected a certificate and its private key, found {cert.path} and {key.path}: {why}"


def authority_problems(ca: PemFile) -> Iterator[str]:
    """Yield why a file of authorities can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca.path)
    except OSError as error:  # ssl.SSLError is one
        yield f"expected certificates of authorities, found {ca.path}: {_reason(error)}"
        return
    if not context.get_ca_certs():
        yield f"expected certificates of authorities, found none that may sign others in {ca.path}"


def reason_against_pair(cert: str, key: str) -> str | None:
    """Say why the TLS library refuses a certificate file and a key file; None: it takes them."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except OSError as error:  # ssl.SSLError is one
        return _look_inside(cert, key) or _reason(error)
    return None


def _look_inside(cert: str, key: str) -> str | None:
    """Say what the library keeps to itself: it only calls a file it can't read `PEM lib`."""
    with suppress(OSError):
        secret = Path(key).read_bytes()
        if b"ENCRYPTED" in secret:
            return (
                "the key is encrypted; keep it without a passphrase in a file that only the gateway may read"
            )
        if b"PRIVATE KEY-----" not in secret:
            return "a PEM block is missing: a private key in `key`"
        if b"BEGIN CERTIFICATE" not in Path(cert).read_bytes():
            return "a PEM block is missing: a certificate in `cert`"
    return None


def _reason(error: OSError) -> str:
    """Say it in words where OpenSSL's are known; none of them holds a secret."""
    words = {
        "KEY_VALUES_MISMATCH": "the key is not this certificate's",
        "KEY_TYPE_MISMATCH": "the key is not this certificate's",
        "EE_KEY_TOO_SMALL": "the key is too short to be safe",
        "CA_MD_TOO_WEAK": "it is signed with a hash that is not safe any more",
    }
    known = getattr(error, "reason", None)
    return words.get(str(known), str(known or "the TLS library can't read it"))
