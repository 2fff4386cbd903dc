"""What all tests share: a skipped service test is a failure in CI."""

from __future__ import annotations

import os

import pytest


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
