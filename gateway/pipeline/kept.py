"""Pieces of a body that somebody needs whole, or that nobody can have yet."""

from __future__ import annotations


class Kept:
    """Pieces in the order in which they came. limit: bytes that they may have together."""

    __slots__ = ("_pieces", "limit", "size")

    def __init__(self, limit: int) -> None:
        self._pieces: list[bytes] = []
        self.limit = limit
        self.size = 0

    def add(self, data: bytes) -> bool:
        """Keep a piece; False: it is more than the limit now."""
        self._pieces.append(data)
        self.size += len(data)
        return self.size <= self.limit

    def whole(self) -> bytes:
        """Return all of it."""
        return b"".join(self._pieces)

    def __repr__(self) -> str:
        return f"<Kept {self.size} bytes of {self.limit}>"
