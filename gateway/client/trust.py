"""Whom the clients believe over https: the system's authorities, or those of a PEM file."""

from __future__ import annotations

import ssl
from pathlib import Path


def context(ca: str) -> ssl.SSLContext:
    """Return what connections are made with. ca: a PEM file, "" for the system's. ValueError names it."""
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:  # ssl.SSLError is one
        no_pem = "expected a PEM file (`-----BEGIN CERTIFICATE-----`)"
        raise ValueError(f"{ca}: {no_pem if isinstance(error, ssl.SSLError) else error.strerror}") from error


def roots(ca: str) -> bytes | None:
    """Return what gRPC channels are made with: the file's bytes, once they proved to be certificates."""
    if not ca:
        return None
    context(ca)
    return Path(ca).read_bytes()
