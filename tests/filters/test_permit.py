from __future__ import annotations

import pytest

from gateway.filters.permit import Permit
from gateway.pipeline.errors import Refusal
from gateway.pipeline.ports import Principal
from tests.fakes.context import make_context, make_parts


def alice(*, models: tuple[str, ...] = (), endpoints: tuple[str, ...] = ()) -> Principal:
    return Principal("alice", models=frozenset(models), endpoints=frozenset(endpoints))


@pytest.mark.parametrize(
    ("principal", "model", "allowed"),
    [
        pytest.param(alice(), "digits", False, id="nothing written"),
        pytest.param(alice(models=("digits",)), "digits", True, id="its model"),
        pytest.param(alice(models=("*",)), "digits", True, id="all models"),
        pytest.param(alice(models=("lite",)), "digits", False, id="another model"),
        pytest.param(alice(models=("digits*",)), "digits", False, id="a glob is no star"),
        pytest.param(alice(endpoints=("page",)), "digits", True, id="its endpoint"),
        pytest.param(alice(endpoints=("*",)), "", True, id="all endpoints"),
        pytest.param(alice(models=("*",)), "", False, id="all models, but it serves none"),
        pytest.param(alice(models=("page",)), "", False, id="a model of the endpoint's name"),
        pytest.param(alice(models=("",)), "", False, id="an empty name"),
    ],
)
def test_a_principal_may_call_what_its_may_names(principal: Principal, model: str, allowed: bool) -> None:
    permit = Permit(make_parts(endpoint="page", model=model))
    verdict = permit.on_request(make_context(principal=principal))

    if allowed:
        assert verdict is None
    else:
        assert isinstance(verdict, Refusal)
        assert (verdict.status, verdict.code, verdict.policy) == (403, "not_allowed", "principals.alice")


def test_the_refusal_of_a_tokens_holder_names_the_issuers() -> None:
    verdict = Permit(make_parts()).on_request(make_context(principal=Principal("bob", claims={"sub": "bob"})))
    assert isinstance(verdict, Refusal)
    assert verdict.policy == "issuers"


def test_where_nobody_was_asked_for_a_name_there_is_no_may_to_ask() -> None:
    assert Permit(make_parts()).on_request(make_context()) is None
