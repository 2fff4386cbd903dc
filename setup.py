"""Compiles the hot modules where asked to: `HEADGATE_NATIVE=1 pip wheel .` (a C compiler, two minutes).

Without that variable this file does nothing: pure Python is the usual form, and what the tests run on. The
modules are the same files, compiled by mypyc; docs/adr/0013-hot-path.md says what it gives. Don't build in
place: a compiled module hides the file beside it.
"""

import os

from setuptools import setup

HOT = """
    governance/ejection governance/ewma governance/histogram governance/retry_budget
    http/framing http/hop_by_hop http/message http/outbox http/parse http/serialize http/target
    pipeline/attempt pipeline/context pipeline/exchange pipeline/forward pipeline/identify pipeline/pool
"""

wanted = os.environ.get("HEADGATE_NATIVE") == "1"
modules = []
if wanted:
    try:
        from mypyc.build import mypycify
    except ImportError:  # while pip still asks what the build requires
        mypycify = None
    if mypycify is not None:
        paths = [f"gateway/{name}.py" for name in HOT.split()]
        modules = mypycify(["--strict", "--ignore-missing-imports", *paths], opt_level="2")

setup(ext_modules=modules, setup_requires=["mypy>=1.15"] if wanted else [])
