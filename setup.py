"""What is compiled of Headgate when `HEADGATE_NATIVE=1`, which build_tools/backend.py sets where it can.

The modules named in pyproject.toml under `[tool.headgate] compiled` are compiled by mypyc from the very files
that run without it: one text, two forms, and the tests run on both (`make test`). Don't build in place: a
compiled module hides the file beside it. Beside them stand modules in Cython (*.pyx), each a companion of
Python that does without it. docs/adr/0017-compiled-build.md says what it gives.
"""

import os
import tomllib
from pathlib import Path

from setuptools import Extension, setup


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


setup(ext_modules=compiled())
