"""Token buckets shared by gateways: a lender that lends rates, for where a message is dear.

leases.py lends tokens: each of them crosses the network once. Here a holder gets a *flow*, tokens/s that come
into being at its own end until the lease is over, and a *cap* on how many of them it may hoard. So a busy
bucket costs a few messages per second and holder, however many requests pass.

    held centrally + held by holders <= burst       caps of all add up to at most SHARE * burst,
    flows of all   + what stays central = rate      and the centre keeps at most burst less the caps
    =>  spent in a window of t seconds <= burst + rate * t

What is nobody's flow fills the centre: the reserve from which a holder draws that ran dry. A holder that is
not heard of for `ttl` seconds is taken for dead, and its flow returns from that instant on; the holder itself
stops earlier, for it counts from before it asked.

Who gets what: each holder says what it wants (tokens/s) and gets as much of it as everybody else: HEADROOM
times it while that fits, the same part of it when it doesn't. (Not max-min: gateways are no tenants, and who
got all it wants wastes what it wants too much.) A holder never gets what another has not given up yet, so
shares move when those who lost demand speak next (rate_borrower.py: at once when it is much). Caps are shared
by the root of the flows, since that is how the noise of arrivals grows.

Small buckets are never lent, nor to so many holders that each could hoard only a few tokens (`LEAST`,
`CROWD`): each request is then decided here, exactly. The one slack: between the lender's word and its arrival
a holder still earns its former flow; that is a round trip's worth.

Source: Doorman (wants / has / gets, proportional shares), Envoy's RLQS for the shape of the messages. The
same law runs inside Redis as a script, line by line: stores/redis_leases.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from typing import NamedTuple

TTL = 1.0  # s: a lease that is not renewed is over
LEAST = 4.0  # tokens: with a smaller cap a flow is not lent, for most of it would be wasted on noise
CROWD = 6.0  # tokens: with less for each holder, on average, nothing is lent
FILL = 0.5  # of a cap: up to here a holder is given tokens at once
SHARE = 0.8  # of a burst that may be hoarded by holders
LENT = 0.98  # of a rate that is lent, at most: the rest stays for those that ran dry
HEADROOM = 1.15  # by which a want is raised: demand is noisy


class Draw(NamedTuple):
    """One holder's word on one bucket.

    cost: spend it now (with the other draws of the message: all or none). charge: tokens settled after the
    fact, or given back (< 0). wants: tokens/s that it expects to spend; 0: it wants no lease. mine: tokens
    that it holds; with wants == 0 they come back with this message.
    """

    key: bytes
    cost: float
    rate: float
    burst: float
    wants: float = 0.0
    mine: float = 0.0
    charge: float = 0.0


class Share(NamedTuple):
    """What a holder has from now on: flow in tokens/s, at most `cap` of them hoarded, `tokens` at once.

    fair: the flow that it will have when the others have given up what is too much; 0: none, the lender
    decides each of its requests.
    """

    flow: float
    cap: float
    tokens: float
    fair: float


NOTHING = Share(0.0, 0.0, 0.0, 0.0)


class Word(NamedTuple):
    """The lender's answer. The first five: see token_bucket.Verdict. shares: one per draw."""

    allowed: bool
    binding: int
    remaining: int
    retry_after: float
    reset: float
    shares: tuple[Share, ...]


class _Loan:
    __slots__ = ("cap", "flow", "until", "wants")

    def __init__(self, flow: float, cap: float, wants: float, until: float) -> None:
        self.flow = flow
        self.cap = cap
        self.wants = wants
        self.until = until


class _Bucket:
    __slots__ = ("at", "loans", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at
        self.loans: dict[int, _Loan] = {}


class RateLender:
    """Holds buckets and lends of their rates. The reference of the script in Redis, and the simulator's
    lender."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[bytes, _Bucket] = {}

    def decide(self, holder: int, draws: Sequence[Draw], now: float) -> Word:
        """Charge what was settled, spend all costs or none, and lend what each draw wants."""
        wait = left = reset = 0.0
        fewest = inf
        binding = 0
        buckets = [self._advanced(draw, now) for draw in draws]
        planned: dict[bytes, float] = {}
        for index, (draw, bucket) in enumerate(zip(draws, buckets, strict=True)):
            bucket.tokens -= draw.charge
            spent = planned[draw.key] = planned.get(draw.key, 0.0) + draw.cost
            room = bucket.tokens - spent
            if draw.cost > 0 and room < -1e-6 * max(1.0, draw.rate):
                excess = inf if draw.cost > draw.burst else -room / draw.rate
                if excess > wait:
                    wait, binding, left = excess, index, room + draw.cost
                    reset = (draw.burst - bucket.tokens) / draw.rate
            elif not wait and room < fewest * draw.cost:
                fewest, binding, left = room / draw.cost, index, room
                reset = (draw.burst - room) / draw.rate
        if not wait:
            for draw, bucket in zip(draws, buckets, strict=True):
                bucket.tokens -= draw.cost
        shares = tuple(
            self._lend(holder, draw, bucket, now) for draw, bucket in zip(draws, buckets, strict=True)
        )
        return Word(not wait, binding, max(0, int(left + 1e-6)), wait, max(0.0, reset), shares)

    def lent(self, key: bytes) -> float:
        """Return the tokens/s of this bucket that are on lease."""
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None else sum(loan.flow for loan in bucket.loans.values())

    def _advanced(self, draw: Draw, now: float) -> _Bucket:
        """Let what is nobody's flow fill the centre, and leases end."""
        bucket = self._buckets.get(draw.key)
        if bucket is None:
            bucket = self._buckets[draw.key] = _Bucket(draw.burst, now)
            return bucket
        flowing = caps = 0.0
        for holder, loan in tuple(bucket.loans.items()):
            flowing += loan.flow
            if loan.until <= now:
                bucket.tokens += loan.flow * (now - max(bucket.at, loan.until))
                del bucket.loans[holder]
            else:
                caps += loan.cap
        bucket.tokens += (draw.rate - flowing) * (now - bucket.at)
        bucket.tokens = min(bucket.tokens, draw.burst - caps)
        bucket.at = now
        return bucket

    @staticmethod
    def _lend(holder: int, draw: Draw, bucket: _Bucket, now: float) -> Share:
        bucket.loans.pop(holder, None)
        flows = caps = 0.0
        wants, roots = draw.wants, sqrt(draw.wants)
        for loan in bucket.loans.values():
            flows += loan.flow
            caps += loan.cap
            wants += loan.wants
            roots += sqrt(loan.wants)
        if draw.wants <= 0:
            bucket.tokens = min(bucket.tokens + draw.mine, draw.burst - caps)
            return NOTHING
        fair = draw.wants * min(HEADROOM, LENT * draw.rate / wants)
        flow = max(0.0, min(fair, draw.rate - flows))
        hoard = SHARE * draw.burst
        part = hoard * sqrt(draw.wants) / roots
        cap = min(part, hoard - caps)
        if part < LEAST or hoard < CROWD * (1 + len(bucket.loans)):
            fair = cap = 0.0
        if cap < LEAST:
            flow = cap = 0.0
        bucket.loans[holder] = _Loan(flow, cap, draw.wants, now + TTL)
        tokens = max(0.0, min(FILL * cap - draw.mine, bucket.tokens / 2))
        bucket.tokens = min(bucket.tokens - tokens, draw.burst - caps - cap)
        return Share(flow, cap, tokens, fair)

    def __repr__(self) -> str:
        return f"<RateLender {len(self._buckets)} buckets>"
