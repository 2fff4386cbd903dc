"""Short forms of pool verbs that a user can guess."""

from __future__ import annotations

import pytest

from gateway.pipeline.pool_verbs import Hedge


@pytest.mark.parametrize(
    ("text", "quantile", "fixed"),
    [
        ("p95", 0.95, None),
        ("P99.9", 0.999, None),
        ("90%", 0.9, None),
        ("50ms", None, 0.05),
        ("1s", None, 1.0),
        ("off", None, None),
    ],
)
def test_a_hedge_is_a_quantile_or_a_time(text: str, quantile: float | None, fixed: float | None) -> None:
    hedge = Hedge.from_text(text)
    assert hedge.quantile == pytest.approx(quantile)
    assert hedge.fixed == fixed


@pytest.mark.parametrize("text", ["p0", "p100", "95", "p", "soon", "", "-5ms", "p95ms"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="p95"):
        Hedge.from_text(text)
