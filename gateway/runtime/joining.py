"""What several workers say of the same instance or quota, as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.admin.views import View

SUMS = ("in_flight", "successes", "failures")
LOWEST = ("share",)
HIGHEST = ("doubted_for", "ejected_for", "breaker_retry_after")

MILD = ("up", "down_weighted", "doubted")
"""States in which calls go there, by gravity."""


def joined_instances(own: Sequence[View], answers: Iterable[object]) -> list[View]:
    """Join the workers' views; `own`, the supervisor's, says which instances there are.

    Counts add up, a latency is the mean weighted by successes, and the state is the worst that any worker
    sees.
    """
    said: dict[tuple[object, object], list[View]] = {}
    for views in answers:
        for view in views if isinstance(views, list) else ():
            if isinstance(view, dict):
                said.setdefault((view.get("pool"), view.get("id")), []).append(view)
    return [_joined(view, said.get((view["pool"], view["id"]), [])) for view in own]


def _joined(own: View, views: Sequence[View]) -> View:
    joined = dict(own)
    if not views:
        return joined
    for name in SUMS:
        joined[name] = sum(_number(view[name]) for view in views)
    for name in HIGHEST:
        joined[name] = max(_number(view[name]) for view in views)
    for name in LOWEST:
        joined[name] = min(_number(view[name]) for view in views)
    weights = [max(1.0, _number(view["successes"])) for view in views]
    latency = sum(
        weight * _number(view["latency_ms"]) for weight, view in zip(weights, views, strict=True)
    ) / sum(weights)
    joined["latency_ms"] = round(latency, 3)
    if joined["state"] in MILD:
        joined["state"] = max((view["state"] for view in (own, *views)), key=_gravity)
    joined["breaker"] = next(
        (view["breaker"] for view in views if view["breaker"] not in (None, "closed")), views[0]["breaker"]
    )
    if joined["breaker"] is None:
        joined["breaker_retry_after"] = None
    return joined


def _gravity(state: object) -> int:
    return MILD.index(state) if state in MILD else len(MILD)


def joined_quotas(answers: Iterable[object]) -> View:
    """Join what workers say of quotas (quota_view.py): one answer where they share a ledger, else the sum.

    Workers that count each for itself have each the whole quota, so what is used and what is left add up.
    """
    said = [view for view in answers if isinstance(view, dict)]
    if not said:
        return {"shared": False, "trouble": "no worker serves at the moment", "quotas": []}
    shared = next((view for view in said if view["shared"] and not view["trouble"]), None)
    if shared is not None or said[0]["shared"]:
        return shared or said[0]
    joined: dict[tuple[object, object], View] = {}
    for view in said:
        for quota in view["quotas"]:
            key = (quota["defined_at"], quota["limit"])
            joined[key] = _added(joined[key], quota) if key in joined else dict(quota)
    return {**said[0], "quotas": list(joined.values())}


def _added(one: View, other: View) -> View:
    whole = {str(row["who"]): row for row in _rows(one)}
    for row in _rows(other):
        mine = whole.get(str(row["who"]))
        whole[str(row["who"])] = row if mine is None else _sum(mine, row, ("used", "left"))
    rows = sorted(whole.values(), key=lambda row: (-_number(row["used"]), str(row["who"])))
    return {**_sum(one, other, ("most", "used")), "spent": rows, "spenders": len(rows)}


def _rows(quota: View) -> list[View]:
    rows = quota["spent"]
    return rows if isinstance(rows, list) else []


def _sum(one: View, other: View, names: Sequence[str]) -> View:
    return {**one, **{name: _number(one[name]) + _number(other[name]) for name in names}}


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0
