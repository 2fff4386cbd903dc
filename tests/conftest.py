"""What all tests share: a skipped service test is a failure in CI, and which form of the gateway is tested.

`make test` runs the tests of the compiled modules twice: on the sources, and on the compiled tree in
.native/lib. HEADGATE_FORM says which it is to be, and a run on the other one fails.

In CI a test that drives real processes against the clock has a second try (docs/adr/0037-a-second-try.md).
Each is told, and more than a handful of them fail the run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.runtime.form import form

# Folders without real processes: a failure there is one.
PURE = frozenset(
    {"config", "conformance", "dialects", "docs", "filters", "governance", "http", "pipeline", "playbooks"}
)
SECOND_TRIES = 5
TESTS = Path(__file__).parent


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to test another form of the gateway than was meant."""
    wanted = os.environ.get("HEADGATE_FORM", "")
    if wanted and wanted != form():
        pytest.exit(f"these are to be tests of the {wanted} form, and the {form()} one is here", returncode=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what a compiled form can't be tested with; in CI, a second try for what runs against the clock."""
    if os.environ.get("CI") == "true":
        for item in items:
            if item.path.relative_to(TESTS).parts[0] not in PURE:
                item.add_marker(pytest.mark.flaky(reruns=1))
    if form() == "compiled":
        for item in items:
            if item.get_closest_marker("pure") is not None:
                item.add_marker(pytest.mark.skip(reason="a compiled module has bound what this replaces"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run in CI when a service test was skipped, or too many tests had to be tried again."""
    if os.environ.get("CI") != "true" or exitstatus not in (0, pytest.ExitCode.OK):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    stats = {} if reporter is None else reporter.stats
    if len(again := stats.get("rerun", [])) > SECOND_TRIES:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\n{len(again)} tests passed only at their second try; {SECOND_TRIES} may")
    skipped = stats.get("skipped", [])
    services = [
        report.nodeid
        for report in skipped
        if "service" in report.keywords or "not installed" in str(report.longrepr)  # a mark may be forgotten
    ]
    if services:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nservice tests must not be skipped in CI:\n  " + "\n  ".join(services))
