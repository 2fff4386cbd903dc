"""What all tests share: a skipped service test is a failure in CI, and which form of the gateway is tested.

`make test` runs the tests of the compiled modules twice: on the sources, and on the compiled tree in
.native/lib. HEADGATE_FORM says which it is to be, and a run on the other one fails.
"""

from __future__ import annotations

import os

import pytest

from gateway.runtime.form import form


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to test another form of the gateway than was meant."""
    wanted = os.environ.get("HEADGATE_FORM", "")
    if wanted and wanted != form():
        pytest.exit(f"these are to be tests of the {wanted} form, and the {form()} one is here", returncode=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what can only be tested where nothing is compiled."""
    if form() == "compiled":
        for item in items:
            if item.get_closest_marker("pure") is not None:
                item.add_marker(pytest.mark.skip(reason="a compiled module has bound what this replaces"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run in CI when a test that needs a real server was skipped."""
    if os.environ.get("CI") != "true" or exitstatus not in (0, pytest.ExitCode.OK):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    services = [
        report.nodeid
        for report in skipped
        if "service" in report.keywords or "not installed" in str(report.longrepr)  # a mark may be forgotten
    ]
    if services:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nservice tests must not be skipped in CI:\n  " + "\n  ".join(services))
