"""Files that the policies name by path and that are read again with them: certificates, keys, authorities.

A `PemFile` is a path and what its contents hash to. So two schemas differ when a certificate was renewed in
place, and everything that follows from "a reload keeps what is equal" holds for certificates too. The
contents are not kept: a private key stays in its file until the TLS library reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PemFile:
    """A readable file of PEM blocks. path: absolute, or relative to the working directory."""

    path: str
    digest: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.path


def parse_pem_path(text: str) -> PemFile:
    """Read the path; the decoder finds the file, relative to the policy folder."""
    if not text:
        raise ValueError("expected the path of a PEM file, found nothing")
    return PemFile(text)


def read_pem_file(folder: Path, name: str) -> PemFile:
    """Look into the file. Raises ValueError when it can't be read or holds no PEM block."""
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"expected a readable PEM file, found {str(path)!r}: {error.strerror}") from None
    if b"-----BEGIN " not in data:
        raise ValueError(f"expected a PEM file (`-----BEGIN …`), found something else in {str(path)!r}")
    return PemFile(str(path), sha256(data).hexdigest())
