"""What a verb is to the policy language: a name, a struct, and the places where it may stand.

A verb's struct lives in its filter's file (`gateway/filters/throttle.py` has `Throttle`), and so does its
`Kind`; runtime/ hands the catalogue of kinds to `load(folder, kinds)`. So config imports no filter, and a
third party's verb is read, checked, documented and completed by editors exactly like a built-in one.

    @dataclass(frozen=True, slots=True)
    class Breaker:
        errors: Ratio = setting(Ratio(0.5), "share of failed calls that opens it", example="50%")
        cool_down: Duration = setting(Duration(5.0), "how long it stays open before it probes")

        @classmethod
        def from_text(cls, text: str) -> Breaker: ...        # `breaker: off`
        def names(self) -> Iterable[Reference]: ...          # pools, versions, labels it speaks of
        def check(self) -> Iterable[str]: ...                # what can't be, in words
        def needs(self) -> Iterable[str]: ...                # verbs that it leans on

All four methods are optional; decode.py and check.py say when they are called. A struct may also refuse in
`__post_init__` by raising ValueError: the message is reported at the position of the mapping.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, overload, runtime_checkable

C = TypeVar("C")
T = TypeVar("T")

Place = Literal["pool", "endpoint", "policy", "plan", "principal", "override"]
ReferenceKind = Literal["pool", "version", "label", "target", "endpoint", "plan", "issuer", "model"]

METADATA = "headgate"  # the key of our metadata in a dataclass field


class Required:
    """The type of `REQUIRED`."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = Required()


@dataclass(frozen=True, slots=True)
class Setting:
    """What the reference, the JSON Schema and the decoder know of a field beyond its type.

    short: the field that a value which is not a mapping of this struct's keys is read into
    (`authenticate: [api_key, jwt]` reads as `authenticate: {methods: [api_key, jwt]}`).
    at_least, at_most: inclusive bounds of a number, in the field's base unit (seconds, bytes, 1.0 = 100%).
    internal: not part of the language (the name from the mapping's key, the origin, the verbs).
    """

    meaning: str
    unit: str | None = None
    example: object = None
    name: str | None = None
    short: bool = False
    at_least: float | None = None
    at_most: float | None = None
    internal: bool = False


@overload
def setting(
    default: Required,
    meaning: str,
    unit: str | None = ...,
    example: object = ...,
    *,
    name: str | None = ...,
    short: bool = ...,
    at_least: float | None = ...,
    at_most: float | None = ...,
    hidden: bool = ...,
) -> Any: ...
@overload
def setting(
    default: T,
    meaning: str,
    unit: str | None = ...,
    example: object = ...,
    *,
    name: str | None = ...,
    short: bool = ...,
    at_least: float | None = ...,
    at_most: float | None = ...,
    hidden: bool = ...,
) -> T: ...
def setting(
    default: object,
    meaning: str,
    unit: str | None = None,
    example: object = None,
    *,
    name: str | None = None,
    short: bool = False,
    at_least: float | None = None,
    at_most: float | None = None,
    hidden: bool = False,
) -> Any:
    """Declare a field of the policy language: its default (or REQUIRED) and one line of meaning.

    unit: only where the type doesn't say it. example: as a user would write it. name: the YAML key where
    it isn't the field's name (a trailing underscore is dropped anyway: `from_` is `from`). hidden: left out
    of repr. A dict as default is copied for every instance.
    """
    known = Setting(meaning, unit, example, name, short, at_least, at_most)
    return _field(default, known, show=not hidden)


def internal(default: object = REQUIRED, *, compare: bool = True) -> Any:
    """Declare a field that the loader fills and no YAML key does."""
    return _field(default, Setting("", internal=True), compare=compare)


def _field(default: object, known: Setting, *, show: bool = True, compare: bool = True) -> Any:
    metadata = {METADATA: known}
    if default is REQUIRED:
        return field(metadata=metadata, repr=show, compare=compare)
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata, repr=show, compare=compare)
    return field(default=default, metadata=metadata, repr=show, compare=compare)


def setting_of(declared: Field[Any]) -> Setting:
    """Return a dataclass field's Setting; a plain field has an empty meaning."""
    known = declared.metadata.get(METADATA)
    return known if isinstance(known, Setting) else Setting("")


def yaml_name(declared: Field[Any]) -> str:
    """Return the key under which a field stands in YAML."""
    return setting_of(declared).name or declared.name.rstrip("_")


def is_required(declared: Field[Any]) -> bool:
    """Whether YAML must give the field."""
    return declared.default is MISSING and declared.default_factory is MISSING


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that a verb speaks of, and what it must be the name of.

    kind `target` is what `send` takes: a pool, a version, a label or `newest`.
    reached: whether requests can flow there, so that the endpoint's pool verbs go there too.
    fallback: a lesser answer's pool; check.py refuses loops between these.
    aside: copies go there, never a client's request.
    """

    kind: ReferenceKind
    name: str
    reached: bool = True
    fallback: bool = False
    aside: bool = False


@runtime_checkable
class Referring(Protocol):
    """A verb's struct that speaks of pools, versions, labels …"""

    def names(self) -> Iterable[Reference]:
        """Every name it speaks of."""
        ...


@runtime_checkable
class Needing(Protocol):
    """A verb's struct that means something only beside other verbs."""

    def needs(self) -> Iterable[str]:
        """Verbs that must hold at every endpoint where it holds."""
        ...


@runtime_checkable
class Checking(Protocol):
    """A verb's struct with rules that its types can't say."""

    def check(self) -> Iterable[str]:
        """One sentence per broken rule."""
        ...


@dataclass(frozen=True, slots=True)
class Kind(Generic[C]):
    """A verb: its name in YAML, its struct, and where it may stand.

    scope: `request` verbs become filters, `pool` verbs are properties of pools. accumulates: all that apply
    are kept (throttle), otherwise the most specific wins. on_pool: None means exactly the pool verbs.
    for_models: it reads predictions, so it means nothing on an endpoint without `model:`.
    allowed_by: the field of `limits` that must say `allowed` before it may be written anywhere.
    by_principal: may be bound to principals, plans or tenants (authenticate may not: nobody is known yet).
    Filters subclass it to add `build`.
    """

    name: str
    config: type[C]
    scope: Literal["request", "pool"] = "request"
    summary: str = ""
    accumulates: bool = False
    on_endpoint: bool = True
    on_policy: bool = True
    on_pool: bool | None = None
    by_principal: bool = True
    for_models: bool = False
    allowed_by: str = ""

    def may_stand_on(self, place: Place) -> bool:
        """Whether YAML may write the verb there."""
        match place:
            case "pool":
                return self.scope == "pool" if self.on_pool is None else self.on_pool
            case "endpoint":
                return self.on_endpoint
            case "policy":
                return self.on_policy
            case "plan" | "principal":
                return self.scope == "request" and self.on_policy and self.by_principal
            case "override":
                return self.scope == "request"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in the policy files something was written: `digits.yaml:12:15: endpoints.digits.throttle`.

    line and column start at 1. policy: the name that refusals and records show: a policy's own, or the
    `endpoints.digits` it stands on.
    """

    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    policy: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Placed(Generic[C]):
    """A verb's struct and where it was written.

    Equality ignores the origin, so that a comment added above it throws no state away.
    """

    value: C
    origin: Origin = field(default_factory=Origin, compare=False)
