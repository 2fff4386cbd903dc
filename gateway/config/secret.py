"""A value that must not be seen: no repr, no log line, no error message shows it.

In YAML it is always a reference, `${env:NAME}` or `${file:PATH}`, resolved when the files are loaded.
"""

from __future__ import annotations

import hmac


class Secret:
    """Text that only `reveal` shows; equal secrets compare equal, in constant time."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself; for the one line that sends or compares it."""
        return self._text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (self._text,))
