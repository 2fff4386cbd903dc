from __future__ import annotations

import dataclasses

import pytest

from gateway.config.kind import REQUIRED, Kind, Origin, Placed, is_required, setting, setting_of, yaml_name
from gateway.config.secret import Secret


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    needed: int = setting(REQUIRED, "needed", "calls", 5, at_least=1)
    from_: str = setting("", "since")
    for_: str = setting("", "how long", name="for")
    table: dict[str, int] = setting({}, "names")
    quiet: str = setting("x", "not shown", hidden=True)


def test_a_setting_is_a_dataclass_field_with_a_meaning():
    fields = {yaml_name(declared): declared for declared in dataclasses.fields(Sample)}
    assert list(fields) == ["needed", "from", "for", "table", "quiet"]
    assert [name for name, declared in fields.items() if is_required(declared)] == ["needed"]
    known = setting_of(fields["needed"])
    assert (known.meaning, known.unit, known.example, known.at_least) == ("needed", "calls", 5, 1)


def test_a_mapping_as_default_is_shared_by_nobody():
    assert Sample(1).table is not Sample(1).table


def test_what_is_hidden_is_not_in_repr():
    assert "quiet" not in repr(Sample(1))


def test_equal_values_at_other_places_are_equal():
    assert Placed(Sample(1), Origin("a", 1, 1)) == Placed(Sample(1), Origin("b", 2, 2))
    assert Placed(Sample(1)) != Placed(Sample(2))


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        (Kind("k", Sample), {"endpoint", "policy", "plan", "principal", "override"}),
        (Kind("k", Sample, scope="pool"), {"pool", "endpoint", "policy"}),
        (Kind("k", Sample, by_principal=False), {"endpoint", "policy", "override"}),
        (Kind("k", Sample, on_endpoint=False, on_policy=False, on_pool=True), {"pool", "override"}),
    ],
    ids=["request", "pool", "anonymous", "chosen"],
)
def test_a_kind_says_where_it_may_stand(kind, places):
    every = ("pool", "endpoint", "policy", "plan", "principal", "override")
    assert {place for place in every if kind.may_stand_on(place)} == places


def test_a_secret_shows_itself_only_when_asked():
    secret = Secret("s3cret")
    assert "s3cret" not in f"{secret} {secret!r}"
    assert secret.reveal() == "s3cret"
    assert secret == Secret("s3cret") != Secret("other")
    assert hash(secret) == hash(Secret("s3cret"))
    assert secret != "s3cret"
