from __future__ import annotations

import re
import tomllib

import yaml

from gateway.config.load import load
from gateway.filters.catalog import KINDS
from tests.docker.files import ROOT

TEXT = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENT = re.compile(r"[A-Za-z0-9-]+")


def test_every_package_that_is_installed_has_its_duty() -> None:
    extras = PROJECT["optional-dependencies"]
    needed = [
        *PROJECT["dependencies"],
        *(name for extra in ("otlp", "serve", "load") for name in extras[extra]),
    ]
    table = TEXT.split("## What it is built of")[1].split("## ")[0].lower()
    names = [match[0].lower() for match in map(REQUIREMENT.match, needed) if match is not None]
    assert len(names) == len(needed)
    assert [name for name in names if name not in table] == []


def test_every_room_is_on_the_map() -> None:
    rooms = {path.name for path in (ROOT / "gateway").iterdir() if (path / "__init__.py").exists()}
    drawn = TEXT.split("## The rooms")[1].split("## ")[0]
    assert [room for room in rooms if f"{room}/" not in drawn] == []


def test_the_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", TEXT, re.MULTILINE))
    words = {word for pair in named for word in pair if word}
    assert {"demo", "test"} <= words <= targets


def test_the_endpoint_that_is_shown_is_the_demos() -> None:
    [shown] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    endpoint = yaml.safe_load(shown)["endpoints"]["digits"]
    real = yaml.safe_load((ROOT / "policies" / "digits.yaml").read_text())["endpoints"]["digits"]
    assert {key: value for key, value in endpoint.items() if real.get(key) != value} == {}


def test_the_changelog_names_every_verb() -> None:
    verbs = {kind.name for kind in KINDS}
    named = set(re.findall(r"`(\w+)`", (ROOT / "CHANGELOG.md").read_text()))
    assert verbs <= named


def test_the_policies_that_it_points_to_load() -> None:
    loaded = load(ROOT / "policies", KINDS)
    assert loaded.schema is not None, loaded.report()
