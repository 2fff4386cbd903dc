from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from gateway.config.load import Loaded
from gateway.runtime.policies import read
from tests.docker.files import DOCKER, services

POLICIES = DOCKER / "policies"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.setenv("HEADGATE_ADMIN_TOKEN", "a token of this test")
    return read(POLICIES)


def test_the_policies_load(loaded: Loaded) -> None:
    assert loaded.schema is not None, loaded.report()


def test_without_a_token_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADGATE_ADMIN_TOKEN", raising=False)
    loaded = read(POLICIES)
    assert loaded.schema is None
    assert "HEADGATE_ADMIN_TOKEN" in loaded.report()


def test_registry_stores_and_traces_are_services_of_the_composition(loaded: Loaded) -> None:
    schema = loaded.schema
    assert schema is not None
    assert schema.registry.etcd is not None
    assert schema.telemetry.otlp is not None
    urls = (
        *schema.registry.etcd.servers,
        schema.stores.counters.url,
        schema.stores.cache.url,
        schema.telemetry.otlp,
    )
    assert {urlsplit(url).hostname for url in urls} == {"etcd", "redis", "jaeger"}
    assert {urlsplit(url).hostname for url in urls} <= set(services())


def test_the_admin_port_asks_for_its_token(loaded: Loaded) -> None:
    assert loaded.schema is not None
    assert loaded.schema.listen.admin.token is not None


def test_what_is_written_at_run_time_lies_on_a_volume(loaded: Loaded) -> None:
    assert loaded.schema is not None
    assert loaded.schema.registry.etcd is not None
    snapshot = loaded.schema.registry.etcd.snapshot
    assert snapshot is not None
    writable = [
        volume.split(":")[1] for volume in services()["gateway"]["volumes"] if not volume.endswith(":ro")
    ]
    assert any(snapshot.startswith(f"{folder}/") for folder in writable)
