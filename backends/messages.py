"""The neutral form between a dialect and the models: what was asked, and what goes back.

A dialect turns a body into an Inference, and a Prediction into a body; it never sees sockets, queues or
sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import orjson

from backends.errors import Invalid
from backends.tensors import Array, Tensors, TensorSpec
from backends.waiting import LEVELS, NORMAL

JSON = "application/json"


@dataclass(slots=True)
class Inference:
    """One request for a prediction, checked against the signature.

    form: what the dialect needs to remember to answer in kind (an id, row or column …).
    """

    inputs: Tensors
    rows: int
    outputs: tuple[TensorSpec, ...]  # what the client wants back, in this order
    form: str | None = None
    binary: frozenset[str] = frozenset()  # outputs that are wanted as raw bytes (KServe V2)
    level: int = NORMAL  # of priority: 1 (first) to 9
    timeout: float = inf  # s that the client gives it from its receipt on


@dataclass(slots=True)
class Reply:
    """One HTTP response."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def read_level(said: object) -> int:
    """Return the level that a request's `priority` names; 0, as in Triton, is the default. Invalid."""
    if type(said) is not int or not 0 <= said <= LEVELS:
        raise Invalid(f"'priority' must be a whole number, 1 (first) to {LEVELS}")
    return said or NORMAL


def parse_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in `body`. Invalid when it is malformed or no object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise Invalid(f"malformed JSON: {e}") from e
    if not isinstance(value, dict):
        raise Invalid("the body must be a JSON object")
    return value


def plain(array: Array) -> object:
    """Return what orjson can write: the array itself where it knows the type, else lists."""
    if array.dtype.kind == "O" or not array.flags.c_contiguous:
        return array.tolist()
    return array
