"""A script on Redis and its two ways to be called: by digest, or by text where the server forgot it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache


class Script:
    """A Lua script, ready to be called."""

    __slots__ = ("_by_digest", "_by_text")

    def __init__(self, text: bytes) -> None:
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        self._by_digest = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % digest
        self._by_text = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(text), text)

    def command(self, keys: Sequence[bytes], arguments: Sequence[bytes], *, by_text: bool) -> bytes:
        """Return the call as one RESP command."""
        count = b"%d" % len(keys)
        return b"".join(
            [
                b"*%d\r\n" % (3 + len(keys) + len(arguments)),
                self._by_text if by_text else self._by_digest,
                b"$%d\r\n%b\r\n" % (len(count), count),
                *[b"$%d\r\n%b\r\n" % (len(part), part) for part in (*keys, *arguments)],
            ]
        )


@lru_cache(maxsize=4096)
def number(value: float) -> bytes:
    """Write a float so that nothing of it is lost."""
    return b"%.17g" % value
