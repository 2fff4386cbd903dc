"""Which form of the gateway this is, and that every module listed as compiled is there in that form."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from gateway.http import usual
from gateway.runtime.form import form

ROOT = Path(__file__).parents[2]
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["headgate"]
LISTED = [name for line in TABLE["compiled"] for name in line.split()]


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_module_is_there_in_the_form_that_runs(name: str) -> None:
    module = import_module(f"gateway.{name.replace('/', '.')}")
    assert module.__file__ is not None
    assert Path(module.__file__).suffix == {"compiled": ".so", "pure": ".py"}[form()]


def test_heads_are_read_by_compiled_code_where_there_is_some() -> None:
    assert (usual.read_request is not None) is (form() == "compiled")


def test_a_module_is_listed_once_and_its_source_exists() -> None:
    assert len(set(LISTED)) == len(LISTED) > 40
    assert [name for name in LISTED if not (ROOT / "gateway" / f"{name}.py").is_file()] == []
