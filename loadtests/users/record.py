"""One answer as one JSON line: what the client saw, and what the gateway said of it in its header fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    """sent: s, monotonic. took: s until the last byte. status: 0 when there was no answer.

    quotas: rates by policy, as RateLimit-Policy tells them. problem: why it counts as a failure, or "".
    """

    sent: float
    took: float
    user: str
    status: int
    version: str = ""
    pool: str = ""
    instance: str = ""
    cache: str = ""
    degraded: str = ""
    reason: str = ""
    policy: str = ""
    quotas: str = ""
    problem: str = ""

    @classmethod
    def of(
        cls,
        sent: float,
        took: float,
        user: str,
        status: int,
        headers: Mapping[str, object],
        problem: str,
    ) -> Answer:
        """Gather what the header fields say."""

        def field(name: str) -> str:
            value = headers.get(name)
            return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")

        return cls(
            sent,
            took,
            user,
            status,
            version=field("x-headgate-version"),
            pool=field("x-headgate-pool"),
            instance=field("x-headgate-instance"),
            cache=field("cache-status"),
            degraded=field("x-degraded"),
            reason=field("x-headgate-reason"),
            policy=field("x-headgate-policy"),
            quotas=field("ratelimit-policy"),
            problem=problem,
        )

    @property
    def received(self) -> float:
        """When the last byte was there."""
        return self.sent + self.took

    @property
    def hit(self) -> bool:
        """Whether the cache answered (RFC 9211)."""
        return "; hit" in self.cache

    @property
    def missed(self) -> bool:
        """Whether the cache looked, had nothing and let this very request through (not behind another)."""
        return "fwd=miss" in self.cache and "collapsed" not in self.cache

    def quota(self, policy: str) -> int | None:
        """The number of requests that this policy allows per window, if the answer tells."""
        for part in self.quotas.split(","):
            name, *parameters = (piece.strip() for piece in part.split(";"))
            if name.strip('"') == policy:
                return next((int(one[2:]) for one in parameters if one.startswith("q=")), None)
        return None


class Recorder:
    """Writes answers to a file, in blocks."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1 << 18)

    def write(self, answer: Answer) -> None:
        """Append one answer; fields that say nothing are left out."""
        fields = {name: value for name, value in asdict(answer).items() if value not in ("", None)}
        self._file.write(json.dumps(fields) + "\n")

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def read(path: Path) -> Iterator[Answer]:
    """Read the answers back."""
    with path.open() as lines:
        for line in lines:
            yield Answer(**json.loads(line))
