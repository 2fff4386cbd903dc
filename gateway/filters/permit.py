"""What the caller may call: deny by default. Always on, right after authenticate; no YAML of its own.

A principal may call an endpoint when its `may` names the endpoint, or the model that the endpoint serves, or
has `'*'` in that list. The model is the one that the endpoint is written for, never a name taken from the URL
of an endpoint that matches by path: such an endpoint must be named itself. Where `authenticate: none` let
somebody in without a name there is no `may` to ask: whoever writes `none` opens the endpoint.
"""

from __future__ import annotations

from typing import Final

from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, Parts
from gateway.pipeline.ports import Principal
from gateway.pipeline.promise import Eventual

ALL: Final = "*"


class Permit(Filter):
    """Lets a principal pass that may call this endpoint; 403 for others."""

    name = "permit"

    def __init__(self, parts: Parts) -> None:
        self._endpoint = parts.endpoint
        self._model = parts.model

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Ask the principal's `may`."""
        principal = ctx.principal
        if principal is None or self.allows(principal):
            return None
        return Refusal(
            403,
            "not_allowed",
            f"'{principal.name}' may not call the endpoint '{self._endpoint}'",
            policy=f"principals.{principal.name}" if principal.claims is None else "issuers",
        )

    def allows(self, principal: Principal) -> bool:
        """Tell whether the principal may call this endpoint."""
        endpoints, models = principal.endpoints, principal.models
        if self._endpoint in endpoints or ALL in endpoints:
            return True
        return bool(self._model) and (self._model in models or ALL in models)
