"""How Headgate is built (PEP 517, named in pyproject.toml): setuptools, and a compiler where there is one.

    HEADGATE_NATIVE unset   compiled where a C compiler and Python's headers are there; else pure Python, and
                            one line that says so
    HEADGATE_NATIVE=1       compiled, or the build fails
    HEADGATE_NATIVE=0       pure Python

An editable install is pure unless `HEADGATE_NATIVE=1` asks otherwise, because a compiled module hides the
file that is being edited.

The modules named in pyproject.toml under `[tool.headgate] compiled` are compiled by mypyc from the very files
that run without it: one text, two forms, and the tests run on both (`make test`). Beside them stand modules
in Cython (*.pyx), each a companion of Python that does without it. docs/adr/0017-compiled-build.md says what
it gives.

This file is both: the backend that pip imports (the functions below), and the script that setuptools runs.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import Extension, build_meta, setup
from setuptools.build_meta import get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Config = Mapping[str, Any] | None

COMPILERS = ["Cython>=3.1", "mypy>=1.15"]


def get_requires_for_build_wheel(config_settings: Config = None) -> list[str]:
    """What else must be installed before a wheel is built: nothing, where nothing is compiled."""
    return COMPILERS if _wanted() != "0" else []


def get_requires_for_build_editable(config_settings: Config = None) -> list[str]:
    """What else must be installed before an editable install."""
    return COMPILERS if os.environ.get("HEADGATE_NATIVE") == "1" else []


def prepare_metadata_for_build_wheel(directory: str, config_settings: Config = None) -> str:
    """Write the metadata: the same whatever compiles."""
    with _native("0"):
        return build_meta.prepare_metadata_for_build_wheel(directory, config_settings)


def prepare_metadata_for_build_editable(directory: str, config_settings: Config = None) -> str:
    """Write the metadata of an editable install."""
    with _native("0"):
        return build_meta.prepare_metadata_for_build_editable(directory, config_settings)


def build_wheel(directory: str, config_settings: Config = None, metadata: str | None = None) -> str:
    """Build a wheel for this platform, or a pure one."""
    wanted = _wanted()
    if wanted == "auto":
        try:
            with _native("1"):
                return build_meta.build_wheel(directory, config_settings, metadata)
        except (Exception, SystemExit) as error:  # whatever a compiler may say: pure Python always builds
            _say(f"pure Python, because compiling failed: {error}")
            wanted = "0"
    with _native(wanted):
        return build_meta.build_wheel(directory, config_settings, metadata)


def build_editable(directory: str, config_settings: Config = None, metadata: str | None = None) -> str:
    """Build an editable install: pure, unless it was asked otherwise."""
    with _native("1" if os.environ.get("HEADGATE_NATIVE") == "1" else "0"):
        return build_meta.build_editable(directory, config_settings, metadata)


def build_sdist(directory: str, config_settings: Config = None) -> str:
    """Build the source distribution: the same whatever compiles."""
    with _native("0"):
        return build_meta.build_sdist(directory, config_settings)


def _wanted() -> str:
    """Return 1, 0, or auto: try it."""
    asked = os.environ.get("HEADGATE_NATIVE", "")
    if asked in ("0", "1"):
        return asked
    missing = _missing()
    if missing:
        _say(f"pure Python, because there is no {missing}")
        return "0"
    return "auto"


def _missing() -> str:
    """Name what compiling needs and isn't here."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        return "C compiler"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python.h (Debian: python3-dev)"
    if sys.implementation.name != "cpython":
        return "CPython"
    return ""


def _say(text: str) -> None:
    print(f"headgate: {text}", file=sys.stderr, flush=True)


class _native:
    """Tell the script, for the length of a `with`, whether to compile."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._before: str | None = None

    def __enter__(self) -> None:
        self._before = os.environ.get("HEADGATE_NATIVE")
        os.environ["HEADGATE_NATIVE"] = self._wanted

    def __exit__(self, *error: object) -> None:
        if self._before is None:
            del os.environ["HEADGATE_NATIVE"]
        else:
            os.environ["HEADGATE_NATIVE"] = self._before


# The script


def compiled() -> list[Extension]:
    """Return the extension modules to build."""
    if os.environ.get("HEADGATE_NATIVE") != "1":
        return []
    from Cython.Build import cythonize
    from mypyc.build import mypycify

    table = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["headgate"]
    modules = [f"gateway/{name}.py" for line in table["compiled"] for name in line.split()]
    typed = mypycify(["--strict", "--ignore-missing-imports", *modules], opt_level="2", debug_level="0")
    heads = Extension("gateway.http.heads", ["gateway/http/heads.pyx"], extra_compile_args=["-O3"])
    return typed + cythonize([heads], build_dir="build")


if __name__ == "__main__":  # so setuptools runs it
    setup(ext_modules=compiled())
