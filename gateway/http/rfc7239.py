"""The field `Forwarded`, read to the letter: elements, pairs, tokens and quoted strings. RFC 7239 §4.

A quoted host may hold anything, `for=` and commas included, so nothing less than its grammar tells what a
proxy said from what a client made it say. What does not fit is believed in no part.
"""

from __future__ import annotations

import re

_PAIR = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    rb"(?:([!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+)|\"((?:[^\"\\]|\\.)*)\")"  # many write [::1]:80 without quotes
    rb"[ \t]*([;,]|\Z)",
    re.DOTALL,
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def parse_forwarded(value: bytes) -> list[dict[bytes, bytes]]:
    """Return each element's pairs by lower-case name, client's first; empty where the value is malformed.

    A name that comes twice in one element is malformed, too (§4).
    """
    elements: list[dict[bytes, bytes]] = [{}]
    at = 0
    while True:
        pair = _PAIR.match(value, at)
        if pair is None:
            return []
        name, token, quoted, delimiter = pair.groups()
        name = name.lower()
        if name in elements[-1]:
            return []
        elements[-1][name] = token if token is not None else _ESCAPED.sub(rb"\1", quoted)
        at = pair.end()
        if not delimiter:
            return elements
        if delimiter == b",":
            elements.append({})
