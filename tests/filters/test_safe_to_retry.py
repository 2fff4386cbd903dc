from __future__ import annotations

import pytest

from gateway.filters.safe_to_retry import KIND, SafeToRetry
from gateway.pipeline.filter import Rule
from tests.fakes.context import make_context, make_parts


@pytest.mark.parametrize("safe", [True, False])
def test_the_request_is_as_safe_as_the_policy_says(safe: bool) -> None:
    (filter,) = KIND.build([Rule(SafeToRetry(safe))], make_parts())
    ctx = make_context()
    assert ctx.safe_to_retry is False

    assert filter.on_request(ctx) is None
    assert ctx.safe_to_retry is safe
