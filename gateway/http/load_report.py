"""What an instance says of its load in a response header: ORCA's `endpoint-load-metrics`, and our own.

    endpoint-load-metrics: TEXT cpu_utilization=0.3, named_metrics.num_requests_waiting=4
    endpoint-load-metrics: JSON {"cpu_utilization": 0.3, "named_metrics": {"num_requests_waiting": 4}}
    x-headgate-load: running=3, waiting=4

Only counts of calls are read, for they correct what a gateway knows least: the calls that others sent there.
Names that mean it: running, num_requests_running; waiting, queued, num_requests_waiting, with or without
`named_metrics.` and a vendor's prefix (`vllm:num_requests_waiting`). ORCA's third form (BIN, a protobuf) is
not read. What can't be read says nothing: a header is no reason to fail a request.

Source: github.com/cncf/xds, xds/data/orca/v3; gRFC A85.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from gateway.http.message import Response

ORCA: Final = b"endpoint-load-metrics"
OURS: Final = b"x-headgate-load"
MOST: Final = 1_000_000  # calls: more is nonsense
_LONGEST: Final = 2048  # bytes of a header that is read
_RUNNING: Final = frozenset(("running", "num_requests_running"))
_WAITING: Final = frozenset(("waiting", "queued", "num_requests_waiting"))


def read_load(response: Response) -> tuple[int, int] | None:
    """Return the calls that the instance says are running and waiting; None: it says nothing of either."""
    said = response.header(OURS)
    if said is None:
        said = response.header(ORCA)
        if said is None:
            return None
    if len(said) > _LONGEST:
        return None
    form, _, rest = said.partition(b" ")
    if form == b"JSON":
        return _from_json(rest)
    return _from_text(rest if form == b"TEXT" else said)


def _from_text(text: bytes) -> tuple[int, int] | None:
    pairs = (part.partition(b"=") for part in text.replace(b":", b"=", text.count(b": ")).split(b","))
    return _sum((name.decode("latin-1"), value) for name, _, value in pairs)


def _from_json(text: bytes) -> tuple[int, int] | None:
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(said, dict):
        return None
    named = said.pop("named_metrics", None)
    if isinstance(named, dict):
        said |= named
    return _sum(said.items())


def _sum(pairs: Iterable[tuple[str, object]]) -> tuple[int, int] | None:
    running = waiting = 0
    says_something = False
    for name, value in pairs:
        metric = name.strip().removeprefix("named_metrics.").rpartition(":")[2]
        if metric not in _RUNNING and metric not in _WAITING:
            continue
        if not isinstance(value, bytes | int | float):
            continue
        try:
            count = float(value)
        except ValueError:
            continue
        if 0.0 <= count <= MOST:
            says_something = True
            if metric in _RUNNING:
                running += int(count)
            else:
                waiting += int(count)
    return (running, waiting) if says_something else None
