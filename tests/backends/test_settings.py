from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from backends.repository import Choice
from backends.settings import Address, RegistrySettings, Settings
from backends.strict_yaml import load

EXAMPLE = Path(__file__).resolve().parents[2] / "backends" / "server.example.yaml"


def test_the_example_is_read_and_shows_every_key(tmp_path: Path) -> None:
    settings = load(Settings, EXAMPLE)
    assert settings.models == (Choice("digits", "1"), Choice("digits-lite"))
    assert settings.memory == 4 << 30
    text = EXAMPLE.read_text()
    for field in fields(Settings):
        assert f"{field.name}:" in text


def test_the_examples_registry_is_read_once_uncommented(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("# registry:"))
    lines[start:] = [line.removeprefix("# ") for line in lines[start:]]
    path = tmp_path / "server.yaml"
    path.write_text("\n".join(lines))
    registry = load(Settings, path).registry
    assert registry is not None
    expected = RegistrySettings("http://127.0.0.1:9080", "digits", "v1", {"zone": "a"})
    assert replace(registry, advertise=None) == expected
    assert registry.advertise == Address("10.0.0.7", 8500)


@pytest.mark.parametrize(
    ("text", "address"), [("127.0.0.1:0", Address("127.0.0.1", 0)), ("[::1]:80", Address("::1", 80))]
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:x", "host:65536", "host:-1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        Address.parse(text)
