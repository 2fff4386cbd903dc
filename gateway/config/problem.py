"""What is wrong in the policy files, and where: collected, never raised, so that one run names everything."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.config.kind import Origin


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A position in a file; line and column start at 1. Line 0: the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def origin(self, path: str, policy: str = "") -> Origin:
        """Return the same position as values carry it."""
        return Origin(self.file, self.line, self.column, path, policy)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One finding: `digits.yaml:12:15: endpoints.digits.timeout: expected a duration …, found 'fast'`.

    path: keys from the top of the file, empty where the file itself is the problem.
    """

    mark: Mark
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.mark), self.path, self.message) if part)


def nearest(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean 'X'?` for the valid word closest to `word`, or an empty text."""
    known = {str(known).lower(): str(known) for known in words}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.65)
    return f"; did you mean '{known[close[0]]}'?" if close else ""


def listing(words: Iterable[str], conjunction: str = "or") -> str:
    """Write words as `a, b or c`."""
    *most, last = list(words) or ["nothing"]
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def join(path: str, key: str) -> str:
    """Return the path of a mapping's value; keys that aren't plain words are quoted."""
    plain = key.replace("-", "").replace("_", "").isalnum()
    return f"{path}.{key}" if plain and path else key if plain else f"{path}[{key!r}]"
