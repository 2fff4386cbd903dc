"""Which instances have what a request needs: a guess at their caches, from what was sent to them.

A request is a chain of blocks (64-bit hashes, each of all before it and its own): one block for a session or
an adapter, many for the prefix of a prompt. An instance that was sent a chain has it, until it was sent
`capacity` other blocks since (a cache is full) or `ttl` seconds have passed (a cache forgets). The picker
turns the share that an instance has into a bonus in its cost (picker.LeastCost.pick_warm): never a pin, so
the hottest prefix spreads by itself as soon as waiting costs more than computing it anew.

Memory: at most `capacity` blocks per instance, some 200 bytes each.

Source: SGLang's cache-aware router and llm-d's prefix scorer (an index of what was routed); simulated in
loadtests/sims/affinity.py, where the index mirrors the caches' evictions: one that doesn't, lies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set


class Affinity:
    """The guess of one pool. capacity: blocks per instance. ttl: seconds."""

    __slots__ = ("_kept", "_where", "capacity", "hits", "misses", "ttl")

    def __init__(self, capacity: int = 10_000, ttl: float = 600.0) -> None:
        self.capacity = capacity
        self.ttl = ttl
        self.hits = 0  # requests whose first block somebody had
        self.misses = 0
        self._where: dict[
            int, dict[int, float]
        ] = {}  # block -> instance's key -> when it was sent there last
        self._kept: dict[int, OrderedDict[int, None]] = {}  # instance's key -> its blocks, the oldest first

    def warm(self, blocks: Sequence[int], now: float) -> dict[int, float]:
        """Return the share of the chain, from its beginning, of those instances that have any of it."""
        found: dict[int, float] = {}
        oldest = now - self.ttl
        for depth, block in enumerate(blocks, 1):
            holders = self._where.get(block)
            if holders is None:
                break
            share = depth / len(blocks)
            before = share - 1.0 / len(blocks) - 1e-9
            gone_on = False
            for key, sent in holders.items():
                if sent >= oldest and (depth == 1 or found.get(key, -1.0) >= before):
                    found[key] = share
                    gone_on = True
            if not gone_on:
                break
        if found:
            self.hits += 1
        else:
            self.misses += 1
        return found

    def placed(self, blocks: Sequence[int], key: int, now: float) -> None:
        """Learn that a request was sent to the instance `key`."""
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = OrderedDict()
        for block in reversed(blocks):  # the beginning of a chain last: it is used most and goes last
            kept[block] = None
            kept.move_to_end(block)
            holders = self._where.get(block)
            if holders is None:
                self._where[block] = {key: now}
            else:
                holders[key] = now
        while len(kept) > self.capacity:
            block, _ = kept.popitem(last=False)
            self._drop(block, key)

    def retain(self, keys: Set[int]) -> None:
        """Forget all other instances."""
        for key in self._kept.keys() - keys:
            for block in self._kept.pop(key):
                self._drop(block, key)

    def _drop(self, block: int, key: int) -> None:
        holders = self._where[block]
        del holders[key]
        if not holders:
            del self._where[block]

    def __repr__(self) -> str:
        blocks, instances = len(self._where), len(self._kept)
        return f"<Affinity {blocks} blocks at {instances} instances | {self.hits} hits, {self.misses} misses>"
