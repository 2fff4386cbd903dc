"""The RateLimit fields: how much may come in which time, and how much of it is left.

    RateLimit-Policy: "free-tier";q=5;w=1
    RateLimit: "free-tier";r=4;t=1

q: quota, w: its window in seconds, qu: what is counted when it isn't requests; r: what is left, t: seconds
until it is there again. All numbers are whole (RFC 9651 Integers), so a rate like 0.5/s is written as one per
two seconds. Source: draft-ietf-httpapi-ratelimit-headers-11, RFC 9651.
"""

from __future__ import annotations

from fractions import Fraction
from math import inf

LONGEST_WINDOW = 86_400  # s, of a rate that has to be made whole


def policy_item(name: str, count: float, period: float, unit: str = "requests") -> bytes:
    """Write an item of RateLimit-Policy for `count` units per `period` seconds."""
    if not (count.is_integer() and period.is_integer()):
        exact = (Fraction(count) / Fraction(period)).limit_denominator(LONGEST_WINDOW)
        count, period = float(exact.numerator or 1), float(exact.denominator)
    counted = b"" if unit == "requests" else b";qu=" + quoted(unit)
    return b"%b;q=%d;w=%d%b" % (quoted(name), count, period, counted)


def limit_item(name: bytes, remaining: int, seconds: float) -> bytes:
    """Write an item of RateLimit. name: as `quoted` wrote it. seconds: inf where it is never there again."""
    left = str(remaining).encode()
    if seconds == inf:
        return name + b";r=" + left
    whole = int(seconds)
    if whole < seconds:
        whole += 1
    return b"".join(
        [name, b";r=", left, b";t=", str(whole).encode()]
    )  # one per request: half of what % costs


def quoted(text: str) -> bytes:
    """Write an RFC 9651 string; what such a string can't hold becomes a question mark."""
    plain = bytes(sign if 32 <= sign < 127 else 63 for sign in text.encode("ascii", "replace"))
    return b'"' + plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
