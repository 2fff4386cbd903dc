"""The table, the page and the picture."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from loadtests.scenarios.checks import judge
from loadtests.scenarios.report import as_text, write_report
from loadtests.scenarios.verdicts import Check
from tests.loadtests.scenarios.plays import faultless

CHECKS = [Check("a claim", "<= 1 s", "0.2 s", True), Check("another <one>", "0", "3", False)]


def test_the_table_says_what_failed() -> None:
    header, first, second = as_text(CHECKS).splitlines()
    assert header.split() == ["expected", "measured", "verdict"]
    assert first.endswith("held")
    assert second.endswith("FAILED")


def test_the_page_holds_our_assertions_and_locusts_report(tmp_path: Path) -> None:
    (tmp_path / "load.png").write_bytes(b"\x89PNG")
    (tmp_path / "locust.html").write_text('<html><body><div id="root"></div></body></html>')
    write_report(faultless(), CHECKS, tmp_path / "locust.html", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.index("1 of 2 failed") < page.index('<div id="root">')
    assert "another &lt;one&gt;" in page
    assert "data:image/png;base64,iVBORw" in page


@pytest.mark.slow
def test_the_picture_is_drawn_without_a_screen(tmp_path: Path) -> None:
    picture = pytest.importorskip("loadtests.scenarios.picture", reason="matplotlib is not installed")
    play = faultless()
    picture.draw(play, judge(play), tmp_path / "load.png")
    data = (tmp_path / "load.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # PNG: the first chunk is the header
    assert data[:4] == b"\x89PNG"
    assert width > 1000
    assert height > 800
