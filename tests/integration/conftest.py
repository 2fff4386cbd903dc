"""What tests of several modules share: demos for those that leave them as they found them, model servers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.running import Demo
from tests.services.peers.servers import SERVERS, Server, is_installed

IN_NAMESPACE = os.environ.get("HEADGATE_PEERS_NAMESPACE") == "1"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A running demo that nobody breaks."""
    with Demo(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.service("triton")) if name == "triton" else name
        for name in SERVERS
    ],
)
def kind(request: pytest.FixtureRequest) -> str:
    """A model server that is installed, by its name in SERVERS."""
    name: str = request.param
    if name not in ("triton", "fastapi") and "HEADGATE_PEERS" not in os.environ:
        pytest.skip("make test-peers runs this")
    if name != "fastapi" and not is_installed(name):
        pytest.skip(f"{name} is not installed: make test{'' if name == 'triton' else '-peers'}")
    if (name == "paddle") is not IN_NAMESPACE:
        pytest.skip("PaddleServing, and nothing else, runs in a network namespace of its own")
    return name


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It runs."""
    with SERVERS[kind](tmp_path_factory.mktemp(kind)) as started:
        yield started


@pytest.fixture
def twin(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second one of its kind."""
    with SERVERS[kind](tmp_path_factory.mktemp(kind)) as started:
        yield started
