"""What several workers say of the same instance, as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.admin.views import View

SUMS = ("in_flight", "successes", "failures")
HIGHEST = ("doubted_for", "ejected_for", "breaker_retry_after")


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
        joined[name] = max((_number(view[name]) for view in views), default=0.0)
    weights = [max(1.0, _number(view["successes"])) for view in views]
    latency = sum(
        weight * _number(view["latency_ms"]) for weight, view in zip(weights, views, strict=True)
    ) / sum(weights)
    joined["latency_ms"] = round(latency, 3)
    worst = next((view for view in views if view["state"] != "up"), None)
    if worst is not None and joined["state"] == "up":
        joined["state"] = worst["state"]
    joined["breaker"] = next(
        (view["breaker"] for view in views if view["breaker"] not in (None, "closed")), views[0]["breaker"]
    )
    if joined["breaker"] is None:
        joined["breaker_retry_after"] = None
    return joined


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0
