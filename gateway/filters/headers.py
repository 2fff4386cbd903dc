"""Header fields that a policy sets, adds or removes, on the way to the instance and on the way back.

    headers:
      request:  {set: {x-team: "{tenant}"}, remove: [cookie]}
      response: {add: {x-served-by: "{pool}"}, remove: [server]}

The request is changed after its pool was chosen; answers are changed whoever gives them, refusals included.
Values are texts with `{placeholders}`; anything else in braces stands for itself. What a policy sets for the
instance is appended after the client's own fields have been sorted out, so that a client can't have it
dropped by naming it in `Connection` (RFC 9110 §7.6.1). Fields that frame messages, that belong to one
connection or that the gateway itself vouches for can't be touched; names and values that could start another
field are refused when the policies are read, and no placeholder can hold a control character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.kind import setting
from gateway.http.message import Headers, Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.promise import Eventual

Piece = Callable[[Context], str]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_RESERVED: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "traceparent",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-request-id",
    }
)
PLACEHOLDERS: Final[Mapping[str, Piece]] = {
    "client": lambda ctx: ctx.client,
    "endpoint": lambda ctx: "" if ctx.endpoint is None else ctx.endpoint.name,
    "instance": lambda ctx: "" if ctx.instance is None else ctx.instance.id,
    "plan": lambda ctx: "" if ctx.principal is None else ctx.principal.plan,
    "pool": lambda ctx: "" if ctx.pool is None else ctx.pool.name,
    "principal": lambda ctx: "" if ctx.principal is None else ctx.principal.name,
    "request_id": lambda ctx: ctx.request_id.decode("latin-1"),
    "tenant": lambda ctx: "" if ctx.principal is None else ctx.principal.tenant,
    "version": lambda ctx: ctx.version,
}


# What YAML says


@dataclass(frozen=True, slots=True)
class Changes:
    """What is done to one message's fields: first removed, then set, then added."""

    set_: Mapping[str, str] = setting(
        {}, "fields and the one value each has afterwards", example="{x-team: '{tenant}'}", hidden=True
    )
    add: Mapping[str, str] = setting(
        {}, "fields and a further value for each", example="{x-served-by: '{pool}'}", hidden=True
    )
    remove: tuple[str, ...] = setting((), "fields to leave out", example="[cookie]")

    def __post_init__(self) -> None:
        for name in (*self.set_, *self.add, *self.remove):
            _check_name(name)
        for name, value in (*self.set_.items(), *self.add.items()):
            _check_value(name, value)


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """Fields that are changed on the way to the instance and on the way back."""

    request: Changes = setting(Changes(), "changes to what the instance gets", example="{remove: [cookie]}")
    response: Changes = setting(Changes(), "changes to what the client gets", example="{remove: [server]}")

    def __post_init__(self) -> None:
        for value in (*self.request.set_.values(), *self.request.add.values()):
            if "{instance}" in value:
                raise ValueError(
                    "{instance} is not known yet when the request is written; use it in `response`"
                )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected the name of a header field, found {name!r}")
    if name.lower() in _RESERVED or name.lower().startswith("x-headgate-"):
        raise ValueError(f"the field {name} is the gateway's own and can't be changed")


def _check_value(name: str, value: str) -> None:
    """Refuse what RFC 9110 §5.5 forbids in a value; it may be a secret, so it isn't shown."""
    if any(sign < " " or sign == "\x7f" for sign in value) or value != value.strip(" "):
        raise ValueError(f"the value of {name} has control characters or spaces around it")
    for unknown in _PLACEHOLDER.findall(value):
        if unknown not in PLACEHOLDERS:
            known = ", ".join(PLACEHOLDERS)
            raise ValueError(f"expected one of the placeholders {known} in {name}, found {{{unknown}}}")


# At work


class Edit:
    """Changes made ready: names as bytes, values without placeholders written out once."""

    __slots__ = ("_removed", "_values")

    def __init__(self, changes: Changes) -> None:
        self._removed = frozenset(name.lower().encode() for name in (*changes.remove, *changes.set_))
        self._values = [
            (name.lower().encode(), _prepared(value))
            for name, value in (*changes.set_.items(), *changes.add.items())
        ]

    def without(self, headers: Headers) -> Headers:
        """Return the fields that stay."""
        return [field for field in headers if field[0] not in self._removed]

    def fields(self, ctx: Context) -> Headers:
        """Return the fields that are set and added; a value that turns out empty makes none."""
        made = [
            (name, value if isinstance(value, bytes) else "".join(piece(ctx) for piece in value).encode())
            for name, value in self._values
        ]
        return [field for field in made if field[1]]


def _prepared(value: str) -> bytes | list[Piece]:
    """Split a value at its placeholders; bytes where it has none."""
    texts = _PLACEHOLDER.split(value)  # text, name, text, name, … text
    if len(texts) == 1:
        return value.encode()
    return [PLACEHOLDERS[text] if odd % 2 else _literal(text) for odd, text in enumerate(texts)]


def _literal(text: str) -> Piece:
    return lambda ctx: text


class RequestHeaders(Filter):
    """Changes what the instance gets: when it is known who asks and who serves."""

    name = "headers"
    place = 83

    def __init__(self, changes: Changes) -> None:
        self._edit = Edit(changes)

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Take the client's fields out; ours go with those that the gateway vouches for."""
        ctx.request.headers = self._edit.without(ctx.request.headers)
        ctx.forwarded = [*ctx.forwarded, *self._edit.fields(ctx)]
        return None


class ResponseHeaders(Filter):
    """Changes what the client gets, whoever answers: it stands before all that may refuse."""

    name = "headers"
    place = 10

    def __init__(self, changes: Changes) -> None:
        self._edit = Edit(changes)

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Change whatever answer goes out, a filter's included."""
        response.headers = self._edit.without(response.headers) + self._edit.fields(ctx)
        return response


def _build(rules: Sequence[Rule[HeaderChanges]], parts: Parts) -> Iterable[Filter]:
    """Make both, also where one has nothing to do: of several rules one is chosen for each way."""
    return [RequestHeaders(rules[0].value.request), ResponseHeaders(rules[0].value.response)]


KIND = FilterKind(
    "headers",
    HeaderChanges,
    summary="header fields set, added or removed, to the instance and back",
    build=_build,
)
