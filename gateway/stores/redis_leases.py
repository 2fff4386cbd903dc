"""Counters on Redis without a call per request: every process borrows a share of each busy rate.

The lender is a script on the server (governance/rate_leases.py is its reference; a test plays both and
compares), the borrower governance/rate_borrower.py. All levels of one request that its shares don't cover are
decided by one script call, all or nothing, by the server's clock. Small buckets, and those of `exact` limits,
are never lent: each of their requests is such a call, and calls of one turn of the event loop leave in one
write.

A bucket is one hash: `t` tokens held centrally, `at` when they were so, and a field per holder with what it
has on lease. All keys carry one hash tag, because a script may only touch keys of one slot of a cluster.

While Redis is away a process goes on spending from its shares until they are over (rate_leases.TTL), which is
still within the law; what they don't cover fails with StoreUnavailable within the client's timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf

from gateway.governance.rate_borrower import RateBorrower, Wish
from gateway.governance.rate_leases import CROWD, FILL, HEADROOM, LEAST, LENT, SHARE, TTL, Draw, Share, Word
from gateway.governance.token_bucket import Verdict
from gateway.pipeline.ports import Claim, Grant, StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.stores.redis import RedisClient
from gateway.stores.resp import ReplyError
from gateway.stores.script import Script, number

TICK = 0.025  # s between two looks at what is due

LEND = b"""
local TTL, LEAST, CROWD, FILL, SHARE, HEADROOM, LENT = %f, %f, %f, %f, %f, %f, %f
local function exact(x) return string.format('%%.17g', x) end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local holder = ARGV[1]
local buckets, planned = {}, {}
local wait, fewest, binding, left, reset = 0, math.huge, 1, 0, 0
for i, key in ipairs(KEYS) do
  local a = 6 * i - 4
  local cost, rate, burst = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local charge = tonumber(ARGV[a + 5])
  local bucket = buckets[key]
  if not bucket then
    bucket = {tokens = burst, at = now, loans = {}, caps = 0}
    local flat = redis.call('HGETALL', key)
    if #flat > 0 then
      local flowing, at = 0, now
      for f = 1, #flat, 2 do
        if flat[f] == 't' then bucket.tokens = tonumber(flat[f + 1])
        elseif flat[f] == 'at' then at = math.min(now, tonumber(flat[f + 1])) end
      end
      for f = 1, #flat, 2 do
        local name = flat[f]
        if name ~= 't' and name ~= 'at' then
          local flow, cap, wants, till = string.match(flat[f + 1], '(%%S+) (%%S+) (%%S+) (%%S+)')
          flow, cap, wants, till = tonumber(flow), tonumber(cap), tonumber(wants), tonumber(till)
          flowing = flowing + flow
          if till <= now then
            bucket.tokens = bucket.tokens + flow * (now - math.max(at, till))
            redis.call('HDEL', key, name)
          else
            bucket.caps = bucket.caps + cap
            bucket.loans[name] = {flow = flow, cap = cap, wants = wants}
          end
        end
      end
      bucket.tokens = math.min(bucket.tokens + (rate - flowing) * (now - at), burst - bucket.caps)
    end
    buckets[key] = bucket
  end
  bucket.tokens = bucket.tokens - charge
  planned[key] = (planned[key] or 0) + cost
  local room = bucket.tokens - planned[key]
  if cost > 0 and room < -0.000001 * math.max(1, rate) then
    local excess = -room / rate
    if cost > burst then excess = math.huge end
    if excess > wait then
      wait, binding, left, reset = excess, i, room + cost, (burst - bucket.tokens) / rate
    end
  elseif wait == 0 and room < fewest * cost then
    fewest, binding, left, reset = room / cost, i, room, (burst - room) / rate
  end
end
local answer = {0, 0, 0, 0}
for i, key in ipairs(KEYS) do
  local a = 6 * i - 4
  local cost, rate, burst = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local wants, mine = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local bucket = buckets[key]
  if wait == 0 then bucket.tokens = bucket.tokens - cost end
  local flows, caps, all, roots, holders = 0, 0, wants, math.sqrt(wants), 1
  for name, loan in pairs(bucket.loans) do
    if name ~= holder then
      flows, caps = flows + loan.flow, caps + loan.cap
      all, roots, holders = all + loan.wants, roots + math.sqrt(loan.wants), holders + 1
    end
  end
  local flow, cap, tokens, fair = 0, 0, 0, 0
  if wants > 0 then
    fair = wants * math.min(HEADROOM, LENT * rate / all)
    flow = math.max(0, math.min(fair, rate - flows))
    local hoard = SHARE * burst
    local part = hoard * math.sqrt(wants) / roots
    cap = math.min(part, hoard - caps)
    if part < LEAST or hoard < CROWD * holders then fair, cap = 0, 0 end
    if cap < LEAST then flow, cap = 0, 0 end
    bucket.loans[holder] = {flow = flow, cap = cap, wants = wants}
    local terms = {exact(flow), exact(cap), exact(wants), exact(now + TTL)}
    redis.call('HSET', key, holder, table.concat(terms, ' '))
    tokens = math.max(0, math.min(FILL * cap - mine, bucket.tokens / 2))
    bucket.tokens = math.min(bucket.tokens - tokens, burst - caps - cap)
  else
    if bucket.loans[holder] then
      bucket.loans[holder] = nil
      redis.call('HDEL', key, holder)
    end
    bucket.tokens = math.min(bucket.tokens + mine, burst - caps)
  end
  redis.call('HSET', key, 't', exact(bucket.tokens), 'at', exact(now))
  local full = math.max(0, burst - bucket.tokens) / rate
  redis.call('PEXPIRE', key, string.format('%%.0f', math.ceil(math.max(full, TTL) * 1000) + 1000))
  answer[#answer + 1] = exact(flow)
  answer[#answer + 1] = exact(cap)
  answer[#answer + 1] = exact(tokens)
  answer[#answer + 1] = exact(fair)
end
if wait == math.huge then wait = -1 else wait = math.ceil(wait * 1000000) end
answer[1], answer[2] = wait, binding - 1
answer[3], answer[4] = math.max(0, math.floor(left + 0.000001)), math.ceil(math.max(0, reset) * 1000000)
return answer
""" % (TTL, LEAST, CROWD, FILL, SHARE, HEADROOM, LENT)
"""KEYS: buckets; ARGV: the holder, then cost, rate, burst, wants, mine, charge of each (rate_leases.Draw).

Returns wait (us; 0 granted, -1 never), binding, remaining, reset (us), then flow, cap, tokens, fair of each.
"""

_LEND = Script(LEND)


class LeasedRedisCounters:
    """Token buckets shared by everybody who uses the same Redis and prefix. Implements ports.CounterStore.

    holder: names this process among all that share the Redis. calls: scripts sent so far.
    """

    def __init__(
        self,
        client: RedisClient,
        loop: asyncio.AbstractEventLoop,
        holder: bytes,
        now: Callable[[], float],
        prefix: bytes = b"{headgate}:share:",
    ) -> None:
        """prefix: holds a hash tag, so that one script may touch all keys of a request in a cluster."""
        self.borrower = RateBorrower()
        self.calls = 0
        self._client = client
        self._loop = loop
        self._holder = holder
        self._now = now
        self._prefix = prefix
        self._timer: asyncio.TimerHandle | None = None
        self._charged: list[Draw] = []

    def take(self, claims: Sequence[Claim], now: float) -> Grant | Promise[Grant]:
        """Spend all or none, from shares at once or by the server's word."""
        taken = self.borrower.take(claims, now)
        if isinstance(taken, Verdict):
            return Grant(*taken)
        promise: Promise[Grant] = Promise()
        wish: Wish = taken

        def decided(word: Word | StoreUnavailable) -> None:
            if isinstance(word, StoreUnavailable):
                self.borrower.unanswered(wish)
                promise.reject(word)
            else:
                promise.resolve(Grant(*self.borrower.answered(wish, word, now, self._now())))
                self._watch()

        self._ask(wish.draws, decided)
        return promise

    def settle(self, claims: Sequence[Claim], now: float) -> None:
        """Charge or give back; lost when there is no connection."""
        for claim in claims:
            delta = self.borrower.settle(claim, now)
            if delta:
                self._charged.append(Draw(claim.key, 0.0, claim.rate, claim.burst, charge=delta))
                if len(self._charged) == 1:
                    self._loop.call_soon(self._charge)

    def close(self) -> None:
        """Stop looking at what is due, and hand all shares back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        draws = self.borrower.leave(self._now())
        if draws:
            self._ask(draws, lambda word: None)

    def _charge(self) -> None:
        draws, self._charged = self._charged, []
        self._ask(draws, lambda word: None)

    def _watch(self) -> None:
        if self._timer is None and self.borrower.is_active:
            self._timer = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        """Renew shares, return what nobody needs."""
        self._timer = None
        now = self._now()
        draws = self.borrower.due(now)
        if draws:

            def refreshed(word: Word | StoreUnavailable) -> None:
                if isinstance(word, Word):
                    self.borrower.refreshed(draws, word, now, self._now())
                    self._watch()

            self._ask(draws, refreshed)
        self._watch()

    def _ask(self, draws: Sequence[Draw], decided: Callable[[Word | StoreUnavailable], None]) -> None:
        keys = [self._prefix + draw.key for draw in draws]
        arguments = [self._holder]
        for draw in draws:
            terms = (draw.cost, draw.rate, draw.burst, draw.wants, draw.mine, draw.charge)
            arguments += [number(term) for term in terms]

        def read(reply: object) -> None:
            match reply:
                case [int(wait), int(binding), int(remaining), int(reset), *given]:
                    shares = tuple(
                        Share(*(float(text) for text in given[i : i + 4] if isinstance(text, bytes)))
                        for i in range(0, len(given), 4)
                    )
                    retry_after = inf if wait < 0 else wait / 1e6
                    decided(Word(wait == 0, binding, remaining, retry_after, reset / 1e6, shares))
                case StoreUnavailable():
                    decided(reply)
                case _:
                    decided(StoreUnavailable(f"unexpected reply: {reply}"))

        def checked(answer: object) -> None:
            if not isinstance(answer, ReplyError):
                read(answer)
            elif str(answer).startswith("NOSCRIPT"):  # restarted, or flushed: tell it the script again
                self._client.send(_LEND.command(keys, arguments, by_text=True), read)
            else:
                self._client.redirect(answer)
                decided(StoreUnavailable(f"the server refused: {answer}"))

        self.calls += 1
        self._client.send(_LEND.command(keys, arguments, by_text=False), checked)

    def __repr__(self) -> str:
        return f"<LeasedRedisCounters {self.borrower!r} on {self._client!r}>"
