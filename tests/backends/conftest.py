from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.catalogue import Catalogue
from backends.errors import LoadError
from backends.providers import EngineSettings
from backends.repository import Choice, find_models
from backends.served import prepare, serve


class Loader:
    """Loads repositories in the running event loop."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.executor = executor
        self.loaded: list[Catalogue] = []

    def __call__(
        self, repository: Path, choices: Sequence[str] = (), *, all_or_none: bool = False
    ) -> Catalogue:
        asyncio.get_running_loop()
        found = find_models(repository, [Choice.parse(choice) for choice in choices])
        catalogue = Catalogue()
        self.loaded.append(catalogue)
        for one in found:
            try:
                catalogue.put(serve(prepare(one, EngineSettings(device="cpu"), 2), catalogue.load))
            except LoadError as e:
                if all_or_none or len(found) == 1:
                    raise
                catalogue.failed[one.key] = str(e)
        return catalogue


@pytest.fixture
def load() -> Iterator[Loader]:
    with ThreadPoolExecutor(2) as executor:
        loader = Loader(executor)
        yield loader
        for catalogue in loader.loaded:
            for served in catalogue:
                served.executor.shutdown()
                served.engine.close()
