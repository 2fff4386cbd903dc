"""What is measured: one row per kind of work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from loadtests.bench.closed import Load

Kind = Literal["closed", "latency", "memory", "growth"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work.

    variant: the peers' configuration. load: what is sent, for closed rows. otherwise: a peer's own load,
    where it can't do the common one. lesser: what a peer leaves undone that the others do, in words; its
    ratio then stands in brackets. governed: the policy must be seen to act. cached: answers must not come
    from the instance. share: of the run's rounds, less than 1 where windows are long.
    """

    name: str
    title: str
    variant: str
    kind: Kind = "closed"
    load: Load = field(default_factory=Load)
    otherwise: Mapping[str, Load] = field(default_factory=dict)
    lesser: Mapping[str, str] = field(default_factory=dict)
    governed: bool = False
    cached: bool = False
    share: float = 1.0

    def rounds_of(self, rounds: int) -> int:
        """Return how many of a run's rounds this row gets."""
        return max(1, round(rounds * self.share))

    def load_of(self, peer: str) -> Load:
        """Return what is sent to this peer."""
        return self.otherwise.get(peer, self.load)


_KEYS: Final = Load(keys=True)
_GET: Final = replace(_KEYS, method="GET")
_MIB: Final = 1024 * 1024


def _bytes(size: int, connections: int, seconds: int) -> Load:
    return Load(target=f"/bytes/{size}", body=size, connections=connections, seconds=seconds)


ALL: Final = {
    row.name: row
    for row in (
        Row("plain", "plain proxying", "plain"),
        Row("policy", "equal policy", "policy", load=_KEYS, governed=True),
        Row(
            "cache",
            "cache hit behind the same policy",
            "cache",
            load=_KEYS,
            otherwise={"haproxy": _GET, "varnish": _GET},
            lesser={"varnish": "GET, one pattern for all keys, no bucket, no split, no log file"},
            governed=True,
            cached=True,
        ),
        Row("64k", "64 KiB up and down", "plain", load=_bytes(64 * 1024, 16, 1)),
        Row("10m", "10 MiB up and down", "plain", load=_bytes(10 * _MIB, 2, 2), share=0.5),
        Row("connect", "new connection per request", "plain", load=Load(close=True)),
        Row("tls", "TLS 1.3, kept alive", "tls", load=Load(tls=True)),
        Row("latency", "latency added at 500 requests/s", "plain", "latency"),
        Row("latency-policy", "the same with equal policy", "policy", "latency", load=_KEYS, governed=True),
        Row("memory", "memory per idle connection", "plain", "memory"),
        Row("growth", "cost as it grows", "plain", "growth", share=0.67),
    )
}
