"""A ledger of quotas on Redis, shared by gateways; the reference of its script is allowance.decide.

A key is one hash, slot -> drawn, which Redis forgets by itself when its last slot counts no more. All keys
carry one hash tag, because a script may only touch keys of one slot of a cluster. Redis keeps it as well as
it is told to (`appendonly yes`): a server that forgets everything starts all quotas anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gateway.governance.allowance import PART, Ask, Drawn, Told
from gateway.pipeline.ports import StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.stores.redis import RedisClient
from gateway.stores.resp import ReplyError, encode
from gateway.stores.script import Script, number

DRAW = (
    b"""
local function exact(x) return string.format('%%.17g', x) end
local answer = {}
for i, key in ipairs(KEYS) do
  local a = 7 * i - 6
  local slot, since, till = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local limit, need, want = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local settle = tonumber(ARGV[a + 6])
  local sum, mine, oldest = 0, 0, nil
  local flat = redis.call('HGETALL', key)
  for f = 1, #flat, 2 do
    local start, drawn = tonumber(flat[f]), tonumber(flat[f + 1])
    if start < since then
      redis.call('HDEL', key, flat[f])
    elseif flat[f] == slot then
      mine = drawn
    else
      sum = sum + drawn
      if drawn > 0 and (not oldest or start < oldest) then oldest = start end
    end
  end
  local before = mine
  mine = math.max(0, mine + settle)
  local left, granted = limit - sum - mine, 0
  if want > 0 and left + 1e-9 >= need then
    granted = math.max(need, math.floor(math.min(want, left * %f)))
    mine, left = mine + granted, left - granted
  end
  if mine ~= before then
    redis.call('HSET', key, slot, exact(mine))
    redis.call('EXPIREAT', key, string.format('%%.0f', till + 60))
  end
  local first = tonumber(slot)
  if mine > 0 and (not oldest or first < oldest) then oldest = first end
  answer[#answer + 1] = exact(granted)
  answer[#answer + 1] = exact(math.max(0, left))
  answer[#answer + 1] = exact(oldest or first)
end
return answer
"""
    % PART
)
"""KEYS: quotas; ARGV: slot, since, until, limit, need, want, settle of each (allowance.Ask).

Returns granted, left, oldest of each.
"""

_DRAW = Script(DRAW)
_SCANNED = b"500"  # keys that one command looks at


class RedisLedger:
    """Implements pipeline/quotas.Ledger."""

    is_shared = True

    def __init__(self, client: RedisClient, prefix: bytes = b"{headgate}:quota:") -> None:
        """prefix: holds a hash tag, so that one script may touch all keys of a request in a cluster."""
        self._client = client
        self._prefix = prefix

    def draw(self, asks: Sequence[Ask]) -> Promise[Sequence[Told]]:
        """Answer each; rejected with StoreUnavailable within the client's timeout."""
        promise: Promise[Sequence[Told]] = Promise()
        keys = [self._prefix + ask.key for ask in asks]
        arguments: list[bytes] = []
        for ask in asks:
            arguments += [b"%d" % ask.slot, b"%d" % ask.since]
            arguments += [number(term) for term in (ask.until, ask.limit, ask.need, ask.want, ask.settle)]

        def read(reply: object) -> None:
            match reply:
                case [*texts] if len(texts) == 3 * len(asks):
                    found = [float(text) for text in texts if isinstance(text, bytes)]
                    rows = zip(found[::3], found[1::3], found[2::3], strict=True)
                    promise.resolve([Told(granted, left, int(oldest)) for granted, left, oldest in rows])
                case StoreUnavailable():
                    promise.reject(reply)
                case _:
                    promise.reject(StoreUnavailable(f"unexpected reply: {reply}"))

        def checked(answer: object) -> None:
            if not isinstance(answer, ReplyError):
                read(answer)
            elif str(answer).startswith("NOSCRIPT"):  # restarted, or flushed: tell it the script again
                self._client.send(_DRAW.command(keys, arguments, by_text=True), read)
            else:
                self._client.redirect(answer)
                promise.reject(StoreUnavailable(f"the server refused: {answer}"))

        self._client.send(_DRAW.command(keys, arguments, by_text=False), checked)
        return promise

    def drawn(self, most: int) -> Promise[Sequence[Drawn]]:
        """Look through the keys, some hundred at a time, so that nobody waits for long.

        Rejected with StoreUnavailable; keys that come or go meanwhile may be missed (SCAN).
        """
        promise: Promise[Sequence[Drawn]] = Promise()
        found: dict[bytes, Drawn] = {}

        def scan(cursor: bytes) -> None:
            command = encode(b"SCAN", cursor, b"MATCH", self._prefix + b"*", b"COUNT", _SCANNED)
            self._client.send(command, scanned)

        def scanned(reply: object) -> None:
            match reply:
                case [bytes(cursor), [*keys]]:
                    new = [key for key in keys if isinstance(key, bytes) and key not in found]
                    read(new[: most - len(found)], cursor)
                case StoreUnavailable():
                    promise.reject(reply)
                case _:
                    promise.reject(StoreUnavailable(f"unexpected reply: {reply}"))

        def read(keys: Sequence[bytes], cursor: bytes) -> None:
            missing = len(keys)
            if not missing:
                go_on(cursor)

            def one(key: bytes, reply: object) -> None:
                nonlocal missing
                match reply:
                    case [*flat]:
                        numbers = [float(text) for text in flat if isinstance(text, bytes)]
                        slots = {
                            int(slot): drawn for slot, drawn in zip(numbers[::2], numbers[1::2], strict=True)
                        }
                        found[key] = Drawn(key.removeprefix(self._prefix), slots)
                    case StoreUnavailable():
                        promise.reject(reply)
                missing -= 1
                if not missing and not promise.done:
                    go_on(cursor)

            for key in keys:
                self._client.send(encode(b"HGETALL", key), partial(one, key))

        def go_on(cursor: bytes) -> None:
            if cursor == b"0" or len(found) >= most:
                promise.resolve(tuple(found.values()))
            else:
                scan(cursor)

        scan(b"0")
        return promise

    def __repr__(self) -> str:
        return f"<RedisLedger on {self._client!r}>"
