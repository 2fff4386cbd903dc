"""JSON as the dialects need it: fast, bounded, and never read differently by the backend behind us.

orjson reads; the standard library's reader is asked only where the tokens NaN, Infinity and -Infinity are
legal (they are in TensorFlow Serving's JSON, they are not in RFC 8259) and orjson has refused the text.

Duplicate member names are refused. Readers differ on which one wins (RapidJSON, in Triton and TensorFlow
Serving, finds the first; orjson keeps the last), so a body with two `inputs` would be cached under one
tensor and answered for the other. Finding them costs almost nothing: every member has one structural colon,
so when the text holds as many colons as the value has members, no member was lost. Only when the counts
differ (a colon inside a string, or a duplicate) are the strings blanked out and the colons counted exactly.
"""

from __future__ import annotations

import json
import re

import orjson

from gateway.dialects.errors import DUPLICATE_KEY, MALFORMED_JSON, InvalidPrediction

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def read_json(body: bytes, *, non_finite: bool = False) -> object:
    """Parse one JSON text.

    non_finite: the tokens NaN, Infinity and -Infinity are legal. Raises InvalidPrediction (malformed_json,
    duplicate_key). Nesting is bounded (1,024 levels, fewer in the fallback), integers beyond 64 bits come
    back as floats or as Python's integers.
    """
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as refusal:
        if not non_finite or (b"NaN" not in body and b"Infinity" not in body):
            raise InvalidPrediction(MALFORMED_JSON, _say(body, str(refusal))) from refusal
        value = _read_lenient(body)
    colons = body.count(b":")
    if colons != _members(value, thorough=False):
        members = _members(value, thorough=True)
        if colons != members and _STRING.sub(b"", body).count(b":") != members:
            raise InvalidPrediction(DUPLICATE_KEY, "an object in the body names the same member twice")
    return value


def _read_lenient(body: bytes) -> object:
    """Read with the standard library: NaN and the infinities, everything else as strict as orjson."""
    try:
        value: object = json.loads(body.decode())
        if b"\\u" in body:  # orjson refuses lone surrogates, which no later encoding could write
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as refusal:  # ValueError: also undecodable bytes and endless integers
        raise InvalidPrediction(MALFORMED_JSON, _say(body, str(refusal))) from refusal
    return value


def _say(body: bytes, why: str) -> str:
    return f"the body is not JSON: {why}" if body.strip() else "the body is empty; JSON was expected"


_NESTING = frozenset((dict, list))


def _members(value: object, *, thorough: bool) -> int:
    """Count the members of all objects. Iterative: nesting must not be able to exhaust the stack.

    Not thorough: a list whose first element is a scalar is taken to hold only scalars (tensors do), so the
    count may be too low but never too high.
    """
    count = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if type(item) is dict:
            count += len(item)
            pending += [inner for inner in item.values() if type(inner) in _NESTING]
        elif type(item) is list and item and (type(item[0]) in _NESTING or thorough):
            pending += [inner for inner in item if type(inner) in _NESTING]
    return count


def write_json(value: object) -> bytes:
    """Write one JSON text; numpy arrays (C-contiguous, native, finite) as nested lists, FP32 shortest."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def write_non_finite(value: object) -> bytes:
    """Write one JSON text of plain values in which NaN, Infinity and -Infinity may stand as tokens."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
