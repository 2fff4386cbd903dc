"""Who may come in besides what their `may` says: from which networks, and which principals, plans or tenants.

`allow: [10.0.0.0/8]` is short for `allow: {addresses: [10.0.0.0/8]}`. Everything that is written must hold,
so a line more never lets more in. The address is the client's behind the trusted proxies
(`limits.trusted_proxies`), never what an untrusted peer claims in a field; an IPv4 address that came in over
an IPv6 socket counts as IPv4. What a principal may call is `may`'s business (permit.py) and is asked on every
endpoint, with or without this verb.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from gateway.config.kind import Reference, setting
from gateway.config.units import Network
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.promise import Eventual

ADDRESSES_KEPT: Final = 4096  # verdicts; addresses that clients bring must not fill the memory


@dataclass(frozen=True, slots=True)
class Allow:
    """Who may come in; all that is written must hold."""

    addresses: tuple[Network, ...] = setting(
        (), "networks that clients may come from", example="[10.0.0.0/8, 127.0.0.0/8]", short=True
    )
    principals: tuple[str, ...] = setting((), "principals that may come in", example="[alice]")
    plans: tuple[str, ...] = setting((), "plans whose principals may come in", example="[pro]")
    tenants: tuple[str, ...] = setting((), "tenants whose principals may come in", example="[acme]")

    def __post_init__(self) -> None:
        if not (self.addresses or self.principals or self.plans or self.tenants):
            raise ValueError("expected at least one of addresses, principals, plans and tenants")

    def names(self) -> Iterable[Reference]:
        """The plans."""
        return [Reference("plan", name, reached=False) for name in self.plans]


class AllowFilter(Filter):
    """Refuses with 403 whoever is not on the lists."""

    name = "allow"

    def __init__(self, config: Allow, policy: str) -> None:
        self._networks = config.addresses
        self._principals = frozenset(config.principals)
        self._plans = frozenset(config.plans)
        self._tenants = frozenset(config.tenants)
        self._by_name = bool(config.principals or config.plans or config.tenants)
        self._policy = policy
        self._verdicts: dict[str, bool] = {}

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Look at the address first, then at the principal."""
        if self._networks and not self._address_allowed(ctx.client):
            return self._refuse("address_not_allowed", "clients of this address may not call this endpoint")
        if self._by_name and not self._principal_allowed(ctx):
            return self._refuse("not_allowed", "this caller may not call this endpoint")
        return None

    def _address_allowed(self, address: str) -> bool:
        known = self._verdicts.get(address)
        if known is None:
            if len(self._verdicts) >= ADDRESSES_KEPT:
                self._verdicts.clear()
            known = self._verdicts[address] = _within(address, self._networks)
        return known

    def _principal_allowed(self, ctx: Context) -> bool:
        principal = ctx.principal
        return (
            principal is not None
            and (not self._principals or principal.name in self._principals)
            and (not self._plans or principal.plan in self._plans)
            and (not self._tenants or principal.tenant in self._tenants)
        )

    def _refuse(self, code: str, message: str) -> Refusal:
        return Refusal(403, code, message, policy=self._policy)


def _within(text: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Tell whether an address lies in one of the networks; what is no address lies in none."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _build(rules: Sequence[Rule[Allow]], parts: Parts) -> Iterable[Filter]:
    return [AllowFilter(rules[0].value, rules[0].policy)]


KIND = FilterKind("allow", Allow, summary="from where and by whom an endpoint may be called", build=_build)
