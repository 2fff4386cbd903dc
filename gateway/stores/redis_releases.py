"""The table at which gateways agree on releases: three keys on one Redis, two scripts.

    leader     whose turn it is, for `LEASE` s; renewed at every meeting
    evidence   what gateways gathered and people asked for, in order, until the leader has taken it in
    state      what the leader decided last, with what it had heard by then

`meet` hands in what is new and returns what there is; `decide` writes the state and drops the evidence that
is in it, both or neither, and only while the lease is the caller's: a leader that was stopped for a minute
writes nothing over the work of the next one. All keys carry one hash tag (Redis Cluster). Evidence that
nobody takes in is bounded (`MOST` entries, `OLD` s).

Source: the Redis documentation, "SET" (NX and PX), "Scripting with Lua"; Kleppmann, How to do distributed
locking (2016), for the fence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.pipeline.ports import StoreUnavailable
from gateway.stores.redis import RedisClient
from gateway.stores.resp import ReplyError
from gateway.stores.script import Script

LEASE: Final = 2.0  # s
MOST: Final = 5000  # entries of evidence
OLD: Final = 600.0  # s
AT_ONCE: Final = 500  # entries that a leader takes in at one meeting

_MEET: Final = Script(
    b"""
for i = 3, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
if #ARGV > 2 then
  redis.call('LTRIM', KEYS[2], -%d, -1)
  redis.call('PEXPIRE', KEYS[2], %d)
end
local leader = redis.call('GET', KEYS[1])
if not leader then leader = ARGV[1] end
local state = redis.call('GET', KEYS[3]) or ''
if leader ~= ARGV[1] then return {0, state, {}} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, state, redis.call('LRANGE', KEYS[2], 0, %d)}
"""
    % (MOST, int(OLD * 1000), AT_ONCE - 1)
)

_DECIDE: Final = Script(b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('LTRIM', KEYS[2], ARGV[3], -1)
return 1
""")


class Met(NamedTuple):
    """What a meeting gave. leads: the caller decides. state: b"" while there is none. entries: to take in."""

    leads: bool
    state: bytes
    entries: list[bytes]


class RedisTable:
    """The table of one deployment. me: a name that no other process has."""

    def __init__(self, client: RedisClient, me: bytes, prefix: bytes = b"headgate:{releases}:") -> None:
        self._client = client
        self._me = me
        self._keys = (prefix + b"leader", prefix + b"evidence", prefix + b"state")

    async def meet(self, entries: Sequence[bytes]) -> Met:
        """Hand in entries; take or keep the lead if nobody else has it. Raises StoreUnavailable.

        Entries of a call that failed may have been handed in nevertheless.
        """
        reply = await self._run(_MEET, self._me, b"%d" % int(LEASE * 1000), *entries)
        match reply:
            case [int(leads), bytes(state), list() as found]:
                return Met(leads == 1, state, [one for one in found if isinstance(one, bytes)])
        raise StoreUnavailable("a meeting was answered with something else")

    async def decide(self, state: bytes, taken: int) -> bool:
        """Write what was decided, `taken` entries taken in. False: somebody else leads. Raises
        StoreUnavailable.
        """
        return await self._run(_DECIDE, self._me, state, b"%d" % taken) == 1

    async def _run(self, script: Script, *arguments: bytes) -> object:
        reply = await self._call(script.command(self._keys, arguments, by_text=False))
        if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = await self._call(script.command(self._keys, arguments, by_text=True))
        if isinstance(reply, ReplyError):
            self._client.redirect(reply)
            raise StoreUnavailable(str(reply)) from reply
        if isinstance(reply, Exception):
            raise StoreUnavailable(str(reply)) from reply
        return reply

    async def _call(self, command: bytes) -> object:
        told: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def reply(value: object) -> None:
            if not told.done():
                told.set_result(value)

        self._client.send(command, reply)
        return await told

    def __repr__(self) -> str:
        return f"<RedisTable on {self._client!r}>"
