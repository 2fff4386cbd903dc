from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.filters import allow
from gateway.filters.allow import KIND, Allow, AllowFilter
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Rule
from gateway.pipeline.ports import Principal
from tests.fakes.context import make_context, make_parts


def gate(**config: Any) -> AllowFilter:
    (made,) = KIND.build([Rule(Allow(**config), "house")], make_parts())
    assert isinstance(made, AllowFilter)
    return made


def code(filter: AllowFilter, address: str = "127.0.0.1", principal: Principal | None = None) -> str:
    verdict = filter.on_request(make_context(address=address, principal=principal))
    if verdict is None:
        return ""
    assert isinstance(verdict, Refusal)
    assert (verdict.status, verdict.policy) == (403, "house")
    return verdict.code


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("9.255.255.255", False),
        ("::1", True),
        ("::2", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("unix:", False),
        ("10.0.0.1:80", False),
        ("010.0.0.1", False),
    ],
)
def test_an_address_must_lie_in_a_network(address: str, allowed: bool) -> None:
    filter = gate(addresses=(ip_network("10.0.0.0/8"), ip_network("::1/128")))
    for _ in range(2):  # the second verdict is the kept one
        assert code(filter, address) == ("" if allowed else "address_not_allowed")


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_every_address_of_a_network_may_come_in(address: Any, bits: int) -> None:
    network = ip_network(f"{address}/{bits}", strict=False)
    assert code(gate(addresses=(network,)), str(address)) == ""


def test_the_address_is_the_one_behind_trusted_proxies() -> None:
    ctx = make_context((b"x-forwarded-for", b"10.0.0.1"), address="192.0.2.1")
    filter = gate(addresses=(ip_network("10.0.0.0/8"),))
    assert isinstance(filter.on_request(ctx), Refusal)

    ctx.client = "10.0.0.1"
    assert filter.on_request(ctx) is None


def test_the_verdicts_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allow, "ADDRESSES_KEPT", 4)
    filter = gate(addresses=(ip_network("10.0.0.0/8"),))
    for number in range(20):
        code(filter, f"10.0.0.{number}")
    assert len(filter._verdicts) <= 4


ALICE = Principal("alice", "free", "acme")


@pytest.mark.parametrize(
    ("config", "principal", "allowed"),
    [
        pytest.param({"principals": ("alice",)}, ALICE, True, id="principal"),
        pytest.param({"principals": ("bob",)}, ALICE, False, id="another principal"),
        pytest.param({"plans": ("free",)}, ALICE, True, id="plan"),
        pytest.param({"tenants": ("acme",)}, ALICE, True, id="tenant"),
        pytest.param(
            {"plans": ("pro",), "tenants": ("acme",)}, ALICE, False, id="all that is written must hold"
        ),
        pytest.param({"plans": ("free",)}, None, False, id="nobody"),
        pytest.param(
            {"addresses": (ip_network("10.0.0.0/8"),), "plans": ("free",)},
            ALICE,
            False,
            id="address and plan",
        ),
    ],
)
def test_whoever_is_named_may_come_in(
    config: dict[str, Any], principal: Principal | None, allowed: bool
) -> None:
    assert (code(gate(**config), principal=principal) == "") is allowed


def test_an_empty_allow_is_an_error_and_not_a_closed_door() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Allow()
