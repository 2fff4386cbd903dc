"""What is left of the quotas of the running policies, and who spent it: for the admin API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from gateway.admin.views import View
from gateway.filters.throttle_claims import Level
from gateway.filters.throttling import Throttling
from gateway.governance.allowance import Drawn
from gateway.governance.windows import CALENDAR, window
from gateway.pipeline.ports import StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.pipeline.quotas import Quotas
from gateway.pipeline.snapshot import Snapshot

MOST_KEYS = 100_000  # that are looked at


async def quotas_view(snapshot: Snapshot, quotas: Quotas, wall: float, who: str, most: int) -> View:
    """Show every quota that refuses, and who spent most of it.

    wall: s since the epoch. who: only this one, by its name; "": everybody. most: so many of each quota.
    """
    trouble: str | None = None
    drawn: Sequence[Drawn] = ()
    try:
        drawn = await _drawn(quotas)
    except StoreUnavailable as error:
        trouble = str(error)
    shown: dict[bytes, View] = {}
    for endpoint, level in _levels(snapshot):
        if level.prefix in shown:
            endpoints = shown[level.prefix]["endpoints"]
            assert isinstance(endpoints, list)
            endpoints.append(endpoint)
        else:
            shown[level.prefix] = {
                "policy": level.rule.policy,
                "limit": level.limit,
                "most": level.burst,
                "unit": level.unit,
                "defined_at": level.rule.origin,
                "endpoints": [endpoint],
                **_spent(level, drawn, wall, who, most),
            }
    return {"shared": quotas.is_shared, "trouble": trouble, "quotas": list(shown.values())}


async def _drawn(quotas: Quotas) -> Sequence[Drawn]:
    drawn = quotas.drawn(MOST_KEYS)
    if not isinstance(drawn, Promise):
        return drawn
    future: asyncio.Future[Sequence[Drawn]] = asyncio.get_running_loop().create_future()
    drawn.then(
        lambda value: None if future.done() else future.set_result(value),
        lambda error: None if future.done() else future.set_exception(error),
    )
    return await future


def _levels(snapshot: Snapshot) -> Iterator[tuple[str, Level]]:
    for endpoint in snapshot.endpoints.values():
        for filter in endpoint.chain.filters:
            if isinstance(filter, Throttling) and filter.name == "quota":
                for level in filter.levels:
                    if level.rule.enforce:
                        yield endpoint.name, level


def _spent(level: Level, drawn: Sequence[Drawn], wall: float, who: str, most: int) -> View:
    """Say who spent how much in the window of this instant. until: s since the epoch; None: it rolls."""
    spec = level.prefix.partition(b"\0")[0]
    slot = window(spec).at(wall)
    rows: list[View] = []
    total, count = 0.0, 0
    for one in drawn:
        if not one.key.startswith(level.prefix):
            continue
        used = sum(tokens for start, tokens in one.slots.items() if start >= slot.since)
        if used <= 0:
            continue
        total += used
        count += 1
        name = _name(one.key.removeprefix(level.prefix))
        if not who or who in (name, name.partition(" ")[2]):
            rows.append({"who": name, "used": used, "left": max(0.0, level.burst - used)})
    rows.sort(key=_most_first)
    return {
        "until": slot.end if spec.partition(b" ")[0].decode() in CALENDAR else None,
        "used": total,
        "spenders": count,
        "spent": rows[:most],
    }


def _most_first(row: View) -> tuple[float, str]:
    used = row["used"]
    return (-used if isinstance(used, float) else 0.0, str(row["who"]))


def _name(subject: bytes) -> str:
    """Write a subject for people; a long text of a client's is only known by its digest."""
    kind, _, rest = subject.partition(b" ")
    try:
        return subject.decode()
    except UnicodeDecodeError:
        return f"{kind.decode(errors='replace')} #{rest.hex()}"
